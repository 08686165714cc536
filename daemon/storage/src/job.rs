//! Jobs, and what their logs hold.

use hone_base::error::{Error, Kind, quoted};
use hone_train::event::{EpochMetrics, TestMetrics};
use hone_train::spec::Spec;

use crate::{Failure, JobEvent, Published, State, Time};

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
    /// The daemon that claimed it, while it runs.
    pub owner: Option<String>,
}

/// The jobs that run and that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The ids of those that run.
    pub running: Vec<String>,
    /// The ids of those that wait, the next one first.
    pub queued: Vec<String>,
}

impl Line {
    /// How many jobs have the device or will have it before this one, if it waits.
    pub fn ahead(&self, id: &str) -> usize {
        let place = self.queued.iter().position(|queued| queued == id);
        place.map_or(0, |place| place + self.running.len())
    }
}

/// One entry of a job's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// From 1, without a gap.
    pub number: u64,
    /// When it was logged.
    pub time: Time,
    /// What happened.
    pub event: JobEvent,
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

impl Results {
    /// Adds what an event tells, if it tells of a result.
    pub fn add(&mut self, event: JobEvent) {
        match event {
            JobEvent::Epoch(epoch) => self.epochs.push(epoch),
            JobEvent::Test(test) => self.test = Some(test),
            JobEvent::Published(published) => self.published = Some(published),
            _ => {}
        }
    }
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

/// The error for a job that does not exist.
pub fn unknown_job(id: &str) -> Error {
    Error::not_found(format!("there is no job {}", quoted(id)))
}

/// The error for a new job with the id of one that is there.
pub(crate) fn known_job(id: &str) -> Error {
    Error::new(Kind::Exists, format!("the job {id} is there already"))
}

/// The error for a job that is to be deleted and is queued or runs.
pub(crate) fn open_job(id: &str) -> Error {
    Error::precondition(format!(
        "the job {id} has not ended; stop it with `client cancel {id}`, and delete it then"
    ))
}

/// The error for a job for which the queue, of at most `bound`, has no room.
pub(crate) fn full_queue(bound: usize) -> Error {
    Error::new(
        Kind::Exhausted,
        format!(
            "the queue is full (at most {bound} wait); wait for one to end, cancel one, or start the daemon with a \
             higher --max-jobs"
        ),
    )
}

/// The error for a request with the id of another one, which has made `job`.
pub(crate) fn known_request(id: &str, job: &str) -> Error {
    Error::new(
        Kind::Exists,
        format!(
            "`request_id`: {id} was sent before with another specification, which became the job {job}; send a new id \
             for a new job"
        ),
    )
}

/// The error for a job whose record is damaged.
pub(crate) fn unreadable_job(id: &str, error: &Error) -> Error {
    Error::corrupt(format!("the job {id} cannot be shown: {error}; `client jobs delete {id}` removes it"))
}
