//! Models: versions and the names for them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ModelSettings, Time};
use hone_base::digest::FileDigest;
use hone_base::error::{Error, Kind, quoted};
use hone_train::event::Metrics;

/// A version of a model: an immutable checkpoint folder and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// The model's name.
    pub name: String,
    /// From 1; a number is never given twice.
    pub version: u32,
    /// When it was published.
    pub created: Time,
    /// The job that made it.
    pub job: String,
    /// The epoch that was kept, from 1.
    pub epoch: u32,
    /// SHA-256 of `model.safetensors`, lower-case hexadecimal.
    pub weights_sha256: String,
    /// Every file of the folder, by name.
    pub files: Vec<FileDigest>,
    /// In class order.
    pub labels: Vec<String>,
    /// Tokens of a sequence at most, special tokens included.
    pub max_length: u32,
    /// Of the kept epoch.
    pub validation: Metrics,
    /// The test result, when there was a test file.
    pub test: Option<Metrics>,
    /// The folder or hub id that training started from.
    pub encoder: String,
}

impl Version {
    /// How it is named: `name@version`.
    pub fn reference(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// All files together.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// A name with its versions and aliases.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The model's name.
    pub name: String,
    /// The newest first; never empty.
    pub versions: Vec<Arc<Version>>,
    /// By name.
    pub aliases: Vec<Alias>,
    /// What is decided for it.
    pub settings: ModelSettings,
}

/// A name for one version of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// For example `latest`.
    pub name: String,
    /// The version that it points at.
    pub version: u32,
}

/// The alias that every publication moves.
pub const LATEST: &str = "latest";

/// The error for a model that does not exist.
pub(crate) fn unknown_model(name: &str) -> Error {
    Error::not_found(format!("there is no model {}", quoted(name)))
}

/// Who moves aliases when a version is deleted.
pub(crate) fn deletion_of(name: &str, version: u32) -> String {
    format!("the deletion of {name}@{version}")
}

/// Who moves aliases when a version is published.
pub(crate) fn publication_by(job: &str) -> String {
    format!("job {job}")
}

/// The error for a version that does not exist.
pub(crate) fn unknown_version(name: &str, version: u32) -> Error {
    Error::not_found(format!("there is no model {name}@{version}"))
}

/// The error for a new version with the number of one that is there.
pub(crate) fn known_version(name: &str, version: u32) -> Error {
    Error::new(Kind::Exists, format!("the model {name}@{version} is there already"))
}

/// The error for a version that is to be deleted and that an alias names.
pub(crate) fn aliased_version(name: &str, version: u32, alias: &str) -> Error {
    Error::precondition(format!(
        "{name}@{version} cannot be deleted: the alias {} points at it; point the alias at another version first",
        quoted(alias)
    ))
}
