//! The rows of a file, one after the other, to what is kept of them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::columns::Choice;
use super::dataset::{Dataset, Format, Keep, Reading};
use super::label_reader::LabelReader;
use super::label_sets::LabelSets;
use super::row::{Cell, Rows};
use super::tokenize::MAX_TEXT_BYTES;
use super::{Columns, Example, Measure, labels, memory};
use hone_base::error::{Error, Result};

/// Rows that are looked at to guess columns which names do not tell.
const SAMPLE_ROWS: usize = 1000;

/// Bytes of these rows at most, and one row more.
const SAMPLE_BYTES: usize = 32 << 20;

/// Rows between two looks at whether reading shall end.
const ROWS_BETWEEN_CHECKS: u64 = 1024;

/// A row: its text, the second text of a pair, its labels as the file has them.
type Row = (String, Option<String>, Vec<String>);

/// The rows of a file with the places of the columns in use.
pub(super) struct Reader<'a> {
    name: &'a str,
    reading: &'a Reading,
    unpacked: Arc<AtomicU64>,
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
    /// Finds the columns in use. `unpacked` counts the bytes that the rows come from.
    pub(super) fn new(
        name: &'a str,
        given: &'a Columns,
        reading: &'a Reading,
        unpacked: Arc<AtomicU64>,
        rows: impl Rows + 'static,
    ) -> Result<Self> {
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
            reading,
            unpacked,
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

    /// Reads to the end of the file or of what is asked for.
    pub(super) fn read(mut self, format: Format, mut notes: Vec<String>) -> Result<Dataset> {
        let limits = &self.reading.limits;
        let limit = self.reading.limit.unwrap_or(u64::MAX);
        let keep = self.reading.keep;
        let (mut examples, mut places) = (Vec::new(), Vec::new());
        let (mut measure, mut sets) = (Measure::default(), LabelSets::default());
        let (mut rows, mut kept) = (0, 0);
        let mut labels: HashSet<String> = HashSet::new();
        let nothing: Arc<[String]> = [].into();
        let sample = std::mem::take(&mut self.sample);
        let mut sample = sample.into_iter();
        let mut cells = vec![];
        while rows < limit {
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
            let Some((text, text_pair, set)) = self.row(line, &mut cells)? else { continue };
            if rows == limits.rows {
                return Err(limits.too_many_rows(self.name, self.unpacked()));
            }
            if rows.is_multiple_of(ROWS_BETWEEN_CHECKS) {
                self.reading.cancel.check()?;
            }
            rows += 1;
            let (place, new) = sets.add(set, line);
            for label in new.into_iter().flatten() {
                if !labels.contains(label) {
                    labels.insert(label.clone());
                }
            }
            if labels.len() > labels::MAX_LABELS {
                return Err(labels::too_many(self.name, labels.iter().map(String::as_str)));
            }
            let mut example = Example { text, text_pair, labels: nothing.clone(), line };
            measure.add(&example, keep != Keep::Summary);
            if keep != Keep::Summary {
                kept += if keep == Keep::Texts { memory::of_texts(&example) } else { memory::ROW };
                if keep == Keep::Labels {
                    (example.text, example.text_pair) = (String::new(), None);
                }
                examples.push(example);
                places.push(place);
            }
            if kept + sets.bytes() > limits.memory {
                return Err(limits.too_heavy(self.name, rows, self.unpacked()));
            }
        }
        let mut sets = sets.into_sets();
        let settled = self.labels.finish(&mut sets)?;
        if rows == 0 {
            return Err(no_rows(self.name));
        }
        for (example, place) in examples.iter_mut().zip(places) {
            if let Some(set) = sets.get(place as usize) {
                example.labels = set.labels.clone();
            }
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
            measure,
            sets,
        })
    }

    fn unpacked(&self) -> u64 {
        self.unpacked.load(Ordering::Relaxed)
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

    /// The text or texts of a row and its labels; `None` where it has no label and is left out.
    fn row(&mut self, line: u64, cells: &mut [Cell<'static>]) -> Result<Option<Row>> {
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
                let (place, cell) = (*place, take(*place));
                if let Cell::Text(text) = &cell
                    && text.len() > MAX_TEXT_BYTES
                {
                    let message = format!(
                        "the label has {} bytes; is it the right column? Name it with `columns.label`",
                        text.len()
                    );
                    return Err(self.invalid(line, place, &message));
                }
                let labels = self.labels.cell(line, cell);
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
        Ok(Some((text, text_pair, labels)))
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
                "the text has {} bytes; {MAX_TEXT_BYTES} is the most. A model reads the first `max_length` tokens alone, \
                 so keep the beginning (in pandas: data[\"{}\"] = data[\"{}\"].str[:100_000]), or split it into rows",
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
    let (mut sample, mut bytes) = (vec![], 0);
    while sample.len() < SAMPLE_ROWS && bytes < SAMPLE_BYTES && rows.advance()? {
        let cells: Vec<_> = (0..rows.columns().len()).map(|place| rows.take(place).into_owned()).collect();
        bytes += cells.iter().map(Cell::bytes).sum::<usize>();
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
