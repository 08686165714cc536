//! Files to examples, labels and splits.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Columns, Example, LabelCount, Quantiles};
use crate::error::{Error, Result};

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Comma-separated, RFC 4180.
    Csv,
    /// Tab-separated.
    Tsv,
    /// One JSON object a line.
    JsonLines,
}

/// A file that was read to its end.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// The name that messages use.
    pub name: String,
    /// How the file is written.
    pub format: Format,
    /// All columns in the file's order.
    pub columns: Vec<String>,
    /// The columns in use, given or guessed: text and label are always set.
    pub used: Columns,
    /// What was guessed, in words; empty when all was given.
    pub guess: String,
    /// The rows, in the file's order.
    pub examples: Vec<Example>,
}

/// What is told of a file when it is uploaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Data rows.
    pub rows: u64,
    /// All columns in the file's order.
    pub columns: Vec<String>,
    /// The columns in use.
    pub used: Columns,
    /// What was guessed, in words.
    pub guess: String,
    /// Rows of each label, in class order.
    pub labels: Vec<LabelCount>,
    /// Of the texts, in characters.
    pub characters: Quantiles,
}

/// The labels of a task; a label's place is its class number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels(Vec<String>);

impl Dataset {
    /// Reads a file: gzip or plain, CSV, TSV or JSON Lines, UTF-8 with or without BOM. `limit` takes the first rows.
    pub fn read(
        path: &Path,
        name: &str,
        format: Option<Format>,
        columns: &Columns,
        limit: Option<u64>,
    ) -> Result<Self> {
        let _ = (path, name, format, columns, limit);
        Err(Error::internal("not built"))
    }

    /// What is told of the file when it is uploaded.
    pub fn summary(&self) -> Summary {
        Summary {
            rows: 0,
            columns: vec![],
            used: self.used.clone(),
            guess: String::new(),
            labels: vec![],
            characters: Quantiles::default(),
        }
    }
}

impl Labels {
    /// The labels of training rows: sorted, integers as integers. Fails when there are fewer than two.
    pub fn of(dataset_name: &str, examples: &[Example]) -> Result<Self> {
        let _ = (dataset_name, examples);
        Err(Error::internal("not built"))
    }

    /// Labels in a given class order, as a checkpoint stores them.
    pub fn from_names(names: Vec<String>) -> Self {
        Self(names)
    }

    /// In class order.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The class number of each example's label. Fails, naming file, line and label, when one is unknown.
    pub fn classes(&self, dataset_name: &str, examples: &[Example]) -> Result<Vec<u32>> {
        let _ = (dataset_name, examples);
        Err(Error::internal("not built"))
    }
}

/// Holds out a share of the examples, stratified by label, the same rows for the same seed. Returns
/// (training, validation), both in the file's order. Every label with two or more rows stands in both parts.
pub fn split(examples: Vec<Example>, share: f64, seed: u64) -> Result<(Vec<Example>, Vec<Example>)> {
    let _ = (examples, share, seed);
    Err(Error::internal("not built"))
}
