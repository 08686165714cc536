//! Data sets: what is known of a stored file.

use serde::{Deserialize, Serialize};

use super::Time;
use hone_data::Columns;
use hone_data::dataset::{Format, Summary};

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
