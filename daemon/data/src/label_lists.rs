//! Labels that are written as lists: of names, in JSON or as Python prints them, and of indicators, a 0 or 1 for each
//! label, as scikit-learn (`MultiLabelBinarizer`) and the Python library `datasets` write them.

use hone_base::error::{Error, Result};

/// The items of a list in a cell of text, as JSON or Python writes it: `['pos', "x"]`, `[1, 0]`, `("a",)`; `None` where
/// the text is no list.
pub(super) fn items(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    let inside = [('[', ']'), ('(', ')'), ('{', '}')]
        .iter()
        .find_map(|(open, close)| text.strip_prefix(*open)?.strip_suffix(*close))?;
    let (mut items, mut rest) = (vec![], inside.trim_start());
    while !rest.is_empty() {
        let (item, behind) = match rest.chars().next()? {
            quote @ ('\'' | '"') => quoted(rest.get(1..)?, quote)?,
            _ => {
                let end = rest.find(',').unwrap_or(rest.len());
                let item = rest.get(..end)?.trim();
                // What is not quoted is a number or a word without brackets.
                if item.is_empty() || item.contains(['[', ']', '{', '}', '(', ')', '\'', '"']) {
                    return None;
                }
                (item.to_owned(), rest.get(end..)?)
            }
        };
        items.push(item);
        rest = behind.trim_start();
        rest = match rest.strip_prefix(',') {
            Some(rest) => rest.trim_start(),
            None if rest.is_empty() => rest,
            None => return None,
        };
    }
    Some(items)
}

/// A quoted item whose opening quote was passed, and what stands behind it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut item = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => item.push(chars.next()?.1),
            char if char == quote => return Some((item, text.get(at + char.len_utf8()..)?)),
            char => item.push(char),
        }
    }
    None
}

/// Whether something is set, as an indicator says it.
pub(super) fn indicator(item: &str) -> Option<bool> {
    match item.trim() {
        "0" | "0.0" | "false" | "False" | "FALSE" => Some(false),
        "1" | "1.0" | "true" | "True" | "TRUE" => Some(true),
        _ => None,
    }
}

/// Whether the labels of all rows are lists of indicators, and how many each has: each row has as many, two or more, and
/// each is 0 or 1.
#[derive(Debug, Default)]
pub(super) enum Indicators {
    /// No row was seen.
    #[default]
    Unknown,
    /// Every row so far is one, of so many labels.
    Of(usize),
    /// Some row is none.
    No,
}

impl Indicators {
    /// Looks at a row; `is_list` says whether the row's labels were written as a list.
    pub(super) fn add(&mut self, items: &[String], is_list: bool) {
        let is_one = is_list && items.len() >= 2 && items.iter().all(|item| indicator(item).is_some());
        *self = match self {
            Self::Unknown if is_one => Self::Of(items.len()),
            Self::Of(length) if is_one && items.len() == *length => return,
            _ => Self::No,
        };
    }
}

/// The names of labels that stand in a row's indicators: the given ones, else 0, 1, …
///
/// # Errors
/// Fails where another number of names is given.
pub(super) fn names(file: &str, length: usize, given: &[String]) -> Result<Vec<String>> {
    if given.is_empty() {
        return Ok((0..length).map(|label| label.to_string()).collect());
    }
    if given.len() != length {
        return Err(Error::invalid(format!(
            "{file}: each row has {length} indicators (0 or 1), but there are {} names ({}); name each label once, in the \
             order of the list (`columns.label_names`)",
            given.len(),
            given.join(", "),
        )));
    }
    Ok(given.to_vec())
}

/// The names whose indicators are set.
pub(super) fn set(items: &[String], names: &[String]) -> Vec<String> {
    let is_set = |item: &&String| indicator(item) == Some(true);
    items.iter().zip(names).filter(|(item, _)| is_set(item)).map(|(_, name)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_json_and_as_python_prints_it() {
        for (text, expected) in [
            ("['pos', 'x']", &["pos", "x"][..]),
            ("[\"it's\", 'a \"b\"', 'c\\'d']", &["it's", "a \"b\"", "c'd"]),
            ("[1, 0,1]", &["1", "0", "1"]),
            ("('a',)", &["a"]),
            ("{'b', 'a'}", &["b", "a"]),
            ("[]", &[]),
            (" [ pos ] ", &["pos"]),
        ] {
            assert_eq!(items(text).unwrap(), expected, "{text}");
        }
        for text in ["pos", "[pos", "['a' 'b']", "[['a']]", "['a]", "[,]", ""] {
            assert_eq!(items(text), None, "{text}");
        }
    }

    fn seen(rows: &[&[&str]]) -> Indicators {
        let mut seen = Indicators::default();
        for row in rows {
            seen.add(&row.iter().map(|&item| item.to_owned()).collect::<Vec<_>>(), true);
        }
        seen
    }

    #[test]
    fn lists_of_0_and_1_of_one_length_are_indicators() {
        assert!(matches!(seen(&[&["1", "0", "0"], &["0", "1", "1"]]), Indicators::Of(3)));
        assert!(matches!(seen(&[&["true", "false"], &["1.0", "0.0"]]), Indicators::Of(2)));
        assert!(matches!(seen(&[&["1", "0"], &["0"]]), Indicators::No));
        assert!(matches!(seen(&[&["1", "2"], &["0", "1"]]), Indicators::No));
        assert!(matches!(seen(&[&["1"], &["0"]]), Indicators::No));
        assert!(matches!(seen(&[&["1", "0"], &[]]), Indicators::No));
    }

    #[test]
    fn indicators_name_the_labels_that_are_set() {
        let row = ["1", "0", "1"].map(str::to_owned);
        assert_eq!(set(&row, &names("f", 3, &[]).unwrap()), ["0", "2"]);
        let given = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(set(&row, &names("f", 3, &given).unwrap()), ["a", "c"]);
        let error = names("f.csv", 2, &given).unwrap_err();
        assert!(
            error.message().contains("2 indicators (0 or 1), but there are 3 names (a, b, c)"),
            "{error}"
        );
    }
}
