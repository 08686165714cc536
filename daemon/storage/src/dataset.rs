//! Data sets: what is known of a stored file.

use hone_base::error::Error;
use hone_data::Columns;
use hone_data::dataset::{Format, Summary};
use hone_train::spec::Source;
use serde::{Deserialize, Serialize};

use crate::Time;

/// A stored file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatasetRecord {
    /// SHA-256 of the file's bytes, lower-case hexadecimal.
    pub id: String,
    /// The name that it was uploaded with.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// When it was uploaded first.
    pub created: Time,
    /// How it is written.
    pub format: Format,
    /// The columns that the upload named.
    pub columns: Columns,
    /// What is told of the file, with these columns.
    pub summary: Summary,
}

/// The error for a data set that does not exist.
pub fn unknown_dataset(id: &str) -> Error {
    Error::not_found(format!("there is no data set {id}; upload the file"))
}

/// The error for a data set that is to be deleted and that a job needs.
pub(crate) fn needed_dataset(source: &Source, job: &str) -> Error {
    Error::precondition(format!(
        "the data set {} ({}) is needed by job {job}; cancel the job or wait for its end",
        source.name, source.dataset
    ))
}

/// The error for a data set whose record is damaged: the same file, sent again, makes a new one.
pub(crate) fn unreadable_dataset(id: &str, error: &Error) -> Error {
    Error::not_found(format!(
        "the record of the data set {id} is damaged ({error}); send the file again, or delete it with `client datasets \
         delete {id}`"
    ))
}
