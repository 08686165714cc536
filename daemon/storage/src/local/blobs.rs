//! Files and checkpoints in the data folder.

use std::path::{Path, PathBuf};

use hone_base::digest;
use hone_base::error::{Error, Kind, Result};

use super::data_dir::{DataDir, create, sync, sync_parent};
use crate::blobs::{Blobs, Incoming, Staged, check_id};

impl Blobs for DataDir {
    fn begin(&self) -> Result<Incoming> {
        Incoming::in_folder(&self.tmp())
    }

    fn put_file(&self, file: Staged) -> Result<()> {
        let (file, id) = file.into_synced()?;
        let path = self.dataset(&id);
        file.persist(&path).map_err(|error| Error::io("keep the file as", &path, &error.error))?;
        sync_parent(&path)
    }

    fn file(&self, id: &str) -> Result<PathBuf> {
        check_id(id)?;
        let path = self.dataset(id);
        match path.exists() {
            true => Ok(path),
            false => Err(Error::not_found(format!("the file {} is missing", path.display()))),
        }
    }

    fn remove_file(&self, id: &str) -> Result<()> {
        check_id(id)?;
        let path = self.dataset(id);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("remove", &path, &error)),
            Ok(()) => sync_parent(&path),
        }
    }

    fn files(&self) -> Result<Vec<String>> {
        let names = names(&self.datasets())?;
        Ok(names.into_iter().filter(|name| digest::is_digest(name)).collect())
    }

    fn put_folder(&self, from: &Path, name: &str, version: u32) -> Result<()> {
        let to = self.version(name, version);
        let exists = || Error::new(Kind::Exists, format!("the folder {} is there already", to.display()));
        if to.exists() {
            return Err(exists());
        }
        let made = self.tmp().join(ulid::Ulid::generate().to_string());
        create(&made)?;
        for file in names(from)? {
            link_or_copy(&from.join(&file), &made.join(&file))?;
        }
        sync(&made)?;
        if let Some(parent) = to.parent() {
            create(parent)?;
            sync_parent(parent)?;
        }
        std::fs::rename(&made, &to).map_err(|error| Error::io("move the checkpoint to", &to, &error))?;
        sync_parent(&to)
    }

    fn folder(&self, name: &str, version: u32) -> Result<PathBuf> {
        let folder = self.version(name, version);
        match folder.is_dir() {
            true => Ok(folder),
            false => Err(Error::not_found(format!("the folder {} is missing", folder.display()))),
        }
    }

    fn remove_folder(&self, name: &str, version: u32) -> Result<()> {
        self.discard(&self.version(name, version))
    }

    fn folders(&self) -> Result<Vec<(String, u32)>> {
        let mut folders = Vec::new();
        for name in names(&self.models())? {
            let of_model = self.models().join(&name);
            if of_model.is_dir() {
                let versions = names(&of_model)?.into_iter().filter_map(|version| version.parse().ok());
                folders.extend(versions.map(|version| (name.clone(), version)));
            }
        }
        Ok(folders)
    }
}

/// The names of what is in a folder, as far as they are text.
fn names(folder: &Path) -> Result<Vec<String>> {
    let failed = |error| Error::io("list", folder, &error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string().ok());
    }
    Ok(names)
}

/// A second name for a file, or a second file where the disk has no such names; on the disk when it returns.
fn link_or_copy(from: &Path, to: &Path) -> Result<()> {
    if std::fs::hard_link(from, to).is_err() {
        std::fs::copy(from, to).map_err(|error| Error::io("copy the checkpoint's file to", to, &error))?;
    }
    sync(to)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conformance;

    #[test]
    fn a_folder_conforms() {
        conformance::blobs(&|| {
            let root = tempfile::tempdir().unwrap();
            let (data, lock) = DataDir::open(root.path()).unwrap();
            (Arc::new(data) as Arc<dyn Blobs>, Box::new((root, lock)))
        });
    }

    #[test]
    fn what_was_begun_and_given_up_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let (data, _lock) = DataDir::open(root.path()).unwrap();
        let mut incoming = data.begin().unwrap();
        incoming.write(b"half").unwrap();
        drop(incoming.finish());
        assert_eq!(names(&data.tmp()).unwrap(), [""; 0]);
    }
}
