//! The encoder and its head: what a `config.json` says (`config`, `families`, `architecture`), the parameters that follow
//! (`declaration`, `parameters`), and what computes them: a `backend`, on the CPU (`cpu`), on a card (`cuda`), or by
//! candle's operations (`candle`), which agree on where dropout stands (`noise`), what a pass keeps (`keep`) and reads
//! (`rows`), and say what they do not compute (`needs`). Beside that the loss (`objective`), how parameters move and are
//! averaged (`optimizer`, `average`), the `memory` that all of it takes, whether weights are `finite`, the classifier that
//! learns or answers (`classifier`), and the folder it lives in (`weights_file`, `naming`, `checkpoint`).

pub mod architecture;
pub mod average;
pub mod backend;
pub mod candle;
pub mod checkpoint;
pub mod classifier;
pub mod config;
pub mod cpu;
pub mod cuda;
pub mod declaration;
pub mod families;
pub mod finite;
mod keep;
pub mod memory;
mod naming;
pub mod needs;
pub mod noise;
pub mod objective;
pub mod optimizer;
pub mod parameters;
mod rows;
pub mod weights_file;
