//! Computes a text classifier and its training, on CPUs and GPUs.
//!
//! ```text
//! batch -> embeddings -> layers -> head -> logits -> loss -> gradients -> optimizer
//! ```
//!
//! - [`batch`], [`targets`]: what goes in, packed tokens and the classes of rows
//! - [`kernels`]: the operations on the CPU, forward and backward, for several instruction sets, and on a GPU
//! - [`model`]: encoder, head, loss, the checkpoint folder
//!
//! Nothing here knows of files of rows, of jobs, or of a network.

pub mod batch;
pub mod kernels;
pub mod model;
pub mod targets;
