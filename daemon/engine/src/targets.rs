//! What rows are labelled with, as class numbers.

/// What rows are labelled with, as class numbers; one entry a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Every row has one label.
    Classes(Vec<u32>),
    /// A row has any number of labels, none included; ascending, none twice.
    Sets(Vec<Vec<u32>>),
}

impl Targets {
    /// Rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes(classes) => classes.len(),
            Self::Sets(sets) => sets.len(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those of some rows, in the order given.
    pub fn select(&self, rows: &[usize]) -> Self {
        match self {
            Self::Classes(classes) => {
                Self::Classes(rows.iter().filter_map(|&row| classes.get(row).copied()).collect())
            }
            Self::Sets(sets) => Self::Sets(rows.iter().filter_map(|&row| sets.get(row).cloned()).collect()),
        }
    }

    /// Rows of each of so many labels.
    pub fn counts(&self, labels: usize) -> Vec<u64> {
        let mut counts = vec![0; labels];
        let mut add = |class: u32| {
            if let Some(count) = counts.get_mut(class as usize) {
                *count += 1;
            }
        };
        match self {
            Self::Classes(classes) => classes.iter().copied().for_each(&mut add),
            Self::Sets(sets) => sets.iter().flatten().copied().for_each(&mut add),
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_selected_in_the_order_given_and_counted_by_label() {
        let classes = Targets::Classes(vec![0, 2, 2]);
        assert_eq!(classes.select(&[2, 0]), Targets::Classes(vec![2, 0]));
        assert_eq!(classes.counts(3), [1, 0, 2]);
        let sets = Targets::Sets(vec![vec![], vec![0, 1], vec![1]]);
        assert_eq!(sets.select(&[1, 0, 1]), Targets::Sets(vec![vec![0, 1], vec![], vec![0, 1]]));
        assert_eq!((sets.counts(3), sets.len()), (vec![1, 2, 0], 3));
    }
}
