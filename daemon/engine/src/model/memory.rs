//! The memory that training takes, estimated from shapes alone: what a run holds all the time, and what it keeps of
//! the largest batch for the backward pass. The program itself, the texts and short-lived buffers come on top.

use super::config::Architecture;
use super::declaration::{Declared, Place, declare};
use crate::kernels::{Compute, Precision};

/// Bytes of a float32.
const FLOAT: u64 = 4;

/// Bytes by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All weights in float32, the one at work once more for each direction as matrix products read it, and
    /// their moving average, where a job has it.
    pub parameters: u64,
    /// Of the parameters that learn; of the words, the first table, only the rows that the largest batch may have.
    pub gradients: u64,
    /// Both moments of all parameters.
    pub moments: u64,
    /// What the backward pass needs of the forward pass, and its own results, for the largest batch.
    pub activations: u64,
    /// Tokens of that batch: no batch of the job can have more.
    pub batch_tokens: u64,
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

impl Memory {
    /// Of a job, with the length of each training row after truncation.
    pub fn of(
        architecture: &Architecture,
        labels: usize,
        workload: &Workload,
        compute: Compute,
        lengths: impl Iterator<Item = usize>,
    ) -> Self {
        let count = Count::of(architecture, labels, workload);
        let (rows, batch_tokens) = longest(lengths, workload.batch_size);
        let passes = workload.passes;
        let packed = compute.packed_bytes() as u64;
        let average = if workload.average { FLOAT } else { 0 };
        let (hidden, words) = (architecture.hidden_size as u64, architecture.vocab_size as u64);
        // The weight at work, and those of the head, lie there once more for each direction.
        let largest = hidden * (2 * hidden).max(architecture.intermediate_size as u64);
        let prepared = largest + hidden * hidden + labels as u64 * hidden;
        Self {
            parameters: count.all * (FLOAT + average) + 2 * packed * prepared,
            gradients: FLOAT
                * match count.learning == count.all {
                    // Each row of the words also has a number: where its gradient stands.
                    true => count.all - words * hidden + words.min(batch_tokens) * hidden + words,
                    // The words are frozen.
                    false => count.learning,
                },
            moments: 2 * FLOAT * count.all,
            activations: activations(architecture, workload, packed, passes * rows, passes * batch_tokens),
            batch_tokens,
        }
    }

    /// The same of a job whose parameters, gradients and moments are on a GPU, by Hone's kernels: bytes of the card.
    pub fn on_gpu(
        architecture: &Architecture,
        labels: usize,
        workload: &Workload,
        precision: Precision,
        lengths: impl Iterator<Item = usize>,
    ) -> Self {
        let all = Count::of(architecture, labels, workload).all;
        let (rows, batch_tokens) = longest(lengths, workload.batch_size);
        let passes = workload.passes;
        let real = match precision {
            Precision::Fp32 => FLOAT,
            Precision::Bf16 => FLOAT / 2,
        };
        Self {
            // Products read a copy.
            parameters: all * (FLOAT + real),
            gradients: all * FLOAT,
            moments: 2 * FLOAT * all,
            activations: activations_on_gpu(
                architecture,
                workload,
                real,
                passes * rows,
                passes * batch_tokens,
            ),
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
pub struct Count {
    /// All of them.
    pub all: u64,
    /// Those that are not frozen.
    pub learning: u64,
}

impl Count {
    /// Of a classifier with so many labels.
    pub fn of(architecture: &Architecture, labels: usize, workload: &Workload) -> Self {
        let mut count = Self { all: 0, learning: 0 };
        for declared in declare(architecture, labels) {
            let size = declared.shape.iter().map(|&side| side as u64).product::<u64>();
            count.all += size;
            count.learning += if is_frozen(&declared, workload) { 0 } else { size };
        }
        count
    }
}

fn is_frozen(declared: &Declared, workload: &Workload) -> bool {
    match declared.place {
        Place::Embeddings => workload.freeze_embeddings || workload.freeze_layers > 0,
        Place::Layer(layer) => layer < workload.freeze_layers,
        Place::Head => false,
    }
}

/// Sequences and tokens of the batch that would hold the longest rows.
fn longest(lengths: impl Iterator<Item = usize>, rows: usize) -> (u64, u64) {
    let mut lengths: Vec<usize> = lengths.collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.truncate(rows);
    (lengths.len() as u64, lengths.iter().map(|&length| length as u64).sum())
}

/// For each token a layer keeps its input, queries, keys and values, the attention's result, both norms, the hidden
/// state between them, and the inner layer before and after its activation. The last layer keeps keys and values of all
/// tokens, and the rest for the first token of each sequence. A layer that is computed again keeps its input alone.
fn activations(architecture: &Architecture, workload: &Workload, packed: u64, rows: u64, tokens: u64) -> u64 {
    let (hidden, inner) = (architecture.hidden_size as u64, architecture.intermediate_size as u64);
    let layers = architecture.num_hidden_layers as u64;
    let layer = |asked: u64| tokens * 2 * hidden + asked * (5 * hidden + 2 * inner + 2);
    let last = layer(rows) + rows * hidden;
    let kept = match workload.checkpointing {
        true if layers > 1 => layer(tokens) + rows * hidden,
        _ => layers.saturating_sub(1) * layer(tokens) + last,
    };
    let inputs = layers * tokens * hidden + rows * hidden;
    let (embeddings, head) = (tokens * (hidden + 1), 4 * rows * hidden);
    // The way back holds seven gradients of a layer's size, and the inputs of one product once more.
    let back = 7 * tokens * hidden;
    FLOAT * (kept + inputs + embeddings + head + back) + packed * tokens * inner
}

/// The same on a GPU, where queries lie beside keys and values, attention keeps a number a query and head, and the gradient
/// of the words is summed in float32 before it goes to its rows.
fn activations_on_gpu(
    architecture: &Architecture,
    workload: &Workload,
    real: u64,
    rows: u64,
    tokens: u64,
) -> u64 {
    let (hidden, inner) = (architecture.hidden_size as u64, architecture.intermediate_size as u64);
    let (layers, heads) = (architecture.num_hidden_layers as u64, architecture.num_attention_heads as u64);
    // Values, and numbers in float32, of what is asked for in a layer.
    let asked = |asked: u64| real * asked * (4 * hidden + 2 * inner) + FLOAT * asked * (2 + heads);
    let layer = asked(tokens) + real * tokens * 3 * hidden;
    let last = asked(rows) + real * (2 * tokens + 2 * rows) * hidden;
    let kept = match workload.checkpointing {
        true if layers > 1 => layer + real * 2 * rows * hidden,
        _ => layers.saturating_sub(1) * layer + last,
    };
    let inputs = real * (layers * tokens + rows) * hidden;
    let embeddings = tokens * (real * hidden + FLOAT);
    let head = real * 3 * rows * hidden;
    let back = real * (tokens * (7 * hidden + inner) + rows * hidden) + FLOAT * tokens * (hidden + heads);
    kept + inputs + embeddings + head + back
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::*;
    use crate::kernels::Isa;

    fn architecture() -> Architecture {
        let text = r#"{"model_type":"bert","vocab_size":100,"hidden_size":8,"num_hidden_layers":2,
            "num_attention_heads":2,"intermediate_size":16,"max_position_embeddings":32}"#;
        Config::parse(text).unwrap().architecture
    }

    /// Embeddings: 134 rows and a norm. A layer: four projections, the inner layer, two norms. Head: pooler and labels.
    const EMBEDDINGS: u64 = 134 * 8 + 16;
    const LAYER: u64 = 4 * (64 + 8) + (128 + 16) + (128 + 8) + 2 * 16;
    const HEAD: u64 = (64 + 8) + (16 + 2);

    const PLAIN: Workload = Workload {
        batch_size: 16,
        passes: 1,
        average: false,
        checkpointing: false,
        freeze_embeddings: false,
        freeze_layers: 0,
    };

    fn with(workload: Workload) -> Memory {
        let compute = Compute::new(Isa::PORTABLE, Precision::Fp32);
        Memory::of(&architecture(), 2, &workload, compute, [5, 9, 7].into_iter())
    }

    #[test]
    fn the_weight_at_work_is_there_three_times_and_words_have_gradients_by_row() {
        let memory = with(PLAIN);
        let count = EMBEDDINGS + 2 * LAYER + HEAD;
        let linear = 128 + 64 + 16;
        assert_eq!(memory.parameters, 4 * count + 2 * 4 * linear);
        assert_eq!((memory.gradients, memory.moments), (4 * (count - 79 * 8 + 100), 8 * count));
        assert_eq!(
            memory.total(),
            memory.parameters + memory.gradients + memory.moments + memory.activations
        );
    }

    #[test]
    fn what_is_frozen_does_not_learn() {
        let count = |workload| Count::of(&architecture(), 2, &workload).learning;
        let frozen = |freeze_layers| Workload { freeze_layers, ..PLAIN };
        let embeddings = Workload { freeze_embeddings: true, ..PLAIN };
        assert_eq!(count(embeddings), 2 * LAYER + HEAD);
        assert_eq!(count(frozen(1)), LAYER + HEAD);
        assert_eq!(count(frozen(2)), HEAD);
    }

    #[test]
    fn the_largest_batch_is_that_of_the_longest_rows() {
        let lengths = [3, 9, 1, 7, 5];
        assert_eq!(longest(lengths.into_iter(), 2), (2, 16));
        assert_eq!(longest(lengths.into_iter(), 99), (5, 25));
    }

    #[test]
    fn methods_have_their_price() {
        let plain = with(PLAIN);
        let again = with(Workload { checkpointing: true, ..PLAIN });
        assert!(again.activations < plain.activations);
        assert_eq!(with(Workload { passes: 2, ..PLAIN }).activations, 2 * plain.activations);
        let average = with(Workload { average: true, ..PLAIN });
        assert_eq!(average.parameters - plain.parameters, average.moments / 2);
    }
}
