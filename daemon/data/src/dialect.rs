//! How a file is written, as far as the user says so, and what its head tells of the rest.

use hone::text_file::Encoding;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How a file is written, as far as the user says so; what is not said is found from the file's head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dialect {
    /// The character encoding.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "by_name", deserialize_with = "named")]
    pub encoding: Option<Encoding>,
    /// What stands between fields.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// A quote is a character like any other.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unquoted: bool,
    /// The first line is a row; columns are named 1, 2, 3, …
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_header: bool,
}

impl Dialect {
    /// Whether the user said nothing.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn by_name<S: Serializer>(encoding: &Option<Encoding>, serializer: S) -> Result<S::Ok, S::Error> {
    encoding.map(Encoding::name).serialize(serializer)
}

fn named<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Encoding>, D::Error> {
    let name: Option<String> = Option::deserialize(deserializer)?;
    let named = |name: String| {
        Encoding::named(&name)
            .ok_or_else(|| serde::de::Error::custom(format!("no encoding is called {name}")))
    };
    name.map(named).transpose()
}

/// Delimiters that are looked for; of equally good ones the earlier is taken.
const CANDIDATES: [char; 4] = [',', '\t', ';', '|'];

/// Rows of the head that are looked at.
const ROWS: usize = 200;

/// The usual delimiter is kept where this share of the head's rows has as many fields as the header.
const GOOD_ENOUGH: f64 = 0.9;

/// The delimiter of a file with this head: the one that gives the header two or more fields and most rows as many;
/// `usual` where it does, and where none does.
pub(super) fn delimiter_of(head: &str, is_whole: bool, unquoted: bool, usual: char) -> char {
    let share = |&delimiter: &char| -> Option<f64> {
        let counts = field_counts(head, is_whole, delimiter, unquoted);
        let (header, rows) = counts.split_first().filter(|(header, _)| **header >= 2)?;
        let alike = rows.iter().filter(|count| *count == header).count();
        Some(if rows.is_empty() { 1.0 } else { alike as f64 / rows.len() as f64 })
    };
    if share(&usual).is_some_and(|share| share >= GOOD_ENOUGH) {
        return usual;
    }
    let shares = CANDIDATES.iter().rev().filter_map(|candidate| Some((share(candidate)?, *candidate)));
    let best = shares.max_by(|(a, _), (b, _)| a.total_cmp(b));
    match (best, share(&usual)) {
        (Some((best, _)), Some(of_usual)) if of_usual >= best => usual,
        (Some((_, delimiter)), _) => delimiter,
        (None, _) => usual,
    }
}

/// Fields of each row of the head; a row that the head cuts is left out.
fn field_counts(head: &str, is_whole: bool, delimiter: char, unquoted: bool) -> Vec<usize> {
    let (mut counts, mut fields, mut is_quoted, mut at_start, mut is_blank) = (vec![], 1, false, true, true);
    let mut chars = head.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if is_quoted && chars.peek() == Some(&'"') => drop(chars.next()),
            '"' if is_quoted => is_quoted = false,
            _ if is_quoted => {}
            '"' if at_start && !unquoted => {
                (is_quoted, is_blank) = (true, false);
            }
            '\n' => {
                if !is_blank {
                    counts.push(fields);
                }
                if counts.len() > ROWS {
                    return counts;
                }
                (fields, is_blank) = (1, true);
            }
            char if char == delimiter => fields += 1,
            char => is_blank &= char.is_whitespace(),
        }
        at_start = char == delimiter || char == '\n';
    }
    if is_whole && !is_blank && !is_quoted {
        counts.push(fields);
    }
    counts
}

/// The delimiter that a line `sep=;` names, as Excel writes it above the header.
pub(super) fn separator_line(line: &str) -> Option<char> {
    let line = line.trim_end_matches(['\r', '\n']);
    let line = line.strip_prefix('"').and_then(|line| line.strip_suffix('"')).unwrap_or(line);
    let (name, separator) = line.split_at_checked(4)?;
    if !name.eq_ignore_ascii_case("sep=") {
        return None;
    }
    let mut chars = separator.chars();
    match (chars.next(), chars.next(), chars.next()) {
        (Some('\\'), Some('t'), None) => Some('\t'),
        (Some(separator), None, None) => Some(separator),
        _ => None,
    }
}

/// A delimiter in words.
pub(super) fn in_words(delimiter: char) -> String {
    match delimiter {
        ',' => "commas".to_owned(),
        '\t' => "tabs".to_owned(),
        ';' => "semicolons".to_owned(),
        '|' => "vertical bars".to_owned(),
        other => format!("\"{other}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delimiter_is_the_one_that_gives_rows_as_many_fields_as_the_header() {
        for (head, usual, expected) in [
            ("text,label\na,b\nc,d\n", ',', ','),
            ("text;label\na, and b;1\nc, d, e;2\n", ',', ';'),
            ("id;a text, with words;label\n1;a, b, c;x\n2;d;y\n", ',', ';'),
            ("text\tlabel\na, b\t1\n", ',', '\t'),
            ("text|label\n\"a|b\"|1\n", ',', '|'),
            ("text\tlabel\na\tb\n", '\t', '\t'),
            ("text,label\na,b\n", '\t', ','),
            ("text\n\"a;b\"\n", ',', ','),
            // One row with a comma too many is told with its line, and no reason to take another delimiter.
            ("text,label\na,1\nb,2\nc,3\nd,4\ne,5\nf,6\ng,7\nh,8\ni,9\nj,k,10\n", ',', ','),
            ("text;label\n\"a\nb\";1\n", ',', ';'),
        ] {
            assert_eq!(delimiter_of(head, true, false, usual), expected, "{head}");
        }
        assert_eq!(delimiter_of("text;label\n\" he said;1\nx;2\n", true, true, ','), ';');
        assert_eq!(delimiter_of("text;label\nab;1\nhalf a row", false, false, ','), ';');
    }

    #[test]
    fn excels_hint_is_read_with_and_without_quotes() {
        for (line, expected) in [
            ("sep=;\r\n", Some(';')),
            ("SEP=,\n", Some(',')),
            ("\"sep=;\"\n", Some(';')),
            ("sep=\\t\n", Some('\t')),
            ("sep=\t\n", Some('\t')),
            ("sep=\n", None),
            ("sep,label\n", None),
            ("sep=ab\n", None),
            ("é\n", None),
        ] {
            assert_eq!(separator_line(line), expected, "{line:?}");
        }
    }

    #[test]
    fn a_dialect_is_stored_by_names_and_an_empty_one_as_nothing() {
        let dialect =
            Dialect { encoding: Encoding::named("latin1"), delimiter: Some(';'), ..Dialect::default() };
        let text = serde_json::to_string(&dialect).unwrap();
        assert_eq!(text, r#"{"encoding":"windows-1252","delimiter":";"}"#);
        assert_eq!(serde_json::from_str::<Dialect>(&text).unwrap(), dialect);
        assert_eq!(serde_json::to_string(&Dialect::default()).unwrap(), "{}");
    }
}
