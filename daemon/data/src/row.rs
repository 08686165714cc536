//! What the formats have in common: rows of cells.

use std::borrow::Cow;

use hone_base::error::Result;

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

    /// What is to be told of the rows, once all were read.
    fn notes(&self) -> Vec<String> {
        vec![]
    }
}

/// What a row has in a column. Only JSON knows more than text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Text(Cow<'a, str>),
    /// A number or a boolean, as it is written.
    Plain(String),
    /// A list of texts, numbers and booleans.
    List(Vec<String>),
    /// Anything that is neither a text nor a label, in words.
    Other(&'static str),
    /// JSON's `null`.
    Null,
    Missing,
}

impl Cell<'_> {
    pub(super) fn into_owned(self) -> Cell<'static> {
        match self {
            Cell::Text(text) => Cell::Text(Cow::Owned(text.into_owned())),
            Cell::Plain(text) => Cell::Plain(text),
            Cell::List(items) => Cell::List(items),
            Cell::Other(what) => Cell::Other(what),
            Cell::Null => Cell::Null,
            Cell::Missing => Cell::Missing,
        }
    }

    /// Bytes of memory that the cell takes, about.
    pub(super) fn bytes(&self) -> usize {
        let text = match self {
            Cell::Text(text) => text.len(),
            Cell::Plain(text) => text.len(),
            Cell::List(items) => items.iter().map(|item| size_of::<String>() + item.len()).sum(),
            Cell::Other(_) | Cell::Null | Cell::Missing => 0,
        };
        size_of::<Self>() + text
    }

    /// The text, or what stands in its place. A number is its text.
    pub(super) fn into_text(self) -> Result<String, Cow<'static, str>> {
        match self {
            Cell::Text(text) => Ok(text.into_owned()),
            Cell::Plain(text) => Ok(text),
            Cell::List(_) => Err("the text is a list, not a string; a file with one list a column must have one \
                                     object a row instead (in pandas: to_json(FILE, orient=\"records\", lines=True))"
                .into()),
            Cell::Other(what) => Err(format!("the text is {what}, not a string").into()),
            Cell::Null => Err("the text is null, not a string".into()),
            Cell::Missing => Err("the text is missing".into()),
        }
    }
}
