//! Calls that wait for an answer go first: work behind them stands still while there are any, but for a share of the
//! time, so that it goes on under a load that never ends.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long work stands still for calls without a gap, at most.
const STANDS: Duration = Duration::from_millis(90);

/// How long it then goes on beside them.
const GOES: Duration = Duration::from_millis(10);

/// Calls within so long of each other are one stretch.
const GAP: Duration = Duration::from_millis(5);

/// How long work sleeps at a time while it stands still: a call may end just before it falls asleep.
const SLEEPS: Duration = Duration::from_millis(10);

/// The calls that wait or run. Clones count the same calls.
///
/// A call takes no lock: a thread of the lowest priority that held it would not soon get a core to let go of it.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    count: AtomicUsize,
    clock: Clock,
    standing: AtomicUsize,
    /// Of the work that stands still.
    still: Mutex<()>,
    ended: Condvar,
}

/// What is known of the present stretch of calls, in nanoseconds; 0 is not known.
#[derive(Debug)]
struct Clock {
    start: Instant,
    /// When a call ended last, since the stretch was looked at.
    ended: AtomicU64,
    /// When the stretch began, or work last went on beside it.
    since: AtomicU64,
    /// Until when work goes on beside it.
    until: AtomicU64,
}

/// A call, until this is dropped.
#[derive(Debug)]
pub struct Call(Arc<Shared>);

thread_local! {
    /// What the work of this thread gives way to.
    static FIRST: RefCell<Option<Calls>> = const { RefCell::new(None) };
}

impl Calls {
    /// A call begins.
    pub fn enter(&self) -> Call {
        if self.0.count.fetch_add(1, Ordering::SeqCst) == 0 {
            self.0.clock.begin(self.0.clock.now());
        }
        Call(self.0.clone())
    }

    /// From now on the work of the calling thread gives way to them.
    pub(super) fn go_first(&self) {
        FIRST.set(Some(self.clone()));
    }
}

impl Shared {
    fn has_none(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    #[cold]
    fn stand(&self) {
        self.standing.fetch_add(1, Ordering::SeqCst);
        let mut still = self.still.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.has_none() {
            let Some(wait) = self.clock.wait(self.clock.now()) else { break };
            let woken = self.ended.wait_timeout(still, wait.min(SLEEPS));
            still = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(still);
        self.standing.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: Instant::now(), ended: 0.into(), since: 0.into(), until: 0.into() }
    }
}

impl Clock {
    /// Nanoseconds since the clock was made, from 1.
    fn now(&self) -> u64 {
        nanoseconds(self.start.elapsed()) + 1
    }

    /// The first of calls begins.
    fn begin(&self, now: u64) {
        let ended = self.ended.swap(0, Ordering::Relaxed);
        if ended == 0 || now.saturating_sub(ended) >= nanoseconds(GAP) {
            self.since.store(now, Ordering::Relaxed);
            self.until.store(0, Ordering::Relaxed);
        }
    }

    /// The last of calls ends.
    fn end(&self, now: u64) {
        self.ended.store(now, Ordering::Relaxed);
    }

    /// How long work must stand still, as far as is known now; `None` when it goes on. Of the threads that stand still one at
    /// a time asks.
    fn wait(&self, now: u64) -> Option<Duration> {
        let until = self.until.load(Ordering::Relaxed);
        if now < until {
            return None;
        }
        if until != 0 {
            self.until.store(0, Ordering::Relaxed);
            self.since.store(until, Ordering::Relaxed);
        }
        let stood = Duration::from_nanos(now.saturating_sub(self.since.load(Ordering::Relaxed)));
        if stood < STANDS {
            return Some(STANDS - stood);
        }
        self.until.store(now + nanoseconds(GOES), Ordering::Relaxed);
        None
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Drop for Call {
    fn drop(&mut self) {
        // Said before it is over: whoever begins next may look.
        self.0.clock.end(self.0.clock.now());
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.standing.load(Ordering::SeqCst) > 0 {
            self.0.ended.notify_all();
        }
    }
}

/// Lets calls go first, if the calling thread's work gives way to any: waits until there are none, or until it has stood
/// still for long enough. Between pieces of work that take about a millisecond or more.
pub fn give_way() {
    FIRST.with_borrow(|calls| {
        if let Some(Calls(calls)) = calls
            && calls.count.load(Ordering::Relaxed) > 0
        {
            calls.stand();
        }
    });
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::kernels::lane::Lane;

    const MILLISECOND: u64 = 1_000_000;

    fn milliseconds(wait: Option<Duration>) -> Option<u128> {
        wait.map(|wait| wait.as_millis())
    }

    #[test]
    fn work_stands_still_for_calls_and_then_goes_on_beside_them_for_a_share_of_the_time() {
        let (clock, start) = (Clock::default(), 1);
        clock.begin(start);
        for round in 0..3 {
            let begin = start + 100 * MILLISECOND * round;
            assert_eq!(milliseconds(clock.wait(begin)), Some(90));
            assert_eq!(milliseconds(clock.wait(begin + 89 * MILLISECOND)), Some(1));
            assert_eq!(clock.wait(begin + 90 * MILLISECOND), None);
            assert_eq!(clock.wait(begin + 99 * MILLISECOND), None);
        }
    }

    #[test]
    fn calls_close_to_each_other_are_one_stretch_and_a_call_after_a_gap_begins_another() {
        let (clock, start) = (Clock::default(), 1);
        clock.begin(start);
        clock.end(start + 45 * MILLISECOND);
        clock.begin(start + 49 * MILLISECOND);
        assert_eq!(milliseconds(clock.wait(start + 89 * MILLISECOND)), Some(1));
        clock.end(start + 89 * MILLISECOND);
        clock.begin(start + 94 * MILLISECOND);
        assert_eq!(milliseconds(clock.wait(start + 94 * MILLISECOND)), Some(90));
    }

    #[test]
    fn work_goes_on_when_the_last_call_has_ended_and_others_wait_for_none() {
        let calls = Calls::default();
        let lane = Lane::behind(&calls, "test", NonZeroUsize::MIN).unwrap();
        let (first, second) = (calls.enter(), calls.enter());
        give_way();
        std::thread::scope(|scope| {
            let work = scope.spawn(|| lane.run(give_way));
            drop(first);
            drop(second);
            work.join().unwrap();
        });
        assert!(calls.0.has_none());
    }
}
