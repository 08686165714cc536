//! Files to examples.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::columns::Choice;
use super::delimited::Delimited;
use super::dialect::{self, delimiter_of, separator_line};
use super::fast_text::FastText;
use super::json_list::Shape;
use super::json_rows::JsonRows;
use super::label_reader::LabelReader;
use super::lines::Lines;
use super::row::{Cell, Rows};
use super::source::Source;
use super::tokenize::MAX_TEXT_BYTES;
use super::{Columns, Example, Quantiles, labels};
use hone_base::error::{Error, Result};

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
    /// The rows, in the file's order.
    pub examples: Vec<Example>,
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
    /// Reads a file, gzip or plain: CSV with any delimiter, JSON Lines, a JSON list, fastText's format; UTF-8, UTF-16, or
    /// the encoding that `columns` names. `limit` takes the first rows.
    ///
    /// # Errors
    /// Fails, with file, line and column, where the file cannot be read as labelled texts.
    pub fn read(
        path: &Path,
        name: &str,
        format: Option<Format>,
        columns: &Columns,
        limit: Option<u64>,
    ) -> Result<Self> {
        let source = Source::open(path, name, columns.dialect.encoding)?;
        let mut notes = vec![];
        if !source.encoding.is_utf8() {
            notes.push(format!("read as {}", source.encoding.name()));
        }
        let named = format.or_else(|| Format::of_name(name));
        let format = Format::of_head(&source.head, source.head_is_whole, named);
        if let Some(named) = named.filter(|named| !named.is_like(format)) {
            notes.push(format!("read as {}, although its name says {}", format.in_words(), named.in_words()));
        }
        let reader = match format {
            Format::Json => Reader::new(name, columns, JsonRows::of_list(source)?),
            Format::JsonLines => {
                let mut lines = Lines::of(source);
                let first = lines.first()?;
                Reader::new(name, columns, JsonRows::of_lines(lines, first)?)
            }
            Format::FastText => {
                let mut lines = Lines::of(source);
                let first = lines.first()?;
                Reader::new(name, columns, FastText::open(lines, first))
            }
            Format::Csv | Format::Tsv => return Self::read_delimited(source, columns, format, limit, notes),
        };
        reader?.read(format, limit, notes)
    }

    fn read_delimited(
        source: Source,
        columns: &Columns,
        format: Format,
        limit: Option<u64>,
        mut notes: Vec<String>,
    ) -> Result<Self> {
        let usual = if format == Format::Tsv { '\t' } else { ',' };
        let (head, is_whole) = (source.head.clone(), source.head_is_whole);
        let name = source.name.clone();
        let dialect = &columns.dialect;
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
        Reader::new(&name, columns, rows)?.read(format, limit, notes)
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
            notes: self.notes.clone(),
            labels: labels::count(&self.examples, &self.used.label_names),
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
    label: LabelPlace,
    labels: LabelReader<'a>,
    columns: &'a Columns,
    guess: String,
    notes: Vec<String>,
    /// Texts that the file writes as numbers, and the first of them.
    numbers: (u64, String),
    /// Rows that were looked at to guess columns.
    sample: Vec<Sampled>,
}

/// Where a row's labels stand.
enum LabelPlace {
    /// In one column.
    Column(usize),
    /// In a column for each.
    Columns(Vec<usize>),
}

/// A row as it was read ahead.
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
        let label = match (choice.label, choice.label_columns.is_empty()) {
            (_, false) => LabelPlace::Columns(choice.label_columns.clone()),
            (Some(label), true) => LabelPlace::Column(label),
            (None, true) => return Err(Error::internal("a label column was neither found nor refused")),
        };
        let Some(text) = choice.text else {
            return Err(Error::internal("a text column was neither found nor refused"));
        };
        let column_name = match &label {
            LabelPlace::Column(place) => rows.columns().get(*place).cloned().unwrap_or_default(),
            LabelPlace::Columns(_) => given.label_columns.join(","),
        };
        let unused = choice.unused_texts(rows.columns());
        let notes = match unused.first() {
            Some(column) if given.text.is_none() => {
                vec![format!(
                    "the column \"{column}\" is not used; as `columns.text_pair` it is a second text"
                )]
            }
            _ => vec![],
        };
        Ok(Self {
            name,
            rows,
            text,
            text_pair: choice.text_pair,
            label,
            labels: LabelReader::new(name, column_name, given),
            columns: given,
            guess: choice.guess(),
            notes,
            numbers: (0, String::new()),
            sample,
        })
    }

    fn read(mut self, format: Format, limit: Option<u64>, mut notes: Vec<String>) -> Result<Dataset> {
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let mut examples = Vec::new();
        let mut labels: HashSet<String> = HashSet::new();
        let sample = std::mem::take(&mut self.sample);
        let mut sample = sample.into_iter();
        let mut cells = vec![];
        while examples.len() < limit {
            let line = match sample.next() {
                Some(row) => {
                    cells = row.cells;
                    row.line
                }
                None if self.rows.advance()? => {
                    self.take_cells(&mut cells);
                    self.rows.line()
                }
                None => break,
            };
            let Some(example) = self.example(line, &mut cells)? else { continue };
            if examples.len() == MAX_ROWS {
                return Err(Error::invalid(format!("{}: there are more than {MAX_ROWS} rows", self.name)));
            }
            for label in &example.labels {
                if !labels.contains(label) {
                    labels.insert(label.clone());
                }
            }
            if labels.len() > labels::MAX_LABELS {
                return Err(labels::too_many(self.name, labels.iter().map(String::as_str)));
            }
            examples.push(example);
        }
        let settled = self.labels.finish(&mut examples)?;
        if examples.is_empty() {
            return Err(no_rows(self.name));
        }
        notes.append(&mut self.notes);
        match &self.numbers {
            (0, _) => {}
            (1, first) => notes.push(format!("1 text is a number ({first}); its digits are the text")),
            (count, first) => {
                notes.push(format!("{count} texts are numbers, such as {first}; their digits are the texts"))
            }
        }
        notes.extend(self.rows.notes());
        notes.extend(settled.notes);
        let column = |place: usize| self.rows.columns().get(place).cloned().unwrap_or_default();
        Ok(Dataset {
            name: self.name.to_owned(),
            format,
            used: Columns {
                text: Some(column(self.text)),
                text_pair: self.text_pair.map(column),
                label: match self.label {
                    LabelPlace::Column(place) => Some(column(place)),
                    LabelPlace::Columns(_) => None,
                },
                label_names: settled.names,
                ..self.columns.clone()
            },
            columns: self.rows.columns().to_vec(),
            guess: self.guess,
            notes,
            examples,
        })
    }

    fn column(&self, place: usize) -> &str {
        self.rows.columns().get(place).map_or("", String::as_str)
    }

    /// The cells in use of the row that `rows` stands at, in the places that a whole row would have.
    fn take_cells(&mut self, cells: &mut Vec<Cell<'static>>) {
        cells.resize(self.rows.columns().len(), Cell::Missing);
        let label = match &self.label {
            LabelPlace::Column(place) => std::slice::from_ref(place),
            LabelPlace::Columns(places) => places,
        };
        for &place in [self.text].iter().chain(&self.text_pair).chain(label) {
            if let Some(cell) = cells.get_mut(place) {
                *cell = self.rows.take(place).into_owned();
            }
        }
    }

    fn example(&mut self, line: u64, cells: &mut [Cell<'static>]) -> Result<Option<Example>> {
        let mut take = |place: usize| {
            cells.get_mut(place).map_or(Cell::Missing, |cell| std::mem::replace(cell, Cell::Missing))
        };
        let text = self.text_of(line, self.text, take(self.text))?;
        let text_pair = match self.text_pair {
            Some(place) => Some(self.text_of(line, place, take(place))?),
            None => None,
        };
        let labels = match &self.label {
            LabelPlace::Column(place) => {
                let labels = self.labels.cell(line, take(*place));
                let place = *place;
                match labels.map_err(|message| self.invalid(line, place, &message))? {
                    Some(labels) => labels,
                    None => return Ok(None),
                }
            }
            LabelPlace::Columns(places) => {
                let cells: Vec<Cell<'static>> = places.iter().map(|&place| take(place)).collect();
                self.labels.one_hot(&cells).map_err(|(place, message)| {
                    let place = places.get(place).copied().unwrap_or_default();
                    self.invalid(line, place, &message)
                })?
            }
        };
        Ok(Some(Example { text, text_pair, labels, line }))
    }

    fn text_of(&mut self, line: u64, column: usize, cell: Cell<'_>) -> Result<String> {
        if let Cell::Plain(number) = &cell {
            self.numbers.0 += 1;
            if self.numbers.0 == 1 {
                self.numbers.1.clone_from(number);
            }
        }
        let text = cell.into_text().map_err(|message| self.invalid(line, column, &message))?;
        if text.len() > MAX_TEXT_BYTES {
            let message = format!(
                "the text has {} bytes; {MAX_TEXT_BYTES} is the most. A model reads the first `max_length` tokens \
                 alone, so keep the beginning (in pandas: data[\"{}\"] = data[\"{}\"].str[:100_000]), or split it into rows",
                text.len(),
                self.column(column),
                self.column(column),
            );
            return Err(self.invalid(line, column, &message));
        }
        Ok(text)
    }

    fn invalid(&self, line: u64, column: usize, message: &str) -> Error {
        Error::invalid(format!("{}, line {line}, column \"{}\": {message}", self.name, self.column(column)))
    }
}

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
        Cell::List(_) | Cell::Other(_) | Cell::Null | Cell::Missing => None,
    }
}

#[cfg(test)]
mod tests;
