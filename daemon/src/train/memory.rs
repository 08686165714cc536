//! The memory that training takes, estimated from shapes alone: what a run holds all the time, and what it keeps of
//! the largest batch for the backward pass. The program itself, the texts and short-lived buffers come on top.

use super::methods::Methods;
use super::spec::{Hyperparameters, Precision};
use crate::model::config::Architecture;
use crate::model::declaration::{Declared, Place, declare};

/// Bytes of a float32.
const FLOAT: u64 = 4;

/// Bytes by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All weights in float32, their copies in half precision, and their moving average, where a job has them.
    pub parameters: u64,
    /// Of the parameters that learn.
    pub gradients: u64,
    /// Both moments of the parameters that learn.
    pub moments: u64,
    /// What the backward pass needs of the forward pass, for the largest batch.
    pub activations: u64,
    /// Tokens of that batch: no batch of the job can have more.
    pub batch_tokens: u64,
}

impl Memory {
    /// Of a job, with the length of each training row after truncation.
    pub fn of(
        architecture: &Architecture,
        labels: usize,
        hyperparameters: &Hyperparameters,
        lengths: impl Iterator<Item = usize>,
    ) -> Self {
        let methods = &hyperparameters.methods;
        let count = Count::of(architecture, labels, methods);
        let batch_tokens = longest(lengths, hyperparameters.batch_size.get() as usize);
        let half = if hyperparameters.precision == Precision::Bf16 { FLOAT / 2 } else { 0 };
        let average = if methods.ema_decay.is_some() { FLOAT } else { 0 };
        Self {
            parameters: count.all * (FLOAT + half + average),
            gradients: count.learning * FLOAT,
            moments: count.learning * 2 * FLOAT,
            activations: activations(architecture, methods, batch_tokens),
            batch_tokens,
        }
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.parameters + self.gradients + self.moments + self.activations
    }
}

/// How many numbers the parameters have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) all: u64,
    /// Those that are not frozen.
    pub(super) learning: u64,
}

impl Count {
    pub(super) fn of(architecture: &Architecture, labels: usize, methods: &Methods) -> Self {
        let mut count = Self { all: 0, learning: 0 };
        for declared in declare(architecture, labels) {
            let size = declared.shape.iter().map(|&side| side as u64).product::<u64>();
            count.all += size;
            count.learning += if is_frozen(&declared, methods) { 0 } else { size };
        }
        count
    }
}

fn is_frozen(declared: &Declared, methods: &Methods) -> bool {
    match declared.place {
        Place::Embeddings => methods.freeze_embeddings || methods.freeze_layers > 0,
        Place::Layer(layer) => layer < methods.freeze_layers as usize,
        Place::Head => false,
    }
}

/// Tokens of the batch that would hold the longest rows.
fn longest(lengths: impl Iterator<Item = usize>, rows: usize) -> u64 {
    let mut lengths: Vec<usize> = lengths.collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.iter().take(rows).map(|&length| length as u64).sum()
}

/// A layer keeps its input, queries, keys and values, the attention's output, both projections and both norms, and
/// the inner layer before and after its activation. A layer that is computed again keeps its input alone.
fn activations(architecture: &Architecture, methods: &Methods, tokens: u64) -> u64 {
    let (hidden, inner) = (architecture.hidden_size as u64, architecture.intermediate_size as u64);
    let whole = 9 * hidden + 2 * inner;
    let layers = (architecture.num_hidden_layers as u64).saturating_sub(methods.freeze_layers.into());
    let kept = match methods.gradient_checkpointing {
        // Every input, and one layer at a time.
        true => layers * hidden + whole.min(layers * whole),
        false => layers * whole,
    };
    let passes = if methods.r_drop.is_some() { 2 } else { 1 };
    FLOAT * tokens * passes * (kept + hidden)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Config;

    fn architecture() -> Architecture {
        let text = r#"{"model_type":"bert","vocab_size":100,"hidden_size":8,"num_hidden_layers":2,
            "num_attention_heads":2,"intermediate_size":16,"max_position_embeddings":32}"#;
        Config::parse(text).unwrap().architecture
    }

    /// Embeddings: 134 rows and a norm. A layer: four projections, the inner layer, two norms. Head: pooler and labels.
    const EMBEDDINGS: u64 = 134 * 8 + 16;
    const LAYER: u64 = 4 * (64 + 8) + (128 + 16) + (128 + 8) + 2 * 16;
    const HEAD: u64 = (64 + 8) + (16 + 2);

    fn with(methods: Methods) -> Memory {
        let hyperparameters = Hyperparameters { methods, ..Hyperparameters::default() };
        Memory::of(&architecture(), 2, &hyperparameters, [5, 9, 7].into_iter())
    }

    #[test]
    fn every_parameter_has_a_gradient_and_two_moments() {
        let memory = with(Methods::default());
        let count = EMBEDDINGS + 2 * LAYER + HEAD;
        assert_eq!(memory.parameters, 4 * count);
        assert_eq!((memory.gradients, memory.moments), (4 * count, 8 * count));
        assert_eq!(memory.activations, 4 * 21 * (2 * (9 * 8 + 2 * 16) + 8));
        assert_eq!(memory.total(), 16 * count + memory.activations);
    }

    #[test]
    fn what_is_frozen_needs_neither() {
        let count = |methods| Count::of(&architecture(), 2, &methods).learning;
        let frozen = |freeze_layers| Methods { freeze_layers, ..Methods::default() };
        let embeddings = Methods { freeze_embeddings: true, ..Methods::default() };
        assert_eq!(count(embeddings), 2 * LAYER + HEAD);
        assert_eq!(count(frozen(1)), LAYER + HEAD);
        assert_eq!(count(frozen(2)), HEAD);
        assert!(with(frozen(1)).activations < with(Methods::default()).activations);
        assert_eq!(with(frozen(2)).parameters, with(Methods::default()).parameters);
    }

    #[test]
    fn the_largest_batch_is_that_of_the_longest_rows() {
        let lengths = [3, 9, 1, 7, 5];
        assert_eq!(longest(lengths.into_iter(), 2), 16);
        assert_eq!(longest(lengths.into_iter(), 99), 25);
    }

    #[test]
    fn methods_have_their_price() {
        let plain = with(Methods::default());
        let again = with(Methods { gradient_checkpointing: true, ..Methods::default() });
        assert!(again.activations < plain.activations);
        assert_eq!(
            with(Methods { r_drop: Some(1.0), ..Methods::default() }).activations,
            2 * plain.activations
        );
        assert_eq!(
            with(Methods { ema_decay: Some(0.9), ..Methods::default() }).parameters,
            2 * plain.parameters
        );
    }
}
