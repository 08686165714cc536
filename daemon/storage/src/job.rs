//! Jobs, and what their logs hold.

use super::Time;
use hone_train::event::{EpochMetrics, Event, Failure, Published, State, TestMetrics};
use hone_train::spec::Spec;

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
    /// When it got the device first.
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

/// A part of a job's log, and how the job stood when it was read.
#[derive(Debug)]
pub struct Page {
    /// In order.
    pub entries: Vec<Entry>,
    /// The job's state.
    pub state: State,
    /// The number of its newest event.
    pub last_event: u64,
}

/// A request to start a job, as its sender may repeat it when no answer came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartRequest {
    /// Made by the sender, new for each job.
    pub id: String,
    /// SHA-256 of what was asked for, lower-case hexadecimal: a repetition asks for the same.
    pub digest: String,
}
