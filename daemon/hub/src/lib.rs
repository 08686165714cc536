//! Names of encoders to folders on this machine.
//!
//! The folder of a hub id is a snapshot in the Hugging Face cache, which Python programs share: `refs/<revision>`
//! holds a commit, `snapshots/<commit>/` the files, as links to `blobs/<etag>`. A reference is written last, so a
//! download that was cut off is never taken for a whole one.

mod download;
mod folder;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hone_base::error::{Error, Kind, Result, quoted};
use hone_engine::model::weights_file;

const DEFAULT_REVISION: &str = "main";
const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Held by the download that runs.
static TURN: Mutex<()> = Mutex::new(());
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
            let meant = match folder::nearest(path) {
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

/// The encoder's folder, when it is one or stands in the local Hugging Face cache; nothing is downloaded.
pub fn find_local(name: &EncoderName) -> Result<Option<PathBuf>> {
    HubConfig::from_env()?.find_local(name)
}

/// The encoder's folder, downloaded into the Hugging Face cache when it is not there yet. `progress` is told in
/// words what happens. Blocking.
pub fn resolve(name: &EncoderName, progress: &mut dyn FnMut(String)) -> Result<PathBuf> {
    HubConfig::from_env()?.resolve(name, progress)
}

/// Whether the folder holds the files that an encoder needs, every file of its weights included.
fn is_complete(folder: &Path) -> bool {
    folder::is_complete(folder) && weights_file::are_there(folder)
}

/// Where encoders come from.
#[derive(Clone, PartialEq, Eq)]
pub struct HubConfig {
    /// The cache that holds `models--<organisation>--<name>` folders.
    pub cache: PathBuf,
    /// The hub's address, without a slash at the end.
    pub endpoint: String,
    /// Whether nothing is downloaded.
    pub offline: bool,
    /// For private and gated models.
    pub token: Option<String>,
    /// How long the hub may be silent.
    pub patience: Duration,
}

impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "(hidden)");
        let mut fields = f.debug_struct("HubConfig");
        fields.field("cache", &self.cache).field("endpoint", &self.endpoint).field("offline", &self.offline);
        fields.field("token", &token).field("patience", &self.patience).finish()
    }
}

impl HubConfig {
    /// As the environment says, by the variables of the Python library: `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`,
    /// `HF_HUB_OFFLINE`, `HF_TOKEN`.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok(), std::env::home_dir())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>, user_home: Option<PathBuf>) -> Result<Self> {
        let variable = |name: &str| {
            variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        let home = variable("HF_HOME").map(PathBuf::from);
        let home =
            home.or_else(|| variable("XDG_CACHE_HOME").map(|cache| Path::new(&cache).join("huggingface")));
        let home = home.or_else(|| user_home.map(|home| home.join(".cache/huggingface")));
        let home = home.ok_or_else(|| {
            Error::precondition(
                "there is no place for downloaded encoders: set HF_HOME to a folder".to_owned(),
            )
        })?;
        let is_yes =
            |value: String| ["1", "true", "yes", "on"].contains(&value.to_ascii_lowercase().as_str());
        let stored_token = || fs::read_to_string(home.join("token")).ok();
        Ok(Self {
            cache: variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            endpoint: variable("HF_ENDPOINT").map_or_else(
                || DEFAULT_ENDPOINT.to_owned(),
                |endpoint| endpoint.trim_end_matches('/').to_owned(),
            ),
            offline: variable("HF_HUB_OFFLINE").is_some_and(is_yes),
            token: variable("HF_TOKEN")
                .or_else(stored_token)
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty()),
            patience: Duration::from_secs(30),
        })
    }

    /// The encoder's folder, when it is one or stands in the cache; nothing is downloaded. Fails when a folder lacks
    /// files.
    pub fn find_local(&self, name: &EncoderName) -> Result<Option<PathBuf>> {
        match name {
            EncoderName::Folder(named) => {
                let folder = folder::encoder_folder(named).map_err(Error::of_named)?;
                match folder::lacking(&folder).map_err(Error::of_named)? {
                    None => Ok(Some(folder)),
                    Some(lacking) => Err(Error::precondition(format!(
                        "the encoder's folder {} lacks {lacking}",
                        folder.display()
                    ))),
                }
            }
            EncoderName::Hub { id, revision } => {
                let repository = Repository::new(&self.cache, id);
                let revision = revision.as_deref().unwrap_or(DEFAULT_REVISION);
                Ok(repository.snapshot_of(revision).filter(|folder| is_complete(folder)))
            }
        }
    }

    /// The encoder's folder, downloaded into the cache when it is not there yet. `progress` is told in words what
    /// happens. Blocking.
    pub fn resolve(&self, name: &EncoderName, progress: &mut dyn FnMut(String)) -> Result<PathBuf> {
        if let Some(folder) = self.find_local(name)? {
            return Ok(folder);
        }
        let EncoderName::Hub { id, revision } = name else {
            return Err(Error::internal("a folder was neither found nor refused"));
        };
        if self.offline {
            return Err(Error::new(
                Kind::Unavailable,
                format!(
                    "the encoder {name} is not in the cache {} and HF_HUB_OFFLINE forbids to download it; pass the \
                     folder of an encoder, or unset HF_HUB_OFFLINE",
                    self.cache.display()
                ),
            ));
        }
        let revision = revision.as_deref().unwrap_or(DEFAULT_REVISION);
        // A second download of the same files would fail at the first one's locks.
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        match self.find_local(name)? {
            Some(folder) => Ok(folder),
            None => download::Download::new(self, id, revision, progress)?.run(),
        }
    }
}

/// A repository's folder in the cache.
struct Repository {
    folder: PathBuf,
}

impl Repository {
    fn new(cache: &Path, id: &str) -> Self {
        Self { folder: cache.join(format!("models--{}", id.replace('/', "--"))) }
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }

    fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The folder of a branch's or tag's commit as it was last seen, or of a commit.
    fn snapshot_of(&self, revision: &str) -> Option<PathBuf> {
        let commit = fs::read_to_string(self.reference(revision)).ok();
        let commit = commit.as_deref().map_or(revision, str::trim);
        is_revision(commit).then(|| self.snapshot(commit)).filter(|folder| folder.is_dir())
    }
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

/// Whether it can be part of a path in the cache and of an address.
fn is_revision(revision: &str) -> bool {
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

    fn hub(id: &str, revision: Option<&str>) -> EncoderName {
        EncoderName::Hub { id: id.to_owned(), revision: revision.map(str::to_owned) }
    }

    fn config(cache: &Path) -> HubConfig {
        HubConfig {
            cache: cache.to_owned(),
            endpoint: "http://127.0.0.1:9".to_owned(),
            offline: true,
            token: None,
            patience: Duration::from_secs(1),
        }
    }

    fn fill(folder: &Path, names: &[&str]) {
        fs::create_dir_all(folder).unwrap();
        for name in names {
            fs::write(folder.join(name), "x").unwrap();
        }
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
    fn a_folder_that_lacks_files_is_told_which() {
        let folder = tempfile::tempdir().unwrap();
        let name = EncoderName::Folder(folder.path().to_owned());
        let found = || config(folder.path()).find_local(&name);
        fill(folder.path(), &["pytorch_model.bin"]);
        let error = found().unwrap_err();
        assert_eq!(error.kind(), Kind::Precondition);
        let message = error.message();
        assert!(
            message.contains("lacks config.json, model.safetensors (pytorch_model.bin is a pickle"),
            "{error}"
        );
        assert!(
            message.contains(&format!("AutoModel.from_pretrained('{}')", folder.path().display())),
            "{error}"
        );
        assert!(message.ends_with("tokenizer.json or vocab.txt"), "{error}");
        fill(folder.path(), &["config.json", "model.safetensors", "vocab.txt"]);
        assert_eq!(found().unwrap().as_deref(), Some(folder.path()));
        assert!(is_complete(folder.path()));
    }

    #[test]
    fn the_cache_is_looked_up_by_branch_and_by_commit() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--org--name");
        let snapshot = repository.join("snapshots/abc123");
        let config = config(cache.path());
        let found = |revision| config.find_local(&hub("org/name", revision)).unwrap();
        assert_eq!(found(None), None);
        fill(&snapshot, &["config.json", "tokenizer.json"]);
        fill(&repository.join("refs"), &[]);
        fs::write(repository.join("refs/main"), "abc123\n").unwrap();
        assert_eq!(found(None), None);
        fill(&snapshot, &["model.safetensors"]);
        assert_eq!(found(None), Some(snapshot.clone()));
        assert_eq!(found(Some("abc123")), Some(snapshot.clone()));
        assert_eq!(found(Some("other")), None);
        fs::remove_file(snapshot.join("tokenizer.json")).unwrap();
        std::os::unix::fs::symlink("../../blobs/gone", snapshot.join("tokenizer.json")).unwrap();
        assert_eq!(found(None), None);
        fs::write(repository.join("refs/main"), "../../..").unwrap();
        assert_eq!(found(None), None);
    }

    #[test]
    fn offline_says_so_and_sends_nothing() {
        let cache = tempfile::tempdir().unwrap();
        let error = config(cache.path()).resolve(&hub("org/name", Some("v1")), &mut |_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.message().contains("org/name@v1"), "{error}");
        assert!(error.message().contains("HF_HUB_OFFLINE"), "{error}");
    }

    #[test]
    fn the_environment_is_read_like_the_python_library_reads_it() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join(".cache/huggingface")).unwrap();
        fs::write(home.path().join(".cache/huggingface/token"), "stored\n").unwrap();
        let read = |variables: &[(&str, &str)]| {
            let find =
                |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
            HubConfig::from_variables(find, Some(home.path().to_owned())).unwrap()
        };
        let plain = read(&[("HF_TOKEN", " ")]);
        assert_eq!(plain.cache, home.path().join(".cache/huggingface/hub"));
        assert_eq!(plain.endpoint, "https://huggingface.co");
        assert!(!plain.offline);
        assert_eq!(plain.token.as_deref(), Some("stored"));
        let set = read(&[
            ("HF_HOME", "/data/hf"),
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_HUB_OFFLINE", "True"),
            ("HF_TOKEN", "secret"),
        ]);
        assert_eq!(set.cache, Path::new("/data/hf/hub"));
        assert_eq!((set.endpoint.as_str(), set.offline), ("http://mirror", true));
        assert!(!format!("{set:?}").contains("secret"));
        assert_eq!(read(&[("HF_HUB_CACHE", "/x"), ("HF_HOME", "/y")]).cache, Path::new("/x"));
        assert!(HubConfig::from_variables(|_| None, None).is_err());
    }
}
