//! The memory that training takes on the CPU.

use super::super::declaration::Declaration;
use super::super::memory::{FLOAT, Largest, Memory, Workload};
use crate::kernels::Compute;

/// By shapes: the weight at work lies there once more for each direction as matrix products read it, and of the token
/// embeddings only the rows have gradients that the largest batch may have.
pub(super) fn estimate(
    declaration: &Declaration,
    workload: &Workload,
    compute: Compute,
    lengths: &mut dyn Iterator<Item = usize>,
) -> Memory {
    let architecture = &declaration.architecture;
    let largest = workload.largest(lengths);
    let (all, learning) = (declaration.count(|_| true), workload.learning(declaration));
    let packed = compute.packed_bytes() as u64;
    let average = if workload.average { FLOAT } else { 0 };
    let (hidden, inner) = (architecture.hidden_size as u64, architecture.intermediate_size as u64);
    let (rows, width) = (architecture.vocab_size as u64, architecture.embedding_size as u64);
    // The weight at work, and those of the head and of the projection, lie there once more for each direction.
    let projection = if architecture.has_projection { width * hidden } else { 0 };
    let prepared =
        hidden * (2 * hidden).max(inner) + hidden * hidden + declaration.labels as u64 * hidden + projection;
    Memory {
        parameters: all * (FLOAT + average) + 2 * packed * prepared,
        gradients: FLOAT
            * match learning == all {
                // Each row of the token embeddings also has a number: where its gradient stands.
                true => all - rows * width + rows.min(largest.batch_tokens) * width + rows,
                // The embeddings are frozen.
                false => learning,
            },
        moments: 2 * FLOAT * all,
        activations: activations(declaration, workload, packed, largest),
        batch_tokens: largest.batch_tokens,
    }
}

/// For each token a layer keeps its input, queries, keys and values, the attention's result, both norms, the hidden
/// state between them, and the inner layer before and after its activation. The last layer keeps keys and values of all
/// tokens, and the rest for the first token of each sequence. A layer that is computed again keeps its input alone.
fn activations(declaration: &Declaration, workload: &Workload, packed: u64, largest: Largest) -> u64 {
    let Largest { rows, tokens, .. } = largest;
    let architecture = &declaration.architecture;
    let (hidden, inner) = (architecture.hidden_size as u64, architecture.intermediate_size as u64);
    let (layers, width) = (declaration.layers.len() as u64, architecture.embedding_size as u64);
    let layer = |asked: u64| tokens * 2 * hidden + asked * (5 * hidden + 2 * inner + 2);
    let last = layer(rows) + rows * hidden;
    let kept = match workload.checkpointing {
        true if layers > 1 => layer(tokens) + rows * hidden,
        _ => layers.saturating_sub(1) * layer(tokens) + last,
    };
    let inputs = layers * tokens * hidden + rows * hidden;
    // A projection's input, and its gradient.
    let narrow = if architecture.has_projection { 2 * tokens * width } else { 0 };
    let (embeddings, head) = (tokens * (width + 1) + narrow, 4 * rows * hidden);
    // The backward pass holds seven gradients of a layer's size, and the inputs of one product once more.
    let back = 7 * tokens * hidden;
    FLOAT * (kept + inputs + embeddings + head + back) + packed * tokens * inner
}

#[cfg(test)]
mod tests {
    use super::super::super::config::Config;
    use super::*;
    use crate::kernels::{Isa, Precision};

    /// Embeddings: 134 rows and a norm. A layer: four projections, the inner layer, two norms. Head: pooler and labels.
    const EMBEDDINGS: u64 = 134 * 8 + 16;
    const LAYER: u64 = 4 * (64 + 8) + (128 + 16) + (128 + 8) + 2 * 16;
    const HEAD: u64 = (64 + 8) + (16 + 2);

    fn with(workload: Workload) -> Memory {
        let text = r#"{"model_type":"bert","vocab_size":100,"hidden_size":8,"num_hidden_layers":2,
            "num_attention_heads":2,"intermediate_size":16,"max_position_embeddings":32}"#;
        let declaration = Declaration::new(&Config::parse(text).unwrap().architecture, 2);
        let compute = Compute::new(Isa::PORTABLE, Precision::Fp32);
        estimate(&declaration, &workload, compute, &mut [5, 9, 7].into_iter())
    }

    #[test]
    fn the_weight_at_work_is_there_three_times_and_token_embeddings_have_gradients_by_row() {
        let memory = with(Workload::plain(16));
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
    fn methods_have_their_price() {
        let plain = with(Workload::plain(16));
        let again = with(Workload { checkpointing: true, ..Workload::plain(16) });
        assert!(again.activations < plain.activations);
        assert_eq!(with(Workload { passes: 2, ..Workload::plain(16) }).activations, 2 * plain.activations);
        let average = with(Workload { average: true, ..Workload::plain(16) });
        assert_eq!(average.parameters - plain.parameters, average.moments / 2);
    }
}
