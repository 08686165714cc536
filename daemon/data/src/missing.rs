//! Labels that are missing: empty cells, JSON's `null`, and the words that programs write in their place.

use serde::{Deserialize, Serialize};

use hone_base::error::{Error, Result, quoted};

/// What becomes of a row whose label is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MissingLabel {
    /// The file is refused, with the lines.
    #[default]
    Error,
    /// The row is left out.
    Drop,
    /// A word such as "None" is a label like any other; an empty cell is refused.
    Keep,
}

impl MissingLabel {
    /// Whether it is the default.
    pub fn is_error(&self) -> bool {
        *self == Self::Error
    }
}

/// What pandas reads as a missing value by default (`pandas.read_csv`, `na_values`), case for case.
const WORDS: [&str; 19] = [
    "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
    "NA", "NULL", "NaN", "None", "n/a", "nan", "null", "NAN",
];

/// Whether a label is a word for a missing one.
pub(super) fn is_word(label: &str) -> bool {
    WORDS.contains(&label)
}

/// Lines that a message names.
const SHOWN: usize = 5;

/// The rows of a file whose label is missing.
#[derive(Debug, Default)]
pub(super) struct MissingRows {
    rows: u64,
    empty: u64,
    lines: Vec<u64>,
    words: Vec<String>,
    kept: u64,
}

impl MissingRows {
    /// Counts a row without a label; `word` is what stands in its place, if anything does.
    pub(super) fn add(&mut self, line: u64, word: Option<&str>) {
        self.rows += 1;
        if self.lines.len() < SHOWN {
            self.lines.push(line);
        }
        match word {
            None => self.empty += 1,
            Some(word) => self.note(word),
        }
    }

    /// Counts a word that is kept as a label.
    pub(super) fn keep(&mut self, word: &str) {
        self.kept += 1;
        self.note(word);
    }

    fn note(&mut self, word: &str) {
        if !self.words.iter().any(|known| known == word) {
            self.words.push(word.to_owned());
        }
    }

    /// What is to be told, or the refusal, once the file was read.
    pub(super) fn finish(&self, file: &str, column: &str, policy: MissingLabel) -> Result<Option<String>> {
        let rows =
            |count: u64| if count == 1 { "1 row has".to_owned() } else { format!("{count} rows have") };
        if self.rows == 0 {
            let kept = (self.kept > 0).then(|| {
                format!("{} a label that often means a missing one: {}", rows(self.kept), self.what())
            });
            return Ok(kept);
        }
        if policy == MissingLabel::Drop {
            return Ok(Some(format!("{} no label ({}) and were left out", rows(self.rows), self.what())));
        }
        let lines: Vec<String> = self.lines.iter().map(u64::to_string).collect();
        let more = match self.rows - lines.len() as u64 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let keep = match (self.words.is_empty(), self.empty) {
            (true, _) => "",
            (false, 0) => "; with `columns.missing_label = keep` the word is a label like any other",
            (false, _) => {
                "; with `columns.missing_label = keep` the words are labels like any other, and empty cells stay refused"
            }
        };
        Err(Error::invalid(format!(
            "{file}, {} {}{more}, column {}: {} no label ({}); with `columns.missing_label = drop` such rows are left \
             out{keep}",
            if self.rows == 1 { "line" } else { "lines" },
            lines.join(", "),
            quoted(column),
            rows(self.rows),
            self.what(),
        )))
    }

    /// What stands in the place of labels.
    fn what(&self) -> String {
        let mut parts: Vec<String> = self.words.iter().take(SHOWN).map(|word| quoted(word)).collect();
        if self.empty > 0 {
            parts.push("empty".to_owned());
        }
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_labels_are_refused_with_their_lines_and_the_field() {
        let mut missing = MissingRows::default();
        for line in 2..9 {
            missing.add(line, (line % 2 == 0).then_some("NaN"));
        }
        let error = missing.finish("f.csv", "label", MissingLabel::Error).unwrap_err();
        assert_eq!(
            error.message(),
            "f.csv, lines 2, 3, 4, 5, 6 and 2 more, column \"label\": 7 rows have no label (\"NaN\", empty); with \
             `columns.missing_label = drop` such rows are left out; with `columns.missing_label = keep` the words are \
             labels like any other, and empty cells stay refused"
        );
        let told = missing.finish("f.csv", "label", MissingLabel::Drop).unwrap().unwrap();
        assert_eq!(told, "7 rows have no label (\"NaN\", empty) and were left out");
    }

    #[test]
    fn a_word_that_is_kept_is_told() {
        let mut missing = MissingRows::default();
        missing.keep("None");
        let told = missing.finish("f.csv", "label", MissingLabel::Keep).unwrap().unwrap();
        assert_eq!(told, "1 row has a label that often means a missing one: \"None\"");
        assert_eq!(MissingRows::default().finish("f.csv", "label", MissingLabel::Error).unwrap(), None);
    }

    #[test]
    fn an_ordinary_word_is_a_label() {
        assert!(is_word("None") && is_word("nan") && is_word("N/A"));
        assert!(!is_word("none") && !is_word("Null island") && !is_word("0"));
    }
}
