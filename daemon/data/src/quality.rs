//! What is doubtful in the rows of a split, and between two splits. Texts are compared character for character, in
//! Unicode's composed form (NFC), by a digest of 128 bits, so that memory grows with the number of rows and not with
//! their length.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};
use unicode_normalization::{UnicodeNormalization as _, is_nfc};

use super::Example;

/// What is doubtful in the rows of one split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// Rows without text, or with nothing but white space.
    pub empty_texts: u64,
    /// Rows whose text and labels stand in an earlier row too.
    pub duplicates: u64,
    /// Texts that stand with different labels.
    pub contradictions: u64,
}

impl Quality {
    /// Of the rows of one split.
    pub fn of(examples: &[Example]) -> Self {
        let mut quality = Self::default();
        let mut first_labels: HashMap<u128, FirstLabel> = HashMap::with_capacity(examples.len());
        let mut further_labels: HashSet<(u128, &[String])> = HashSet::new();
        for example in examples {
            quality.empty_texts += u64::from(is_empty(example));
            let text = digest(example);
            let label = &*example.labels;
            match first_labels.entry(text) {
                Entry::Vacant(entry) => {
                    entry.insert(FirstLabel { label, is_contradicted: false });
                }
                Entry::Occupied(entry) if entry.get().label == label => quality.duplicates += 1,
                Entry::Occupied(mut entry) => {
                    let is_duplicate = !further_labels.insert((text, label));
                    quality.duplicates += u64::from(is_duplicate);
                    let is_contradicted = std::mem::replace(&mut entry.get_mut().is_contradicted, true);
                    quality.contradictions += u64::from(!is_contradicted);
                }
            }
        }
        quality
    }
}

struct FirstLabel<'a> {
    label: &'a [String],
    is_contradicted: bool,
}

/// Rows of the second split whose text stands in the first, and those of them whose labels are none of those that the
/// text has there.
pub fn overlap(first: &[Example], second: &[Example]) -> (u64, u64) {
    let mut labels_of: HashMap<u128, Vec<&[String]>> = HashMap::with_capacity(first.len());
    for example in first {
        let labels = labels_of.entry(digest(example)).or_default();
        if !labels.contains(&&*example.labels) {
            labels.push(&example.labels);
        }
    }
    let (mut rows, mut contradictions) = (0, 0);
    for example in second {
        if let Some(labels) = labels_of.get(&digest(example)) {
            rows += 1;
            contradictions += u64::from(!labels.contains(&&*example.labels));
        }
    }
    (rows, contradictions)
}

fn is_empty(example: &Example) -> bool {
    let is_blank = |text: &str| text.trim().is_empty();
    is_blank(&example.text) && example.text_pair.as_deref().is_none_or(is_blank)
}

/// Of the text, or of both texts of a pair.
fn digest(example: &Example) -> u128 {
    let mut hasher = Sha256::new();
    let text = composed(&example.text);
    // The length keeps ("ab", "c") and ("a", "bc") apart.
    hasher.update((text.len() as u64).to_le_bytes());
    hasher.update(&*text);
    if let Some(pair) = &example.text_pair {
        hasher.update(&*composed(pair));
    }
    let digest: [u8; 32] = hasher.finalize().into();
    digest.iter().take(16).fold(0, |folded, &byte| folded << 8 | u128::from(byte))
}

/// In Unicode's composed form; most texts are.
fn composed(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || is_nfc(text) { Cow::Borrowed(text) } else { Cow::Owned(text.nfc().collect()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(rows: &[(&str, &str)]) -> Vec<Example> {
        let row = |(&(text, label), line): (&(&str, &str), u64)| Example {
            text: text.to_owned(),
            text_pair: None,
            labels: [label.to_owned()].into(),
            line,
        };
        rows.iter().zip(2..).map(row).collect()
    }

    #[test]
    fn empty_repeated_and_contradicting_rows_are_counted() {
        let examples = rows(&[
            ("a", "1"),
            ("", "1"),
            (" \n", "2"),
            ("a", "1"),
            ("a", "2"),
            ("a", "2"),
            ("a", "3"),
            ("A", "2"),
        ]);
        assert_eq!(Quality::of(&examples), Quality { empty_texts: 2, duplicates: 2, contradictions: 1 });
        assert_eq!(Quality::of(&[]), Quality::default());
    }

    #[test]
    fn a_pair_is_compared_as_a_pair() {
        let pair = |text: &str, pair: &str| Example {
            text: text.to_owned(),
            text_pair: Some(pair.to_owned()),
            labels: ["1".to_owned()].into(),
            line: 2,
        };
        let examples = [pair("ab", "c"), pair("a", "bc"), pair("", "x"), pair("", " "), pair("ab", "c")];
        assert_eq!(Quality::of(&examples), Quality { empty_texts: 1, duplicates: 1, contradictions: 0 });
    }

    #[test]
    fn an_overlap_counts_rows_of_the_second_split() {
        let (first, second) = (rows(&[("a", "1"), ("b", "2")]), rows(&[("a", "2"), ("c", "1"), ("a", "1")]));
        assert_eq!(overlap(&first, &second), (2, 1));
        assert_eq!(overlap(&second, &first), (1, 0));
        let (composed, decomposed) = (rows(&[("caf\u{e9}", "1")]), rows(&[("cafe\u{301}", "2")]));
        assert_eq!(overlap(&composed, &decomposed), (1, 1));
    }

    proptest! {
        #[test]
        fn counts_agree_with_their_definition(
            drawn in prop::collection::vec(("[ab]{0,2}", "[xyz]"), 0..60),
        ) {
            let drawn: Vec<(&str, &str)> = drawn.iter().map(|(text, label)| (&**text, &**label)).collect();
            let duplicates = (0..drawn.len()).filter(|&row| drawn[..row].contains(&drawn[row])).count() as u64;
            let texts: HashSet<&str> = drawn.iter().map(|(text, _)| *text).collect();
            let labels = |text: &str| drawn.iter().filter(|row| row.0 == text).map(|row| row.1).collect::<HashSet<_>>();
            let contradictions = texts.iter().filter(|text| labels(text).len() > 1).count() as u64;
            let quality = Quality::of(&rows(&drawn));
            prop_assert_eq!((quality.duplicates, quality.contradictions), (duplicates, contradictions));
        }
    }
}
