//! Labelled files: from bytes to text (`source`, `dialect`, `lines`), to rows (`row`, `delimited`, `json_rows` of
//! `json_list` and `json_cells`, `fast_text`), to examples (`columns`, `reader`, `dataset`) within `limits`, to labels
//! (`label_reader` of `label_sets`, `label_lists`, `missing` and `spelling`; `labels`, `targets`) and splits (`split`), to
//! what is told of them (`measure`, `summary`, `quality`), to tokens (`tokenizer_files`, `vocabulary`, `frame`,
//! `truncation`, `tokenize`), to packed batches (`batch`). What of the validation rows goes with a checkpoint: `sample`.

mod columns;
pub mod dataset;
mod delimited;
mod dialect;
mod fast_text;
mod frame;
mod json_cells;
mod json_list;
mod json_rows;
mod label_lists;
mod label_reader;
mod label_sets;
mod labels;
mod limits;
mod lines;
mod measure;
pub mod memory;
mod missing;
pub mod quality;
mod reader;
mod row;
pub mod sample;
mod source;
mod spelling;
mod split;
mod summary;
pub mod tokenize;
mod tokenizer_files;
mod truncation;
mod vocabulary;

pub use dialect::Dialect;
pub use limits::{Limits, in_words};
pub use measure::Measure;
pub use missing::MissingLabel;
pub use source::unpacked_size;
pub use truncation::{Cut, Truncation};

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Which columns hold what, as far as the user named them; the others are guessed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    /// The text.
    pub text: Option<String>,
    /// The second text of a pair; never guessed.
    pub text_pair: Option<String>,
    /// The label.
    pub label: Option<String>,
    /// A row may have any number of labels, and this stands between them where they are one text. Without it, every
    /// row has one label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_separator: Option<String>,
    /// A column for each label, with a 0 or a 1 in each row, instead of one column of labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label_columns: Vec<String>,
    /// Names, in class order, of labels that the file writes as integers from 0 or as lists of indicators.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label_names: Vec<String>,
    /// What becomes of a row whose label is missing.
    #[serde(default, skip_serializing_if = "MissingLabel::is_error")]
    pub missing_label: MissingLabel,
    /// How the file is written.
    #[serde(default, skip_serializing_if = "Dialect::is_default")]
    pub dialect: Dialect,
}

/// A row of a file in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub text_pair: Option<String>,
    /// The labels as the file has them: one, unless rows may have several; sorted by their bytes, none
    /// twice. Rows with the same labels share them.
    pub labels: Arc<[String]>,
    /// Where the row starts in the file, from 1.
    pub line: u64,
}

/// Rows of one label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelCount {
    /// The label.
    pub label: String,
    /// Its rows.
    pub rows: u64,
}

/// Quantiles of lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// The shortest.
    pub min: u32,
    /// The median.
    pub p50: u32,
    /// Nine in ten are not longer.
    pub p90: u32,
    /// 95 in a hundred are not longer.
    pub p95: u32,
    /// 99 in a hundred are not longer.
    pub p99: u32,
    /// The longest.
    pub max: u32,
    /// The mean.
    pub mean: f64,
}
