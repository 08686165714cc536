//! SHA-256 of bytes and files: the name of whatever is content-addressed.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// A file of a folder with its size and digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// The file's name within its folder.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

/// A digest that is fed piece by piece.
#[derive(Clone, Debug, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest, lower-case hexadecimal.
    pub fn finish(self) -> String {
        use std::fmt::Write as _;
        self.0.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// The digest of some bytes.
pub fn of_bytes(bytes: &[u8]) -> String {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.finish()
}

/// Whether the text has the form of a digest.
pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Every file of a flat folder, by name.
///
/// # Errors
/// Where a file cannot be read, its name is no UTF-8, or there is a folder.
pub fn of_folder(folder: &Path) -> Result<Vec<FileDigest>> {
    of_folder_but(folder, &[])
}

/// The same where the digests of some files are known already, by their names; they are not read again.
///
/// # Errors
/// As [`of_folder`].
pub fn of_folder_but(folder: &Path, known: &[(&str, &str)]) -> Result<Vec<FileDigest>> {
    let list = |error| Error::io("list", folder, &error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(list)? {
        let entry = entry.map_err(list)?;
        let path = entry.path();
        let name = entry.file_name().into_string().map_err(|name| {
            Error::internal(format!("the file name {} in {} is not UTF-8", name.display(), folder.display()))
        })?;
        if !entry.file_type().map_err(|error| Error::io("inspect", &path, &error))?.is_file() {
            return Err(Error::internal(format!(
                "{} is not a file; a checkpoint folder is flat",
                path.display()
            )));
        }
        files.push(match known.iter().find(|(known, _)| *known == name) {
            Some((_, sha256)) => {
                let metadata = entry.metadata().map_err(|error| Error::io("inspect", &path, &error))?;
                FileDigest { name, size: metadata.len(), sha256: (*sha256).to_owned() }
            }
            None => of_file(&path, name)?,
        });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// A file's size and digest, under a name.
pub fn of_file(path: &Path, name: String) -> Result<FileDigest> {
    let failed = |error| Error::io("read", path, &error);
    let mut reader = BufReader::with_capacity(1 << 18, File::open(path).map_err(failed)?);
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 18];
    let mut size = 0;
    loop {
        let read = reader.read(&mut buffer).map_err(failed)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hasher.update(bytes);
        size += read as u64;
    }
    Ok(FileDigest { name, size, sha256: hasher.finish() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_lower_case_hexadecimal_digits() {
        let digest = of_bytes(b"abc");
        assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(is_digest(&digest));
        assert!(!is_digest(&digest.to_uppercase()));
        assert!(!is_digest("../../etc/passwd"));
    }

    #[test]
    fn the_files_of_a_folder_come_by_name_with_size_and_digest() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("b"), b"abc").unwrap();
        std::fs::write(folder.path().join("a"), b"").unwrap();
        let files = of_folder(folder.path()).unwrap();
        assert_eq!(files.iter().map(|f| (f.name.as_str(), f.size)).collect::<Vec<_>>(), [("a", 0), ("b", 3)]);
        assert_eq!(files[1].sha256, of_bytes(b"abc"));
        let known = of_folder_but(folder.path(), &[("b", "hashed when it was written")]).unwrap();
        assert_eq!((known[1].size, known[1].sha256.as_str()), (3, "hashed when it was written"));
        assert_eq!(known[0], files[0]);
    }
}
