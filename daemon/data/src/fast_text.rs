//! fastText's format: a line is a text, and each word that begins with `__label__` is a label of it.

use super::lines::Lines;
use super::row::{Cell, Rows};
use hone_base::error::Result;

const PREFIX: &str = "__label__";

pub(super) struct FastText {
    lines: Lines,
    raw: String,
    columns: Vec<String>,
    first_is_pending: bool,
}

impl FastText {
    /// Whether a file that begins with this line is written so.
    pub(super) fn recognises(line: &str) -> bool {
        line.starts_with(PREFIX)
    }

    /// Starts with the first line, which was read already.
    pub(super) fn open(lines: Lines, first: String) -> Self {
        let columns = ["text", "label"].map(str::to_owned).to_vec();
        Self { lines, raw: first, columns, first_is_pending: true }
    }
}

impl Rows for FastText {
    fn columns(&self) -> &[String] {
        &self.columns
    }

    fn advance(&mut self) -> Result<bool> {
        if std::mem::take(&mut self.first_is_pending) {
            return Ok(true);
        }
        loop {
            self.raw.clear();
            if !self.lines.read(&mut self.raw)? {
                return Ok(false);
            }
            if !self.raw.trim().is_empty() {
                return Ok(true);
            }
        }
    }

    fn line(&self) -> u64 {
        self.lines.number()
    }

    fn take(&mut self, column: usize) -> Cell<'_> {
        if column == 0 {
            return Cell::Text(text(&self.raw).into());
        }
        let mut labels: Vec<String> = labels(&self.raw).map(str::to_owned).collect();
        match (labels.pop(), labels.is_empty()) {
            (None, _) => Cell::Text("".into()),
            (Some(only), true) => Cell::Text(only.into()),
            (Some(last), false) => {
                labels.push(last);
                Cell::List(labels)
            }
        }
    }
}

fn labels(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace().filter_map(|word| word.strip_prefix(PREFIX))
}

/// The line without its labels; the white space between its words stays.
fn text(line: &str) -> String {
    let pieces = line.split_inclusive(char::is_whitespace).filter(|piece| !piece.starts_with(PREFIX));
    pieces.collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_the_prefix_are_labels_and_the_rest_is_the_text() {
        let line = "__label__a\t__label__b  a fine  day , x__label__y\n";
        assert_eq!(labels(line).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(text(line), "a fine  day , x__label__y");
        assert_eq!(text("__label__a\n"), "");
        assert_eq!(text("good __label__a\n"), "good");
    }
}
