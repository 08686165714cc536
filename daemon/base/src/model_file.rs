//! A file of a model's folder, read at the border: there, a regular file, and really what its name says.

pub mod index;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};

/// How a Git LFS pointer begins.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/v1";

/// Enough of a file to recognise what it is.
pub const HEAD: usize = 512;

/// The largest text file that is read; the largest tokenizers have some 30 MB.
const MAX_TEXT: u64 = 1 << 30;

/// The text of a file, without a byte order mark; `None` when the file is not there.
pub fn read_text(path: &Path) -> Result<Option<String>> {
    let Some(size) = size(path)? else { return Ok(None) };
    if size > MAX_TEXT {
        return Err(Error::precondition(format!("{} has {size} bytes, which no text has", path.display())));
    }
    let bytes = fs::read(path).map_err(|error| Error::io("read", path, &error))?;
    if let Some(what) = instead(&bytes) {
        return Err(Error::corrupt(format!("{} {what}", path.display())));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Error::corrupt(format!("{} is UTF-16; save it as UTF-8", path.display())));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes).to_vec();
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::corrupt(format!("{} is not UTF-8 text (from byte {at} on)", path.display()))
    })?;
    Ok(Some(text))
}

/// A file's size; `None` when it is not there. A link that leads nowhere, and what is no file, are errors.
pub fn size(path: &Path) -> Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(Some(found.len())),
        Ok(_) => Err(Error::precondition(format!("{} is not a file", path.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => match fs::read_link(path) {
            Ok(target) => Err(Error::precondition(format!(
                "{} is a link to {}, which is not there",
                path.display(),
                target.display()
            ))),
            Err(_) => Ok(None),
        },
        Err(error) => Err(Error::io("read", path, &error)),
    }
}

/// What a file is that is not what its name says, by its first bytes, and what to do: a predicate for messages.
pub fn instead(head: &[u8]) -> Option<&'static str> {
    let start = head.get(..HEAD.min(head.len())).unwrap_or_default();
    let text = String::from_utf8_lossy(start).trim_start_matches('\u{feff}').trim_start().to_lowercase();
    if head.is_empty() {
        Some("is empty; fetch it again")
    } else if start.starts_with(LFS) {
        Some(
            "is a Git LFS pointer, not the file itself; run `git lfs install` and `git lfs pull` in its repository",
        )
    } else if text.starts_with("<!doctype html") || text.starts_with("<html") {
        Some("is a web page (of an error or a login, perhaps), not the file itself; fetch it again")
    } else if start.starts_with(b"PK\x03\x04") {
        Some(
            "is a zip archive, as PyTorch writes its weights, under another name; convert it to what its name says",
        )
    } else if start.starts_with(b"\x1f\x8b") {
        Some("is compressed by gzip; decompress it")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        fs::write(&path, bytes).unwrap();
        read_text(&path)
    }

    #[test]
    fn text_is_read_without_its_byte_order_mark() {
        assert_eq!(read("\u{feff}{}".as_bytes()).unwrap().as_deref(), Some("{}"));
        assert_eq!(read_text(Path::new("/no/such/file")).unwrap(), None);
    }

    #[test]
    fn what_is_not_what_its_name_says_is_told() {
        for (bytes, expected) in [
            (&b""[..], "is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n", "`git lfs pull`"),
            (b"\n <!DOCTYPE html><title>Sign in</title>", "is a web page"),
            (b"<html>", "is a web page"),
            (b"PK\x03\x04...", "zip archive"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"\xff\xfe{\0}\0", "UTF-16"),
            (b"{\"a\": \"\xe9\"}", "is not UTF-8 text (from byte 7 on)"),
        ] {
            let error = read(bytes).unwrap_err();
            assert!(error.message().contains(expected), "{error}");
            assert!(error.message().contains("config.json"), "{error}");
        }
    }

    #[test]
    fn a_link_that_leads_nowhere_is_not_a_missing_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::os::unix::fs::symlink("../blobs/gone", &path).unwrap();
        let error = read_text(&path).unwrap_err();
        assert!(error.message().contains("is a link to ../blobs/gone, which is not there"), "{error}");
        let error = read_text(folder.path()).unwrap_err();
        assert!(error.message().contains("is not a file"), "{error}");
    }
}
