//! The memory that training takes, by what it is for. Each backend has its own estimate, from shapes alone, which counts
//! what a run holds all the time, and what it keeps of the largest batch for the backward pass. The program itself, the
//! texts and short-lived buffers come on top.

use super::declaration::{Declaration, Place};

/// Bytes of a float32.
pub(super) const FLOAT: u64 = 4;

/// Bytes by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All weights in float32, what of them lies there once more as matrix products read it, and their moving average,
    /// where a job has it. Of a model that answers alone, the weights as it holds them.
    pub parameters: u64,
    /// Of the parameters that learn.
    pub gradients: u64,
    /// Both moments of all parameters.
    pub moments: u64,
    /// What the backward pass needs of the forward pass, and its own results, for the largest batch.
    pub activations: u64,
    /// Tokens of that batch: no batch of the job can have more.
    pub batch_tokens: u64,
}

impl Memory {
    /// All together.
    pub fn total(&self) -> u64 {
        self.parameters + self.gradients + self.moments + self.activations
    }
}

/// What a job asks of the memory, beside the shapes of its model and its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Sequences in a micro-batch.
    pub batch_size: usize,
    /// Times that each sequence passes in a micro-batch.
    pub passes: u64,
    /// Whether there is a moving average of the weights.
    pub average: bool,
    /// Whether activations are computed again in the backward pass.
    pub checkpointing: bool,
    /// Whether the embeddings stay as they are.
    pub freeze_embeddings: bool,
    /// Lowest layers that stay as they are; with one or more, so do the embeddings.
    pub freeze_layers: usize,
}

impl Workload {
    /// Micro-batches of so many sequences that pass once, everything learning and nothing averaged.
    pub fn plain(batch_size: usize) -> Self {
        Self {
            batch_size,
            passes: 1,
            average: false,
            checkpointing: false,
            freeze_embeddings: false,
            freeze_layers: 0,
        }
    }

    /// Whether what stands at a place stays as it is.
    pub fn freezes(&self, place: Place) -> bool {
        match place {
            Place::Embeddings => self.freeze_embeddings || self.freeze_layers > 0,
            Place::Layer(layer) => layer < self.freeze_layers,
            Place::Head => false,
        }
    }

    /// How many numbers learn.
    pub fn learning(&self, declaration: &Declaration) -> u64 {
        declaration.count(|declared| !self.freezes(declared.place))
    }

    /// Sequences and tokens that pass in the micro-batch that would hold the longest rows, and the sum of the squares of
    /// those sequences' tokens.
    pub(super) fn largest(&self, lengths: &mut dyn Iterator<Item = usize>) -> Largest {
        let mut lengths: Vec<u64> = lengths.map(|length| length as u64).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.truncate(self.batch_size);
        let tokens: u64 = lengths.iter().sum();
        Largest {
            batch_tokens: tokens,
            rows: self.passes * lengths.len() as u64,
            tokens: self.passes * tokens,
            squares: self.passes * lengths.iter().map(|length| length * length).sum::<u64>(),
        }
    }
}

/// The largest micro-batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Largest {
    /// Tokens of its sequences, each counted once.
    pub(super) batch_tokens: u64,
    /// Sequences, as often as they pass.
    pub(super) rows: u64,
    /// Tokens, as often as they pass.
    pub(super) tokens: u64,
    /// Of each passing sequence's tokens.
    pub(super) squares: u64,
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::*;

    #[test]
    fn what_is_frozen_does_not_learn() {
        let text = r#"{"model_type":"bert","vocab_size":100,"hidden_size":8,"num_hidden_layers":2,
            "num_attention_heads":2,"intermediate_size":16,"max_position_embeddings":32}"#;
        let declaration = Declaration::new(&Config::parse(text).unwrap().architecture, 2);
        // A layer: four projections, the inner layer, two norms. Head: pooler and labels.
        let layer = 4 * (64 + 8) + (128 + 16) + (128 + 8) + 2 * 16;
        let head = (64 + 8) + (16 + 2);
        let count = |workload: Workload| workload.learning(&declaration);
        let frozen = |freeze_layers| Workload { freeze_layers, ..Workload::plain(1) };
        assert_eq!(count(Workload { freeze_embeddings: true, ..Workload::plain(1) }), 2 * layer + head);
        assert_eq!(count(frozen(1)), layer + head);
        assert_eq!(count(frozen(2)), head);
    }

    #[test]
    fn the_largest_batch_is_that_of_the_longest_rows() {
        let of = |batch_size, passes| {
            let workload = Workload { passes, ..Workload::plain(batch_size) };
            let largest = workload.largest(&mut [3, 9, 1, 7, 5].into_iter());
            (largest.batch_tokens, largest.rows, largest.tokens, largest.squares)
        };
        assert_eq!(of(2, 1), (16, 2, 16, 130));
        assert_eq!(of(2, 2), (16, 4, 32, 260));
        assert_eq!(of(99, 1), (25, 5, 25, 165));
    }
}
