//! Serving: a request is admitted, turned into tokens, queued, computed in a batch and answered.
//!
//! The policy of batching is pure (`queue`, with times that were measured by `rate`); one loop has the batches of all models
//! computed (`dispatcher`); a version is loaded by a thread of its own (`worker`); names lead to versions (`registry`),
//! versions to workers (`cache`), as many as the memory holds (`memory`); what computes stands behind a seam (`engine`). What
//! a caller may ask for is in `options`, what it gets in `answer`. A version is loaded (`load`) in the `precision` that is
//! asked for, if a `check` with the sample of its checkpoint finds that it costs no more than it may. Aliases move
//! (`promotion`) once a version is ready; two versions may share one (`canary`), or one answer beside the other (`shadow`).

pub mod answer;
pub mod answer_cache;
pub mod cache;
pub mod canary;
pub mod check;
pub mod classify;
pub mod dispatcher;
pub mod download;
pub mod engine;
pub mod input;
pub mod load;
pub mod memory;
pub mod options;
pub mod permits;
pub mod precision;
pub mod promotion;
pub mod queue;
pub mod rate;
pub mod reference;
pub mod registry;
pub mod shadow;
#[cfg(test)]
pub(crate) mod testing;
pub mod worker;
