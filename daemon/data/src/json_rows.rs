//! Rows that are JSON objects: one a line (JSON Lines), or in one list (`[{…}, …]`, also inside an object,
//! `{"data": [{…}, …]}`), or one after the other over several lines.
//!
//! Nothing but the objects of one row at a time is in memory, however long the list.

use std::collections::VecDeque;

use super::json_cells;
use super::json_list::JsonList;
use super::lines::Lines;
use super::row::{Cell, Rows};
use super::source::Source;
use hone_base::error::{Error, Result};

/// Objects that are read ahead to learn the columns.
const HEAD_ROWS: usize = 1000;

/// Bytes of these objects at most, and one object more.
const HEAD_BYTES: usize = 32 << 20;

pub(super) struct JsonRows {
    objects: Objects,
    columns: Vec<String>,
    cells: Vec<Cell<'static>>,
    line: u64,
    /// The first rows, which were read to learn the columns.
    pending: VecDeque<(u64, Vec<Cell<'static>>)>,
    /// What was wrong behind them.
    failure: Option<Error>,
}

/// Where objects come from; a row's text is in memory alone.
enum Objects {
    Lines { lines: Lines, raw: String },
    List(JsonList),
}

impl Objects {
    /// The text of the object that was read last.
    fn text(&self) -> &str {
        match self {
            Self::Lines { raw, .. } => raw.trim_end(),
            Self::List(list) => list.object(),
        }
    }
}

impl JsonRows {
    /// One object a line; the first line was read already.
    pub(super) fn of_lines(lines: Lines, first: String) -> Result<Self> {
        let line = lines.number();
        let mut rows = Self::new(Objects::Lines { lines, raw: first });
        rows.line = line;
        rows.fill(true)?;
        rows.pending.push_back((line, std::mem::take(&mut rows.cells)));
        rows.learn_columns()
    }

    /// Objects in a list.
    pub(super) fn of_list(source: Source) -> Result<Self> {
        Self::new(Objects::List(JsonList::open(source)?)).learn_columns()
    }

    fn new(objects: Objects) -> Self {
        Self { objects, columns: vec![], cells: vec![], line: 0, pending: VecDeque::new(), failure: None }
    }

    fn learn_columns(mut self) -> Result<Self> {
        let mut bytes = 0;
        while self.pending.len() < HEAD_ROWS && bytes < HEAD_BYTES {
            let read =
                self.read().and_then(|there| if there { self.fill(true).map(|()| true) } else { Ok(false) });
            match read {
                Ok(true) => {
                    bytes += self.objects.text().len();
                    self.pending.push_back((self.line, std::mem::take(&mut self.cells)));
                }
                Ok(false) => break,
                Err(error) if self.pending.is_empty() => return Err(error),
                Err(error) => {
                    self.failure = Some(error);
                    break;
                }
            }
        }
        self.refuse_table_of_objects()?;
        Ok(self)
    }

    /// A whole table as one object, `{"text": {"0": …, "1": …}, …}`, is what pandas writes by default.
    fn refuse_table_of_objects(&self) -> Result<()> {
        let is_numbered = |column: &String| {
            let last = column.rsplit_once('.').map(|(_, last)| last);
            last.is_some_and(|last| !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
        };
        if self.pending.len() > 1 || self.columns.len() < 4 || !self.columns.iter().all(is_numbered) {
            return Ok(());
        }
        let name = match &self.objects {
            Objects::Lines { lines, .. } => lines.name(),
            Objects::List(list) => list.name(),
        };
        Err(Error::invalid(format!(
            "{name}: the file is one object with numbered values a column, as pandas' to_json writes by default; write one \
             object a row: to_json(FILE, orient=\"records\", lines=True)"
        )))
    }

    /// Goes to the next object.
    fn read(&mut self) -> Result<bool> {
        match &mut self.objects {
            Objects::List(list) => {
                let there = list.advance()?;
                self.line = list.line();
                Ok(there)
            }
            Objects::Lines { lines, raw } => loop {
                raw.clear();
                if !lines.read(raw)? {
                    return Ok(false);
                }
                if !raw.trim().is_empty() {
                    self.line = lines.number();
                    return Ok(true);
                }
            },
        }
    }

    fn fill(&mut self, may_add: bool) -> Result<()> {
        json_cells::fill(self.objects.text(), &mut self.columns, &mut self.cells, may_add).map_err(|error| {
            let line = self.line + error.line().saturating_sub(1) as u64;
            let name = match &self.objects {
                Objects::Lines { lines, .. } => lines.name(),
                Objects::List(list) => list.name(),
            };
            let message = json_cells::in_words(&error);
            Error::invalid(format!("{name}, line {line}, column {}: {message}", error.column()))
        })
    }
}

impl Rows for JsonRows {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn advance(&mut self) -> Result<bool> {
        if let Some((line, cells)) = self.pending.pop_front() {
            (self.line, self.cells) = (line, cells);
            return Ok(true);
        }
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        if !self.read()? {
            return Ok(false);
        }
        self.fill(false)?;
        Ok(true)
    }

    fn line(&self) -> u64 {
        self.line
    }

    fn take(&mut self, column: usize) -> Cell<'_> {
        self.cells.get_mut(column).map_or(Cell::Missing, |cell| std::mem::replace(cell, Cell::Missing))
    }
}
