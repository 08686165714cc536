//! One spelling for each label, and labels that people would take for one another.

use std::collections::{BTreeMap, BTreeSet};

use unicode_normalization::{UnicodeNormalization as _, is_nfc};

/// Groups of labels that a message shows.
const SHOWN: usize = 3;

/// Brings labels to one spelling: whole numbers without a fraction (`1.0` is `1`), Unicode in its composed form (NFC),
/// no invisible characters. Counts what it changed.
#[derive(Debug, Default)]
pub(super) struct Spelling {
    numbers: Changed,
    unicode: Changed,
}

/// Labels that were changed, and the first of them.
#[derive(Debug, Default)]
struct Changed {
    rows: u64,
    first: Option<(String, String)>,
}

impl Changed {
    fn add(&mut self, rows: u64, from: &str, to: &str) {
        self.rows += rows;
        self.first.get_or_insert_with(|| (from.to_owned(), to.to_owned()));
    }

    fn told(&self, what: impl Fn(&str, &str) -> String) -> Option<String> {
        let (from, to) = self.first.as_ref()?;
        let labels = if self.rows == 1 { "1 label".to_owned() } else { format!("{} labels", self.rows) };
        Some(format!("{labels} {}", what(from, to)))
    }
}

impl Spelling {
    /// The label of a row in its one spelling.
    pub(super) fn of(&mut self, label: &str) -> String {
        self.of_rows(label, 1)
    }

    /// The label of so many rows in its one spelling.
    pub(super) fn of_rows(&mut self, label: &str, rows: u64) -> String {
        let label = label.trim();
        let visible = match label.is_ascii() {
            true => label.to_owned(),
            false => visible(label),
        };
        if visible != label {
            self.unicode.add(rows, label, &visible);
        }
        match whole_number(&visible) {
            None => visible,
            Some(number) => {
                self.numbers.add(rows, &visible, &number);
                number
            }
        }
    }

    /// What was changed, in words.
    pub(super) fn notes(&self) -> Vec<String> {
        let numbers = |from: &str, to: &str| {
            format!("written as numbers with a fraction, such as {from}, count as {to}")
        };
        let unicode = |from: &str, to: &str| {
            format!(
                "had invisible or decomposed characters: \"{}\" counts as \"{to}\"",
                from.escape_unicode_invisible()
            )
        };
        [self.numbers.told(numbers), self.unicode.told(unicode)].into_iter().flatten().collect()
    }
}

/// Composed, without characters that cannot be seen, and with plain spaces.
fn visible(label: &str) -> String {
    let cleaned = label.trim_matches(|char: char| char.is_whitespace() || is_invisible(char));
    // Between characters a joiner may be part of a word or an emoji; the others never are.
    let kept = cleaned.chars().filter(|&char| !is_invisible(char) || matches!(char, '\u{200c}' | '\u{200d}'));
    let spaced: String = kept.map(|char| if char.is_whitespace() { ' ' } else { char }).collect();
    if is_nfc(&spaced) { spaced } else { spaced.nfc().collect() }
}

/// Characters of no width: joiners, direction marks, byte order marks, soft hyphens.
fn is_invisible(char: char) -> bool {
    matches!(char, '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
        | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

trait EscapeInvisible {
    fn escape_unicode_invisible(&self) -> String;
}

impl EscapeInvisible for str {
    /// Invisible characters, unusual spaces and combining marks by their numbers, as `<U+200B>`.
    fn escape_unicode_invisible(&self) -> String {
        let mut escaped = String::new();
        for char in self.chars() {
            let is_odd_space = char.is_whitespace() && char != ' ';
            if is_invisible(char) || is_odd_space || unicode_normalization::char::is_combining_mark(char) {
                escaped.push_str(&format!("<U+{:04X}>", u32::from(char)));
            } else {
                escaped.push(char);
            }
        }
        escaped
    }
}

/// The integer that a number with a fraction of zeros is.
fn whole_number(label: &str) -> Option<String> {
    let (whole, fraction) = label.split_once('.')?;
    let digits = whole.strip_prefix(['-', '+']).unwrap_or(whole);
    let is_whole = !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && fraction.bytes().all(|byte| byte == b'0');
    is_whole.then(|| match digits.bytes().all(|byte| byte == b'0') {
        true => "0".to_owned(),
        false => whole.to_owned(),
    })
}

/// Labels that a person would take for one another: equal but for case, or for width, spaces and leading zeros.
pub(super) fn look_alikes<'a>(labels: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut by_case: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let mut by_look: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for label in labels {
        by_case.entry(label.to_lowercase()).or_default().insert(label);
        by_look.entry(look(label)).or_default().insert(label);
    }
    let groups = |groups: Vec<&BTreeSet<&str>>, what: &str| {
        let shown: Vec<String> = groups
            .iter()
            .take(SHOWN)
            .map(|labels| labels.iter().map(|label| format!("\"{label}\"")).collect::<Vec<_>>().join(", "))
            .collect();
        let more = match groups.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!("; and {more} more such groups"),
        };
        (!groups.is_empty()).then(|| {
            format!("labels that differ only by {what} are different labels: {}{more}", shown.join("; "))
        })
    };
    let only_case: Vec<_> = by_case.values().filter(|labels| labels.len() > 1).collect();
    // What differs by case alone was told.
    let otherwise: Vec<_> = by_look
        .values()
        .filter(|labels| labels.iter().map(|label| label.to_lowercase()).collect::<BTreeSet<_>>().len() > 1)
        .collect();
    [groups(only_case, "case"), groups(otherwise, "width, spaces or leading zeros")]
        .into_iter()
        .flatten()
        .collect()
}

/// What is left of a label when case, width, spaces and leading zeros are left out.
fn look(label: &str) -> String {
    let folded: String =
        label.nfkc().filter(|char| !char.is_whitespace()).flat_map(char::to_lowercase).collect();
    let digits = folded.strip_prefix('+').unwrap_or(&folded);
    match !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => format!("{:0>1}", digits.trim_start_matches('0')),
        false => folded,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_label_has_one_spelling() {
        let mut spelling = Spelling::default();
        for (label, expected) in [
            (" pos ", "pos"),
            ("1.0", "1"),
            ("-2.000", "-2"),
            ("-0.0", "0"),
            ("3.", "3"),
            ("1.5", "1.5"),
            ("1.0.0", "1.0.0"),
            ("v1.0", "v1.0"),
            (".0", ".0"),
            ("cafe\u{301}", "café"),
            ("\u{200b}pos\u{feff}", "pos"),
            ("very\u{a0}good\u{a0}", "very good"),
            ("po\u{ad}s", "pos"),
            ("👩\u{200d}🚀", "👩\u{200d}🚀"),
            ("\u{200b}", ""),
        ] {
            assert_eq!(spelling.of(label), expected, "{label:?}");
        }
        assert_eq!(
            spelling.notes(),
            [
                "4 labels written as numbers with a fraction, such as 1.0, count as 1",
                "5 labels had invisible or decomposed characters: \"cafe<U+0301>\" counts as \"café\"",
            ]
        );
    }

    #[test]
    fn labels_that_look_alike_are_told_and_stay_different() {
        assert_eq!(
            look_alikes(["good", "Good", "GOOD", "bad", "1", "01", "ｐｏｓ", "pos"].into_iter()),
            [
                "labels that differ only by case are different labels: \"GOOD\", \"Good\", \"good\"",
                "labels that differ only by width, spaces or leading zeros are different labels: \"01\", \"1\"; \"pos\", \
                 \"ｐｏｓ\"",
            ]
        );
        assert!(look_alikes(["pos", "neg", "0", "1", "10"].into_iter()).is_empty());
    }

    proptest! {
        #[test]
        fn a_spelling_is_its_own_spelling(label in "\\PC{0,8}|[0-9]{1,3}\\.0{0,3}") {
            let mut spelling = Spelling::default();
            let once = spelling.of(&label);
            prop_assert_eq!(Spelling::default().of(&once), once.clone());
        }
    }
}
