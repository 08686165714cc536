//! Files to examples.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::columns::Choice;
use super::delimited::Delimited;
use super::json_lines::JsonLines;
use super::lines::Lines;
use super::row::{Cell, Rows};
use super::tokenize::MAX_TEXT_BYTES;
use super::{Columns, Example, Quantiles, labels};
use crate::error::{Error, Result};

pub use super::labels::Labels;
pub use super::split::split;
pub use super::summary::Summary;

/// Rows that a file may have.
pub const MAX_ROWS: usize = u32::MAX as usize;

/// Rows that are looked at to guess columns which names do not tell.
const SAMPLE_ROWS: usize = 1000;

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

impl Format {
    /// As the ending of the file's name tells.
    fn of_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        match name.strip_suffix(".gz").unwrap_or(&name).rsplit_once('.')?.1 {
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            _ => None,
        }
    }

    /// As the first line tells.
    fn of_line(line: &str) -> Self {
        match line.trim_start().as_bytes().first() {
            Some(b'{' | b'[') => Self::JsonLines,
            _ if line.contains('\t') => Self::Tsv,
            _ => Self::Csv,
        }
    }
}

impl Dataset {
    /// Reads a file: gzip or plain, CSV, TSV or JSON Lines, UTF-8 with or without BOM. `limit` takes the first rows.
    pub fn read(
        path: &Path,
        name: &str,
        format: Option<Format>,
        columns: &Columns,
        limit: Option<u64>,
    ) -> Result<Self> {
        let mut lines = Lines::open(path, name)?;
        let first = lines.first()?;
        let format = format.or_else(|| Format::of_name(name)).unwrap_or_else(|| Format::of_line(&first));
        match format {
            Format::Csv => Reader::new(name, columns, Delimited::open(lines, first, ',')?),
            Format::Tsv => Reader::new(name, columns, Delimited::open(lines, first, '\t')?),
            Format::JsonLines => Reader::new(name, columns, JsonLines::open(lines, first)?),
        }?
        .read(format, limit)
    }

    /// What is told of the file when it is uploaded.
    pub fn summary(&self) -> Summary {
        let characters = |example: &Example| {
            example.text.chars().count() + example.text_pair.as_ref().map_or(0, |pair| pair.chars().count())
        };
        Summary {
            rows: self.examples.len() as u64,
            columns: self.columns.clone(),
            used: self.used.clone(),
            guess: self.guess.clone(),
            labels: labels::count(&self.examples),
            characters: Quantiles::of(self.examples.iter().map(characters)),
        }
    }
}

/// The rows of a file with the places of the columns in use.
struct Reader<'a> {
    name: &'a str,
    rows: Box<dyn Rows>,
    text: usize,
    text_pair: Option<usize>,
    label: usize,
    /// What `Columns::label_separator` says.
    separator: Option<&'a str>,
    guess: String,
    /// Rows that were looked at to guess columns.
    sample: Vec<Sampled>,
}

struct Sampled {
    line: u64,
    cells: Vec<Cell<'static>>,
}

impl<'a> Reader<'a> {
    fn new(name: &'a str, given: &'a Columns, rows: impl Rows + 'static) -> Result<Self> {
        let mut rows: Box<dyn Rows> = Box::new(rows);
        let mut choice = Choice::by_name(name, rows.columns(), given)?;
        let mut sample = vec![];
        if !choice.is_complete() {
            sample = take_sample(rows.as_mut())?;
            if sample.is_empty() {
                return Err(no_rows(name));
            }
            let values: Vec<_> = sample.iter().map(|row| row.cells.iter().map(value).collect()).collect();
            choice = choice.by_values(name, rows.columns(), &values)?;
        }
        let (Some(text), Some(label)) = (choice.text, choice.label) else {
            return Err(Error::internal("a column was neither found nor refused"));
        };
        let separator = given.label_separator.as_deref();
        let guess = choice.guess();
        Ok(Self { name, rows, text, text_pair: choice.text_pair, label, separator, guess, sample })
    }

    fn read(mut self, format: Format, limit: Option<u64>) -> Result<Dataset> {
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let mut examples = Vec::new();
        let mut labels: HashSet<String> = HashSet::new();
        let sample = std::mem::take(&mut self.sample);
        let mut sample = sample.into_iter();
        while examples.len() < limit {
            let example = match sample.next() {
                Some(row) => self.sampled(row)?,
                None if self.rows.advance()? => self.example()?,
                None => break,
            };
            if examples.len() == MAX_ROWS {
                return Err(Error::invalid(format!("{}: there are more than {MAX_ROWS} rows", self.name)));
            }
            for label in &example.labels {
                if !labels.contains(label) {
                    labels.insert(label.clone());
                }
            }
            if labels.len() > labels::MAX_LABELS {
                return Err(labels::too_many(self.name));
            }
            examples.push(example);
        }
        if examples.is_empty() {
            return Err(no_rows(self.name));
        }
        Ok(Dataset {
            name: self.name.to_owned(),
            format,
            used: Columns {
                text: Some(self.column(self.text).to_owned()),
                text_pair: self.text_pair.map(|place| self.column(place).to_owned()),
                label: Some(self.column(self.label).to_owned()),
                label_separator: self.separator.map(str::to_owned),
            },
            columns: self.rows.columns().to_vec(),
            guess: self.guess,
            examples,
        })
    }

    fn column(&self, place: usize) -> &str {
        self.rows.columns().get(place).map_or("", String::as_str)
    }

    /// The row that `rows` stands at.
    fn example(&mut self) -> Result<Example> {
        let line = self.rows.line();
        let text = self.rows.take(self.text).into_text();
        let pair = self.text_pair.map(|place| self.rows.take(place).into_text());
        let labels = self.rows.take(self.label).into_labels(self.separator);
        self.checked(line, text, pair, labels)
    }

    /// A row that was looked at before.
    fn sampled(&self, mut row: Sampled) -> Result<Example> {
        let mut take = |place: usize| {
            row.cells.get_mut(place).map_or(Cell::Missing, |cell| std::mem::replace(cell, Cell::Missing))
        };
        let text = take(self.text).into_text();
        let pair = self.text_pair.map(|place| take(place).into_text());
        let labels = take(self.label).into_labels(self.separator);
        self.checked(row.line, text, pair, labels)
    }

    fn checked(
        &self,
        line: u64,
        text: Found<String>,
        pair: Option<Found<String>>,
        labels: Found<Vec<String>>,
    ) -> Result<Example> {
        let text_pair = self.text_pair.unwrap_or(self.text);
        Ok(Example {
            text: self.bounded(line, self.text, text)?,
            text_pair: pair.map(|pair| self.bounded(line, text_pair, pair)).transpose()?,
            labels: labels.map_err(|message| self.invalid(line, self.label, &message))?,
            line,
        })
    }

    fn bounded(&self, line: u64, column: usize, text: Found<String>) -> Result<String> {
        let text = text.map_err(|message| self.invalid(line, column, &message))?;
        if text.len() > MAX_TEXT_BYTES {
            let message = format!("the text has {} bytes; {MAX_TEXT_BYTES} is the most", text.len());
            return Err(self.invalid(line, column, &message));
        }
        Ok(text)
    }

    fn invalid(&self, line: u64, column: usize, message: &str) -> Error {
        Error::invalid(format!("{}, line {line}, column {:?}: {message}", self.name, self.column(column)))
    }
}

/// A value of the right type, or what stands in its place.
type Found<T> = Result<T, std::borrow::Cow<'static, str>>;

fn no_rows(name: &str) -> Error {
    Error::invalid(format!("{name}: there are no rows below the header"))
}

fn take_sample(rows: &mut dyn Rows) -> Result<Vec<Sampled>> {
    let mut sample = vec![];
    while sample.len() < SAMPLE_ROWS && rows.advance()? {
        let cells = (0..rows.columns().len()).map(|place| rows.take(place).into_owned()).collect();
        sample.push(Sampled { line: rows.line(), cells });
    }
    Ok(sample)
}

/// What a guess can look at.
fn value(cell: &Cell<'_>) -> Option<String> {
    match cell {
        Cell::Text(text) => Some(text.clone().into_owned()),
        Cell::Plain(text) => Some(text.clone()),
        Cell::List(_) | Cell::Other(_) | Cell::Missing => None,
    }
}

#[cfg(test)]
mod tests;
