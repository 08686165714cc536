//! The log of each job: durable first, streamed second. A reader is a cursor that reads pages from the catalog, and is
//! only woken when there is more; so a slow reader costs nothing, and no reader can miss an event.

use std::collections::VecDeque;
use std::sync::Arc;

use hone_base::error::{Error, Result};
use hone_storage::{Catalog, Changes, Entry, JobEvent, State, Topic, Version, unknown_job};
use hone_train::Seen;

/// Entries that a cursor holds at most.
const PAGE: usize = 256;

/// The logs of all jobs.
#[derive(Clone, Debug)]
pub struct Log {
    store: Arc<dyn Catalog>,
}

impl Log {
    /// The logs in a catalog.
    pub fn new(store: Arc<dyn Catalog>) -> Self {
        Self { store }
    }

    /// Logs events durably, which wakes the job's readers; if it fails, they are told why. Blocking.
    pub fn append(&self, job: &str, events: &[JobEvent]) -> Result<()> {
        self.store.append(job, events).map(drop)
    }

    /// The same, but only if the job is in a state; whether it was. Blocking.
    pub fn append_when(&self, job: &str, state: State, events: &[JobEvent]) -> Result<bool> {
        self.store.append_when(job, state, events)
    }

    /// What the log of a job holds of what a run tells: a run that continues does not tell it again. Blocking.
    pub fn seen(&self, job: &str) -> Result<Seen> {
        let (mut seen, mut after) = (Seen::default(), 0);
        while let Some(page) = self.store.events_after(job, after, PAGE)?
            && let Some(last) = page.entries.last()
        {
            after = last.number;
            let told = page.entries.into_iter().filter_map(|entry| entry.event.into_told());
            told.for_each(|event| seen.add(&event));
        }
        Ok(seen)
    }

    /// Records a version, under `latest` and other aliases, together with the events that tell of it, which wakes the
    /// readers of its job. Blocking.
    pub fn publish(&self, version: &Version, aliases: &[&str], events: &[JobEvent]) -> Result<()> {
        self.store.publish(version, aliases, events).map(drop)
    }

    /// A reader of the events that are numbered higher than `after`. Blocking.
    pub fn read(&self, job: &str, after: u64) -> Result<Cursor> {
        let changes = self.store.watch(Topic::Log(job.to_owned()));
        // The log is read whether or not the rest of the job's record can be.
        self.store.events_after(job, 0, 0)?.ok_or_else(|| unknown_job(job))?;
        Ok(Cursor { store: self.store.clone(), job: job.to_owned(), after, changes, page: VecDeque::new() })
    }
}

/// A place in a job's log.
#[derive(Debug)]
pub struct Cursor {
    store: Arc<dyn Catalog>,
    job: String,
    after: u64,
    changes: Changes,
    page: VecDeque<Entry>,
}

impl Cursor {
    /// The next entry: waits for it while the job goes on, and is `None` after the last entry of a job that has
    /// ended. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// When the log cannot be read, or has no more entries and cannot be written.
    pub async fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.page.pop_front() {
                self.after = entry.number;
                return Ok(Some(entry));
            }
            // What is logged from here on wakes the wait below.
            self.changes.mark_seen();
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
                self.changes.changed().await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::testing::{self, spec, step};

    fn ended() -> JobEvent {
        JobEvent::StateChanged { state: State::Succeeded, failure: None }
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
        let events: Vec<JobEvent> = (1..=3000).map(step).collect();
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

    #[tokio::test]
    async fn a_log_that_cannot_be_written_ends_every_wait_with_the_reason() {
        let home = testing::Home::new();
        let store = home.store();
        store.insert_job("01a", &spec("reviews"), 8).unwrap();
        let log = Log::new(store.clone());
        let waiting = tokio::spawn(to_the_error(log.read("01a", 0).unwrap()));
        // A statement that fails as a full disk does.
        let database = rusqlite::Connection::open(home.data().database()).unwrap();
        database
            .execute_batch(
                "CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(FAIL, 'full'); END",
            )
            .unwrap();
        let failed = log.append("01a", &[step(1)]).unwrap_err();
        let (entries, error) = waiting.await.unwrap();
        assert_eq!((entries, error.kind()), (1, failed.kind()));
        assert!(error.message().starts_with("the job's log cannot be written: "), "{error}");
        // Who comes later reads what is there, and does not wait for what does not come.
        let (entries, late) = to_the_error(log.read("01a", 0).unwrap()).await;
        assert_eq!((entries, late), (1, error));
        database.execute_batch("DROP TRIGGER full").unwrap();
        log.append("01a", &[step(1), ended()]).unwrap();
        assert_eq!(rest(log.read("01a", 0).unwrap()).await.len(), 3);
    }

    /// Entries up to the error that a reader ends with.
    async fn to_the_error(mut cursor: Cursor) -> (usize, Error) {
        for entries in 0.. {
            match cursor.next().await {
                Ok(entry) => assert!(entry.is_some(), "the log has no end"),
                Err(error) => return (entries, error),
            }
        }
        unreachable!()
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_read_ends_the_wait_with_the_reason() {
        let home = testing::Home::new();
        let store = home.store();
        store.insert_job("01a", &spec("reviews"), 8).unwrap();
        let log = Log::new(store.clone());
        let mut cursor = log.read("01a", 1).unwrap();
        let database = rusqlite::Connection::open(home.data().database()).unwrap();
        database.execute_batch("ALTER TABLE events RENAME TO lost").unwrap();
        let error = cursor.next().await.unwrap_err();
        assert!(error.message().contains("events"), "{error}");
    }
}
