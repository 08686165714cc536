//! How a file is read.

use super::{Convert, Parse};
use hone::text_file::Encoding;
use hone::v1;

use super::known;
use crate::serve::reference::shown;
use hone_base::error::{Error, Result};
use hone_data::{Columns, Dialect, MissingLabel};

/// Label columns and names at most; as many as labels.
const MAX_NAMES: usize = 1000;

impl Parse<v1::Columns> for Columns {
    fn parse(wire: v1::Columns) -> Result<Self> {
        // An empty name is a field without a value: nothing was named.
        let named = |name: Option<String>| name.filter(|name| !name.is_empty());
        Ok(Self {
            text: named(wire.text),
            text_pair: named(wire.text_pair),
            label: named(wire.label),
            label_separator: named(wire.label_separator),
            label_columns: distinct("`columns.label_columns`", wire.label_columns)?,
            label_names: distinct("`columns.label_names`", wire.label_names)?,
            missing_label: match known("`columns.missing_label`", Some(wire.missing_label))? {
                Some(v1::MissingLabel::Drop) => MissingLabel::Drop,
                Some(v1::MissingLabel::Keep) => MissingLabel::Keep,
                Some(v1::MissingLabel::Error | v1::MissingLabel::Unspecified) | None => MissingLabel::Error,
            },
            dialect: wire.dialect.map(Dialect::parse).transpose()?.unwrap_or_default(),
        })
    }
}

impl Parse<v1::Dialect> for Dialect {
    fn parse(wire: v1::Dialect) -> Result<Self> {
        let encoding = |name: String| {
            Encoding::named(&name).ok_or_else(|| {
                Error::invalid(format!(
                    "`columns.dialect.encoding`: no encoding is called {}; usual ones are utf-8, utf-16le, windows-1252, \
                     iso-8859-2, gbk and shift_jis",
                    shown(&name)
                ))
            })
        };
        let delimiter = |text: String| {
            let mut chars = text.chars();
            match (chars.next(), chars.next()) {
                (Some(delimiter), None) if !matches!(delimiter, '"' | '\n' | '\r') => Ok(delimiter),
                _ => Err(Error::invalid(format!(
                    "`columns.dialect.delimiter` must be one character and no quote; got {}",
                    shown(&text)
                ))),
            }
        };
        Ok(Self {
            encoding: wire.encoding.map(encoding).transpose()?,
            delimiter: wire.delimiter.map(delimiter).transpose()?,
            unquoted: wire.unquoted,
            no_header: wire.no_header,
        })
    }
}

/// Names of which none is empty or given twice.
fn distinct(field: &str, names: Vec<String>) -> Result<Vec<String>> {
    if names.len() > MAX_NAMES {
        return Err(Error::invalid(format!("{field} has {} names; {MAX_NAMES} is the most", names.len())));
    }
    for (place, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(Error::invalid(format!("{field} has an empty name")));
        }
        if names.iter().take(place).any(|before| before == name) {
            return Err(Error::invalid(format!("{field} has {} twice", shown(name))));
        }
    }
    Ok(names)
}

impl Convert<&Columns> for v1::Columns {
    fn convert(columns: &Columns) -> Self {
        let missing_label = match columns.missing_label {
            MissingLabel::Error => v1::MissingLabel::Unspecified,
            MissingLabel::Drop => v1::MissingLabel::Drop,
            MissingLabel::Keep => v1::MissingLabel::Keep,
        };
        let Dialect { encoding, delimiter, unquoted, no_header } = columns.dialect;
        Self {
            text: columns.text.clone(),
            text_pair: columns.text_pair.clone(),
            label: columns.label.clone(),
            label_separator: columns.label_separator.clone(),
            label_columns: columns.label_columns.clone(),
            label_names: columns.label_names.clone(),
            missing_label: missing_label.into(),
            dialect: (!columns.dialect.is_default()).then(|| v1::Dialect {
                encoding: encoding.map(|encoding| encoding.name().to_owned()),
                delimiter: delimiter.map(String::from),
                unquoted,
                no_header,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_of_a_file_comes_back_as_it_was() {
        let columns = Columns {
            text: Some("t".into()),
            label_separator: Some(";".into()),
            label_columns: vec!["a".into(), "b".into()],
            label_names: vec!["x".into(), "y".into()],
            missing_label: MissingLabel::Drop,
            dialect: Dialect {
                encoding: Encoding::named("utf-16le"),
                delimiter: Some('|'),
                unquoted: true,
                no_header: true,
            },
            ..Columns::default()
        };
        for columns in [columns, Columns::default()] {
            assert_eq!(Columns::parse(v1::Columns::convert(&columns)).unwrap(), columns);
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_field() {
        let refused = |field: &str, wire: v1::Columns| {
            let error = Columns::parse(wire).unwrap_err();
            assert!(error.message().starts_with(field), "{error}");
        };
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let dialect = |dialect| v1::Columns { dialect: Some(dialect), ..Default::default() };
        refused(
            "`columns.label_columns`",
            v1::Columns { label_columns: names(&["a", "a"]), ..Default::default() },
        );
        refused(
            "`columns.label_names`",
            v1::Columns { label_names: names(&["a", ""]), ..Default::default() },
        );
        refused("`columns.missing_label`", v1::Columns { missing_label: 9, ..Default::default() });
        refused(
            "`columns.dialect.encoding`",
            dialect(v1::Dialect { encoding: Some("klingon".into()), ..Default::default() }),
        );
        for delimiter in ["", "ab", "\"", "\n"] {
            refused(
                "`columns.dialect.delimiter`",
                dialect(v1::Dialect { delimiter: Some(delimiter.into()), ..Default::default() }),
            );
        }
    }
}
