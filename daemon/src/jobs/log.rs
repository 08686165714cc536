//! The log of each job: durable first, streamed second. A reader is a cursor that reads pages from the store, and is
//! only woken when there is more; so a slow reader costs nothing, and no reader can miss an event.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use hone_base::error::{Error, Result};
use hone_base::panic::lock;
use hone_storage::{Entry, Job, Store, Version, unknown_job};
use hone_train::Seen;
use hone_train::event::{Event, State};

/// Entries that a cursor holds at most.
const PAGE: usize = 256;

/// The logs of all jobs.
#[derive(Clone, Debug)]
pub struct Log {
    store: Arc<Store>,
    /// Of jobs that have not ended and have had a reader: what wakes the readers.
    tails: Arc<Mutex<HashMap<String, watch::Sender<()>>>>,
}

impl Log {
    /// The logs in a store.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, tails: Arc::default() }
    }

    /// Logs events durably, then wakes the job's readers.
    pub fn append(&self, job: &str, events: &[Event]) -> Result<()> {
        self.store.append(job, events)?;
        self.wake(job, events);
        Ok(())
    }

    /// Logs events as `append` does, but only if the job is in a state; whether it was.
    pub fn append_when(&self, job: &str, state: State, events: &[Event]) -> Result<bool> {
        let logged = self.store.append_when(job, state, events)?;
        if logged {
            self.wake(job, events);
        }
        Ok(logged)
    }

    /// Takes a queued job to run it, and logs that; `None` when it is not queued any more.
    pub fn claim(&self, job: &str) -> Result<Option<Job>> {
        let claimed = self.store.claim(job)?;
        if claimed.is_some() {
            self.wake(job, &[]);
        }
        Ok(claimed)
    }

    /// Removes a job with its log; its readers find that it is gone.
    pub fn delete(&self, job: &str) -> Result<()> {
        self.store.delete_job(job)?;
        lock(&self.tails).remove(job);
        Ok(())
    }

    /// Records a version together with the events that tell of it, then wakes the readers of its job.
    pub fn publish(&self, version: &Version, events: &[Event]) -> Result<()> {
        self.store.publish(version, events)?;
        self.wake(&version.job, events);
        Ok(())
    }

    /// What the log of a job holds of what a run tells: a run that continues does not tell it again. Blocking.
    pub fn seen(&self, job: &str) -> Result<Seen> {
        let (mut seen, mut after) = (Seen::default(), 0);
        while let Some(page) = self.store.events_after(job, after, PAGE)?
            && let Some(last) = page.entries.last()
        {
            after = last.number;
            page.entries.iter().for_each(|entry| seen.add(&entry.event));
        }
        Ok(seen)
    }

    /// A reader of the events that are numbered higher than `after`. Blocking.
    pub fn read(&self, job: &str, after: u64) -> Result<Cursor> {
        let mut tails = lock(&self.tails);
        // With the map locked, a job that has not ended cannot lose its tail between the look and the insertion.
        // The log is read whether or not the rest of the job's record can be.
        let found = self.store.events_after(job, 0, 0)?.ok_or_else(|| unknown_job(job))?;
        let tail = if found.state.is_final() {
            watch::channel(()).1
        } else {
            tails.entry(job.to_owned()).or_insert_with(|| watch::channel(()).0).subscribe()
        };
        Ok(Cursor { store: self.store.clone(), job: job.to_owned(), after, tail, page: VecDeque::new() })
    }

    fn wake(&self, job: &str, events: &[Event]) {
        let ended = events.iter().any(|e| matches!(e, Event::StateChanged { state, .. } if state.is_final()));
        let mut tails = lock(&self.tails);
        if let Some(tail) = tails.get(job) {
            tail.send_replace(());
        }
        if ended {
            tails.remove(job);
        }
    }
}

/// A place in a job's log.
#[derive(Debug)]
pub struct Cursor {
    store: Arc<Store>,
    job: String,
    after: u64,
    tail: watch::Receiver<()>,
    page: VecDeque<Entry>,
}

impl Cursor {
    /// The next entry: waits for it while the job goes on, and is `None` after the last entry of a job that has
    /// ended. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.page.pop_front() {
                self.after = entry.number;
                return Ok(Some(entry));
            }
            // What is logged from here on wakes the wait below.
            self.tail.borrow_and_update();
            let (store, job, after) = (self.store.clone(), self.job.clone(), self.after);
            let page = tokio::task::spawn_blocking(move || store.events_after(&job, after, PAGE))
                .await
                .map_err(|error| Error::internal(format!("reading the log failed: {error}")))??
                .ok_or_else(|| unknown_job(&self.job))?;
            if !page.entries.is_empty() {
                self.page = page.entries.into();
            } else if page.state.is_final() {
                return Ok(None);
            } else {
                // An error means that the job has ended since the page was read; the next page is then its last.
                let _ = self.tail.changed().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::testing::{self, spec, step};

    fn ended() -> Event {
        Event::StateChanged { state: State::Succeeded, failure: None }
    }

    async fn rest(mut cursor: Cursor) -> Vec<Entry> {
        let mut entries = Vec::new();
        while let Some(entry) = cursor.next().await.unwrap() {
            entries.push(entry);
        }
        entries
    }

    fn log() -> (testing::TestStore, Log) {
        let store = testing::store();
        store.insert_job("01a", &spec("reviews"), 8).unwrap();
        let log = Log::new(store.shared());
        (store, log)
    }

    #[tokio::test]
    async fn a_reader_replays_then_follows_to_the_end() {
        let (_store, log) = log();
        log.append("01a", &[step(1)]).unwrap();
        let reader = tokio::spawn(rest(log.read("01a", 0).unwrap()));
        let late = tokio::spawn(rest(log.read("01a", 2).unwrap()));
        for number in 2..=600 {
            log.append("01a", &[step(number)]).unwrap();
            tokio::task::yield_now().await;
        }
        log.append("01a", &[ended()]).unwrap();
        let entries = reader.await.unwrap();
        assert_eq!(entries.iter().map(|e| e.number).collect::<Vec<_>>(), (1..=602).collect::<Vec<_>>());
        assert_eq!(entries[601].event, ended());
        assert_eq!(late.await.unwrap(), entries[2..]);
    }

    #[tokio::test]
    async fn a_slow_reader_misses_nothing_and_holds_nobody_up() {
        let (_store, log) = log();
        let mut slow = log.read("01a", 0).unwrap();
        assert_eq!(slow.next().await.unwrap().unwrap().number, 1);
        let events: Vec<Event> = (1..=3000).map(step).collect();
        log.append("01a", &events).unwrap();
        log.append("01a", &[ended()]).unwrap();
        assert_eq!(slow.page.len(), 0);
        let entries = rest(slow).await;
        assert_eq!(entries.len(), 3001);
    }

    #[tokio::test]
    async fn a_job_that_has_ended_is_replayed_and_leaves_nothing_behind() {
        let (_store, log) = log();
        let waiting = tokio::spawn(rest(log.read("01a", 0).unwrap()));
        log.append("01a", &[ended()]).unwrap();
        assert_eq!(waiting.await.unwrap().len(), 2);
        assert_eq!(rest(log.read("01a", 0).unwrap()).await.len(), 2);
        assert_eq!(rest(log.read("01a", 99).unwrap()).await, []);
        assert!(lock(&log.tails).is_empty());
        assert!(log.read("01b", 0).is_err());
    }

    #[tokio::test]
    async fn a_wait_that_was_dropped_loses_nothing() {
        let (_store, log) = log();
        let mut cursor = log.read("01a", 1).unwrap();
        let none = tokio::time::timeout(std::time::Duration::from_millis(50), cursor.next()).await;
        assert!(none.is_err());
        log.append("01a", &[step(1)]).unwrap();
        assert_eq!(cursor.next().await.unwrap().unwrap().number, 2);
    }
}
