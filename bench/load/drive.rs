//! Sends calls: closed loops, open loops, and probes of how a server recovers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::schedule::Schedule;
use super::tally::Tally;
use super::wire::{Call, Server};

/// Intended calls that may wait for this program itself.
const INTENDED: usize = 1 << 14;

/// When a closed loop ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Until {
    /// No call begins after so long.
    Elapsed(Duration),
    /// So many calls were made by all callers together.
    Calls(usize),
}

/// What calls to make, and where.
pub(crate) struct Driver {
    pub(crate) server: Server,
    /// Made one after the other, then again from the first; at least one.
    pub(crate) calls: Vec<Call>,
    pub(crate) deadline: Option<Duration>,
}

/// What came of a loop.
pub(crate) struct Ended {
    pub(crate) tally: Tally,
    /// From the loop's begin to the last answer.
    pub(crate) seconds: f64,
}

/// An open loop that begins no more calls; some may still be open.
pub(crate) struct Draining {
    begun: Instant,
    /// When the last call was meant to begin.
    pub(crate) stopped: Instant,
    open: JoinSet<()>,
    tally: Arc<Mutex<Tally>>,
}

/// A single call that looks how the server is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Probe {
    /// Seconds at its end.
    pub(crate) at: f64,
    pub(crate) milliseconds: f64,
    pub(crate) answered: bool,
}

impl Driver {
    /// Callers that each make one call at a time.
    pub(crate) async fn closed(self: &Arc<Self>, callers: usize, until: Until) -> Ended {
        let (tally, next) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (driver, tally, next) = (self.clone(), Arc::clone(&tally), next.clone());
            tasks.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let ended = match until {
                        Until::Elapsed(limit) => begun.elapsed() >= limit,
                        Until::Calls(calls) => number >= calls,
                    };
                    if ended {
                        break;
                    }
                    driver.call(number, Instant::now(), &tally).await;
                }
            });
        }
        while tasks.join_next().await.is_some() {}
        Ended { seconds: begun.elapsed().as_secs_f64(), tally: taken(&tally) }
    }

    /// Begins calls at the times of the schedule for so long, whatever is still open. A thread keeps the time, since the
    /// runtime's clock has milliseconds.
    pub(crate) async fn open(self: &Arc<Self>, schedule: Schedule, limit: Duration) -> Draining {
        let tally = Arc::default();
        let (intend, mut intended) = mpsc::channel(INTENDED);
        let begun = Instant::now();
        let clock = std::thread::spawn(move || {
            for at in schedule.take_while(|at| *at < limit) {
                std::thread::sleep((begun + at).saturating_duration_since(Instant::now()));
                if intend.blocking_send(begun + at).is_err() {
                    break;
                }
            }
        });
        let (mut open, mut number, mut stopped) = (JoinSet::new(), 0, begun);
        while let Some(at) = intended.recv().await {
            let (driver, tally) = (self.clone(), Arc::clone(&tally));
            open.spawn(async move { driver.call(number, at, &tally).await });
            (number, stopped) = (number + 1, at);
            while open.try_join_next().is_some() {}
        }
        // It has ended: its end of the channel is closed.
        let _ = clock.join();
        Draining { begun, stopped, open, tally }
    }

    /// One call after the other until `done` says that enough was seen, or for so long. Times count from `from`.
    pub(crate) async fn probe(
        &self,
        from: Instant,
        limit: Duration,
        done: impl Fn(&[Probe]) -> bool,
    ) -> Vec<Probe> {
        let mut probes = Vec::new();
        for call in self.calls.iter().cycle() {
            let begun = Instant::now();
            let answered = self.server.send(probes.len(), call, self.deadline).await.is_ok();
            let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
            probes.push(Probe { at: from.elapsed().as_secs_f64(), milliseconds, answered });
            if done(&probes) || from.elapsed() >= limit {
                break;
            }
            if !answered {
                // A refusal comes at once; asking again as fast would be load.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        probes
    }

    async fn call(&self, number: usize, intended: Instant, tally: &Mutex<Tally>) {
        let Some(call) = self.calls.get(number % self.calls.len()) else { return };
        let answer = self.server.send(number, call, self.deadline).await;
        let latency = intended.elapsed();
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.count(&call.labels, answer, latency, self.deadline);
    }
}

impl Draining {
    /// Waits for the calls that are still open.
    pub(crate) async fn ended(mut self) -> Ended {
        while self.open.join_next().await.is_some() {}
        let tally = taken(&self.tally);
        Ended { seconds: self.begun.elapsed().as_secs_f64(), tally }
    }

    /// Calls that are still open.
    pub(crate) fn still_open(&mut self) -> usize {
        while self.open.try_join_next().is_some() {}
        self.open.len()
    }
}

fn taken(tally: &Mutex<Tally>) -> Tally {
    std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Probes in a row that say that a server has recovered.
const IN_A_ROW: usize = 5;

/// Seconds until the server had recovered: the end of the first of five probes in a row that were answered within the bound.
pub(crate) fn recovered(probes: &[Probe], bound_ms: f64) -> Option<f64> {
    let good = |probe: &Probe| probe.answered && probe.milliseconds <= bound_ms;
    probes.windows(IN_A_ROW).find(|row| row.iter().all(good)).and_then(|row| Some(row.first()?.at))
}

/// Whether more callers have stopped to help: the last two steps of growing concurrency are no more than 3% above the best
/// before them.
pub(crate) fn saturated(rates: &[f64]) -> bool {
    let Some(([.., _], [a, b])) = rates.split_last_chunk::<2>() else { return false };
    let before = rates.iter().take(rates.len() - 2).fold(0.0, |best: f64, &rate| best.max(rate));
    a.max(*b) <= before * 1.03
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probes(milliseconds: &[f64]) -> Vec<Probe> {
        let mut at = 0.0;
        let probe = |&milliseconds: &f64| {
            at += milliseconds / 1e3;
            Probe { at, milliseconds, answered: milliseconds > 0.0 }
        };
        milliseconds.iter().map(probe).collect()
    }

    #[test]
    fn a_server_has_recovered_with_the_first_of_five_quick_answers_in_a_row() {
        let all = probes(&[500.0, 4.0, 4.0, 90.0, 4.0, 4.0, 4.0, 4.0, 4.0]);
        assert!((recovered(&all, 8.0).unwrap() - 0.602).abs() < 1e-9);
        assert_eq!(recovered(all.get(..8).unwrap(), 8.0), None);
    }

    #[test]
    fn a_refusal_is_no_quick_answer() {
        assert_eq!(recovered(&probes(&[4.0, 4.0, 0.0, 4.0, 4.0, 4.0, 4.0]), 8.0), None);
    }

    #[test]
    fn saturation_is_two_steps_without_growth() {
        assert!(!saturated(&[]));
        assert!(!saturated(&[100.0, 101.0]));
        assert!(!saturated(&[100.0, 101.0, 150.0]));
        assert!(!saturated(&[100.0, 150.0, 152.0]));
        assert!(saturated(&[100.0, 150.0, 152.0, 149.0]));
    }
}
