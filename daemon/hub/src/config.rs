//! Which hub, and which cache: the environment, read as the Python library reads it.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hone_base::error::{Error, Result};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

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
    /// How long the hub may be silent: in the look-up of its name, a connection, an answer, its next bytes.
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
    ///
    /// # Errors
    /// [`Kind::Precondition`](hone_base::error::Kind) when neither these nor a home folder give a place for the cache.
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
