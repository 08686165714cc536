//! Names of encoders to folders on this machine.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// An encoder as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EncoderName {
    /// A folder in Hugging Face layout.
    Folder(PathBuf),
    /// A model of the hub.
    Hub {
        /// For example `sentence-transformers/all-MiniLM-L6-v2`.
        id: String,
        /// A branch, tag or commit.
        revision: Option<String>,
    },
}

impl EncoderName {
    /// Parses a folder's path or a hub id with an optional revision after `@`. An existing folder wins.
    pub fn parse(name: &str) -> Result<Self> {
        let _ = name;
        Err(Error::internal("not built"))
    }
}

/// The encoder's folder, when it is one or stands in the local Hugging Face cache; nothing is downloaded.
pub fn find_local(name: &EncoderName) -> Result<Option<PathBuf>> {
    let _ = name;
    Err(Error::internal("not built"))
}

/// The encoder's folder, downloaded into the Hugging Face cache when it is not there yet. `progress` is told in
/// words what happens. Blocking.
pub fn resolve(name: &EncoderName, progress: &mut dyn FnMut(String)) -> Result<PathBuf> {
    let _ = (name, progress);
    Err(Error::internal("not built"))
}

/// Whether the folder holds the files that an encoder needs.
pub fn is_complete(folder: &Path) -> bool {
    let _ = folder;
    false
}
