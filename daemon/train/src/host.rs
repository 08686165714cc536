//! The memory that this process may still take: of the machine, of its container (cgroup v1 and v2), and of its own limit
//! on address space (`RLIMIT_AS`), or what the operator says instead.

use std::path::{Path, PathBuf};

use hone_data::Limits;

/// How much memory the daemon may take, as the operator says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// What the machine, its container and the process's limits leave.
    #[default]
    Auto,
    /// So many bytes of resident memory.
    Bytes(u64),
    /// Nothing is refused for its memory.
    None,
}

/// The memory of the host as far as this process may use it.
#[derive(Clone, Debug)]
pub struct HostMemory {
    limit: MemoryLimit,
    /// What `/proc` and `/sys` lie in.
    root: PathBuf,
}

impl HostMemory {
    /// Of the machine that this process runs on.
    pub fn new(limit: MemoryLimit) -> Self {
        Self { limit, root: PathBuf::from("/") }
    }

    /// Bytes that the process may take beside those that it has. A sixteenth of what is there stays free for what no
    /// estimate has; `u64::MAX` where there is no limit or none can be found. Reads a few files of `/proc` and `/sys`.
    pub fn available(&self) -> u64 {
        let there = match self.limit {
            MemoryLimit::None => return u64::MAX,
            MemoryLimit::Bytes(bytes) => Some(bytes.saturating_sub(self.own("VmRSS").unwrap_or(0))),
            MemoryLimit::Auto => [self.of_machine(), self.of_address_space()]
                .into_iter()
                .chain([self.of_cgroup_v2(), self.of_cgroup_v1()])
                .flatten()
                .min(),
        };
        there.map_or(u64::MAX, |bytes| bytes - bytes / 16)
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok()
    }

    /// A line such as `VmRSS:  123 kB` of this process's status.
    fn own(&self, name: &str) -> Option<u64> {
        kilobytes(&self.read("proc/self/status")?, name)
    }

    fn of_machine(&self) -> Option<u64> {
        kilobytes(&self.read("proc/meminfo")?, "MemAvailable")
    }

    fn of_address_space(&self) -> Option<u64> {
        let limits = self.read("proc/self/limits")?;
        let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
        let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(limit.saturating_sub(self.own("VmSize")?))
    }

    fn of_cgroup_v2(&self) -> Option<u64> {
        let groups = self.read("proc/self/cgroup")?;
        let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let names = ["memory.max", "memory.current", "inactive_file"];
        self.of_groups(Path::new("sys/fs/cgroup"), group, names)
    }

    fn of_cgroup_v1(&self) -> Option<u64> {
        let groups = self.read("proc/self/cgroup")?;
        let group = groups.lines().find_map(|line| {
            let (controllers, group) = line.split_once(':')?.1.split_once(":/")?;
            controllers.split(',').any(|controller| controller == "memory").then_some(group)
        })?;
        // Inside a container the mount is often the group itself, and its path that of the machine.
        let names = ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"];
        self.of_groups(Path::new("sys/fs/cgroup/memory"), group, names)
    }

    /// The least room in a group and those above it, each of which may have a limit. `names` are the files of the limit and
    /// of what is used, and the line of `memory.stat` that tells cached files, which are given back when need be.
    fn of_groups(&self, mount: &Path, group: &str, names: [&str; 3]) -> Option<u64> {
        let [limit, used, cached] = names;
        let room = |folder: &Path| {
            let of = |name: &str| self.read(folder.join(name).to_str()?);
            let limit: u64 = of(limit)?.trim().parse().ok()?;
            let used: u64 = of(used)?.trim().parse().ok()?;
            let cached = words(&of("memory.stat")?, cached).unwrap_or(0);
            Some(limit.saturating_sub(used.saturating_sub(cached)))
        };
        mount.join(group).ancestors().take_while(|folder| folder.starts_with(mount)).filter_map(room).min()
    }
}

impl Default for HostMemory {
    /// Without any limit.
    fn default() -> Self {
        Self::new(MemoryLimit::None)
    }
}

/// The number behind a word at the start of a line.
fn words(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}

/// Bytes of a line such as `MemAvailable:  123 kB`.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    words(text, &format!("{name}:")).map(|kilobytes| kilobytes << 10)
}

/// What reading a file may take here and now.
#[derive(Clone, Debug, Default)]
pub struct Room {
    /// The memory that there is.
    pub host: HostMemory,
    /// What the operator allows each file.
    pub files: Limits,
}

impl Room {
    /// Files that may be read at once, those of a job and a dry run beside them included, so that each gets its share.
    const AT_ONCE: u64 = 4;

    /// For a file of which labels are kept, or nothing.
    pub fn limits(&self) -> Limits {
        self.files.with_memory(self.host.available() / Self::AT_ONCE)
    }

    /// For the files of a job that may begin at once, whose texts are kept from its start on. If they do not fit into this,
    /// the start keeps labels after all; what was taken in vain must leave room for that.
    pub fn limits_ahead(&self) -> Limits {
        self.files.with_memory(self.host.available() / 16)
    }

    /// For the files of the one job or dry run, whose texts are kept until they are tokens.
    pub fn limits_with_texts(&self) -> Limits {
        self.files.with_memory(self.host.available() / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A machine with 8 GiB to give, whose files are these.
    fn host(limit: MemoryLimit, files: &[(&str, &str)]) -> (tempfile::TempDir, HostMemory) {
        let folder = tempfile::tempdir().unwrap();
        let machine = [
            ("proc/meminfo", "MemTotal:       16777216 kB\nMemAvailable:    8388608 kB\n"),
            ("proc/self/status", "VmSize:\t 2097152 kB\nVmRSS:\t 1048576 kB\n"),
            (
                "proc/self/limits",
                "Limit  Soft Limit  Hard Limit  Units\nMax address space  unlimited  unlimited  bytes\n",
            ),
        ];
        for (path, text) in machine.iter().chain(files) {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = folder.path().to_owned();
        (folder, HostMemory { limit, root })
    }

    fn available(limit: MemoryLimit, files: &[(&str, &str)]) -> u64 {
        let (_folder, host) = host(limit, files);
        host.available()
    }

    fn but_a_sixteenth(bytes: u64) -> u64 {
        bytes / 16 * 15
    }

    #[test]
    fn the_least_of_machine_container_and_address_space_counts() {
        assert_eq!(available(MemoryLimit::Auto, &[]), but_a_sixteenth(8 * GIB));
        let limits = "Max address space         4294967296           unlimited            bytes\n";
        assert_eq!(available(MemoryLimit::Auto, &[("proc/self/limits", limits)]), but_a_sixteenth(2 * GIB));
    }

    #[test]
    fn a_container_may_be_limited_at_any_level_of_its_hierarchy_and_cached_files_do_not_count() {
        let group = ("proc/self/cgroup", "0::/pod/daemon\n");
        let of = |folder: &'static str, max: &'static str| {
            let path = |name: &str| format!("sys/fs/cgroup/{folder}{name}");
            [
                (path("memory.max"), max.to_owned()),
                (path("memory.current"), (2 * GIB).to_string()),
                (path("memory.stat"), format!("anon 1\ninactive_file {GIB}\n")),
            ]
        };
        let available_in = |groups: &[[(String, String); 3]]| {
            let mut files = vec![group];
            files.extend(groups.iter().flatten().map(|(path, text)| (path.as_str(), text.as_str())));
            available(MemoryLimit::Auto, &files)
        };
        assert_eq!(available_in(&[of("pod/daemon/", "max\n")]), but_a_sixteenth(8 * GIB));
        assert_eq!(available_in(&[of("pod/daemon/", "4294967296\n")]), but_a_sixteenth(3 * GIB));
        let both = [of("pod/daemon/", "4294967296\n"), of("pod/", "2147483648\n")];
        assert_eq!(available_in(&both), but_a_sixteenth(GIB));
        // A container that sees its own group as the root.
        assert_eq!(available_in(&[of("", "4294967296\n")]), but_a_sixteenth(3 * GIB));
    }

    #[test]
    fn the_first_version_of_control_groups_is_read_too() {
        let limit = (5 * GIB).to_string();
        let files = [
            ("proc/self/cgroup", "12:cpu,cpuacct:/x\n4:hugetlb,memory:/docker/abc\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", limit.as_str()),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1073741824\n"),
            ("sys/fs/cgroup/memory/memory.stat", "cache 5\ntotal_inactive_file 0\n"),
        ];
        assert_eq!(available(MemoryLimit::Auto, &files), but_a_sixteenth(4 * GIB));
    }

    #[test]
    fn what_the_operator_says_outweighs_what_is_found() {
        assert_eq!(available(MemoryLimit::None, &[]), u64::MAX);
        assert_eq!(available(MemoryLimit::Bytes(33 * GIB), &[]), but_a_sixteenth(32 * GIB));
        assert_eq!(available(MemoryLimit::Bytes(1), &[]), 0);
    }

    #[test]
    fn a_system_that_tells_nothing_sets_no_limit() {
        let host = HostMemory { limit: MemoryLimit::Auto, root: PathBuf::from("/nowhere") };
        assert_eq!(host.available(), u64::MAX);
    }
}
