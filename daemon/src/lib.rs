//! The daemon of Hone: fine-tunes text classifiers, streams what happens, and serves the results, over gRPC.
//!
//! # Flow
//!
//! ```text
//! labelled file -> dataset -> tokens -> batch -> model -> loss -> gradient -> optimizer -> event -> log -> stream
//! request -> admission -> tokens -> queue -> batch -> model -> scores -> response
//! ```
//!
//! The checkpoint folder is the whole interface between training and serving.
//!
//! # Layout
//!
//! A module uses only what stands above it in this list:
//!
//! - [`error`]: the one error type; [`cancel`]: the wish that work ends early; [`random`]: random numbers without
//!   state; [`digest`]: SHA-256; [`nearest`]: names that are meant; [`model_file`]: files of a model's folder
//! - [`data`]: labelled files to examples, tokens and packed batches
//! - [`kernels`]: the operations of the model on the CPU, forward and backward, for several instruction sets
//! - [`model`]: encoder, classifier, the checkpoint folder, names of encoders
//! - [`train`]: the training loop; it emits events and knows nothing of jobs
//! - [`storage`]: everything that outlives the process: records, the database, the data folder
//! - [`jobs`]: data sets, the log of each job, the one thread that trains
//! - [`serve`]: models by name, the threads that own them, the batching policy
//! - [`rpc`]: the services of `hone.v1`: convert, delegate, convert
//! - [`config`], [`telemetry`], [`daemon`]: what the operator decides, what is logged, start and stop
//!
//! `train` and `serve` never see each other: a job ends by moving a checkpoint folder to where `serve` finds it.
//!
//! # Threads
//!
//! The runtime's threads only move messages. Files and the database are read on its blocking threads. One thread runs
//! jobs, one thread owns each loaded model, and one pool of `--threads` threads computes for all of them.

pub mod cancel;
pub mod config;
pub mod daemon;
pub mod data;
pub mod digest;
pub mod error;
pub mod jobs;
pub mod kernels;
pub mod model;
pub mod model_file;
pub mod nearest;
pub mod panic;
pub mod random;
pub mod rpc;
pub mod serve;
pub mod storage;
pub mod telemetry;
pub mod train;

use config::Config;
use daemon::Daemon;
use error::Result;

/// Runs a daemon on the listener until `shutdown`, and returns when it has stopped.
pub async fn run(
    config: Config,
    listener: tokio::net::TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    Daemon::open(&config).await?.serve(listener, shutdown).await
}
