//! What the formats have in common: rows of cells.

use std::borrow::Cow;

use crate::error::Result;

/// The rows of a file, one at a time.
pub(super) trait Rows {
    /// All columns in the file's order.
    fn columns(&self) -> &[String];

    /// Goes to the next row; false at the end of the file.
    fn advance(&mut self) -> Result<bool>;

    /// Where the row starts in the file, from 1.
    fn line(&self) -> u64;

    /// What the row has in a column. A column is to be taken once a row.
    fn take(&mut self, column: usize) -> Cell<'_>;
}

/// What a row has in a column. Only JSON Lines knows more than text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Text(Cow<'a, str>),
    /// An integer or a boolean, as it is written.
    Plain(String),
    /// A list of texts, integers and booleans.
    List(Vec<String>),
    /// Anything that is neither a text nor a label, in words.
    Other(&'static str),
    Missing,
}

impl Cell<'_> {
    pub(super) fn into_owned(self) -> Cell<'static> {
        match self {
            Cell::Text(text) => Cell::Text(Cow::Owned(text.into_owned())),
            Cell::Plain(text) => Cell::Plain(text),
            Cell::List(items) => Cell::List(items),
            Cell::Other(what) => Cell::Other(what),
            Cell::Missing => Cell::Missing,
        }
    }

    /// The text, or what stands in its place.
    pub(super) fn into_text(self) -> Result<String, Cow<'static, str>> {
        match self {
            Cell::Text(text) => Ok(text.into_owned()),
            Cell::Plain(text) => Err(format!("the text is {text}, not a string").into()),
            Cell::List(_) => Err("the text is a list, not a string".into()),
            Cell::Other(what) => Err(format!("the text is {what}, not a string").into()),
            Cell::Missing => Err("the text is missing".into()),
        }
    }

    /// The labels without white space around them, sorted and each once, or what stands in their place. Without a
    /// separator there is exactly one, with it any number.
    pub(super) fn into_labels(self, separator: Option<&str>) -> Result<Vec<String>, Cow<'static, str>> {
        let mut labels: Vec<String> = match (self, separator) {
            (Cell::Text(text), Some(separator)) => text.split(separator).map(trimmed).collect(),
            (Cell::List(items), Some(_)) => items.iter().map(|item| trimmed(item)).collect(),
            (Cell::Text(text), None) if text.trim().is_empty() => return Err("the label is empty".into()),
            (Cell::Text(text), None) => vec![trimmed(&text)],
            (Cell::List(_), None) => {
                return Err(
                    "the label is a list; say --multi-label when a row may have several labels".into()
                );
            }
            (Cell::Plain(text), _) => vec![text],
            (Cell::Other(what), _) => {
                return Err(format!("the label is {what}, not a string or an integer").into());
            }
            (Cell::Missing, _) => return Err("the label is missing".into()),
        };
        labels.retain(|label| !label.is_empty());
        labels.sort_unstable();
        labels.dedup();
        Ok(labels)
    }
}

fn trimmed(label: &str) -> String {
    label.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(cell: Cell<'_>, separator: Option<&str>) -> Result<Vec<String>, Cow<'static, str>> {
        cell.into_labels(separator)
    }

    #[test]
    fn with_a_separator_a_cell_holds_any_number_of_labels() {
        let text = |text: &'static str| Cell::Text(text.into());
        let list = |items: &[&str]| Cell::List(items.iter().map(|&item| item.to_owned()).collect());
        for (cell, expected) in [
            (text("b| a |b"), &["a", "b"][..]),
            (text(" "), &[]),
            (text("|a|"), &["a"]),
            (list(&["x|y", "10", " "]), &["10", "x|y"]),
            (list(&[]), &[]),
            (Cell::Plain("3".to_owned()), &["3"]),
        ] {
            assert_eq!(labels(cell, Some("|")).unwrap(), expected);
        }
        assert!(labels(Cell::Missing, Some("|")).unwrap_err().contains("missing"));
    }

    #[test]
    fn without_one_a_cell_holds_exactly_one() {
        assert_eq!(labels(Cell::Text(" a|b ".into()), None).unwrap(), ["a|b"]);
        assert!(labels(Cell::Text(" ".into()), None).unwrap_err().contains("empty"));
        assert!(labels(Cell::List(vec![]), None).unwrap_err().contains("--multi-label"));
    }
}
