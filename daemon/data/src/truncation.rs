//! What is kept of a text that is too long.

use serde::{Deserialize, Serialize};

/// What is kept of a text that is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Truncation {
    /// Its beginning.
    #[default]
    Head,
    /// Its end.
    Tail,
    /// A quarter of the room, rounded up, for its beginning and the rest for its end (Sun et al. 2019: 128 and 382 of
    /// 510).
    HeadTail,
}

/// How long a sequence may be, and what is kept of a longer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Tokens at most, special tokens included.
    pub max_length: usize,
    /// What is kept of more.
    pub truncation: Truncation,
}

impl Truncation {
    /// Cuts the ids of one text, special tokens aside, to at most `length`.
    pub(super) fn cut(self, ids: &mut Vec<u32>, length: usize) {
        let Some(excess) = ids.len().checked_sub(length).filter(|&excess| excess > 0) else { return };
        let head = match self {
            Self::Head => length,
            Self::Tail => 0,
            Self::HeadTail => length.div_ceil(4),
        };
        ids.drain(head..head + excess);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Truncation; 3] = [Truncation::Head, Truncation::Tail, Truncation::HeadTail];

    fn cut(truncation: Truncation, ids: std::ops::Range<u32>, length: usize) -> Vec<u32> {
        let mut ids = ids.collect();
        truncation.cut(&mut ids, length);
        ids
    }

    #[test]
    fn each_way_keeps_its_side() {
        assert_eq!(cut(Truncation::Head, 0..9, 4), [0, 1, 2, 3]);
        assert_eq!(cut(Truncation::Tail, 0..9, 4), [5, 6, 7, 8]);
        assert_eq!(cut(Truncation::HeadTail, 0..9, 4), [0, 6, 7, 8]);
    }

    #[test]
    fn of_510_tokens_the_head_has_128_and_the_tail_382() {
        let kept = cut(Truncation::HeadTail, 0..1000, 510);
        assert_eq!(kept, (0..128).chain(1000 - 382..1000).collect::<Vec<_>>());
    }

    #[test]
    fn with_room_for_one_token_the_first_one_stays() {
        assert_eq!(cut(Truncation::HeadTail, 0..3, 1), [0]);
        assert!(cut(Truncation::HeadTail, 0..3, 0).is_empty());
    }

    proptest! {
        #[test]
        fn what_fits_stays_whole_and_what_does_not_fills_the_room(count in 0u32..60, length in 0usize..60) {
            for truncation in ALL {
                let kept = cut(truncation, 0..count, length);
                prop_assert_eq!(kept.len(), length.min(count as usize));
                prop_assert!(kept.is_sorted(), "the order of a text is kept");
            }
        }

        #[test]
        fn head_and_tail_together_lose_only_the_middle(count in 0u32..60, length in 0usize..60) {
            let kept = cut(Truncation::HeadTail, 0..count, length);
            let gaps = kept.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
            prop_assert!(gaps <= 1);
            if length > 1 && count > 0 {
                prop_assert_eq!((kept.first(), kept.last()), (Some(&0), Some(&(count - 1))));
            }
        }
    }
}
