//! Files to examples.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::delimited::Delimited;
use super::dialect::{self, delimiter_of, separator_line};
use super::fast_text::FastText;
use super::json_list::Shape;
use super::json_rows::JsonRows;
use super::label_sets::LabelSet;
use super::lines::Lines;
use super::reader::Reader;
use super::source::Source;
use super::{Columns, Example, Limits, Measure, labels};
use hone_base::cancel::Cancel;
use hone_base::error::Result;

pub use super::labels::Labels;
pub use super::split::split;
pub use super::summary::Summary;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Separated by commas or another character, RFC 4180.
    Csv,
    /// Tab-separated.
    Tsv,
    /// One JSON object a line.
    JsonLines,
    /// JSON objects in a list, or one after the other over several lines.
    Json,
    /// A text a line, and words with `__label__` before them.
    FastText,
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
    /// What else is to be told of how the file was read.
    pub notes: Vec<String>,
    /// The rows, in the file's order, as far as they are kept.
    pub examples: Vec<Example>,
    /// How long the texts of all rows are, kept or not.
    pub measure: Measure,
    /// The different sets of labels.
    pub(super) sets: Vec<LabelSet>,
}

/// What is kept of a file's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Texts and labels.
    #[default]
    Texts,
    /// Labels; the texts are empty. [`Dataset::measure`] has the length of each, as it has where texts are kept.
    Labels,
    /// No row, only what [`Dataset::summary`] tells.
    Summary,
}

/// How a file is read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Rows that are read at most; those behind them do not count.
    pub limit: Option<u64>,
    /// What reading may take; a file beyond that is refused.
    pub limits: Limits,
    /// What is kept.
    pub keep: Keep,
    /// Ends reading before its time.
    pub cancel: Cancel,
}

impl Format {
    /// Whether two formats differ by their delimiter or arrangement alone.
    fn is_like(self, other: Self) -> bool {
        let is_json = |format| matches!(format, Self::JsonLines | Self::Json);
        self == other || is_json(self) == is_json(other) && other != Self::FastText
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Csv => "CSV",
            Self::Tsv => "TSV",
            Self::JsonLines => "JSON Lines",
            Self::Json => "JSON",
            Self::FastText => "fastText's format",
        }
    }

    /// As the ending of the file's name tells.
    fn of_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        match name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.')?.1 {
            "csv" => Some(Self::Csv),
            "tsv" | "tab" => Some(Self::Tsv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    /// As the head of the file tells, where the name does not, or where it says something else that cannot be.
    fn of_head(head: &str, is_whole: bool, named: Option<Self>) -> Self {
        let text = head.trim_start();
        let first = text.lines().next().unwrap_or_default();
        let is_object = text.starts_with('{');
        let is_list = text.strip_prefix('[').is_some_and(|rest| rest.trim_start().starts_with('{'));
        match named {
            // A header may begin with a bracket, but not with an object.
            Some(Self::Csv | Self::Tsv) if !(is_list || is_object && first.contains("\":")) => {
                named.unwrap_or(Self::Csv)
            }
            _ if is_object || text.starts_with('[') => match Shape::of(head, is_whole) {
                Shape::Lines => Self::JsonLines,
                _ => Self::Json,
            },
            // What begins otherwise is told by the reader of lines.
            Some(Self::JsonLines | Self::Json) => Self::JsonLines,
            _ if FastText::recognises(text) => Self::FastText,
            _ if first.contains('\t') => Self::Tsv,
            _ => Self::Csv,
        }
    }
}

impl Dataset {
    /// Reads a file with all its texts: [`Dataset::read_as`] with nothing else asked for. `limit` takes the first rows.
    ///
    /// # Errors
    /// Those of [`Dataset::read_as`].
    pub fn read(
        path: &Path,
        name: &str,
        format: Option<Format>,
        columns: &Columns,
        limit: Option<u64>,
    ) -> Result<Self> {
        Self::read_as(path, name, format, columns, &Reading { limit, ..Reading::default() })
    }

    /// Reads a file, gzip or plain: CSV with any delimiter, JSON Lines, a JSON list, fastText's format; UTF-8, UTF-16, or
    /// the encoding that `columns` names. One row at a time is in memory beside what is kept.
    ///
    /// # Errors
    /// Fails, with file, line and column, where the file cannot be read as labelled texts; with `Exhausted` where it is
    /// larger than the limits; with `Cancelled` where reading was to end.
    pub fn read_as(
        path: &Path,
        name: &str,
        format: Option<Format>,
        columns: &Columns,
        reading: &Reading,
    ) -> Result<Self> {
        let limits = &reading.limits;
        let source = Source::open(path, name, columns.dialect.encoding, limits)?;
        let mut notes = vec![];
        if !source.encoding.is_utf8() {
            notes.push(format!("read as {}", source.encoding.name()));
        }
        let named = format.or_else(|| Format::of_name(name));
        let format = Format::of_head(&source.head, source.head_is_whole, named);
        if let Some(named) = named.filter(|named| !named.is_like(format)) {
            notes.push(format!("read as {}, although its name says {}", format.in_words(), named.in_words()));
        }
        let unpacked = source.unpacked.clone();
        let reader = match format {
            Format::Json => Reader::new(name, columns, reading, unpacked, JsonRows::of_list(source)?),
            Format::JsonLines => {
                let mut lines = Lines::of(source);
                let first = lines.first()?;
                Reader::new(name, columns, reading, unpacked, JsonRows::of_lines(lines, first)?)
            }
            Format::FastText => {
                let mut lines = Lines::of(source);
                let first = lines.first()?;
                Reader::new(name, columns, reading, unpacked, FastText::open(lines, first))
            }
            Format::Csv | Format::Tsv => {
                return Self::read_delimited(source, columns, format, reading, notes);
            }
        };
        reader?.read(format, notes)
    }

    fn read_delimited(
        source: Source,
        columns: &Columns,
        format: Format,
        reading: &Reading,
        mut notes: Vec<String>,
    ) -> Result<Self> {
        let usual = if format == Format::Tsv { '\t' } else { ',' };
        let (head, is_whole) = (source.head.clone(), source.head_is_whole);
        let name = source.name.clone();
        let dialect = &columns.dialect;
        let unpacked = source.unpacked.clone();
        let mut lines = Lines::of(source);
        let mut first = lines.first()?;
        let hint = separator_line(&first);
        if hint.is_some() {
            first = lines.first()?;
        }
        let delimiter = match (dialect.delimiter, hint) {
            (Some(given), _) => given,
            (None, Some(hint)) => {
                notes.push(format!(
                    "fields are separated by {}, as line 1 says (sep=)",
                    dialect::in_words(hint)
                ));
                hint
            }
            (None, None) => {
                let found = delimiter_of(&head, is_whole, dialect.unquoted, usual);
                if found != usual {
                    let words = dialect::in_words(found);
                    notes.push(format!(
                        "fields seem to be separated by {words}; `columns.dialect.delimiter` names another character"
                    ));
                }
                found
            }
        };
        let format = if delimiter == '\t' { Format::Tsv } else { Format::Csv };
        let rows = Delimited::open(lines, first, delimiter, dialect.unquoted, dialect.no_header)?;
        Reader::new(&name, columns, reading, unpacked, rows)?.read(format, notes)
    }

    /// What is told of the file when it is uploaded.
    pub fn summary(&self) -> Summary {
        Summary {
            rows: self.sets.iter().map(|set| set.rows).sum(),
            columns: self.columns.clone(),
            used: self.used.clone(),
            guess: self.guess.clone(),
            notes: self.notes.clone(),
            labels: labels::count(&self.sets, &self.used.label_names),
            characters: self.measure.characters(),
        }
    }
}

#[cfg(test)]
mod tests;
