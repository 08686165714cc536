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
    guess: String,
    /// Rows that were looked at to guess columns.
    sample: Vec<Sampled>,
}

struct Sampled {
    line: u64,
    cells: Vec<Cell<'static>>,
}

impl<'a> Reader<'a> {
    fn new(name: &'a str, given: &Columns, rows: impl Rows + 'static) -> Result<Self> {
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
        Ok(Self { name, rows, text, text_pair: choice.text_pair, label, guess: choice.guess(), sample })
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
            if !labels.contains(&example.label) {
                labels.insert(example.label.clone());
                if labels.len() > labels::MAX_LABELS {
                    return Err(labels::too_many(self.name));
                }
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
        let label = self.rows.take(self.label).into_label();
        self.checked(line, text, pair, label)
    }

    /// A row that was looked at before.
    fn sampled(&self, mut row: Sampled) -> Result<Example> {
        let mut take = |place: usize| {
            row.cells.get_mut(place).map_or(Cell::Missing, |cell| std::mem::replace(cell, Cell::Missing))
        };
        let text = take(self.text).into_text();
        let pair = self.text_pair.map(|place| take(place).into_text());
        let label = take(self.label).into_label();
        self.checked(row.line, text, pair, label)
    }

    fn checked(&self, line: u64, text: Found, pair: Option<Found>, label: Found) -> Result<Example> {
        let text_pair = self.text_pair.unwrap_or(self.text);
        Ok(Example {
            text: self.bounded(line, self.text, text)?,
            text_pair: pair.map(|pair| self.bounded(line, text_pair, pair)).transpose()?,
            label: label.map_err(|message| self.invalid(line, self.label, &message))?,
            line,
        })
    }

    fn bounded(&self, line: u64, column: usize, text: Found) -> Result<String> {
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
type Found = Result<String, std::borrow::Cow<'static, str>>;

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
        Cell::Other(_) | Cell::Missing => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::error::Kind;

    fn read_as(name: &str, bytes: &[u8], columns: &Columns, limit: Option<u64>) -> Result<Dataset> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        Dataset::read(file.path(), name, None, columns, limit)
    }

    fn read(name: &str, text: &str) -> Result<Dataset> {
        read_as(name, text.as_bytes(), &Columns::default(), None)
    }

    fn rows(dataset: &Dataset) -> Vec<(&str, &str, u64)> {
        dataset.examples.iter().map(|row| (&*row.text, &*row.label, row.line)).collect()
    }

    #[test]
    fn the_ending_of_the_name_tells_the_format_and_else_the_first_line() {
        for (name, text, expected) in [
            ("a.csv", "text,label,x\ty\na,b,c\n", Format::Csv),
            ("a.TSV.gz", "text\tlabel\na,b\tc\n", Format::Tsv),
            ("a.ndjson", "{\"text\":\"a\",\"label\":1}", Format::JsonLines),
            ("a.txt", "\n {\"text\":\"a\",\"label\":1}", Format::JsonLines),
            ("upload", "text\tlabel\na,b\tc\n", Format::Tsv),
            ("upload", "text,label\na,c\n", Format::Csv),
        ] {
            assert_eq!(read(name, text).unwrap().format, expected, "{name}");
        }
    }

    #[test]
    fn csv_rows_keep_their_texts_byte_for_byte_and_labels_lose_white_space() {
        let text = "\u{feff}id,label,text\r\n\
                    1, pos ,\"a \"\"fine\"\" film,\r\nreally\"\r\n\
                    \r\n\
                    2,neg,  plain \"quotes\" stay \r\n\
                    3,\"neg\",\"\"\r\n\
                    4,pos,last line has no end";
        let dataset = read("a.csv", text).unwrap();
        assert_eq!(dataset.columns, ["id", "label", "text"]);
        assert_eq!(
            rows(&dataset),
            [
                ("a \"fine\" film,\r\nreally", "pos", 2),
                ("  plain \"quotes\" stay ", "neg", 5),
                ("", "neg", 6),
                ("last line has no end", "pos", 7),
            ]
        );
    }

    #[test]
    fn tab_separated_rows_may_be_quoted_or_not() {
        let text =
            "sentence\tlabel\n\"Great\" is the word\t1\n\"with\ttab\"\t0\n\"two\nlines\"\t1\n\"\t0\t\n";
        let error = read("a.tsv", text).unwrap_err();
        assert!(error.message().contains("line 6, column \"sentence\""), "{error}");
        let dataset = read("a.tsv", text.trim_end_matches("\"\t0\t\n")).unwrap();
        assert_eq!(
            rows(&dataset),
            [("\"Great\" is the word", "1", 2), ("with\ttab", "0", 3), ("two\nlines", "1", 4)]
        );
    }

    #[test]
    fn json_lines_take_strings_integers_and_booleans_as_labels() {
        let text = "{\"text\": \"a\\n\\u00e9\", \"label\": 1, \"extra\": [1, {}]}\r\n\n\
                    {\"label\": \" x \", \"other\": 1.5, \"text\": \"b\"}\n\
                    {\"extra\": null, \"text\": \"c\", \"label\": true}";
        let dataset = read("a.jsonl", text).unwrap();
        assert_eq!(dataset.columns, ["text", "label", "extra"]);
        assert_eq!(rows(&dataset), [("a\né", "1", 1), ("b", "x", 3), ("c", "true", 4)]);
    }

    #[test]
    fn what_cannot_be_read_is_told_with_file_line_and_column() {
        let long = format!("text,label\n{},x\n", "a".repeat(MAX_TEXT_BYTES + 1));
        let many = format!("text,label\n{}", (0..1001).map(|i| format!("a,{i}\n")).collect::<String>());
        for (name, text, expected) in [
            ("f.csv", "", "f.csv: the file is empty"),
            ("f.csv", "\n \r\n", "f.csv: the file is empty"),
            ("f.csv", "text,label\n", "f.csv: there are no rows below the header"),
            (
                "f.csv",
                "text,x\na,b\n",
                "f.csv: cannot tell which column is the label; the columns are \"text\", \"x\"",
            ),
            ("f.csv", "text,label\na,b\nc\n", "f.csv, line 3: the row has 1 field, the header 2"),
            ("f.csv", "text,label\na, b,c\n", "f.csv, line 2: the row has 3 fields, the header 2"),
            (
                "f.csv",
                "text,label\na,b\n\"c,d\ne,f\n",
                "f.csv, line 3, column \"text\": the quote that opens here is not closed",
            ),
            (
                "f.csv",
                "text,label\n\"a,b\n\"c\",d\n",
                "f.csv, line 2, column \"text\": the quote that opens here",
            ),
            ("f.csv", "text,label\n\"a\" b,c\n", "f.csv, line 2, column \"text\": text stands behind"),
            ("f.csv", "text,label\na,b\nc, \n", "f.csv, line 3, column \"label\": the label is empty"),
            ("f.csv", &long, "f.csv, line 2, column \"text\": the text has 1048577 bytes"),
            ("f.csv", &many, "f.csv: there are more than 1000 different labels"),
            (
                "f.jsonl",
                "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"a\" \"label\": 1}",
                "f.jsonl, line 2, column 14",
            ),
            ("f.jsonl", "{\"text\": \"a\", \"label\": 1} x", "f.jsonl, line 1, column 27"),
            ("f.jsonl", "{\"text\": \"a\", \"label\": 1}\n3", "f.jsonl, line 2, column 1"),
            ("f.jsonl", "[{\"text\": \"a\", \"label\": 1}]", "f.jsonl, line 1: a JSON array"),
            (
                "f.jsonl",
                "{\"text\": 7, \"label\": 1}",
                "f.jsonl, line 1, column \"text\": the text is 7, not a string",
            ),
            ("f.jsonl", "{\"text\": null, \"label\": 1}", "column \"text\": the text is null, not a string"),
            (
                "f.jsonl",
                "{\"text\": \"a\", \"label\": 1.0}",
                "the label is a number with a fraction, not a string",
            ),
            ("f.jsonl", "{\"text\": \"a\", \"label\": {}}", "column \"label\": the label is an object"),
            (
                "f.jsonl",
                "{\"text\":\"a\",\"label\":1}\n{\"text\":\"a\"}",
                "line 2, column \"label\": the label is missing",
            ),
            (
                "f.jsonl",
                "{\"text\":\"a\",\"label\":1}\n{\"label\":1,\"label\":2,\"text\":\"a\"}",
                "the label is given twice",
            ),
        ] {
            let error = read(name, text).map(|dataset| rows(&dataset).len()).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{error}");
            assert!(error.message().starts_with(name), "{error}");
            assert!(error.message().contains(expected), "{error}\ndoes not contain\n{expected}");
        }
    }

    #[test]
    fn a_limit_takes_the_first_rows_and_does_not_look_further() {
        let text = "text,label\na,1\nb,2\nbroken\n";
        let dataset = read_as("a.csv", text.as_bytes(), &Columns::default(), Some(2)).unwrap();
        assert_eq!(rows(&dataset), [("a", "1", 2), ("b", "2", 3)]);
        assert!(read_as("a.csv", text.as_bytes(), &Columns::default(), Some(3)).is_err());
    }

    #[test]
    fn rows_that_were_looked_at_for_a_guess_are_rows_too() {
        let mut text = "nummer,inhalt,urteil\n".to_owned();
        for row in 0..2500 {
            text.push_str(&format!("{row},ein langer Text {row},{}\n", row % 2));
        }
        let dataset = read("a.csv", &text).unwrap();
        assert_eq!(dataset.examples.len(), 2500);
        assert!(dataset.examples.iter().zip(0..).all(|(row, i)| {
            row.line == i + 2
                && row.text == format!("ein langer Text {i}")
                && row.label == (i % 2).to_string()
        }));
        assert_eq!(dataset.used.text.as_deref(), Some("inhalt"));
        assert_eq!(dataset.used.label.as_deref(), Some("urteil"));
    }

    #[test]
    fn a_pair_has_two_texts() {
        let given = Columns { text: Some("a".into()), text_pair: Some("b".into()), label: Some("c".into()) };
        let dataset = read_as("a.csv", b"a,b,c\nx,yy,0\n", &given, None).unwrap();
        assert_eq!(dataset.examples[0].text_pair.as_deref(), Some("yy"));
        assert_eq!(dataset.used, given);
        assert_eq!(dataset.summary().characters.max, 3);
    }

    #[test]
    fn a_summary_counts_rows_labels_and_characters() {
        let summary = read("a.csv", "review,stars\né,10\nabc,9\nab,10\n").unwrap().summary();
        let count = |label: &str, rows| super::super::LabelCount { label: label.to_owned(), rows };
        assert_eq!(summary.rows, 3);
        assert_eq!(summary.labels, [count("9", 1), count("10", 2)]);
        assert_eq!((summary.characters.min, summary.characters.p50, summary.characters.max), (1, 2, 3));
        assert!(
            summary.guess.contains("\"review\"") && summary.guess.contains("\"stars\""),
            "{}",
            summary.guess
        );
    }

    proptest! {
        #[test]
        fn what_a_csv_writer_writes_is_read_back(
            written in prop::collection::vec((".*|[\"\n\r, x]{0,9}", "[a-z\",]{1,5}"), 1..20), tab in any::<bool>(),
        ) {
            // A bare carriage return ends a row for the writer's dialect but not here; NUL is refused.
            let clean = |text: &str| text.replace('\0', "");
            let delimiter = if tab { b'\t' } else { b',' };
            let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(vec![]);
            writer.write_record(["text", "label"]).unwrap();
            for (text, label) in &written {
                writer.write_record([&clean(text), label]).unwrap();
            }
            let bytes = writer.into_inner().unwrap();
            let name = if tab { "a.tsv" } else { "a.csv" };
            let dataset = read_as(name, &bytes, &Columns::default(), None).unwrap();
            let expected: Vec<_> = written.iter().map(|(text, label)| (clean(text), label.clone())).collect();
            let found: Vec<_> = dataset.examples.into_iter().map(|row| (row.text, row.label)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn what_a_json_writer_writes_is_read_back(written in prop::collection::vec((".*", "[a-z\"]{1,5}"), 1..20)) {
            let text: String = written
                .iter()
                .map(|(text, label)| serde_json::json!({"text": text, "label": label}).to_string() + "\n")
                .collect();
            let dataset = read("a.jsonl", &text).unwrap();
            let found: Vec<_> = dataset.examples.into_iter().map(|row| (row.text, row.label)).collect();
            prop_assert_eq!(found, written);
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes in prop::collection::vec(prop::sample::select(b"text,label\t\"\r\n{}:[1\xc3\xa9\0".to_vec()), 0..200)) {
            for name in ["a.csv", "a.tsv", "a.jsonl", "a"] {
                let _ = read_as(name, &bytes, &Columns::default(), None);
            }
        }
    }
}
