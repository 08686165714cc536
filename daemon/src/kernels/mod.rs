//! Differentiable operations over packed sequences: one a file, with its CPU code, its backward pass and its test
//! against a plain reference.
//!
//! Every operation is a candle custom operation with a backward of its own, multi-threaded on the current rayon
//! pool. Work is cut into pieces that depend on the shapes alone, never on the number of threads, so a result is
//! the same to the bit on any number of them. On other devices than the CPU each function falls back to its
//! `reference`, which is written with candle's own differentiable operations.
//!
//! Hidden states are `[T, H]`: T tokens of all sequences, one behind the other.

#![allow(unsafe_code)]

pub mod adam;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
pub mod gelu;
pub mod layer_norm;
pub mod linear;
mod matmul;
mod values;

pub use dropout::Dropout;

/// Where a batch's sequences start, and the end of the last: `[B + 1]`.
pub type Offsets = std::sync::Arc<[u32]>;

/// Rows that one task takes: a constant, so that results do not depend on the number of threads.
const ROWS: usize = 16;

#[cfg(test)]
mod testing;
