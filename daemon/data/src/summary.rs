//! What is told of a file before anything is learned from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Columns, LabelCount, Quantiles};

/// What is told of a file when it is uploaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Data rows.
    pub rows: u64,
    /// All columns in the file's order.
    pub columns: Vec<String>,
    /// The columns in use.
    pub used: Columns,
    /// What was guessed, in words.
    pub guess: String,
    /// What else is to be told of how the file was read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Rows of each label, in class order.
    pub labels: Vec<LabelCount>,
    /// Of the texts, in characters; the two texts of a pair together.
    pub characters: Quantiles,
}

impl Quantiles {
    /// Of lengths, by nearest rank; all 0 when there is none.
    pub fn of(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut counts: BTreeMap<u32, u64> = BTreeMap::new();
        for length in lengths {
            *counts.entry(u32::try_from(length).unwrap_or(u32::MAX)).or_default() += 1;
        }
        Self::of_counts(&counts)
    }

    /// Of lengths and how often each comes, by nearest rank; all 0 when there is none.
    pub(super) fn of_counts(counts: &BTreeMap<u32, u64>) -> Self {
        let total: u64 = counts.values().sum();
        let at = |percent: u64| {
            let rank = (total * percent).div_ceil(100).max(1);
            let mut seen = 0;
            let reaches = |(_, count): &(&u32, &u64)| {
                seen += **count;
                seen >= rank
            };
            counts.iter().find(reaches).map_or(0, |(&length, _)| length)
        };
        let sum: u64 = counts.iter().map(|(&length, count)| u64::from(length) * count).sum();
        Self {
            min: at(0),
            p50: at(50),
            p90: at(90),
            p95: at(95),
            p99: at(99),
            max: at(100),
            mean: sum as f64 / total.max(1) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_nearest_rank() {
        let hundred = Quantiles::of((1..=100).rev());
        let expected = Quantiles { min: 1, p50: 50, p90: 90, p95: 95, p99: 99, max: 100, mean: 50.5 };
        assert_eq!(hundred, expected);
        let one = Quantiles::of([7]);
        assert_eq!(one, Quantiles { min: 7, p50: 7, p90: 7, p95: 7, p99: 7, max: 7, mean: 7.0 });
        let three = Quantiles::of([30, 10, 20]);
        assert_eq!((three.p50, three.p90, three.mean), (20, 30, 20.0));
        assert_eq!(Quantiles::of([]), Quantiles::default());
    }
}
