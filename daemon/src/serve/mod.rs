//! Serving: a request is admitted, turned into tokens, queued, computed in a batch and answered.
//!
//! The policy of batching is pure (`queue`); a thread owns each loaded model (`worker`); names lead to versions
//! (`registry`), versions to workers (`cache`); what computes stands behind a seam (`engine`). What a caller may ask for is in
//! `options`, what it gets in `answer`.

pub mod answer;
pub mod cache;
pub mod classify;
pub mod download;
pub mod engine;
pub mod loaded;
pub mod options;
pub mod permits;
pub mod queue;
pub mod reference;
pub mod registry;
#[cfg(test)]
pub(crate) mod testing;
pub mod worker;
