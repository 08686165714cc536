//! The data folder: where everything lies, and how files become visible in it.
//!
//! ```text
//! hone.lock  hone.db  tmp/  datasets/SHA256  models/NAME/VERSION/  jobs/ID/
//! ```

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use hone_base::error::{Error, Kind, Result};

/// The data folder of one daemon.
#[derive(Clone, Debug)]
pub struct DataDir {
    root: PathBuf,
}

/// Holds the data folder for this daemon until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl DataDir {
    /// Makes the folder ready and takes it for this daemon. Whatever an earlier daemon left half-written goes.
    pub fn open(root: &Path) -> Result<(Self, Lock)> {
        let data = Self { root: root.to_owned() };
        create(root).map_err(|error| error.within("the data folder cannot be used (--data-dir)"))?;
        let lock = data.lock()?;
        let tmp = data.tmp();
        if tmp.exists() {
            std::fs::remove_dir_all(&tmp).map_err(|error| Error::io("empty", &tmp, &error))?;
        }
        for folder in [tmp, data.datasets(), data.models(), data.workspaces()] {
            create(&folder)?;
        }
        Ok((data, lock))
    }

    fn lock(&self) -> Result<Lock> {
        let path = self.root.join("hone.lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(|error| {
            Error::io("write", &path, &error).within("the data folder cannot be used (--data-dir)")
        })?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                Kind::Unavailable,
                format!(
                    "another daemon uses the data folder {}; stop it, or choose another folder with --data-dir",
                    self.root.display()
                ),
            )),
            Err(TryLockError::Error(error)) => Err(Error::io("lock", &path, &error)),
        }
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.root.join("hone.db")
    }

    /// Files that are not complete yet, or not wanted any more. Empty at every start.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Where the files of all data sets lie.
    pub fn datasets(&self) -> PathBuf {
        self.root.join("datasets")
    }

    /// Where the folders of all jobs lie.
    pub fn workspaces(&self) -> PathBuf {
        self.root.join("jobs")
    }

    /// A data set's file.
    pub fn dataset(&self, id: &str) -> PathBuf {
        self.datasets().join(id)
    }

    /// Where the versions of all models lie.
    pub fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// A version's checkpoint folder.
    pub fn version(&self, name: &str, version: u32) -> PathBuf {
        self.models().join(name).join(version.to_string())
    }

    /// The folder in which a job works.
    pub fn workspace(&self, job: &str) -> PathBuf {
        self.workspaces().join(job)
    }

    /// Removes a folder, or a file: it disappears at once, and its contents follow. It need not exist.
    pub fn discard(&self, folder: &Path) -> Result<()> {
        if !folder.exists() {
            return Ok(());
        }
        let grave = self.tmp().join(ulid::Ulid::generate().to_string());
        std::fs::rename(folder, &grave).map_err(|error| Error::io("remove", folder, &error))?;
        sync_parent(folder)?;
        let removed =
            if grave.is_dir() { std::fs::remove_dir_all(&grave) } else { std::fs::remove_file(&grave) };
        removed.map_err(|error| Error::io("remove", &grave, &error))
    }
}

/// Creates a folder and its parents.
pub fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io("create the folder", folder, &error))
}

/// Makes the folder `to` with the files of `from`, which stay where they are. They are the same files where the file system
/// knows links, else copies.
pub fn link_folder(from: &Path, to: &Path) -> Result<()> {
    create(to)?;
    let listed = |error| Error::io("list", from, &error);
    for entry in std::fs::read_dir(from).map_err(listed)? {
        let entry = entry.map_err(listed)?;
        let (file, link) = (entry.path(), to.join(entry.file_name()));
        std::fs::hard_link(&file, &link)
            .or_else(|_| std::fs::copy(&file, &link).map(drop))
            .map_err(|error| Error::io("copy", &file, &error))?;
    }
    Ok(())
}

/// Moves a complete folder to where it becomes visible, durably.
pub fn publish_folder(from: &Path, to: &Path) -> Result<()> {
    let listed = |error| Error::io("list", from, &error);
    for entry in std::fs::read_dir(from).map_err(listed)? {
        sync(&entry.map_err(listed)?.path())?;
    }
    sync(from)?;
    if let Some(parent) = to.parent() {
        create(parent)?;
        sync_parent(parent)?;
    }
    std::fs::rename(from, to).map_err(|error| Error::io("move the checkpoint to", to, &error))?;
    sync_parent(to)
}

/// Writes a file's or folder's state to the disk.
pub fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| Error::io("sync", path, &error))
}

/// Writes the entry of a file or folder in its parent to the disk.
pub fn sync_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), sync)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_has_the_folder_and_the_next_gets_it_after_it() {
        let root = tempfile::tempdir().unwrap();
        let (_, lock) = DataDir::open(root.path()).unwrap();
        let error = DataDir::open(root.path()).unwrap_err();
        assert!(error.message().contains("another daemon uses the data folder"), "{error}");
        assert!(error.message().contains(&root.path().display().to_string()), "{error}");
        drop(lock);
        DataDir::open(root.path()).unwrap();
    }

    #[test]
    fn what_was_half_written_is_gone_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let (data, lock) = DataDir::open(root.path()).unwrap();
        std::fs::write(data.tmp().join("upload"), b"half").unwrap();
        drop(lock);
        DataDir::open(root.path()).unwrap();
        assert_eq!(std::fs::read_dir(data.tmp()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_is_a_file_is_refused_with_its_name() {
        let root = tempfile::NamedTempFile::new().unwrap();
        let error = DataDir::open(root.path()).unwrap_err();
        assert!(error.message().contains("--data-dir"), "{error}");
    }
}
