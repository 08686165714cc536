//! Names of encoders to folders on this machine.
//!
//! What a user writes ([`names`]) is a folder ([`folder`]: what it must hold) or an id of the hub, whose folder is a
//! snapshot in the Hugging Face cache ([`cache`]) that Python programs share. What is not there is downloaded ([`fetch`])
//! from the hub of the environment ([`config`]), which is asked ([`remote`]) over plain HTTP ([`http`]).
//!
//! ```text
//! name -> folder
//!      -> id@revision -> snapshot in the cache
//!                     -> listing -> files -> blobs -> snapshot -> reference
//! ```
//!
//! A reference is written last, so a download that was cut off is never taken for a whole one.

mod cache;
mod config;
mod fetch;
mod folder;
mod http;
mod names;
mod remote;
#[cfg(test)]
mod testing;

use std::path::PathBuf;

use cache::Repository;
pub use config::HubConfig;
pub use names::EncoderName;

use hone_base::cancel::Cancel;
use hone_base::error::{Error, Kind, Result};

const DEFAULT_REVISION: &str = "main";

/// The encoder's folder, when it is one or stands in the Hugging Face cache of the environment; nothing is downloaded.
///
/// # Errors
/// [`Kind::Precondition`] when a named folder is no encoder, or there is no place for a cache.
pub fn find_local(name: &EncoderName) -> Result<Option<PathBuf>> {
    HubConfig::from_env()?.find_local(name)
}

/// The encoder's folder, downloaded into the Hugging Face cache of the environment when it is not there yet. `progress` is
/// told in words what happens. Blocks; ends within a second of `cancel`.
///
/// # Errors
/// As [`HubConfig::resolve`].
pub fn resolve(name: &EncoderName, cancel: &Cancel, progress: &mut dyn FnMut(String)) -> Result<PathBuf> {
    HubConfig::from_env()?.resolve(name, cancel, progress)
}

impl HubConfig {
    /// The encoder's folder, when it is one or stands in the cache; nothing is downloaded.
    ///
    /// # Errors
    /// [`Kind::Precondition`] when a named folder lacks files.
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
                Ok(repository.snapshot_of(revision).filter(|folder| folder::is_complete(folder)))
            }
        }
    }

    /// The encoder's folder, downloaded into the cache when it is not there yet. `progress` is told in words what
    /// happens. Blocks; ends within a second of `cancel`, and what has arrived is kept for the next try.
    ///
    /// # Errors
    /// [`Kind::Cancelled`] once `cancel` is asked; [`Kind::Unavailable`] when the hub cannot be used, or must not;
    /// [`Kind::NotFound`] and [`Kind::Precondition`] for what it does not have or give.
    pub fn resolve(
        &self,
        name: &EncoderName,
        cancel: &Cancel,
        progress: &mut dyn FnMut(String),
    ) -> Result<PathBuf> {
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
        fetch::Download::new(self, id, revision, cancel, progress).run()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::Duration;

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
        assert!(folder::is_complete(folder.path()));
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
        let error = config(cache.path())
            .resolve(&hub("org/name", Some("v1")), &Cancel::default(), &mut |_| ())
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.message().contains("org/name@v1"), "{error}");
        assert!(error.message().contains("HF_HUB_OFFLINE"), "{error}");
    }
}
