//! CSV (RFC 4180) and tab-separated rows.
//!
//! The scanner is strict where lenient ones lose rows in silence: behind the closing quote of a field only a
//! delimiter or the end of the line may stand. A quote that was forgotten is therefore found at the next quote, and
//! told with the line where it opened, instead of gluing two rows together.

use std::borrow::Cow;
use std::ops::Range;

use super::dialect;
use super::lines::Lines;
use super::row::{Cell, Rows};
use hone_base::error::{Error, Result, quoted};

/// Fields that a row may have.
const MAX_FIELDS: usize = 10_000;

pub(super) struct Delimited {
    lines: Lines,
    delimiter: char,
    unquoted: bool,
    no_header: bool,
    columns: Vec<String>,
    raw: String,
    fields: Vec<Field>,
    line: u64,
    /// The first line is a row too.
    first_is_pending: bool,
    blank_rows: u64,
}

/// Where a field stands in the raw row, without its outer quotes.
struct Field {
    range: Range<usize>,
    has_doubled_quotes: bool,
}

impl Delimited {
    /// Starts with the header, whose first line was read already; without a header that line is a row, and columns are
    /// named by their numbers.
    pub(super) fn open(
        lines: Lines,
        first: String,
        delimiter: char,
        unquoted: bool,
        no_header: bool,
    ) -> Result<Self> {
        let line = lines.number();
        let mut rows = Self {
            lines,
            delimiter,
            unquoted,
            no_header,
            columns: vec![],
            raw: first,
            fields: vec![],
            line,
            first_is_pending: no_header,
            blank_rows: 0,
        };
        rows.scan()?;
        rows.columns = (0..rows.fields.len())
            .map(|column| match no_header {
                true => (column + 1).to_string(),
                false => rows.field(column).trim().to_owned(),
            })
            .collect();
        rows.check_header()?;
        Ok(rows)
    }

    /// What a header of another dialect looks like is told here, before its rows make no sense.
    fn check_header(&self) -> Result<()> {
        let header = self.raw.get(..self.end()).unwrap_or_default();
        if header.contains('\r') && !header.contains('\n') {
            return Err(self
                .lines
                .invalid(self.line, "lines end with CR alone; save the file with LF or CRLF"));
        }
        let [only] = self.columns.as_slice() else { return Ok(()) };
        let what = if self.no_header { "first row" } else { "header" };
        Err(self.lines.invalid(
            self.line,
            format!(
                "the {what} has one column, {}, but a text and a label are needed; fields are taken to be \
                 separated by {}, and `columns.dialect.delimiter` names another character",
                quoted(only),
                dialect::in_words(self.delimiter)
            ),
        ))
    }

    fn field(&self, column: usize) -> Cow<'_, str> {
        let Some(field) = self.fields.get(column) else { return Cow::Borrowed("") };
        let text = self.raw.get(field.range.clone()).unwrap_or_default();
        match field.has_doubled_quotes {
            true => Cow::Owned(text.replace("\"\"", "\"")),
            false => Cow::Borrowed(text),
        }
    }

    /// Finds the fields of the row whose first line is in `raw`; reads on where a quoted field spans lines.
    fn scan(&mut self) -> Result<()> {
        self.fields.clear();
        let mut start = 0;
        loop {
            let (field, end) = match !self.unquoted && self.raw[start..].starts_with('"') {
                true => self.quoted(start)?,
                false => self.bare(start),
            };
            self.fields.push(field);
            if self.fields.len() > MAX_FIELDS {
                return Err(self.lines.invalid(
                    self.lines.number(),
                    format!(
                        "the row has more than {MAX_FIELDS} fields; keep the columns of text and label alone"
                    ),
                ));
            }
            if !self.raw[end..].starts_with(self.delimiter) {
                return Ok(());
            }
            start = end + self.delimiter.len_utf8();
        }
    }

    /// The end of the raw row, its line ending left out.
    fn end(&self) -> usize {
        let raw = self.raw.strip_suffix('\n').unwrap_or(&self.raw);
        raw.strip_suffix('\r').unwrap_or(raw).len()
    }

    /// An unquoted field, and where it ends.
    fn bare(&self, start: usize) -> (Field, usize) {
        let rest = &self.raw[start..self.end().max(start)];
        let end = start + rest.find(self.delimiter).unwrap_or(rest.len());
        (Field { range: start..end, has_doubled_quotes: false }, end)
    }

    /// A quoted field, and where it ends, its closing quote included.
    fn quoted(&mut self, start: usize) -> Result<(Field, usize)> {
        let opened = self.lines.number();
        let mut has_doubled_quotes = false;
        let mut from = start + 1;
        loop {
            let Some(quote) = self.raw[from..].find('"').map(|at| from + at) else {
                from = self.raw.len();
                if !self.lines.read(&mut self.raw)? {
                    let message = "the quote that opens here is not closed; in a file that does not quote its fields, set \
                                   `columns.dialect.unquoted = true`";
                    return Err(self.failed(opened, message));
                }
                continue;
            };
            let end = quote + 1;
            if self.raw[end..].starts_with('"') {
                has_doubled_quotes = true;
                from = end + 1;
            } else if end >= self.end() || self.raw[end..].starts_with(self.delimiter) {
                return Ok((Field { range: start + 1..quote, has_doubled_quotes }, end));
            } else if self.delimiter == '\t' && opened == self.lines.number() {
                // Many tab-separated files do not quote at all, and a text may well begin with a quote.
                return Ok(self.bare(start));
            } else {
                let message = match opened == self.lines.number() {
                    true => {
                        "text stands behind a closing quote; double the quotes inside a quoted field, or, in a file that does \
                              not quote its fields, set `columns.dialect.unquoted = true`"
                    }
                    false => {
                        "the quote that opens here is not closed before the next row; close it, or, in a file that does not \
                              quote its fields, set `columns.dialect.unquoted = true`"
                    }
                };
                return Err(self.failed(opened, message));
            }
        }
    }

    /// A failure in the field that is being scanned.
    fn failed(&self, line: u64, message: &str) -> Error {
        let place = self.fields.len();
        let column = self.columns.get(place).map_or((place + 1).to_string(), |name| quoted(name));
        Error::invalid(format!("{}, line {line}, column {column}: {message}", self.lines.name()))
    }
}

impl Rows for Delimited {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn advance(&mut self) -> Result<bool> {
        loop {
            if !std::mem::take(&mut self.first_is_pending) {
                self.raw.clear();
                if !self.lines.read(&mut self.raw)? {
                    return Ok(false);
                }
                if self.end() == 0 {
                    continue;
                }
                self.line = self.lines.number();
                self.scan()?;
            }
            if (0..self.fields.len()).any(|column| !self.field(column).trim().is_empty()) {
                break;
            }
            self.blank_rows += 1;
        }
        if self.fields.len() == self.columns.len() {
            return Ok(true);
        }
        let is_stray = self.fields.len() > self.columns.len()
            && (self.columns.len()..self.fields.len()).all(|column| self.field(column).trim().is_empty());
        let count = |n: usize| if n == 1 { "1 field".to_owned() } else { format!("{n} fields") };
        let what = if self.no_header { "first row" } else { "header" };
        let delimiter = match self.delimiter {
            ',' => "comma".to_owned(),
            '\t' => "tab".to_owned(),
            ';' => "semicolon".to_owned(),
            other => format!("\"{other}\""),
        };
        let hint = match is_stray {
            true => format!("the row ends with a {delimiter} too many"),
            false => format!("a text with a {delimiter} in it must stand in quotes"),
        };
        Err(self.lines.invalid(
            self.line,
            format!("the row has {}, the {what} {}; {hint}", count(self.fields.len()), self.columns.len()),
        ))
    }

    fn notes(&self) -> Vec<String> {
        match self.blank_rows {
            0 => vec![],
            1 => vec!["1 row without any content was left out".to_owned()],
            rows => vec![format!("{rows} rows without any content were left out")],
        }
    }

    fn line(&self) -> u64 {
        self.line
    }

    fn take(&mut self, column: usize) -> Cell<'_> {
        Cell::Text(self.field(column))
    }
}
