//! A repository's folder in the Hugging Face cache, which Python programs share.
//!
//! ```text
//! models--<organisation>--<name>/refs/<revision>              a commit
//! models--<organisation>--<name>/snapshots/<commit>/<file>    a link to ../../blobs/<etag>
//! models--<organisation>--<name>/blobs/<etag>                 a whole file
//! models--<organisation>--<name>/blobs/<etag>.incomplete      what of it has arrived
//! .locks/models--<organisation>--<name>/<etag>.lock           held by whoever writes the blob
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::names::is_revision;
use hone_base::error::{Error, Result};

/// A repository's folder in the cache.
#[derive(Debug)]
pub(crate) struct Repository {
    folder: PathBuf,
    locks: PathBuf,
}

/// A blob that this process alone writes, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    /// The operating system lets go of a closed file's lock, also when the process is killed.
    _file: File,
}

impl Repository {
    /// The folder of the repository `id` in a cache; nothing is created.
    pub(crate) fn new(cache: &Path, id: &str) -> Self {
        let name = format!("models--{}", id.replace('/', "--"));
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    /// The folder of a commit's files.
    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The folder of a branch's or tag's commit as it was last seen, or of a commit; `None` when it is not there.
    pub(crate) fn snapshot_of(&self, revision: &str) -> Option<PathBuf> {
        let commit = fs::read_to_string(self.reference(revision)).ok();
        let commit = commit.as_deref().map_or(revision, str::trim);
        is_revision(commit).then(|| self.snapshot(commit)).filter(|folder| folder.is_dir())
    }

    /// Where a whole file lies, by its etag.
    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Where the first bytes of a file wait for the others.
    pub(crate) fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// The file whose lock says that a blob is being written.
    pub(crate) fn lock_file(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    /// Takes the lock of a blob, as the Python library takes it; `None` while another process or thread has it.
    ///
    /// # Errors
    /// When the lock's file cannot be made, or its file system has no locks.
    pub(crate) fn try_lock(&self, etag: &str) -> Result<Option<Lock>> {
        let path = self.lock_file(etag);
        create_parent(&path)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|error| Error::io("write", &path, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path, &error)),
        }
    }

    /// Makes the file `name` of a commit's snapshot a link to a blob, whatever it was before.
    ///
    /// # Errors
    /// When the cache cannot be written to.
    pub(crate) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<()> {
        let path = self.snapshot(commit).join(name);
        create_parent(&path)?;
        let failed = |error| Error::io("link", &path, &error);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(error)),
            _ => std::os::unix::fs::symlink(Path::new("../../blobs").join(etag), &path).map_err(failed),
        }
    }

    /// Says that `revision` is the commit. Readers see the commit before or this one.
    ///
    /// # Errors
    /// When the cache cannot be written to.
    pub(crate) fn point(&self, revision: &str, commit: &str) -> Result<()> {
        let path = self.reference(revision);
        let folder = create_parent(&path)?;
        let failed = |error| Error::io("write", &path, &error);
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(commit.as_bytes()).map_err(failed)?;
        file.persist(&path).map(drop).map_err(|error| failed(error.error))
    }
}

/// Makes the folder of a file.
pub(crate) fn create_parent(path: &Path) -> Result<&Path> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, &error))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_written_by_one_at_a_time() {
        let cache = tempfile::tempdir().unwrap();
        let [one, other] = [(); 2].map(|()| Repository::new(cache.path(), "org/name"));
        let lock = one.try_lock("abc").unwrap();
        assert!(lock.is_some());
        assert!(other.try_lock("abc").unwrap().is_none());
        assert!(other.try_lock("def").unwrap().is_some());
        drop(lock);
        assert!(other.try_lock("abc").unwrap().is_some());
        // The place that the Python library locks.
        assert!(cache.path().join(".locks/models--org--name/abc.lock").is_file());
    }

    #[test]
    fn a_file_of_a_snapshot_is_a_link_that_holds_when_the_cache_is_moved() {
        let cache = tempfile::tempdir().unwrap();
        let repository = Repository::new(&cache.path().join("before"), "org/name");
        create_parent(&repository.blob("abc")).unwrap();
        fs::write(repository.blob("abc"), "old").unwrap();
        fs::write(repository.blob("def"), "new").unwrap();
        for etag in ["abc", "def"] {
            repository.link("123", "config.json", etag).unwrap();
        }
        fs::rename(cache.path().join("before"), cache.path().join("after")).unwrap();
        let file =
            Repository::new(&cache.path().join("after"), "org/name").snapshot("123").join("config.json");
        assert_eq!(fs::read_to_string(file).unwrap(), "new");
    }

    #[test]
    fn a_reference_with_a_slash_is_a_path_below_the_references() {
        let cache = tempfile::tempdir().unwrap();
        let repository = Repository::new(cache.path(), "org/name");
        fs::create_dir_all(repository.snapshot("123")).unwrap();
        repository.point("refs/pr/1", "123").unwrap();
        assert_eq!(repository.snapshot_of("refs/pr/1"), Some(repository.snapshot("123")));
        let file = cache.path().join("models--org--name/refs/refs/pr/1");
        assert_eq!(fs::read_to_string(file).unwrap(), "123");
    }
}
