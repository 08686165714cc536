//! The memory that training takes on a card: bytes of the card.

use super::super::declaration::Declaration;
use super::super::memory::{FLOAT, Largest, Memory, Workload};
use crate::kernels::Precision;

/// By shapes: products read a copy of the parameters, and every parameter has a gradient. A moving average is the host's.
pub(super) fn estimate(
    declaration: &Declaration,
    workload: &Workload,
    precision: Precision,
    lengths: &mut dyn Iterator<Item = usize>,
) -> Memory {
    let largest = workload.largest(lengths);
    let all = declaration.count(|_| true);
    let real = match precision {
        Precision::Fp32 | Precision::Int8 => FLOAT,
        Precision::Bf16 => FLOAT / 2,
    };
    Memory {
        parameters: all * (FLOAT + real),
        gradients: all * FLOAT,
        moments: 2 * FLOAT * all,
        activations: activations(declaration, workload, real, largest),
        batch_tokens: largest.batch_tokens,
    }
}

/// As on the CPU, but queries lie beside keys and values, attention keeps a number a query and head, and the gradient of
/// the token embeddings is summed in float32 before it goes to its rows.
fn activations(declaration: &Declaration, workload: &Workload, real: u64, largest: Largest) -> u64 {
    let Largest { rows, tokens, .. } = largest;
    let architecture = &declaration.architecture;
    let (hidden, inner) = (architecture.hidden_size as u64, architecture.intermediate_size as u64);
    let (layers, heads) = (declaration.layers.len() as u64, architecture.num_attention_heads as u64);
    let width = architecture.embedding_size as u64;
    // Values, and numbers in float32, of what is asked for in a layer.
    let asked = |asked: u64| real * asked * (4 * hidden + 2 * inner) + FLOAT * asked * (2 + heads);
    let layer = asked(tokens) + real * tokens * 3 * hidden;
    let last = asked(rows) + real * (2 * tokens + 2 * rows) * hidden;
    let kept = match workload.checkpointing {
        true if layers > 1 => layer + real * 2 * rows * hidden,
        _ => layers.saturating_sub(1) * layer + last,
    };
    let inputs = real * (layers * tokens + rows) * hidden;
    // A projection's input, and its gradient.
    let narrow = if architecture.has_projection { 2 * tokens * real * width } else { 0 };
    let embeddings = tokens * (real * width + FLOAT) + narrow;
    let head = real * 3 * rows * hidden;
    let back = real * (tokens * (7 * hidden + inner) + rows * hidden) + FLOAT * tokens * (hidden + heads);
    kept + inputs + embeddings + head + back
}
