//! The memory that training takes with candle's operations: bytes of the device.

use super::super::declaration::Declaration;
use super::super::memory::{FLOAT, Largest, Memory, Workload};

/// By shapes: every result of an operation stays until the backward pass is done, whatever the job's options.
pub(super) fn estimate(
    declaration: &Declaration,
    workload: &Workload,
    lengths: &mut dyn Iterator<Item = usize>,
) -> Memory {
    let largest = workload.largest(lengths);
    let (all, learning) = (declaration.count(|_| true), workload.learning(declaration));
    Memory {
        parameters: FLOAT * all,
        // The sum since the last step, and what the backward pass gives.
        gradients: FLOAT * (learning + all),
        moments: 2 * FLOAT * all,
        activations: FLOAT * activations(declaration, largest),
        batch_tokens: largest.batch_tokens,
    }
}

/// Values. A linear layer keeps its product and the sum with the bias, a layer norm seven results, softmax five of the
/// scores, which are there before and behind their scaling; the gradient of a layer's results is there once.
fn activations(declaration: &Declaration, Largest { rows, tokens, squares, .. }: Largest) -> u64 {
    let architecture = &declaration.architecture;
    let (hidden, inner) = (architecture.hidden_size as u64, architecture.intermediate_size as u64);
    let (layers, heads) = (declaration.layers.len() as u64, architecture.num_attention_heads as u64);
    let width = architecture.embedding_size as u64;
    let norm = |width: u64| 7 * width;
    // Queries, keys and values and their parts; the context by heads, by tokens and together; both projections with
    // dropout and sum; the inner layer before and after its activation.
    let layer = 9 * hidden + 3 * hidden + 2 * (4 * hidden + norm(hidden)) + 3 * inner;
    let scores = 8 * heads * squares;
    let projection = if architecture.has_projection { 2 * hidden } else { 0 };
    let embeddings = tokens * (5 * width + norm(width) + projection);
    let head = rows * 5 * hidden;
    let kept = layers * (tokens * layer + scores);
    kept + tokens * layer + embeddings + head
}
