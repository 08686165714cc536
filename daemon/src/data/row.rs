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
    /// Anything that is neither a text nor a label, in words.
    Other(&'static str),
    Missing,
}

impl Cell<'_> {
    pub(super) fn into_owned(self) -> Cell<'static> {
        match self {
            Cell::Text(text) => Cell::Text(Cow::Owned(text.into_owned())),
            Cell::Plain(text) => Cell::Plain(text),
            Cell::Other(what) => Cell::Other(what),
            Cell::Missing => Cell::Missing,
        }
    }

    /// The text, or what stands in its place.
    pub(super) fn into_text(self) -> Result<String, Cow<'static, str>> {
        match self {
            Cell::Text(text) => Ok(text.into_owned()),
            Cell::Plain(text) => Err(format!("the text is {text}, not a string").into()),
            Cell::Other(what) => Err(format!("the text is {what}, not a string").into()),
            Cell::Missing => Err("the text is missing".into()),
        }
    }

    /// The label without white space around it, or what stands in its place.
    pub(super) fn into_label(self) -> Result<String, Cow<'static, str>> {
        match self {
            Cell::Text(text) if text.trim().is_empty() => Err("the label is empty".into()),
            Cell::Text(text) => Ok(text.trim().to_owned()),
            Cell::Plain(text) => Ok(text),
            Cell::Other(what) => Err(format!("the label is {what}, not a string or an integer").into()),
            Cell::Missing => Err("the label is missing".into()),
        }
    }
}
