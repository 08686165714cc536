//! Jobs, and everything that outlives the process: the data folder (`data_dir`), its database (`store`), data sets
//! (`datasets`), the log of each job (`log`), the state machine (`registry`), who has the device (`device`), and the one
//! thread that runs jobs (`runner`), which trains through the seam in `trainer`.

pub mod data_dir;
pub mod datasets;
pub mod device;
pub mod log;
pub mod registry;
pub mod request;
pub mod runner;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
pub mod trainer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::digest::FileDigest;
use crate::train::event::{EpochMetrics, Event, Failure, Metrics, Published, State, TestMetrics};
use crate::train::spec::Spec;

/// A moment: milliseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time(pub i64);

impl Time {
    /// This moment.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A job as the table of jobs holds it; everything else about it stands in its log.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// A ULID in lower case: sorts by the time of its creation.
    pub id: String,
    /// Where it is in its life.
    pub state: State,
    /// What to do.
    pub spec: Spec,
    /// When it was queued.
    pub created: Time,
    /// When it got the device.
    pub started: Option<Time>,
    /// When it ended.
    pub ended: Option<Time>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// The number of the newest event.
    pub last_event: u64,
}

/// One entry of a job's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// From 1, without a gap.
    pub number: u64,
    /// When it was logged.
    pub time: Time,
    /// What happened.
    pub event: Event,
}

/// What a job has achieved so far, from its log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    /// Every epoch that has ended.
    pub epochs: Vec<EpochMetrics>,
    /// The test result.
    pub test: Option<TestMetrics>,
    /// The version that the kept checkpoint became.
    pub published: Option<Published>,
}

/// A version of a model: an immutable checkpoint folder and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// The model's name.
    pub name: String,
    /// From 1; a number is never given twice.
    pub version: u32,
    /// When it was published.
    pub created: Time,
    /// The job that made it.
    pub job: String,
    /// The epoch that was kept, from 1.
    pub epoch: u32,
    /// SHA-256 of `model.safetensors`, lower-case hexadecimal.
    pub weights_sha256: String,
    /// Every file of the folder, by name.
    pub files: Vec<FileDigest>,
    /// In class order.
    pub labels: Vec<String>,
    /// Tokens of a sequence at most, special tokens included.
    pub max_length: u32,
    /// Of the kept epoch.
    pub validation: Metrics,
    /// The test result, when there was a test file.
    pub test: Option<Metrics>,
    /// The folder or hub id that training started from.
    pub encoder: String,
}

impl Version {
    /// All files together.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// A name with its versions and aliases.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// The model's name.
    pub name: String,
    /// The newest first; never empty.
    pub versions: Vec<Arc<Version>>,
    /// By name.
    pub aliases: Vec<Alias>,
}

/// A name for one version of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// For example `latest`.
    pub name: String,
    /// The version that it points at.
    pub version: u32,
}

/// The alias that every publication moves.
pub const LATEST: &str = "latest";

/// Locks a mutex whose state is whole between statements, so that a panic elsewhere does not spread.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
