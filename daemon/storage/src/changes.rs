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

/// Whether a topic is being written, and can be. A failure stays until something is written again.
#[derive(Clone, Debug, Default)]
struct Health {
    failure: Option<Error>,
    /// Writes that have begun and not ended: what they write may be read already.
    writing: usize,
}

impl Changes {
    /// Whether something was written since this was made or [`Changes::changed`] last returned, or is being written: true
    /// as soon as a reader could read it. Does not block.
    pub fn has_changed(&self) -> bool {
        self.0.has_changed().unwrap_or(true) || self.0.borrow().writing > 0
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

/// A write that has begun, until this is dropped.
#[derive(Debug)]
pub struct Writing<'a> {
    watchers: &'a Watchers,
    topics: &'a [Topic],
    is_done: bool,
}

impl Watchers {
    /// A write of these topics begins: to be called before what it writes can be read.
    pub fn begin<'a>(&'a self, topics: &'a [Topic]) -> Writing<'a> {
        let mut known = lock(&self.topics);
        for topic in topics {
            known.entry(topic.clone()).or_default().send_if_modified(|health| {
                health.writing += 1;
                false
            });
        }
        Writing { watchers: self, topics, is_done: false }
    }

    /// A new reader of a topic, which knows everything that was written so far.
    pub fn watch(&self, topic: Topic) -> Changes {
        let mut topics = lock(&self.topics);
        // What nobody watches any more goes, except that it has failed.
        topics.retain(|_, sender| is_needed(sender));
        Changes(topics.entry(topic).or_default().subscribe())
    }

    /// Something was written: after it can be read.
    pub fn wake(&self, topic: &Topic) {
        if let Some(sender) = lock(&self.topics).get(topic) {
            sender.send_modify(|health| health.failure = None);
        }
    }

    /// Nothing can be written to a topic. Readers are told, those that come later too, until [`Watchers::wake`].
    pub fn fail(&self, topic: Topic, error: Error) {
        lock(&self.topics).entry(topic).or_default().send_modify(|health| health.failure = Some(error));
    }

    /// A topic is gone, and its failure with it.
    pub fn forget(&self, topic: &Topic) {
        self.wake(topic);
        lock(&self.topics).retain(|known, sender| known != topic || sender.receiver_count() > 0);
    }
}

/// Whether somebody watches a topic, or what is known of it is not over.
fn is_needed(sender: &watch::Sender<Health>) -> bool {
    let health = sender.borrow();
    sender.receiver_count() > 0 || health.failure.is_some() || health.writing > 0
}

impl Writing<'_> {
    /// It is written and can be read: whoever watches is woken.
    pub fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        let mut known = lock(&self.watchers.topics);
        for topic in self.topics {
            let Some(sender) = known.get(topic) else { continue };
            sender.send_if_modified(|health| {
                health.writing = health.writing.saturating_sub(1);
                if self.is_done {
                    health.failure = None;
                }
                self.is_done
            });
            if !is_needed(sender) {
                known.remove(topic);
            }
        }
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
    fn a_topic_has_changed_from_before_what_is_written_can_be_read_and_a_write_that_fails_wakes_nobody() {
        let watchers = Watchers::default();
        let topics = [Topic::Models];
        let early = watchers.watch(Topic::Models);
        let writing = watchers.begin(&topics);
        let late = watchers.watch(Topic::Models);
        assert!(early.has_changed() && late.has_changed());
        drop(writing);
        assert!(!early.has_changed() && !late.has_changed());
        watchers.begin(&topics).done();
        assert!(early.has_changed() && late.has_changed());
    }

    #[test]
    fn what_nobody_watches_leaves_nothing_behind() {
        let watchers = Watchers::default();
        for job in 0..100 {
            drop(watchers.watch(Topic::Log(job.to_string())));
        }
        watchers.begin(&[log()]).done();
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
