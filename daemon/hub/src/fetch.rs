//! From the hub into the cache.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::HubConfig;
use super::cache::{Lock, Repository, create_parent};
use super::folder::{CONFIG, lacking_of};
use super::remote::{Announced, Remote};
use hone_base::cancel::Cancel;
use hone_base::digest::Hasher;
use hone_base::error::{Error, Result};
use hone_base::model_file::index::{INDEX, WEIGHTS, parse_index};

/// In this order: what is small tells early whether the repository can be used at all.
const FILES: [&str; 6] = [
    CONFIG,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "vocab.txt",
];

/// What RoBERTa has where there is no `tokenizer.json`.
const PAIRS: [&str; 2] = ["vocab.json", "merges.txt"];

/// How often the progress of a file is told.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// How often a lock that another process has is tried.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// Bytes of a file that are hashed between two looks at the token.
const PIECE: usize = 1 << 20;

/// One repository on its way into the cache.
pub(crate) struct Download<'a> {
    id: &'a str,
    revision: &'a str,
    endpoint: &'a str,
    cancel: &'a Cancel,
    progress: &'a mut dyn FnMut(String),
    remote: Remote<'a>,
    repository: Repository,
}

impl<'a> Download<'a> {
    /// The download of a revision of the repository `id`; nothing is asked or written yet.
    pub(crate) fn new(
        hub: &'a HubConfig,
        id: &'a str,
        revision: &'a str,
        cancel: &'a Cancel,
        progress: &'a mut dyn FnMut(String),
    ) -> Self {
        let remote = Remote::new(hub, id, revision, cancel);
        let repository = Repository::new(&hub.cache, id);
        Self { id, revision, endpoint: &hub.endpoint, cancel, progress, remote, repository }
    }

    /// Downloads what is not there yet. Returns the snapshot's folder.
    ///
    /// # Errors
    /// As [`HubConfig::resolve`].
    pub(crate) fn run(mut self) -> Result<PathBuf> {
        (self.progress)(format!("looking for {} at {}", self.id, self.endpoint));
        let listing = self.remote.listing()?;
        // All files are those of one commit, should the branch move meanwhile.
        let (commit, names) = (listing.commit, listing.names);
        let has = |name: &str| names.contains(name);
        if let Some(lacking) = lacking_of(&names, self.id) {
            return Err(Error::precondition(format!(
                "{} has no {lacking}; choose a repository with safetensors weights and a tokenizer, or convert it \
                 (transformers: save_pretrained) and pass the folder",
                self.id
            )));
        }
        let pairs = PAIRS.into_iter().filter(|_| !has("tokenizer.json"));
        for name in FILES.into_iter().chain(pairs).filter(|name| has(name)) {
            self.fetch(&commit, name)?;
        }
        for name in self.weights(&commit, &names)? {
            self.fetch(&commit, &name)?;
        }
        self.repository.point(self.revision, &commit)?;
        Ok(self.repository.snapshot(&commit))
    }

    /// The files of the weights; the index says which they are where there are several.
    fn weights(&mut self, commit: &str, names: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        if names.contains(WEIGHTS) {
            return Ok(BTreeSet::from([WEIGHTS.to_owned()]));
        }
        self.fetch(commit, INDEX)?;
        let path = self.repository.snapshot(commit).join(INDEX);
        let text = fs::read_to_string(&path).map_err(|error| Error::io("read", &path, &error))?;
        let index = parse_index(&text).map_err(|error| error.of_named().within(self.id))?;
        let shards: BTreeSet<String> = index.into_values().collect();
        match shards.difference(names).next() {
            None => Ok(shards),
            Some(missing) => {
                Err(Error::precondition(format!("{} has no {missing}, which its {INDEX} names", self.id)))
            }
        }
    }

    /// Brings a file into the snapshot, unless it is there.
    fn fetch(&mut self, commit: &str, name: &str) -> Result<()> {
        let announced = self.remote.announced(commit, name)?;
        let etag = announced.etag.as_str();
        let file = self.repository.snapshot(commit).join(name);
        if self.fault(&file, &announced)?.is_none() {
            return Ok(());
        }
        let _lock = self.lock(name, etag)?;
        let blob = self.repository.blob(etag);
        if self.fault(&blob, &announced)?.is_some() {
            self.download(commit, name, &announced)?;
            let incomplete = self.repository.incomplete(etag);
            fs::rename(&incomplete, &blob).map_err(|error| Error::io("write", &blob, &error))?;
        }
        self.repository.link(commit, name, etag)
    }

    /// Waits until no other process and no other thread writes the blob.
    fn lock(&mut self, name: &str, etag: &str) -> Result<Lock> {
        let mut is_told = false;
        loop {
            if let Some(lock) = self.repository.try_lock(etag)? {
                return Ok(lock);
            }
            if !is_told {
                is_told = true;
                (self.progress)(format!(
                    "waiting for {name}, which somebody else is downloading: {} is locked",
                    self.repository.lock_file(etag).display()
                ));
            }
            self.cancel.check()?;
            thread::sleep(TRY_EVERY);
        }
    }

    /// Downloads a file next to its blob, and compares it with what was announced. Goes on from what an earlier try left.
    fn download(&mut self, commit: &str, name: &str, announced: &Announced) -> Result<()> {
        let path = self.repository.incomplete(&announced.etag);
        let url = self.remote.url(commit, name);
        (self.progress)(format!("downloading {name} ({}) from {url}", megabytes(announced.size)));
        create_parent(&path)?;
        let mut arrived = Arrived::open(&path, announced.size, self.cancel)?;
        let mut told = Instant::now();
        if arrived.size < announced.size {
            let (mut answer, goes_on) = self.remote.content(commit, name, arrived.size)?;
            if !goes_on {
                arrived.restart()?;
            }
            while let Some(bytes) = answer.bytes().map_err(|fault| self.remote.failed(Some(name), fault))? {
                arrived.add(&bytes)?;
                if arrived.size > announced.size {
                    remove(&path);
                    let size = announced.size;
                    return Err(self
                        .remote
                        .unavailable(format_args!("{name}: more than {size} bytes arrived")));
                }
                if told.elapsed() >= TOLD_EVERY {
                    told = Instant::now();
                    (self.progress)(format!("downloading {name}: {} are here", megabytes(arrived.size)));
                }
            }
        }
        let (size, digest) = arrived.finish()?;
        match check(size, &digest, announced) {
            None => Ok(()),
            Some(fault) => {
                remove(&path);
                Err(self.remote.unavailable(format_args!("{name}: {fault}")))
            }
        }
    }

    /// Why a file is not what the hub announced; `None` when it is.
    fn fault(&self, file: &Path, announced: &Announced) -> Result<Option<String>> {
        let size = match fs::metadata(file) {
            Ok(found) => found.len(),
            Err(error) => return Ok(Some(error.to_string())),
        };
        if size != announced.size || announced.sha256().is_none() {
            return Ok(check(size, "", announced));
        }
        let mut hasher = Hasher::default();
        let hashed = File::open(file).map_err(|error| Error::io("read", file, &error));
        let size = hash(&mut hashed?, &mut hasher, self.cancel, file)?;
        Ok(check(size, &hasher.finish(), announced))
    }
}

/// What has arrived of a file, and its digest.
struct Arrived<'a> {
    path: &'a Path,
    file: File,
    hasher: Hasher,
    size: u64,
}

impl<'a> Arrived<'a> {
    /// What an earlier try left, if it is less than the whole file.
    fn open(path: &'a Path, whole: u64, cancel: &Cancel) -> Result<Self> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path);
        let file = file.map_err(|error| Error::io("write", path, &error))?;
        let mut arrived = Self { path, file, hasher: Hasher::default(), size: 0 };
        let left = arrived.file.metadata().map_err(|error| Error::io("read", path, &error))?.len();
        // The digest of something whole was wrong, or the last try ended before it was known.
        if left >= whole {
            arrived.restart()?;
        } else {
            arrived.size = hash(&mut arrived.file, &mut arrived.hasher, cancel, path)?;
        }
        Ok(arrived)
    }

    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(|error| Error::io("write", self.path, &error))?;
        (self.hasher, self.size) = (Hasher::default(), 0);
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| Error::io("write", self.path, &error))?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Size and digest of what is on the disk.
    fn finish(self) -> Result<(u64, String)> {
        self.file.sync_data().map_err(|error| Error::io("write", self.path, &error))?;
        Ok((self.size, self.hasher.finish()))
    }
}

/// Hashes a file from where it is read to its end; returns how many bytes that were.
fn hash(file: &mut File, hasher: &mut Hasher, cancel: &Cancel, path: &Path) -> Result<u64> {
    let mut bytes = vec![0; PIECE];
    let mut size = 0;
    loop {
        cancel.check()?;
        match file.read(&mut bytes) {
            Ok(read) => {
                let Some(read) = bytes.get(..read).filter(|read| !read.is_empty()) else { return Ok(size) };
                hasher.update(read);
                size += read.len() as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(Error::io("read", path, &error)),
        }
    }
}

/// What is wrong with a file of this size and digest.
fn check(size: u64, digest: &str, announced: &Announced) -> Option<String> {
    if size != announced.size {
        return Some(format!("{size} bytes arrived of {}", announced.size));
    }
    let expected = announced.sha256()?;
    (!digest.eq_ignore_ascii_case(expected))
        .then(|| format!("the bytes that arrived have another SHA-256 ({digest})"))
}

/// What cannot be removed is noticed by whoever writes there next.
fn remove(file: &Path) {
    let _ = fs::remove_file(file);
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod interrupted;
#[cfg(test)]
mod tests;
