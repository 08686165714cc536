//! Saves positions while the run goes on.
//!
//! The run copies its numbers into memory that is used again; a thread writes the copy. There is one copy, so at most one
//! position is being written, and none waits: a position that is due meanwhile is taken when the thread has given the copy
//! back. Whoever has the [`Saver`] waits for its thread when it is dropped.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::position::Position;
use super::positions::Positions;
use super::snapshot::{Numbers, Snapshot};
use crate::spec::CheckpointEvery;
use hone_base::error::{Error, Result};

/// The longest time between two positions, where the job does not say.
const AUTOMATIC: Duration = Duration::from_secs(600);

/// When a run asks whether a position is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// After an optimizer step.
    Step,
    /// After an epoch that is not the last.
    Epoch,
    /// When no position comes after it: after the last epoch, or where the run stops.
    Last,
}

/// When the next position is due.
struct Due {
    every: CheckpointEvery,
    /// Of the last position.
    step: u64,
    taken: Instant,
    /// It was due while the one before was being written.
    is_owed: bool,
}

impl Due {
    fn is_due(&self, step: u64, moment: Moment, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.taken);
        let at_epochs = moment == Moment::Epoch;
        self.is_owed
            || moment == Moment::Last
            || match self.every {
                CheckpointEvery::Auto => at_epochs || passed >= AUTOMATIC,
                CheckpointEvery::Epoch => at_epochs,
                CheckpointEvery::Steps(steps) => step / steps > self.step / steps,
                CheckpointEvery::Minutes(minutes) => passed.as_secs() >= 60 * u64::from(minutes.get()),
            }
    }

    fn is_taken(&mut self, step: u64, now: Instant) {
        (self.step, self.taken, self.is_owed) = (step, now, false);
    }
}

/// Saves the positions of a run.
pub(crate) struct Saver {
    due: Due,
    /// Until the thread has it.
    positions: Option<Positions>,
    thread: Option<Thread>,
    /// While nothing is being written.
    idle: Option<Box<Snapshot>>,
    failure: Option<Error>,
}

/// The thread that writes.
struct Thread {
    todo: SyncSender<Box<Snapshot>>,
    done: Receiver<(Box<Snapshot>, Result<()>)>,
    handle: JoinHandle<()>,
}

impl Thread {
    fn start(mut positions: Positions) -> Result<Self> {
        let (todo, next) = sync_channel::<Box<Snapshot>>(1);
        let (give_back, done) = sync_channel(1);
        let write = move || {
            for snapshot in next {
                let result = positions.write(&snapshot);
                if give_back.send((snapshot, result)).is_err() {
                    break;
                }
            }
        };
        let handle = std::thread::Builder::new().name("positions".into()).spawn(write);
        let handle = handle
            .map_err(|error| Error::internal(format!("cannot start the thread for positions: {error}")))?;
        Ok(Self { todo, done, handle })
    }
}

impl Saver {
    /// Of a run that begins or continues at a step. Nothing is started or written before the first position is taken.
    pub(crate) fn new(positions: Positions, every: CheckpointEvery, step: u64) -> Self {
        let due = Due { every, step, taken: Instant::now(), is_owed: false };
        Self { due, positions: Some(positions), thread: None, idle: Some(Box::default()), failure: None }
    }

    /// Whether the run shall bring its numbers up to date and have them saved now. Waits only at the last moment, and then
    /// for the position before.
    pub(crate) fn is_due(&mut self, step: u64, moment: Moment) -> bool {
        if !self.due.is_due(step, moment, Instant::now()) {
            return false;
        }
        match moment {
            Moment::Last => self.wait(),
            _ => self.look(),
        }
        self.due.is_owed = self.idle.is_none();
        self.idle.is_some()
    }

    /// Takes a position, which is written while the run goes on. Nothing happens while another one is being written.
    pub(crate) fn save(&mut self, position: &Position, numbers: &Numbers<'_>) {
        let Some(mut snapshot) = self.idle.take() else { return };
        snapshot.take(position, numbers);
        self.due.is_taken(position.step, Instant::now());
        if let Err(error) = self.hand_over(snapshot) {
            self.failure = Some(error);
        }
    }

    fn hand_over(&mut self, snapshot: Box<Snapshot>) -> Result<()> {
        if let Some(positions) = self.positions.take() {
            self.thread = Some(Thread::start(positions)?);
        }
        let sent = self.thread.as_ref().map(|thread| thread.todo.send(snapshot));
        sent.and_then(std::result::Result::ok).ok_or_else(has_ended)
    }

    /// Takes the copy back, if it was written.
    fn look(&mut self) {
        match self.thread.as_ref().map(|thread| thread.done.try_recv()) {
            Some(Ok(done)) => self.take_back(done),
            Some(Err(TryRecvError::Disconnected)) if self.idle.is_none() => self.failure = Some(has_ended()),
            _ => {}
        }
    }

    /// Waits until nothing is being written.
    pub(crate) fn wait(&mut self) {
        if self.idle.is_some() {
            return;
        }
        match self.thread.as_ref().map(|thread| thread.done.recv()) {
            Some(Ok(done)) => self.take_back(done),
            _ => self.failure = Some(has_ended()),
        }
    }

    fn take_back(&mut self, (snapshot, result): (Box<Snapshot>, Result<()>)) {
        self.idle = Some(snapshot);
        if let Err(error) = result {
            self.failure = Some(error);
        }
    }

    /// Why a position was not saved, once.
    pub(crate) fn failure(&mut self) -> Option<Error> {
        self.failure.take()
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        if let Some(Thread { todo, done, handle }) = self.thread.take() {
            drop((todo, done));
            // It is done with the position that it was writing then. A panic was reported by its message already.
            let _ = handle.join();
        }
    }
}

fn has_ended() -> Error {
    Error::internal("the thread for positions has ended; this is a bug in Hone")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    fn due(every: CheckpointEvery) -> Due {
        Due { every, step: 0, taken: Instant::now(), is_owed: false }
    }

    fn steps(steps: u64) -> CheckpointEvery {
        CheckpointEvery::Steps(steps.try_into().unwrap())
    }

    #[test]
    fn a_position_is_due_at_multiples_of_steps_wherever_the_run_began() {
        let (mut due, now) = (due(steps(4)), Instant::now());
        due.step = 6;
        let asked: Vec<u64> = (7..=17)
            .filter(|&step| {
                let is_due = due.is_due(step, Moment::Step, now);
                if is_due {
                    due.is_taken(step, now);
                }
                is_due
            })
            .collect();
        assert_eq!(asked, [8, 12, 16]);
        assert!(!due.is_due(18, Moment::Epoch, now) && due.is_due(18, Moment::Last, now));
    }

    #[test]
    fn a_position_is_due_after_minutes_and_automatically_after_an_epoch_or_ten_of_them() {
        let now = Instant::now();
        let is_due = |every, minutes: u64, moment| {
            due(every).is_due(1, moment, now + Duration::from_secs(60 * minutes + 1))
        };
        let three = CheckpointEvery::Minutes(3.try_into().unwrap());
        assert_eq!([2, 3].map(|minutes| is_due(three, minutes, Moment::Step)), [false, true]);
        assert!(!is_due(three, 0, Moment::Epoch));
        assert_eq!(
            [9, 10].map(|minutes| is_due(CheckpointEvery::Auto, minutes, Moment::Step)),
            [false, true]
        );
        assert!(is_due(CheckpointEvery::Auto, 0, Moment::Epoch));
        assert!(is_due(CheckpointEvery::Epoch, 0, Moment::Epoch));
        assert!(!is_due(CheckpointEvery::Epoch, 1000, Moment::Step));
    }

    #[test]
    fn what_is_due_while_a_position_is_being_written_is_taken_when_that_is_done_and_nobody_waits() {
        // A thread that a test plays.
        let ((todo, _next), (give_back, done)) = (sync_channel(1), sync_channel(1));
        let thread = Thread { todo, done, handle: std::thread::spawn(|| ()) };
        let (due, idle) = (due(steps(2)), None);
        let mut saver = Saver { due, positions: None, thread: Some(thread), idle, failure: None };
        assert_eq!([1, 2, 3].map(|step| saver.is_due(step, Moment::Step)), [false; 3]);
        give_back.send((Box::default(), Err(Error::internal("the disk is full")))).unwrap();
        assert!(saver.is_due(3, Moment::Step));
        assert_eq!(saver.failure(), Some(Error::internal("the disk is full")));
        assert_eq!(saver.failure(), None);
        assert!(saver.is_due(3, Moment::Step), "until it is taken");
        saver.due.is_taken(3, Instant::now());
        assert!(!saver.is_due(3, Moment::Step) && saver.is_due(4, Moment::Step));
    }

    #[test]
    fn a_thread_that_has_died_is_told_and_not_waited_for() {
        let ((todo, _), (_, done)) = (sync_channel(1), sync_channel(1));
        let thread = Thread { todo, done, handle: std::thread::spawn(|| ()) };
        let (due, idle) = (due(steps(1)), None);
        let mut saver = Saver { due, positions: None, thread: Some(thread), idle, failure: None };
        assert!(!saver.is_due(1, Moment::Step));
        assert!(saver.failure().is_some_and(|error| error.message().contains("has ended")));
        saver.wait();
        assert!(!saver.is_due(2, Moment::Last));
    }
}
