//! Who changes the states of jobs: by the table in `lifecycle`, and logged before it counts.
//!
//! The catalog is the truth. In memory is only what this process does: the job that it runs. A change is logged on the
//! condition that the job is still in the state that was looked at, so nothing is locked while the database works.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{Either, select};
use tokio::sync::watch;

use super::lifecycle::{Answer, Wish, next};
use super::log::Log;
use super::restart::{self, ResumeJobs};
use super::traces::Traces;
use hone_base::cancel::{Cancel, Reason};
use hone_base::error::{Error, Kind, Result, quoted};
use hone_base::nearest::nearest;
use hone_base::panic::lock;
use hone_storage::changes::block_on;
use hone_storage::{
    Catalog, DataDir, Failure, Job, JobEvent, Published, Results, StartRequest, State, Topic, Unreadable,
    Version, unknown_job,
};
use hone_train::spec::Spec;

/// All jobs.
#[derive(Debug)]
pub struct Registry {
    store: Arc<dyn Catalog>,
    log: Log,
    data: DataDir,
    bound: usize,
    /// This daemon, as it signs what it claims.
    owner: String,
    work: Mutex<Work>,
    traces: Traces,
    closed: watch::Sender<bool>,
}

/// How long the next job waits after the catalog has failed, for example because the disk is full.
const RETRY: Duration = Duration::from_secs(5);

/// How many jobs are looked through for the one that was meant, so that a wrong id costs the same with any number of them.
const LOOKED_THROUGH: usize = 200;

/// What the operator decides about jobs.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Jobs that wait at most.
    pub bound: usize,
    /// Whether interrupted jobs continue by themselves.
    pub resume: ResumeJobs,
}

/// What this process does.
#[derive(Debug, Default)]
struct Work {
    ids: ulid::Generator,
    running: Option<Running>,
}

/// The job that has the device.
#[derive(Debug)]
struct Running {
    id: String,
    cancel: Cancel,
    /// It was resumed after it was asked to pause and before it had: it waits again once it has.
    resume: bool,
}

/// A job with what its log says of it.
#[derive(Debug)]
pub struct JobView {
    /// The job.
    pub job: Job,
    /// What it has achieved.
    pub results: Results,
    /// Jobs that have the device or will have it before this one.
    pub ahead: usize,
}

/// A row of the list of jobs.
#[derive(Debug)]
pub struct JobRow {
    /// The job, if it can be read.
    pub job: Result<JobView, Unreadable>,
    /// Its events that cannot be read.
    pub events: Vec<Unreadable>,
}

impl JobRow {
    /// The job's id, which tells where the row stands.
    pub fn id(&self) -> &str {
        match &self.job {
            Ok(view) => &view.job.id,
            Err(unreadable) => &unreadable.id,
        }
    }
}

/// How a run of a job ended.
#[derive(Debug)]
pub enum End<'a> {
    /// Its checkpoint is this version.
    Published(&'a Version),
    /// It failed.
    Failed(&'a Error),
    /// It stopped because it was asked to.
    Stopped(Reason),
}

impl Registry {
    /// The jobs in a store and their folders. A job that ran when the last daemon stopped was interrupted; those that
    /// waited wait again.
    pub fn open(store: Arc<dyn Catalog>, log: Log, data: DataDir, policy: Policy) -> Result<Self> {
        restart::settle(&*store, &log, policy.resume)?;
        Ok(Self {
            store,
            log,
            data,
            bound: policy.bound,
            owner: ulid::Ulid::generate().to_string().to_ascii_lowercase(),
            work: Mutex::default(),
            traces: Traces::default(),
            closed: watch::Sender::new(false),
        })
    }

    /// The logs of all jobs.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The traces that jobs belong to.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// Queues a job.
    pub fn submit(&self, spec: &Spec) -> Result<JobView> {
        self.submit_once(spec, None)
    }

    /// Queues a job, unless its request has made one already, which is returned then.
    pub fn submit_once(&self, spec: &Spec, request: Option<&StartRequest>) -> Result<JobView> {
        if *self.closed.borrow() {
            return Err(going_down());
        }
        let id = {
            let mut work = lock(&self.work);
            let id = work.ids.generate();
            id.map_err(|error| Error::internal(format!("no further job id in this millisecond: {error}")))?
        };
        let id = id.to_string().to_ascii_lowercase();
        let job = match request {
            Some(request) => self.store.insert_requested_job(&id, spec, request, self.bound)?,
            None => self.store.insert_job(&id, spec, self.bound)?,
        };
        if job.id == id {
            self.traces.started(&id);
        }
        self.get(&job.id)
    }

    /// The job that a request has made, if it has made one.
    pub fn of_request(&self, request: &StartRequest) -> Result<Option<JobView>> {
        self.store.job_of_request(request)?.map(|job| self.get(&job.id)).transpose()
    }

    /// Ends a job: one that runs at its next step, any other at once; one that has ended stays as it is.
    pub fn cancel(&self, id: &str) -> Result<JobView> {
        self.grant(id, Wish::Cancel)
    }

    /// Lets a job leave the device or the queue: one that runs at its next step, with its position saved.
    pub fn pause(&self, id: &str) -> Result<JobView> {
        self.grant(id, Wish::Pause)
    }

    /// Lets a paused or interrupted job wait for the device again.
    pub fn resume(&self, id: &str) -> Result<JobView> {
        self.grant(id, Wish::Resume)
    }

    fn grant(&self, id: &str, wish: Wish) -> Result<JobView> {
        loop {
            let state = self.state_of(id)?;
            match wish.of(state) {
                Answer::Stays => break,
                Answer::Refused => return Err(wish.refusal(id, state)),
                Answer::IsTold => {
                    // It may have stopped meanwhile.
                    if self.tell(id, wish) {
                        break;
                    }
                }
                Answer::Becomes(new) => {
                    if new == State::Queued && self.store.ids_in(State::Queued)?.len() >= self.bound {
                        return Err(Error::new(
                            Kind::Exhausted,
                            format!(
                                "the queue is full (at most {} wait); wait for one to end, or cancel one",
                                self.bound
                            ),
                        ));
                    }
                    if self.advance(id, state, new)? {
                        break;
                    }
                }
            }
        }
        self.get(id)
    }

    /// The state of a job. One that should run and that nobody runs was interrupted.
    fn state_of(&self, id: &str) -> Result<State> {
        loop {
            let state = self.store.events_after(id, 0, 0)?.ok_or_else(|| self.unknown(id))?.state;
            if state != State::Running || self.runs(id) {
                return Ok(state);
            }
            self.advance(id, State::Running, State::Interrupted)?;
        }
    }

    /// Changes a job's state, if it still is the one that was looked at; whether it was.
    fn advance(&self, id: &str, from: State, to: State) -> Result<bool> {
        if !next(from).contains(&to) {
            return Err(Error::internal(
                "a change of state that the table of states does not have; this is a bug in Hone",
            ));
        }
        let changed = self.log.append_when(id, from, &[change(to)])?;
        if changed {
            self.follow_up(id, to);
        }
        Ok(changed)
    }

    /// What a new state brings with it.
    fn follow_up(&self, id: &str, state: State) {
        if state.is_final() {
            self.empty(id);
        }
    }

    /// Removes the folder of a job that nobody needs any more.
    fn empty(&self, id: &str) {
        self.traces.forget(id);
        if let Err(error) = self.data.discard(&self.data.workspace(id)) {
            tracing::warn!(job = %id, %error, "the folder of a job that has ended stays until the next start");
        }
    }

    fn runs(&self, id: &str) -> bool {
        lock(&self.work).running.as_ref().is_some_and(|running| running.id == id)
    }

    /// Tells the running job of a wish; whether it was this one that runs.
    fn tell(&self, id: &str, wish: Wish) -> bool {
        let mut work = lock(&self.work);
        let Some(running) = work.running.as_mut().filter(|running| running.id == id) else { return false };
        match wish {
            Wish::Cancel => running.cancel.ask(Reason::Cancelled),
            Wish::Pause => {
                running.resume = false;
                running.cancel.ask(Reason::Paused);
            }
            Wish::Resume => running.resume = running.cancel.reason() == Some(Reason::Paused),
        }
        true
    }

    /// The error for a job that does not exist, with the one of the newest that was meant.
    fn unknown(&self, id: &str) -> Error {
        let jobs = self.store.jobs_page(None, LOOKED_THROUGH).unwrap_or_default();
        match nearest(id, jobs.iter().flatten().map(|job| job.id.as_str())) {
            Some(near) => Error::not_found(format!("there is no job {}; did you mean {near}?", quoted(id))),
            None => unknown_job(id),
        }
    }

    /// One job.
    pub fn get(&self, id: &str) -> Result<JobView> {
        let job = self.store.job(id)?.ok_or_else(|| self.unknown(id))?;
        let (mut results, unreadable) = self.store.results_of(id, id)?;
        unreadable.iter().for_each(Unreadable::log);
        let results = results.remove(id).unwrap_or_default();
        let ahead = if job.state == State::Queued { self.store.line()?.ahead(id) } else { 0 };
        Ok(JobView { job, results, ahead })
    }

    /// At most `limit` jobs that are older than the one with the id `before`, the newest first.
    pub fn page(&self, before: Option<&str>, limit: usize) -> Result<Vec<JobRow>> {
        let jobs = self.store.jobs_page(before, limit)?;
        let id = |job: &Result<Job, Unreadable>| match job {
            Ok(job) => job.id.clone(),
            Err(unreadable) => unreadable.id.clone(),
        };
        let (Some(newest), Some(oldest)) = (jobs.first().map(id), jobs.last().map(id)) else {
            return Ok(Vec::new());
        };
        let (mut results, mut events) = self.store.results_of(&oldest, &newest)?;
        let line = self.store.line()?;
        let row = |job: Result<Job, Unreadable>| {
            let prefix = format!("{} ", id(&job));
            let of_job = events.extract_if(.., |event| event.id.starts_with(&prefix)).collect();
            let view = |job: Job| JobView {
                results: results.remove(&job.id).unwrap_or_default(),
                ahead: line.ahead(&job.id),
                job,
            };
            JobRow { job: job.map(view), events: of_job }
        };
        Ok(jobs.into_iter().map(row).collect())
    }

    /// Removes a job that neither waits nor runs, or that cannot be read, with its log and its folder.
    pub fn delete(&self, id: &str) -> Result<()> {
        match self.state_of(id) {
            Err(error) if error.kind() != Kind::Corrupt => return Err(error),
            _ => self.store.delete_job(id)?,
        }
        self.empty(id);
        Ok(())
    }

    /// Waits for the next job and claims it; `None` once the registry is closed. Blocking.
    pub fn take(&self) -> Option<(Job, Cancel)> {
        let mut closed = self.closed.subscribe();
        let mut queue = self.store.watch(Topic::Queue);
        loop {
            if *closed.borrow_and_update() {
                return None;
            }
            // What comes into the queue from here on wakes the wait below.
            queue.mark_seen();
            let failure = match self.take_next() {
                Ok(Some(taken)) => return Some(taken),
                Ok(None) => {
                    // Looks again after a while, should another process have queued a job and nobody told.
                    let (changed, closed) = (pin!(queue.changed()), pin!(closed.changed()));
                    match block_on(select(changed, closed), RETRY) {
                        Some(Either::Left((Err(error), _))) => error,
                        _ => continue,
                    }
                }
                Err(error) => error,
            };
            // The disk may be full: the jobs keep their places.
            tracing::error!(error = %failure, "no job can be started; trying again in {} s", RETRY.as_secs());
            block_on(closed.changed(), RETRY);
        }
    }

    /// The first job of the queue that can be started.
    fn take_next(&self) -> Result<Option<(Job, Cancel)>> {
        for id in self.store.ids_in(State::Queued)? {
            let cancel = Cancel::default();
            {
                // Before it counts as running, so that every wish for a running job finds it here.
                let mut work = lock(&self.work);
                if *self.closed.borrow() {
                    return Ok(None);
                }
                work.running = Some(Running { id: id.clone(), cancel: cancel.clone(), resume: false });
            }
            let claimed = self.store.claim(&id, &self.owner);
            if !matches!(claimed, Ok(Some(_))) {
                lock(&self.work).running = None;
            }
            match claimed {
                Ok(Some(job)) => return Ok(Some((job, cancel))),
                // Cancelled or paused meanwhile.
                Ok(None) => {}
                Err(error) if error.kind() == Kind::Corrupt => {
                    // It can never start; those behind it shall.
                    tracing::error!(job = %id, %error, "a job is given up");
                    self.log.append_when(&id, State::Queued, &[failed(&error)])?;
                    self.empty(&id);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Ends the run of a job. Its folder goes with a job that has ended.
    pub fn finish(&self, id: &str, end: &End<'_>) -> Result<()> {
        let mut state = match end {
            End::Published(version) => {
                let published = Published {
                    name: version.name.clone(),
                    version: version.version,
                    weights_sha256: version.weights_sha256.clone(),
                    epoch: version.epoch,
                };
                self.log.publish(
                    version,
                    &[],
                    &[JobEvent::Published(published), change(State::Succeeded)],
                )?;
                State::Succeeded
            }
            End::Failed(error) => {
                self.log.append(id, &[failed(error)])?;
                State::Failed
            }
            End::Stopped(reason) => {
                let state = match reason {
                    Reason::Shutdown => State::Interrupted,
                    Reason::Paused => State::Paused,
                    Reason::Cancelled => State::Cancelled,
                };
                self.log.append(id, &[change(state)])?;
                state
            }
        };
        let running = lock(&self.work).running.take_if(|running| running.id == id);
        // A wish that came between the last step and here was told to a run that did not hear it any more.
        if let Some(running) = running {
            let late = match (state, running.cancel.reason()) {
                (State::Paused | State::Interrupted, Some(Reason::Cancelled)) => Some(State::Cancelled),
                (State::Interrupted, Some(Reason::Paused)) => Some(State::Paused),
                (State::Paused, _) if running.resume => Some(State::Queued),
                _ => None,
            };
            if let Some(late) = late
                && self.log.append_when(id, state, &[change(late)])?
            {
                state = late;
            }
        }
        self.follow_up(id, state);
        Ok(())
    }

    /// Gives up the running job whose end could not be logged. It counts as interrupted.
    pub fn abandon(&self, id: &str) {
        lock(&self.work).running.take_if(|running| running.id == id);
    }

    /// Takes no further job, and asks the running one to stop.
    pub fn close(&self) {
        let work = lock(&self.work);
        self.closed.send_replace(true);
        if let Some(running) = &work.running {
            running.cancel.ask(Reason::Shutdown);
        }
    }
}

/// The event of a change of state.
pub fn change(state: State) -> JobEvent {
    JobEvent::state(state)
}

/// The event of a failure.
pub fn failed(error: &Error) -> JobEvent {
    let failure = Failure { kind: error.kind(), message: error.message().to_owned() };
    JobEvent::StateChanged { state: State::Failed, failure: Some(failure) }
}

fn going_down() -> Error {
    Error::new(Kind::Unavailable, "the daemon is going down; try again when it is back")
}

#[cfg(test)]
mod damaged;
#[cfg(test)]
mod tests;
