//! Everything that outlives the process. It knows what a run is (`hone_train`) and nothing of who runs it.
//!
//! - Records: [`Job`] and its log of [`JobEvent`]s, [`DatasetRecord`], [`Version`] and its [`Alias`]es with their history
//!   ([`AliasMove`]) and [`ModelSettings`]. Who reads and
//!   writes them does so through [`Catalog`], and waits for them with [`Changes`].
//! - Bytes: files and checkpoint folders, through [`Blobs`].
//! - What holds them: a SQLite database (`sqlite`: [`Store`]) and a folder of this machine (`local`: [`DataDir`]). Any
//!   other passes the same tests (`conformance`), as one in memory does (`memory`).

mod blobs;
mod catalog;
pub mod changes;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod dataset;
mod event;
mod job;
mod local;
#[cfg(test)]
mod memory;
mod model;
pub mod names;
mod record;
mod settings;
mod sqlite;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod time;
mod unreadable;

pub use blobs::{Blobs, Incoming, Staged, check_id};
pub use catalog::{Catalog, DatasetCatalog, DatasetRow, JobCatalog, LogCatalog, ModelCatalog, ResultsOf};
pub use changes::{Changes, Topic};
pub use dataset::{DatasetRecord, unknown_dataset};
pub use event::{EventKind, Failure, JobEvent, Published, State};
pub use job::{Entry, Job, Line, Page, Results, StartRequest, unknown_job};
pub use local::data_dir;
pub use local::data_dir::DataDir;
pub use model::{Alias, LATEST, Model, Version};
pub use settings::{AliasMove, Canary, Cause, ModelSettings, Mover, ServePrecision, version_before};
pub use sqlite::Store;
pub use time::Time;
pub use unreadable::{Listing, RecordKind, Unreadable};
