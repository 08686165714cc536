//! The policy of batching, without threads and clocks: sequences wait in the order in which they came; a batch takes
//! them from the front, up to a budget of tokens and a count. Sequences are packed, so nothing is gained by sorting
//! them, and the oldest one is always in the next batch: nothing starves.

use std::collections::VecDeque;

/// How large a batch may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of a batch at most; a longer sequence stands alone.
    pub tokens: usize,
    /// Sequences of a batch at most.
    pub count: usize,
}

/// Sequences that wait.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: VecDeque<(usize, T)>,
    capacity: usize,
}

/// There is no room for the sequences that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// Sequences that wait already.
    pub waiting: usize,
}

impl<T> Queue<T> {
    /// An empty queue for `capacity` sequences.
    pub fn new(capacity: usize) -> Self {
        Self { waiting: VecDeque::new(), capacity }
    }

    /// Takes all sequences, each with its tokens, or none of them.
    pub fn push_all(&mut self, sequences: Vec<(usize, T)>) -> Result<(), Full> {
        if sequences.len() > self.capacity - self.waiting.len() {
            return Err(Full { waiting: self.waiting.len() });
        }
        self.waiting.extend(sequences);
        Ok(())
    }

    /// The next batch; empty only when nothing waits. What `gone` says that nobody wants any more is dropped.
    pub fn next_batch(&mut self, limits: Limits, gone: impl Fn(&T) -> bool) -> Vec<T> {
        let mut batch = Vec::new();
        let mut filled = 0;
        while let Some((tokens, sequence)) = self.waiting.pop_front() {
            if gone(&sequence) {
                continue;
            }
            let full = batch.len() >= limits.count || filled + tokens > limits.tokens;
            if full && !batch.is_empty() {
                self.waiting.push_front((tokens, sequence));
                break;
            }
            filled += tokens;
            batch.push(sequence);
        }
        batch
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { tokens: 100, count: 4 };

    fn batches(lengths: &[usize], limits: Limits) -> Vec<Vec<usize>> {
        let mut queue = Queue::new(lengths.len());
        queue.push_all(lengths.iter().copied().enumerate().map(|(i, tokens)| (tokens, i)).collect()).unwrap();
        std::iter::from_fn(|| Some(queue.next_batch(limits, |_| false)).filter(|batch| !batch.is_empty()))
            .collect()
    }

    #[test]
    fn a_batch_keeps_to_the_budget_and_a_long_sequence_stands_alone() {
        assert_eq!(batches(&[60, 40, 1, 500, 30], LIMITS), [vec![0, 1], vec![2], vec![3], vec![4]]);
        assert_eq!(batches(&[1; 9], LIMITS), [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8]]);
    }

    #[test]
    fn a_full_queue_takes_none_of_a_request() {
        let mut queue = Queue::new(3);
        queue.push_all(vec![(1, 'a'), (1, 'b')]).unwrap();
        assert_eq!(queue.push_all(vec![(1, 'c'), (1, 'd')]), Err(Full { waiting: 2 }));
        assert_eq!(queue.next_batch(LIMITS, |_| false), ['a', 'b']);
    }

    #[test]
    fn what_nobody_wants_takes_no_room() {
        let mut queue = Queue::new(8);
        queue.push_all((0..8).map(|i| (50, i)).collect()).unwrap();
        assert_eq!(queue.next_batch(LIMITS, |i| i % 2 == 0), [1, 3]);
        assert_eq!(queue.next_batch(LIMITS, |_| true), [0; 0]);
    }

    proptest! {
        #[test]
        fn every_sequence_is_computed_once_in_order_within_the_limits(
            lengths in prop::collection::vec(1usize..300, 0..200), tokens in 1usize..600, count in 1usize..64,
        ) {
            let batches = batches(&lengths, Limits { tokens, count });
            prop_assert!(batches.iter().flatten().copied().eq(0..lengths.len()));
            for batch in batches {
                let filled: usize = batch.iter().map(|&i| lengths[i]).sum();
                prop_assert!(batch.len() <= count && (batch.len() == 1 || filled <= tokens));
            }
        }

        #[test]
        fn the_oldest_sequence_is_always_in_the_next_batch(
            rounds in prop::collection::vec(prop::collection::vec(1usize..300, 0..10), 1..30),
        ) {
            let mut queue = Queue::new(usize::MAX);
            let (mut next, mut oldest) = (0, 0);
            for round in rounds {
                let sequences: Vec<_> = round.into_iter().enumerate().map(|(i, t)| (t, next + i)).collect();
                next += sequences.len();
                queue.push_all(sequences).unwrap();
                let batch = queue.next_batch(LIMITS, |_| false);
                prop_assert!(oldest == next || batch.first() == Some(&oldest));
                oldest += batch.len();
            }
        }
    }
}
