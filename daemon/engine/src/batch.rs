//! The tokens of a text, and packed batches: sequences one behind the other, without padding.

use hone_base::random::{Purpose, Stream};

/// The tokens of one text or pair, special tokens included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids, at most the tokenizer's maximum length.
    pub ids: Vec<u32>,
    /// 0 for the first text, 1 for the second.
    pub types: Vec<u32>,
    /// How many there were before truncation.
    pub full_length: usize,
}

/// Sequences one behind the other. Sequence `i` is `ids[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, `[T]`.
    pub ids: Vec<u32>,
    /// Token types, `[T]`.
    pub types: Vec<u32>,
    /// Where sequences start, and the end of the last: `[B + 1]`.
    pub offsets: Vec<u32>,
}

impl Batch {
    /// Packs sequences in the given order.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = &'a Tokens>) -> Self {
        let mut batch = Self { offsets: vec![0], ..Self::default() };
        for tokens in sequences {
            batch.ids.extend_from_slice(&tokens.ids);
            batch.types.extend_from_slice(&tokens.types);
            batch.offsets.push(batch.ids.len() as u32);
        }
        batch
    }

    /// Sequences in the batch.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Tokens of each sequence.
    pub fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.offsets.windows(2).map(|pair| (pair[1] - pair[0]) as usize)
    }
}

/// The order in which an epoch (from 0) visits `rows` rows.
pub fn epoch_order(rows: usize, seed: u64, epoch: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    Stream::new(seed, Purpose::Shuffle, u64::from(epoch), 0).shuffle(&mut order);
    order
}

/// Groups rows for evaluation: sorted by length, so that a group's work is even, with at most `budget` tokens each
/// (a longer sequence stands alone).
pub fn by_tokens(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<usize> = (0..lengths.len()).collect();
    rows.sort_by_key(|&row| lengths[row]);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut filled = 0;
    for row in rows {
        match groups.last_mut() {
            Some(group) if filled + lengths[row] <= budget => group.push(row),
            _ => {
                groups.push(vec![row]);
                filled = 0;
            }
        }
        filled += lengths[row];
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[u32]) -> Tokens {
        Tokens { ids: ids.to_vec(), types: vec![0; ids.len()], full_length: ids.len() }
    }

    #[test]
    fn a_batch_is_the_concatenation_of_its_sequences() {
        let batch = Batch::pack(&[tokens(&[1, 2, 3]), tokens(&[4]), tokens(&[5, 6])]);
        assert_eq!(batch.ids, [1, 2, 3, 4, 5, 6]);
        assert_eq!(batch.offsets, [0, 3, 4, 6]);
        assert_eq!(batch.lengths().collect::<Vec<_>>(), [3, 1, 2]);
    }

    proptest::proptest! {
        #[test]
        fn groups_hold_every_row_once_and_keep_to_the_budget(
            lengths in proptest::collection::vec(1usize..600, 0..200), budget in 1usize..2000,
        ) {
            let groups = by_tokens(&lengths, budget);
            let mut rows: Vec<usize> = groups.iter().flatten().copied().collect();
            rows.sort_unstable();
            proptest::prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
            for group in groups {
                let total: usize = group.iter().map(|&row| lengths[row]).sum();
                proptest::prop_assert!(group.len() == 1 || total <= budget);
            }
        }
    }
}
