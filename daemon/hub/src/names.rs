//! What a user may call an encoder: a folder, or an id of the hub.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use hone_base::error::{Error, Result, quoted};
use hone_base::nearest;

/// Longest hub id that the hub itself takes.
const LONGEST_ID: usize = 96;

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
    ///
    /// # Errors
    /// [`Kind::Precondition`](hone_base::error::Kind) for a path that is no folder, with the folder that was probably meant;
    /// [`Kind::Invalid`](hone_base::error::Kind) for what is neither a path nor an id.
    pub fn parse(name: &str) -> Result<Self> {
        let path = Path::new(name);
        if !name.is_empty() && path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if path.is_file() {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            return Err(Error::precondition(format!(
                "{name} is a file; an encoder is a folder with config.json, model.safetensors and a tokenizer: name the \
                 folder, {} perhaps",
                folder.display()
            )));
        }
        let is_path = ["/", "./", "../", "~"].iter().any(|start| name.starts_with(start))
            || [".", ".."].contains(&name)
            // A link that leads nowhere.
            || path.is_symlink();
        if is_path {
            let meant = match nearest_folder(path) {
                Some(meant) => format!("did you mean {}? An", meant.display()),
                None if name.starts_with('~') => "~ is not replaced by the daemon; an".to_owned(),
                None => "an".to_owned(),
            };
            return Err(Error::precondition(format!(
                "there is no folder {name} on the daemon's machine; {meant} encoder is a folder there, or an id of the \
                 Hugging Face hub such as sentence-transformers/all-MiniLM-L6-v2"
            )));
        }
        let (id, revision) = match name.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (name, None),
        };
        if !is_hub_id(id) || revision.is_some_and(|revision| !is_revision(revision)) {
            return Err(Error::invalid(format!(
                "{} is neither a folder on the daemon's machine nor an id of the Hugging Face hub \
                 ([organisation/]name[@revision])",
                quoted(name)
            )));
        }
        Ok(Self::Hub { id: id.to_owned(), revision: revision.map(str::to_owned) })
    }
}

impl fmt::Display for EncoderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "{}", path.display()),
            Self::Hub { id, revision: None } => f.write_str(id),
            Self::Hub { id, revision: Some(revision) } => write!(f, "{id}@{revision}"),
        }
    }
}

/// The folder that was meant by a path that does not exist: its name is nearly that of another beside it.
fn nearest_folder(path: &Path) -> Option<PathBuf> {
    let wanted = path.file_name()?.to_string_lossy();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let entries = fs::read_dir(parent).ok()?.flatten().filter(|entry| entry.path().is_dir());
    let names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    nearest::nearest(&wanted, names.iter().map(String::as_str)).map(|name| parent.join(name))
}

fn is_hub_id(id: &str) -> bool {
    let is_part = |part: &str| {
        let is_edge = |c: char| c == '-' || c == '.';
        !part.is_empty()
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !part.starts_with(is_edge)
            && !part.ends_with(is_edge)
            && !part.contains("--")
            && !part.contains("..")
    };
    id.len() <= LONGEST_ID && id.split('/').count() <= 2 && id.split('/').all(is_part)
}

/// Whether it can be a part of a path in the cache and of an address.
pub(crate) fn is_file_name(name: &str) -> bool {
    is_revision(name) && !name.contains('/')
}

/// Whether it can be a path in the cache, below its folder, and of an address.
pub(crate) fn is_revision(revision: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    revision.len() <= LONGEST_ID && revision.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_base::error::Kind;

    fn hub(id: &str, revision: Option<&str>) -> EncoderName {
        EncoderName::Hub { id: id.to_owned(), revision: revision.map(str::to_owned) }
    }

    #[test]
    fn names_are_folders_or_hub_ids() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        assert_eq!(EncoderName::parse(path).unwrap(), EncoderName::Folder(folder.path().to_owned()));
        for (name, expected) in [
            ("bert-base-uncased", hub("bert-base-uncased", None)),
            ("org/na_me.v2", hub("org/na_me.v2", None)),
            ("org/name@refs/pr/1", hub("org/name", Some("refs/pr/1"))),
        ] {
            assert_eq!(EncoderName::parse(name).unwrap(), expected);
            assert_eq!(expected.to_string(), name);
        }
        for (name, kind) in [
            (format!("{path}/nothing"), Kind::Precondition),
            ("./nothing".to_owned(), Kind::Precondition),
            ("../nothing".to_owned(), Kind::Precondition),
            ("~/nothing".to_owned(), Kind::Precondition),
            (String::new(), Kind::Invalid),
            ("a/b/c".to_owned(), Kind::Invalid),
            ("org/".to_owned(), Kind::Invalid),
            ("org/..".to_owned(), Kind::Invalid),
            ("org/name@".to_owned(), Kind::Invalid),
            ("org/name@../x".to_owned(), Kind::Invalid),
            ("org/na me".to_owned(), Kind::Invalid),
            ("a".repeat(97), Kind::Invalid),
        ] {
            let error = EncoderName::parse(&name).unwrap_err();
            assert_eq!(error.kind(), kind, "{name}: {error}");
            assert!(error.message().contains(&name), "{error}");
        }
    }

    #[test]
    fn a_path_that_is_no_folder_is_told_what_it_is_and_what_is_near() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let refused = |path: &Path| EncoderName::parse(path.to_str().unwrap()).unwrap_err();
        fs::create_dir(at("encoder")).unwrap();
        fs::write(at("model.onnx"), "x").unwrap();
        std::os::unix::fs::symlink(at("gone"), at("link")).unwrap();
        for (name, expected) in [
            (
                "model.onnx",
                format!(
                    "is a file; an encoder is a folder with config.json, model.safetensors and a tokenizer: name the folder, {} perhaps",
                    folder.path().display()
                ),
            ),
            ("encodr", format!("did you mean {}?", at("encoder").display())),
            ("something", "there is no folder".to_owned()),
            ("link", "there is no folder".to_owned()),
        ] {
            let error = refused(&at(name));
            assert_eq!(error.kind(), Kind::Precondition, "{error}");
            assert!(error.message().contains(&expected), "{error}");
        }
        let error = EncoderName::parse("~/no such encoder").unwrap_err();
        assert!(error.message().contains("~ is not replaced"), "{error}");
    }

    #[test]
    fn a_typing_error_is_near_to_the_folder_that_was_meant() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join("MiniLM-L6")).unwrap();
        for (typed, meant) in [("minilm-l6", true), ("MiniLM_L6", true), ("MiniL-L6", true), ("other", false)]
        {
            assert_eq!(nearest_folder(&parent.path().join(typed)).is_some(), meant, "{typed}");
        }
    }
}
