//! Calls that wait for an answer go first: work behind them stands still while there are any, but for a share of the
//! time, so that it goes on under a load that never ends.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long work stands still for calls without a gap, at most.
const STANDS: Duration = Duration::from_millis(90);

/// How long it then goes on beside them.
const GOES: Duration = Duration::from_millis(10);

/// Calls within so long of each other are one stretch.
const GAP: Duration = Duration::from_millis(5);

/// The calls that wait or run. Clones count the same calls.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    count: AtomicUsize,
    standing: AtomicUsize,
    clock: Mutex<Clock>,
    changed: Condvar,
}

/// What is known of the present stretch of calls.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    /// When the last call ended, if none runs.
    ended: Option<Instant>,
    /// When the stretch began, or work last went on beside it.
    since: Option<Instant>,
    /// Until when work goes on beside it.
    until: Option<Instant>,
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
            self.0.clock().begin(Instant::now());
        }
        Call(self.0.clone())
    }

    /// From now on the work of the calling thread gives way to them.
    pub(super) fn go_first(&self) {
        FIRST.set(Some(self.clone()));
    }
}

impl Shared {
    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_none(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    #[cold]
    fn stand(&self) {
        self.standing.fetch_add(1, Ordering::SeqCst);
        let mut clock = self.clock();
        while !self.has_none() {
            let Some(wait) = clock.wait(Instant::now()) else { break };
            clock = self.changed.wait_timeout(clock, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(clock);
        self.standing.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Clock {
    /// The first of calls begins.
    fn begin(&mut self, now: Instant) {
        let is_new = self.ended.take().is_none_or(|ended| now.saturating_duration_since(ended) >= GAP);
        if is_new {
            (self.since, self.until) = (Some(now), None);
        }
    }

    /// How long work must stand still, as far as is known now; `None` when it goes on.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        if self.until.is_some_and(|until| now < until) {
            return None;
        }
        let since = self.until.take().or(self.since).unwrap_or(now);
        self.since = Some(since);
        let stood = now.saturating_duration_since(since);
        if stood < STANDS {
            return Some(STANDS - stood);
        }
        self.until = Some(now + GOES);
        None
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.clock().ended = Some(Instant::now());
            if self.0.standing.load(Ordering::SeqCst) > 0 {
                self.0.changed.notify_all();
            }
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

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn work_stands_still_for_calls_and_then_goes_on_beside_them_for_a_share_of_the_time() {
        let (mut clock, start) = (Clock::default(), Instant::now());
        clock.begin(start);
        for round in 0..3 {
            let begin = start + round * (STANDS + GOES);
            assert_eq!(clock.wait(begin), Some(STANDS));
            assert_eq!(clock.wait(begin + STANDS - MOMENT), Some(MOMENT));
            assert_eq!(clock.wait(begin + STANDS), None);
            assert_eq!(clock.wait(begin + STANDS + GOES - MOMENT), None);
        }
    }

    #[test]
    fn calls_close_to_each_other_are_one_stretch_and_a_call_after_a_gap_begins_another() {
        let (mut clock, start) = (Clock::default(), Instant::now());
        clock.begin(start);
        clock.ended = Some(start + STANDS / 2);
        clock.begin(start + STANDS / 2 + GAP - MOMENT);
        assert_eq!(clock.wait(start + STANDS - MOMENT), Some(MOMENT));
        clock.ended = Some(start + STANDS - MOMENT);
        clock.begin(start + STANDS - MOMENT + GAP);
        assert_eq!(clock.wait(start + STANDS - MOMENT + GAP), Some(STANDS));
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
