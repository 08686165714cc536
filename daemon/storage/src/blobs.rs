//! Bytes, whatever holds them: files that are named by the digest of what is in them, and the checkpoint folders of
//! versions.
//!
//! Every function blocks, and is called from threads that may. What is read is read from this machine's disk: an
//! implementation that stores elsewhere fetches a file or folder first. A folder or file that was put is there, whole and
//! durably, when the function returns, and before that it is not there at all. `conformance::blobs` says in tests what is
//! expected.

use std::fmt::Debug;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use hone_base::digest::{self, Hasher};
use hone_base::error::{Error, Result, quoted};
use tempfile::NamedTempFile;

/// All files and checkpoint folders.
pub trait Blobs: Debug + Send + Sync + 'static {
    /// An empty file, to be written and put.
    fn begin(&self) -> Result<Incoming>;

    /// Keeps a file under its id. One that is there already stays as it is, or is replaced if it was damaged.
    fn put_file(&self, file: Staged) -> Result<()>;

    /// Where a file can be read.
    ///
    /// # Errors
    ///
    /// `Invalid` when the id is none; `NotFound` when there is no such file.
    fn file(&self, id: &str) -> Result<PathBuf>;

    /// Removes a file; it need not be there.
    ///
    /// # Errors
    ///
    /// `Invalid` when the id is none.
    fn remove_file(&self, id: &str) -> Result<()>;

    /// The ids of all files.
    fn files(&self) -> Result<Vec<String>>;

    /// Keeps the files of a folder as the checkpoint of a version. The folder stays; the kept files may be the same ones,
    /// so they are not to be changed afterwards.
    ///
    /// # Errors
    ///
    /// `Exists` when there is such a version.
    fn put_folder(&self, from: &Path, name: &str, version: u32) -> Result<()>;

    /// Where a version's checkpoint can be read.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none.
    fn folder(&self, name: &str, version: u32) -> Result<PathBuf>;

    /// Removes a version's checkpoint, at once and as a whole; it need not be there.
    fn remove_folder(&self, name: &str, version: u32) -> Result<()>;

    /// The names and versions of all checkpoints.
    fn folders(&self) -> Result<Vec<(String, u32)>>;
}

/// A file on its way in. Dropped before it is put, it leaves nothing behind.
#[derive(Debug)]
pub struct Incoming {
    file: NamedTempFile,
    hasher: Hasher,
    size: u64,
}

/// A file that has arrived as a whole, with its id. Dropped before it is put, it leaves nothing behind.
#[derive(Debug)]
pub struct Staged {
    file: NamedTempFile,
    id: String,
    size: u64,
}

impl Incoming {
    /// An empty file in a folder of this machine.
    ///
    /// # Errors
    ///
    /// When it cannot be created.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        let file = tempfile::Builder::new()
            .prefix("upload-")
            .tempfile_in(folder)
            .map_err(|error| Error::io("create a file in", folder, &error))?;
        Ok(Self { file, hasher: Hasher::default(), size: 0 })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// When the disk does.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|error| Error::io("write", self.file.path(), &error))
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file, when all bytes have come.
    pub fn finish(self) -> Staged {
        Staged { file: self.file, id: self.hasher.finish(), size: self.size }
    }
}

impl Staged {
    /// SHA-256 of the bytes, lower-case hexadecimal.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where it can be read until it is put.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// For implementations: the file, synced to the disk, and its id.
    ///
    /// # Errors
    ///
    /// When the disk does.
    pub fn into_synced(self) -> Result<(NamedTempFile, String)> {
        self.file.as_file().sync_all().map_err(|error| Error::io("sync", self.file.path(), &error))?;
        Ok((self.file, self.id))
    }
}

/// Refuses an id that does not have the form of one; as a file's name it could be anything.
///
/// # Errors
///
/// `Invalid`.
pub fn check_id(id: &str) -> Result<()> {
    if digest::is_digest(id) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{} is not the id of a data set: an id is the SHA-256 of the file, 64 lower-case hexadecimal digits",
        quoted(id)
    )))
}
