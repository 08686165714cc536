//! Everything that outlives the process: the records ([`Job`], [`DatasetRecord`], [`Version`], ...), the database that
//! holds them (`sqlite`), and the data folder (`data_dir`). It knows what a run is (`train`) and nothing of who runs it.

pub mod data_dir;
mod dataset;
mod job;
mod model;
pub mod names;
mod sqlite;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod time;
mod unreadable;

pub use data_dir::DataDir;
pub use dataset::DatasetRecord;
pub use job::{Entry, Job, Page, Results, StartRequest};
pub use model::{Alias, LATEST, Model, Version};
pub use sqlite::{Store, unknown_dataset, unknown_job};
pub use time::Time;
pub use unreadable::{Listing, RecordKind, Unreadable};
