//! The process itself, by the names that every Prometheus client uses. Where there is no `/proc`, none of it is there.

use std::fs;
use std::sync::Mutex;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntGauge, Opts, Result};

use hone_base::panic::lock;

/// Ticks of a second as `/proc` counts them (`USER_HZ`), whatever the kernel's own clock does.
const TICKS: f64 = 100.0;

/// Reads the process's figures when it is scraped.
pub(super) struct Process {
    cpu: Counter,
    resident: IntGauge,
    virtual_memory: IntGauge,
    threads: IntGauge,
    open: IntGauge,
    most_open: IntGauge,
    start: Gauge,
    /// One scrape reads at a time, so that the counter goes up by what is new.
    reading: Mutex<()>,
}

/// What `/proc/self/stat` says.
#[derive(Debug, PartialEq)]
struct Stat {
    /// Ticks of the processor.
    cpu: u64,
    threads: u64,
    /// Ticks from the machine's start to the process's.
    start: u64,
    virtual_bytes: u64,
}

impl Process {
    pub(super) fn new() -> Result<Self> {
        let gauge = |name: &str, help: &str| IntGauge::with_opts(Opts::new(name, help));
        let process = Self {
            cpu: Counter::with_opts(Opts::new(
                "process_cpu_seconds_total",
                "Time of the processor that the process has taken, in seconds.",
            ))?,
            resident: gauge("process_resident_memory_bytes", "Memory of the process that is resident.")?,
            virtual_memory: gauge("process_virtual_memory_bytes", "Virtual memory of the process.")?,
            threads: gauge("process_threads", "Threads of the process.")?,
            open: gauge("process_open_fds", "Files that the process has open.")?,
            most_open: gauge("process_max_fds", "Files that the process may have open.")?,
            start: Gauge::with_opts(Opts::new(
                "process_start_time_seconds",
                "When the process began, in seconds since the epoch.",
            ))?,
            reading: Mutex::new(()),
        };
        Ok(process)
    }

    /// Reads what can be read; what cannot stays as it was.
    fn read(&self) {
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(stat) {
            let now = stat.cpu as f64 / TICKS;
            self.cpu.inc_by((now - self.cpu.get()).max(0.0));
            self.virtual_memory.set(stat.virtual_bytes as i64);
            self.threads.set(stat.threads as i64);
            if self.start.get() == 0.0
                && let Some(boot) = fs::read_to_string("/proc/stat").ok().as_deref().and_then(boot)
            {
                self.start.set(boot + stat.start as f64 / TICKS);
            }
        }
        if let Some(resident) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident) {
            self.resident.set(resident as i64);
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // Without the one that reads the folder.
            self.open.set(open.count().saturating_sub(1) as i64);
        }
        #[cfg(unix)]
        if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
            self.most_open.set(i64::try_from(most).unwrap_or(i64::MAX));
        }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        let Self { cpu, resident, virtual_memory, threads, open, most_open, start, .. } = self;
        let parts: [&dyn Collector; 7] = [cpu, resident, virtual_memory, threads, open, most_open, start];
        parts.into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _reading = lock(&self.reading);
        self.read();
        let Self { cpu, resident, virtual_memory, threads, open, most_open, start, .. } = self;
        let parts: [&dyn Collector; 7] = [cpu, resident, virtual_memory, threads, open, most_open, start];
        parts.into_iter().flat_map(Collector::collect).collect()
    }
}

/// The fields of `/proc/self/stat` (proc(5)). The second is the program's name in brackets, which may hold anything.
fn stat(text: &str) -> Option<Stat> {
    let rest = text.rsplit_once(')')?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The first field after the name is the third of all.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Stat {
        cpu: field(14)? + field(15)?,
        threads: field(20)?,
        start: field(22)?,
        virtual_bytes: field(23)?,
    })
}

/// The bytes that are resident, by `/proc/self/status`, which has them in units of 1024 bytes.
fn resident(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// When the machine began, by `/proc/stat`, in seconds since the epoch.
fn boot(text: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_programs_name_may_hold_brackets_and_spaces() {
        let text = "17 (a ) b) S 1 17 17 0 -1 4194560 5 6 7 8 120 30 11 12 20 0 9 0 500 1048576 256 1 2 3";
        let expected = Stat { cpu: 150, threads: 9, start: 500, virtual_bytes: 1_048_576 };
        assert_eq!(stat(text), Some(expected));
        assert_eq!(stat("17 (a) S 1"), None);
        assert_eq!(stat(""), None);
        assert_eq!(resident("Name:\ta\nVmRSS:\t  2048 kB\n"), Some(2 << 20));
        assert_eq!(resident("VmRSS:\t2048\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_has_memory_and_files_and_began_before_now() {
        let process = Process::new().unwrap();
        process.read();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(process.resident.get() > 1 << 20 && process.open.get() >= 3 && process.threads.get() >= 1);
        assert!(process.start.get() > 1.5e9 && process.start.get() <= now + 1.0, "{}", process.start.get());
        let before = process.cpu.get();
        process.read();
        assert!(process.cpu.get() >= before);
    }
}
