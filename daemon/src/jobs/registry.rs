//! The state machine of jobs: Queued -> Running -> Succeeded | Failed | Cancelled | Interrupted.
//!
//! Every change of state is decided here, under one lock, and logged before it counts.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::log::Log;
use hone_base::cancel::{Cancel, Reason};
use hone_base::error::{Error, Kind, Result, quoted};
use hone_base::nearest::nearest;
use hone_base::panic::lock;
use hone_storage::{Job, Listing, Results, Store, Unreadable, unknown_job};
use hone_train::event::{Event, Failure, State};
use hone_train::spec::Spec;

/// All jobs.
#[derive(Debug)]
pub struct Registry {
    store: Arc<Store>,
    log: Log,
    bound: usize,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    ids: ulid::Generator,
    waiting: VecDeque<String>,
    running: Option<(String, Cancel)>,
    closed: bool,
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

impl Registry {
    /// The jobs in a store, of which at most `bound` wait. A job that ran when the last daemon stopped was
    /// interrupted; those that waited wait again.
    pub fn open(store: Arc<Store>, log: Log, bound: usize) -> Result<Self> {
        for job in store.ids_in(State::Running)? {
            tracing::warn!(%job, "the daemon stopped while this job ran");
            log.append(&job, &[change(State::Interrupted)])?;
        }
        let waiting = store.ids_in(State::Queued)?.into();
        let queue = Mutex::new(Queue { waiting, ..Queue::default() });
        Ok(Self { store, log, bound, queue, changed: Condvar::new() })
    }

    /// The logs of all jobs.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Queues a job.
    pub fn submit(&self, spec: &Spec) -> Result<JobView> {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return Err(going_down());
        }
        let id = queue
            .ids
            .generate()
            .map_err(|error| Error::internal(format!("no further job id in this millisecond: {error}")))?;
        let id = id.to_string().to_ascii_lowercase();
        let job = self.store.insert_job(&id, spec, self.bound)?;
        queue.waiting.push_back(id);
        let ahead = queue.ahead(&job.id);
        self.changed.notify_all();
        Ok(JobView { job, results: Results::default(), ahead })
    }

    /// Stops a queued job at once and a running one at its next step; one that has ended stays as it is.
    pub fn cancel(&self, id: &str) -> Result<JobView> {
        {
            let mut queue = lock(&self.queue);
            if let Some((running, cancel)) = &queue.running
                && running == id
            {
                cancel.ask(Reason::Cancelled);
            } else if let Some(place) = queue.waiting.iter().position(|waiting| waiting == id) {
                self.log.append(id, &[change(State::Cancelled)])?;
                queue.waiting.remove(place);
            }
        }
        self.get(id)
    }

    /// The error for a job that does not exist, with the one that was meant.
    fn unknown(&self, id: &str) -> Error {
        let jobs = self.store.jobs().map(|jobs| jobs.records).unwrap_or_default();
        match nearest(id, jobs.iter().map(|job| job.id.as_str())) {
            Some(near) => Error::not_found(format!("there is no job {}; did you mean {near}?", quoted(id))),
            None => unknown_job(id),
        }
    }

    /// One job.
    pub fn get(&self, id: &str) -> Result<JobView> {
        let job = self.store.job(id)?.ok_or_else(|| self.unknown(id))?;
        let (mut results, unreadable) = self.store.results(Some(id))?;
        unreadable.iter().for_each(Unreadable::log);
        let results = results.remove(id).unwrap_or_default();
        let ahead = lock(&self.queue).ahead(id);
        Ok(JobView { job, results, ahead })
    }

    /// Every job, the newest first.
    pub fn list(&self) -> Result<Listing<JobView>> {
        let Listing { records: jobs, mut unreadable } = self.store.jobs()?;
        let (mut results, events) = self.store.results(None)?;
        unreadable.extend(events);
        let queue = lock(&self.queue);
        let view = |job: Job| {
            let results = results.remove(&job.id).unwrap_or_default();
            JobView { results, ahead: queue.ahead(&job.id), job }
        };
        Ok(Listing { records: jobs.into_iter().map(view).collect(), unreadable })
    }

    /// Removes a job that has ended, or that cannot be read, and its log.
    pub fn delete(&self, id: &str) -> Result<()> {
        let queue = lock(&self.queue);
        let runs = queue.running.as_ref().is_some_and(|(running, _)| running == id);
        if runs || queue.waiting.iter().any(|waiting| waiting == id) {
            return Err(Error::precondition(format!(
                "the job {id} has not ended; stop it with `client cancel {id}`, and delete it then"
            )));
        }
        self.store.delete_job(id)
    }

    /// Waits for the next job and marks it as running; `None` once the registry is closed.
    pub fn take(&self) -> Option<(Job, Cancel)> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.closed {
                return None;
            }
            let Some(id) = queue.waiting.front().cloned() else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            match self.start(&id) {
                Err(error) if error.kind() == Kind::Corrupt => {
                    // It can never start; those behind it shall.
                    tracing::error!(job = %id, %error, "a job is given up");
                    queue.waiting.pop_front();
                    if let Err(error) = self.log.append(&id, &[failed(&error)]) {
                        tracing::error!(job = %id, %error, "the end of a job cannot be logged");
                    }
                }
                Ok(job) => {
                    let cancel = Cancel::default();
                    queue.waiting.pop_front();
                    queue.running = Some((id, cancel.clone()));
                    return Some((job, cancel));
                }
                Err(error) => {
                    // The disk may be full: the job keeps its place.
                    tracing::error!(job = %id, %error, "a job cannot be started; trying again in 5 s");
                    let wait = self.changed.wait_timeout(queue, Duration::from_secs(5));
                    queue = wait.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    fn start(&self, id: &str) -> Result<Job> {
        // Read before it counts as running: its record may be damaged.
        self.store.job(id)?.ok_or_else(|| unknown_job(id))?;
        self.log.append(id, &[change(State::Running)])?;
        self.store.job(id)?.ok_or_else(|| unknown_job(id))
    }

    /// Ends the running job with the given events, the last of which is its final state, by way of `write`.
    pub fn finish(&self, job: &str, write: impl FnOnce(&Log) -> Result<()>) -> Result<()> {
        let mut queue = lock(&self.queue);
        write(&self.log)?;
        queue.running.take_if(|(running, _)| running == job);
        Ok(())
    }

    /// Gives up the running job whose end could not be logged; the next start marks it as interrupted.
    pub fn abandon(&self, job: &str) {
        lock(&self.queue).running.take_if(|(running, _)| running == job);
    }

    /// Takes no further job, and asks the running one to stop.
    pub fn close(&self) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        if let Some((_, cancel)) = &queue.running {
            cancel.ask(Reason::Shutdown);
        }
        self.changed.notify_all();
    }
}

impl Queue {
    fn ahead(&self, id: &str) -> usize {
        let place = self.waiting.iter().position(|waiting| waiting == id);
        place.map_or(0, |place| place + usize::from(self.running.is_some()))
    }
}

/// The event of a change of state.
pub fn change(state: State) -> Event {
    Event::StateChanged { state, failure: None }
}

/// The event of a failure.
pub fn failed(error: &Error) -> Event {
    let failure = Failure { kind: error.kind(), message: error.message().to_owned() };
    Event::StateChanged { state: State::Failed, failure: Some(failure) }
}

fn going_down() -> Error {
    Error::new(Kind::Unavailable, "the daemon is going down; try again when it is back")
}

#[cfg(test)]
mod damaged;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::testing::{Home, spec};

    fn registry(home: &Home) -> Registry {
        let store = Arc::new(home.store());
        Registry::open(store.clone(), Log::new(store), 3).unwrap()
    }

    fn end(registry: &Registry, job: &str, state: State) {
        registry.finish(job, |log| log.append(job, &[change(state)])).unwrap();
    }

    fn state(registry: &Registry, id: &str) -> State {
        registry.get(id).unwrap().job.state
    }

    #[test]
    fn jobs_run_in_the_order_in_which_they_came() {
        let home = Home::new();
        let registry = registry(&home);
        let ids: Vec<String> = (0..3).map(|_| registry.submit(&spec("a")).unwrap().job.id).collect();
        assert!(ids.is_sorted() && ids.iter().all(|id| id.len() == 26 && *id == id.to_lowercase()));
        assert_eq!(registry.get(&ids[2]).unwrap().ahead, 2);
        let (first, _) = registry.take().unwrap();
        assert_eq!((first.id.as_str(), first.state), (ids[0].as_str(), State::Running));
        assert_eq!(registry.get(&ids[2]).unwrap().ahead, 2);
        end(&registry, &first.id, State::Succeeded);
        assert_eq!(registry.get(&ids[2]).unwrap().ahead, 1);
        assert_eq!(registry.take().unwrap().0.id, ids[1]);
        let listed: Vec<String> =
            registry.list().unwrap().records.into_iter().map(|view| view.job.id).collect();
        assert_eq!(listed, ids.iter().rev().cloned().collect::<Vec<_>>());
    }

    #[test]
    fn a_queued_job_is_cancelled_at_once_and_a_running_one_is_asked() {
        let home = Home::new();
        let registry = registry(&home);
        let running = registry.submit(&spec("a")).unwrap().job.id;
        let queued = registry.submit(&spec("a")).unwrap().job.id;
        let (_, cancel) = registry.take().unwrap();
        assert_eq!(registry.cancel(&queued).unwrap().job.state, State::Cancelled);
        assert_eq!(registry.cancel(&running).unwrap().job.state, State::Running);
        assert_eq!(cancel.reason(), Some(Reason::Cancelled));
        end(&registry, &running, State::Cancelled);
        let events = registry.get(&queued).unwrap().job.last_event;
        assert_eq!(registry.cancel(&queued).unwrap().job.last_event, events);
        assert_eq!(registry.cancel("01x").unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn after_a_restart_a_running_job_is_interrupted_and_queued_ones_go_on() {
        let home = Home::new();
        let (running, queued) = {
            let registry = registry(&home);
            let ids =
                [registry.submit(&spec("a")).unwrap().job.id, registry.submit(&spec("b")).unwrap().job.id];
            registry.take().unwrap();
            (ids[0].clone(), ids[1].clone())
        };
        let registry = registry(&home);
        assert_eq!(state(&registry, &running), State::Interrupted);
        let view = registry.get(&running).unwrap();
        assert_eq!(view.job.last_event, 3);
        assert!(view.job.ended.is_some());
        assert_eq!(state(&registry, &queued), State::Queued);
        assert_eq!(registry.take().unwrap().0.id, queued);
    }

    #[test]
    fn a_full_queue_refuses_and_takes_again_when_a_job_has_left_it() {
        let home = Home::new();
        let registry = registry(&home);
        for _ in 0..3 {
            registry.submit(&spec("a")).unwrap();
        }
        assert_eq!(registry.submit(&spec("a")).unwrap_err().kind(), Kind::Exhausted);
        registry.take().unwrap();
        registry.submit(&spec("a")).unwrap();
    }

    #[test]
    fn closing_asks_the_running_job_and_hands_out_no_other() {
        let home = Home::new();
        let registry = registry(&home);
        registry.submit(&spec("a")).unwrap();
        registry.submit(&spec("b")).unwrap();
        let (_, cancel) = registry.take().unwrap();
        registry.close();
        assert_eq!(cancel.reason(), Some(Reason::Shutdown));
        cancel.ask(Reason::Cancelled);
        cancel.ask(Reason::Shutdown);
        assert_eq!(cancel.reason(), Some(Reason::Cancelled));
        assert!(registry.take().is_none());
        assert_eq!(registry.submit(&spec("a")).unwrap_err().kind(), Kind::Unavailable);
    }
}
