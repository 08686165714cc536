//! How readers learn that there is more: a reader watches a topic, and whoever writes wakes those that watch it.
//!
//! A reader first watches, then reads, then waits; so it misses nothing that is written after it has read.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use hone_base::error::{Error, Kind, Result};
use hone_base::panic::lock;
use tokio::sync::watch;

use crate::{EventKind, JobEvent};

/// What can be watched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Jobs that come, run and end.
    Queue,
    /// The log of the job with this id.
    Log(String),
    /// Models, their versions and aliases.
    Models,
}

impl Topic {
    /// For implementations of a catalog: what changes when a job's log gets these events.
    pub fn changed_by(job: &str, events: &[JobEvent]) -> Vec<Self> {
        let moves = events.iter().any(|event| event.kind() == EventKind::StateChanged);
        std::iter::once(Self::Log(job.to_owned())).chain(moves.then_some(Self::Queue)).collect()
    }
}

/// A reader's view of one topic: what was written since it last looked. It may also be woken when nothing was.
#[derive(Clone, Debug)]
pub struct Changes(watch::Receiver<Health>);

/// Whether a topic can be written. A failure stays until something is written again.
#[derive(Clone, Debug, Default)]
struct Health {
    failure: Option<Error>,
}

impl Changes {
    /// Whether something was written since this was made or [`Changes::changed`] last returned. Does not block.
    pub fn has_changed(&self) -> bool {
        self.0.has_changed().unwrap_or(true)
    }

    /// Counts what was written so far as known; for a reader that reads next.
    pub fn mark_seen(&mut self) {
        self.0.borrow_and_update();
    }

    /// Waits until something is written that is not known. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    ///
    /// Why nothing can be written, as soon and as long as that is so, and when what stores is gone.
    pub async fn changed(&mut self) -> Result<()> {
        if let Some(failure) = &self.0.borrow().failure {
            return Err(failure.clone());
        }
        let gone = |_| Error::new(Kind::Unavailable, "the daemon is going down; try again when it is back");
        self.0.changed().await.map_err(gone)?;
        match &self.0.borrow_and_update().failure {
            Some(failure) => Err(failure.clone()),
            None => Ok(()),
        }
    }
}

/// For implementations of a catalog: who watches what in this process.
#[derive(Debug, Default)]
pub struct Watchers {
    topics: Mutex<HashMap<Topic, watch::Sender<Health>>>,
}

impl Watchers {
    /// A new reader of a topic, which knows everything that was written so far.
    pub fn watch(&self, topic: Topic) -> Changes {
        let mut topics = lock(&self.topics);
        // What nobody watches any more goes, except that it has failed.
        topics.retain(|_, sender| sender.receiver_count() > 0 || sender.borrow().failure.is_some());
        Changes(topics.entry(topic).or_default().subscribe())
    }

    /// Something was written: after it can be read.
    pub fn wake(&self, topic: &Topic) {
        if let Some(sender) = lock(&self.topics).get(topic) {
            sender.send_replace(Health::default());
        }
    }

    /// Nothing can be written to a topic. Readers are told, those that come later too, until [`Watchers::wake`].
    pub fn fail(&self, topic: Topic, error: Error) {
        lock(&self.topics).entry(topic).or_default().send_replace(Health { failure: Some(error) });
    }

    /// A topic is gone, and its failure with it.
    pub fn forget(&self, topic: &Topic) {
        self.wake(topic);
        lock(&self.topics).retain(|known, sender| known != topic || sender.receiver_count() > 0);
    }
}

/// Waits for a future on a thread that may block, for at most so long; `None` when the time is over.
pub fn block_on<F: Future>(future: F, most: Duration) -> Option<F::Output> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let end = Instant::now() + most;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn log() -> Topic {
        Topic::Log("01a".into())
    }

    #[test]
    fn a_reader_is_woken_by_its_topic_alone_and_once() {
        let watchers = Watchers::default();
        let mut changes = watchers.watch(log());
        watchers.wake(&Topic::Models);
        assert!(!changes.has_changed());
        watchers.wake(&log());
        assert!(changes.has_changed());
        assert_eq!(block_on(changes.changed(), SOON), Some(Ok(())));
        assert!(!changes.has_changed());
        assert_eq!(block_on(changes.changed(), Duration::ZERO), None);
    }

    #[test]
    fn a_reader_that_waits_on_another_thread_is_woken() {
        let watchers = Watchers::default();
        let mut changes = watchers.watch(log());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || block_on(changes.changed(), SOON));
            watchers.wake(&log());
            assert_eq!(waiting.join().unwrap(), Some(Ok(())));
        });
    }

    #[test]
    fn a_failure_is_told_to_those_that_wait_and_those_that_come_until_something_is_written() {
        let watchers = Watchers::default();
        let mut early = watchers.watch(log());
        let full = Error::new(Kind::Exhausted, "the disk is full");
        watchers.fail(log(), full.clone());
        let mut late = watchers.watch(log());
        for changes in [&mut early, &mut late] {
            assert_eq!(block_on(changes.changed(), SOON), Some(Err(full.clone())));
            assert_eq!(block_on(changes.changed(), SOON), Some(Err(full.clone())));
        }
        watchers.wake(&log());
        assert_eq!(block_on(late.changed(), SOON), Some(Ok(())));
    }

    #[test]
    fn what_nobody_watches_leaves_nothing_behind() {
        let watchers = Watchers::default();
        for job in 0..100 {
            drop(watchers.watch(Topic::Log(job.to_string())));
        }
        let _changes = watchers.watch(Topic::Models);
        watchers.fail(log(), Error::internal("the disk is gone"));
        watchers.forget(&log());
        assert_eq!(lock(&watchers.topics).len(), 1);
    }

    #[test]
    fn readers_are_told_when_what_stores_is_gone() {
        let watchers = Watchers::default();
        let mut changes = watchers.watch(log());
        drop(watchers);
        assert_eq!(block_on(changes.changed(), SOON).unwrap().unwrap_err().kind(), Kind::Unavailable);
    }
}
