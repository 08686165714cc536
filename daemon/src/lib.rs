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
//! A crate uses only what stands above it in this list; Cargo enforces it:
//!
//! - `hone_base`: the one error type, random numbers without state, digests
//! - `hone_engine`: computes a classifier and its training, on CPUs and GPUs
//! - `hone_data`: labelled files to examples, labels, splits and tokens
//! - `hone_hub`: names of encoders to folders on this machine
//! - `hone_train`: the training loop; it emits events and knows nothing of jobs
//! - `hone_storage`: everything that outlives the process: records, the database, the data folder
//! - this crate, where a module uses only what stands above it:
//!   - [`trace`], [`metrics`]: the call that a task works for and the trace it is in, and what the daemon counts of itself
//!   - [`workers`]: threads for short pieces of work that async tasks wait for
//!   - [`lanes`]: the threads that compute, for each kind of work its own
//!   - [`jobs`]: data sets, the log of each job, the one thread that trains
//!   - [`serve`]: models by name, the threads that own them, the batching policy
//!   - [`connections`]: of clients, a bounded number at once
//!   - [`scrape`]: where Prometheus reads the metrics
//!   - [`rpc`]: the services of `hone.v1`: convert, delegate, convert
//!   - [`config`], [`telemetry`], [`observability`], [`daemon`]: what the operator decides, what is logged, counted and
//!     traced, start and stop
//!
//! `train` and `serve` never see each other: a job ends by moving a checkpoint folder to where `serve` finds it.
//!
//! # Threads
//!
//! The runtime's threads only move messages. The database is read on its blocking threads, and requests are turned into
//! tokens there; files are read on threads of their own. One thread runs jobs, one thread owns each loaded model and
//! loads it. They compute on [`lanes`] of `--threads` threads each: one for training, one for answers, one for the
//! tokens of files. A piece of work has its lane alone, and nothing waits for a lane on a lane's thread. Whatever is not
//! for an answer has the lowest priority, and while calls wait or run it may go on for a tenth of the time at most.

pub mod config;
pub mod connections;
pub mod daemon;
pub mod jobs;
pub mod lanes;
pub mod metrics;
pub mod observability;
pub mod rpc;
pub mod scrape;
pub mod serve;
pub mod telemetry;
pub mod trace;
pub mod workers;

use config::Config;
use daemon::Daemon;
use hone_base::error::Result;

/// Runs a daemon on the listener until `shutdown`, and returns when it has stopped.
pub async fn run(
    config: Config,
    listener: tokio::net::TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    Daemon::open(&config).await?.serve(listener, shutdown).await
}
