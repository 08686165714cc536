//! The records, whatever holds them: jobs, their logs, data sets, models.
//!
//! Every function blocks, and is called from threads that may. Each one is a transaction: it does all that it says,
//! durably when it returns, or nothing; and it reads one state. Several threads may call at once, and so may several
//! processes, if the implementation allows them to share it. `conformance::catalog` says in tests what is expected.
//!
//! What is kept can be read again: a record with a number that is not finite is refused as `Internal`. Errors that tell
//! of records have the same message whatever holds the records; they stand beside each type (`unknown_job` and others).

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;

use hone_base::error::Result;
use hone_train::spec::Spec;

use super::{
    AliasMove, Changes, DatasetRecord, Job, JobEvent, Line, Listing, Model, ModelSettings, Mover, Page,
    Results, StartRequest, State, Time, Topic, Unreadable, Version,
};

/// What jobs have achieved, by their ids, and which of their events cannot be read.
pub type ResultsOf = (HashMap<String, Results>, Vec<Unreadable>);

/// A row of a list of data sets: its time, and the record if it can be read.
pub type DatasetRow = (Time, Result<DatasetRecord, Unreadable>);

/// All records, and the way to wait for them.
pub trait Catalog: JobCatalog + LogCatalog + DatasetCatalog + ModelCatalog {
    /// A view of what is written to a topic from now on. Does not block.
    ///
    /// Whoever reads after this and then waits misses nothing, and what is kept of a topic is out of date
    /// ([`Changes::has_changed`]) before anybody can know of a write through this catalog. A write that fails because of
    /// what stores (a full disk, a lost connection) wakes the readers of that log with the error; it is told to readers
    /// that come later too, until something is written to the log again.
    fn watch(&self, topic: Topic) -> Changes;
}

/// Jobs: what to do, and how it stands. Older and newer are told by their ids, in the order of their bytes.
///
/// A job's record is the fold of its events: it changes only with its log. Each change of state sets the failure and the
/// end anew and ends the claim; the start is that of the first run.
pub trait JobCatalog: Debug + Send + Sync + 'static {
    /// Queues a job under a new id and logs that it is queued. Wakes [`Topic::Queue`].
    ///
    /// # Errors
    ///
    /// `Exhausted` when `bound` jobs are queued already; `NotFound` when a data set is not there; `Exists` when a job has
    /// the id.
    fn insert_job(&self, id: &str, spec: &Spec, bound: usize) -> Result<Job>;

    /// Queues a job as [`JobCatalog::insert_job`] does. Of a request that has made a job already, returns that job.
    ///
    /// # Errors
    ///
    /// The same, and `Exists` when a request with the same id asked for something else.
    fn insert_requested_job(
        &self,
        id: &str,
        spec: &Spec,
        request: &StartRequest,
        bound: usize,
    ) -> Result<Job>;

    /// The job that a request has made, if it has made one that is not deleted.
    ///
    /// # Errors
    ///
    /// `Exists` when a request with the same id asked for something else.
    fn job_of_request(&self, request: &StartRequest) -> Result<Option<Job>>;

    /// Takes a queued job for the daemon `owner`, and logs that it runs; `None` when it is not queued any more. Of
    /// several that try, one gets it. It belongs to the owner until another state is logged. Wakes [`Topic::Queue`] and
    /// the job's log.
    ///
    /// # Errors
    ///
    /// `Corrupt` when the job's record cannot be read; it is queued still.
    fn claim(&self, job: &str, owner: &str) -> Result<Option<Job>>;

    /// One job.
    ///
    /// # Errors
    ///
    /// `Corrupt` when its record cannot be read.
    fn job(&self, id: &str) -> Result<Option<Job>>;

    /// Every job, the newest first.
    fn jobs(&self) -> Result<Listing<Job>>;

    /// At most `limit` jobs, the newest first, of those that are older than the one with the id `before`, which need not
    /// be there any more. What cannot be read keeps its place.
    fn jobs_page(&self, before: Option<&str>, limit: usize) -> Result<Vec<Result<Job, Unreadable>>>;

    /// The ids of the jobs that have not ended, of those that cannot be read too.
    fn open_jobs(&self) -> Result<HashSet<String>>;

    /// The ids of the jobs in one state, the oldest first, of those that cannot be read too.
    fn ids_in(&self, state: State) -> Result<Vec<String>>;

    /// The jobs that run and that wait.
    fn line(&self) -> Result<Line>;

    /// Removes a job and its log; neither need be readable. Wakes the job's log.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such job; `Precondition` while it is queued or runs.
    fn delete_job(&self, id: &str) -> Result<()>;
}

/// Logs of jobs: events with numbers from 1, without a gap.
pub trait LogCatalog: Debug + Send + Sync + 'static {
    /// Logs events, and with them the changes of state that they tell. Returns the number of the last one. Wakes the
    /// job's log, and [`Topic::Queue`] if a state changes. An event with a number that is not finite is logged as a
    /// notice.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such job.
    fn append(&self, job: &str, events: &[JobEvent]) -> Result<u64>;

    /// The same, if the job is in the state `when`; whether it was.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such job.
    fn append_when(&self, job: &str, when: State, events: &[JobEvent]) -> Result<bool>;

    /// At most `limit` events after the one numbered `after`; `None` when there is no such job. In the place of an
    /// event that cannot be read stands a notice.
    fn events_after(&self, job: &str, after: u64, limit: usize) -> Result<Option<Page>>;

    /// What one job, or each job, has achieved, and which of its events cannot be read. A job without a result, or that
    /// is not there, is left out.
    fn results(&self, job: Option<&str>) -> Result<ResultsOf>;

    /// The same of the jobs with ids from `first` to `last`, both included; of none, if `last` comes before `first`.
    fn results_of(&self, first: &str, last: &str) -> Result<ResultsOf>;
}

/// Data sets: what is known of stored files.
pub trait DatasetCatalog: Debug + Send + Sync + 'static {
    /// Keeps a record, in the place of an earlier one of the same file, whose time stays. Returns what is kept.
    fn put_dataset(&self, record: &DatasetRecord) -> Result<DatasetRecord>;

    /// One record.
    ///
    /// # Errors
    ///
    /// `NotFound` when the record cannot be read: the file, sent again, makes a new one.
    fn dataset(&self, id: &str) -> Result<Option<DatasetRecord>>;

    /// At most `limit` records, the newest first and then by id, behind the one of the time and id `after`; each with its
    /// time. What cannot be read keeps its place.
    fn datasets_page(&self, after: Option<(Time, &str)>, limit: usize) -> Result<Vec<DatasetRow>>;

    /// The ids of all records, of those that cannot be read too.
    fn dataset_ids(&self) -> Result<HashSet<String>>;

    /// Every record, the newest first and then by id.
    fn datasets(&self) -> Result<Listing<DatasetRecord>>;

    /// Removes a record, which need not be readable.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is none; `Precondition` when a job that has not ended needs it.
    fn delete_dataset(&self, id: &str) -> Result<()>;
}

/// Models: versions, their numbers, and aliases. Each change that can be read wakes [`Topic::Models`].
pub trait ModelCatalog: Debug + Send + Sync + 'static {
    /// Takes the next version number of a model, from 1. It is never given again, whatever becomes of it. Nobody sees it
    /// before it is published, so this wakes nobody.
    fn reserve_version(&self, name: &str) -> Result<u32>;

    /// Records a version under a number that was reserved, points `latest` and other aliases at it and logs the events of
    /// the job that made it, all in one step. Returns the number of the last event. Wakes what [`LogCatalog::append`] does as well.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such job; `Exists` when there is such a version: it is never replaced.
    fn publish(&self, version: &Version, aliases: &[&str], events: &[JobEvent]) -> Result<u64>;

    /// Every model that has a version that can be read, by name. Of those that cannot be read, and of aliases that point
    /// at no version, it is told.
    fn models(&self) -> Result<Listing<Model>>;

    /// The names and numbers of all versions, in no order, of those that cannot be read too, where a number may be none
    /// of a version.
    fn version_numbers(&self) -> Result<Vec<(String, i64)>>;

    /// Points an alias at a version, and ends what shared the alias. Returns where it pointed. A move is written down.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such version.
    fn promote(&self, name: &str, version: u32, alias: &str, mover: Mover<'_>) -> Result<Option<u32>>;

    /// The moves of a model's aliases that are kept, the newest first; none when there is no such model.
    fn alias_moves(&self, name: &str) -> Result<Vec<AliasMove>>;

    /// Changes what is decided for a model, and writes `note` down with the moves of its aliases. `change` is called once;
    /// what it fails with is returned, and nothing is changed.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such model.
    fn change_settings(
        &self,
        name: &str,
        note: Option<&AliasMove>,
        change: &mut dyn FnMut(&mut ModelSettings) -> Result<()>,
    ) -> Result<()>;

    /// Removes an alias that points at no version; whether there was such a one.
    fn delete_dangling_alias(&self, name: &str, alias: &str) -> Result<bool>;

    /// Removes a version's record. If `latest` points at it, that moves to the newest version that remains, or goes when
    /// there is none.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such version; `Precondition` when an alias other than `latest` points at it.
    fn delete_version(&self, name: &str, version: u32) -> Result<()>;

    /// Removes a model's versions, aliases, their history, and what was decided for it. Returns the numbers of the versions, in no order; none when there is no
    /// such model.
    fn delete_model(&self, name: &str) -> Result<Vec<u32>>;
}
