//! How long the texts of a file are, counted row by row while none of them is kept.

use std::collections::BTreeMap;

use super::{Example, Quantiles};

/// Texts that are kept as a sample, at most twice as many.
const SAMPLE: usize = 64;

/// Bytes that are kept of each of them.
const SAMPLE_BYTES: usize = 4 << 10;

/// Lengths of a file's texts; the two texts of a pair count together.
#[derive(Clone, Debug, Default)]
pub struct Measure {
    /// Of the texts of all rows.
    pub bytes: u64,
    /// Rows by their length in characters.
    characters: BTreeMap<u32, u64>,
    /// Of each row, in the file's order, where the rows are kept.
    row_bytes: Vec<u32>,
    sample: Vec<String>,
    /// Every so-many-th row is in the sample.
    stride: u64,
    rows: u64,
}

impl Measure {
    /// Counts a row; `keep_rows` keeps the length of each, and the beginnings of some texts.
    pub(super) fn add(&mut self, example: &Example, keep_rows: bool) {
        let pair = example.text_pair.as_deref().unwrap_or_default();
        let characters = example.text.chars().count() + pair.chars().count();
        *self.characters.entry(u32::try_from(characters).unwrap_or(u32::MAX)).or_default() += 1;
        let bytes = example.text.len() + pair.len();
        self.bytes += bytes as u64;
        if keep_rows {
            self.row_bytes.push(u32::try_from(bytes).unwrap_or(u32::MAX));
            if self.rows.is_multiple_of(self.stride.max(1)) {
                self.take(&example.text, pair);
            }
        }
        self.rows += 1;
    }

    fn take(&mut self, text: &str, pair: &str) {
        if self.sample.len() == 2 * SAMPLE {
            let mut place = 0;
            self.sample.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.stride *= 2;
            if !self.rows.is_multiple_of(self.stride) {
                return;
            }
        }
        self.stride = self.stride.max(1);
        let mut taken = format!("{text} {pair}");
        let end = (0..=SAMPLE_BYTES.min(taken.len())).rev().find(|&end| taken.is_char_boundary(end));
        taken.truncate(end.unwrap_or_default());
        self.sample.push(taken);
    }

    /// Lengths of the texts in characters.
    pub fn characters(&self) -> Quantiles {
        Quantiles::of_counts(&self.characters)
    }

    /// Bytes of each row's texts, in the file's order; empty where rows were not kept.
    pub fn row_bytes(&self) -> &[u32] {
        &self.row_bytes
    }

    /// The beginnings of some texts, spread evenly over the file.
    pub fn sample(&self) -> &[String] {
        &self.sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_evenly_over_the_rows_however_many_there_are() {
        let mut measure = Measure::default();
        for line in 0..10_000 {
            let example = Example { text: format!("{line}"), text_pair: None, labels: [].into(), line };
            measure.add(&example, true);
        }
        let rows: Vec<u64> = measure.sample().iter().map(|text| text.trim().parse().unwrap()).collect();
        assert!((SAMPLE..=2 * SAMPLE).contains(&rows.len()), "{}", rows.len());
        assert_eq!(rows[0], 0);
        assert!(rows.windows(2).all(|pair| pair[1] - pair[0] == rows[1]), "{rows:?}");
        assert!(rows[rows.len() - 1] + rows[1] >= 10_000, "{rows:?}");
        assert_eq!((measure.row_bytes().len(), measure.row_bytes()[9_999]), (10_000, 4));
    }

    #[test]
    fn characters_are_counted_and_both_texts_of_a_pair_together() {
        let mut measure = Measure::default();
        let example = |text: &str, pair: Option<&str>| Example {
            text: text.into(),
            text_pair: pair.map(str::to_owned),
            labels: [].into(),
            line: 2,
        };
        measure.add(&example("äb", Some("c")), false);
        measure.add(&example("", None), false);
        assert_eq!((measure.characters().min, measure.characters().max, measure.bytes), (0, 3, 4));
        assert!(measure.row_bytes().is_empty() && measure.sample().is_empty());
    }
}
