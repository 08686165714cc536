//! The different sets of labels that the rows of a file have. There are few, so rows share them, and what depends on all
//! rows is settled set by set.

use std::collections::HashMap;
use std::sync::Arc;

/// Bytes of memory that a set takes beside its labels, and a label beside its text.
const OVERHEAD: u64 = 64;

/// A set of labels and the rows that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LabelSet {
    /// As the file has them, until they are settled.
    pub(super) labels: Arc<[String]>,
    /// Rows that have them.
    pub(super) rows: u64,
    /// The line of the first of these rows.
    pub(super) line: u64,
}

/// All sets of a file, in the order of their first rows.
#[derive(Debug, Default)]
pub(super) struct LabelSets {
    sets: Vec<LabelSet>,
    places: HashMap<Arc<[String]>, u32>,
    bytes: u64,
}

impl LabelSets {
    /// Counts a row; returns the place of its set, and the set where no row had it before.
    pub(super) fn add(&mut self, labels: Vec<String>, line: u64) -> (u32, Option<&[String]>) {
        if let Some(&place) = self.places.get(labels.as_slice()) {
            if let Some(set) = self.sets.get_mut(place as usize) {
                set.rows += 1;
            }
            return (place, None);
        }
        let text: usize = labels.iter().map(String::capacity).sum();
        self.bytes += text as u64 + OVERHEAD * (2 + labels.len() as u64);
        let labels: Arc<[String]> = labels.into();
        let place = self.sets.len() as u32;
        self.places.insert(labels.clone(), place);
        self.sets.push(LabelSet { labels, rows: 1, line });
        (place, self.sets.last().map(|set| &*set.labels))
    }

    /// Bytes of memory that the sets take, about.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The sets alone, for which places are known.
    pub(super) fn into_sets(self) -> Vec<LabelSet> {
        self.sets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_the_same_labels_share_them() {
        let mut sets = LabelSets::default();
        let labels = |of: &[&str]| of.iter().map(|&label| label.to_owned()).collect::<Vec<_>>();
        assert_eq!(sets.add(labels(&["a", "b"]), 2), (0, Some(&labels(&["a", "b"])[..])));
        assert_eq!(sets.add(labels(&[]), 3), (1, Some(&[][..])));
        let bytes = sets.bytes();
        assert_eq!(sets.add(labels(&["a", "b"]), 4), (0, None));
        assert_eq!(sets.bytes(), bytes);
        let sets = sets.into_sets();
        assert_eq!(sets.iter().map(|set| (set.rows, set.line)).collect::<Vec<_>>(), [(2, 2), (1, 3)]);
    }
}
