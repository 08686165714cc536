//! The encoder and its head (`architecture`, `config`, `declaration`, `parameters`, `gradients`), what computes them (on
//! the CPU `noise`, `layer`, `encoder`, `head` and `network`; elsewhere `reference`; `engine` is either), the loss
//! (`objective`), how parameters move and are averaged (`optimizer`, `average`), the `memory` that all of it takes,
//! whether weights are `finite`, the classifier that learns or answers (`classifier`), the folder it lives
//! in (`weights_file`, `naming`, `checkpoint`), and the way from names to folders (`hub`).

pub mod architecture;
pub mod average;
pub mod checkpoint;
pub mod classifier;
pub mod config;
pub mod declaration;
mod encoder;
pub mod engine;
pub mod finite;
pub mod gpu;
pub mod gradients;
mod head;
mod keep;
mod layer;
pub mod memory;
mod naming;
pub mod network;
pub mod noise;
pub mod objective;
pub mod optimizer;
pub mod parameters;
pub mod reference;
mod rows;
pub mod weights_file;
