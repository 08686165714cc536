//! A lane: threads of their own for one kind of work, which has all of them while it runs.
//!
//! A thread of a rayon pool that waits inside `join` or `scope` takes whatever else was given to the pool, also an hour
//! of training, and goes on only when that is done. So no two kinds of work share a pool, and no two pieces of work are
//! on a pool at once: whoever wants a lane waits for its turn on a thread of their own.

use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::calls::Calls;
use hone_base::error::{Error, Result};

/// Threads for one kind of work. Pieces of it run one after the other, in the order in which they came.
#[derive(Debug)]
pub struct Lane {
    pool: rayon::ThreadPool,
    turns: Turns,
}

impl Lane {
    /// A lane for answers: its threads have the priority of the process.
    ///
    /// # Errors
    ///
    /// When the threads cannot be started.
    pub fn new(name: &'static str, threads: NonZeroUsize) -> Result<Self> {
        Self::build(name, threads, None)
    }

    /// A lane for work that nobody waits for at the next moment: its threads have the lowest priority, and stand
    /// still for `calls` wherever the work says [`super::calls::give_way`].
    ///
    /// # Errors
    ///
    /// When the threads cannot be started.
    pub fn behind(calls: &Calls, name: &'static str, threads: NonZeroUsize) -> Result<Self> {
        Self::build(name, threads, Some(calls.clone()))
    }

    fn build(name: &'static str, threads: NonZeroUsize, calls: Option<Calls>) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .thread_name(move |number| format!("{name}-{number}"))
            .start_handler(move |_| {
                if let Some(calls) = &calls {
                    lower_priority();
                    calls.go_first();
                }
            })
            .build()
            .map_err(|error| Error::internal(format!("cannot start {threads} threads: {error}")))?;
        Ok(Self { pool, turns: Turns::default() })
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs the work on the lane's threads when its turn has come. Blocks until it is done.
    ///
    /// # Panics
    ///
    /// On a thread of a lane: it would work on something else while it waits. A panic of the work goes on here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let _turn = self.turns.wait();
        self.pool.install(work)
    }

    /// Takes the lane when its turn has come, for work that comes piece by piece, such as requests. Blocks until then.
    ///
    /// # Panics
    ///
    /// As [`Lane::run`].
    pub fn own(self: &Arc<Self>) -> OwnedLane {
        self.turns.take();
        OwnedLane(Arc::new(OwnTurn(self.clone())))
    }

    /// Runs work, as [`Lane::run`] does, that asks something of the calling thread while it runs. The caller can do what a
    /// thread of the lowest priority must not: hold a lock that an answer may need.
    ///
    /// # Panics
    ///
    /// As [`Lane::run`]. A panic of `answer` goes on here too, once the work has ended by it.
    pub fn run_asking<Q: Send, A: Send, T: Send>(
        &self,
        work: impl FnOnce(&mut (dyn FnMut(Q) -> A + Send)) -> T + Send,
        mut answer: impl FnMut(Q) -> A,
    ) -> T {
        let _turn = self.turns.wait();
        let (ask, asked) = sync_channel(1);
        let (give, given) = sync_channel(1);
        let mut result = None;
        self.pool.in_place_scope(|scope| {
            let result = &mut result;
            scope.spawn(move |_| {
                let mut question = move |question| {
                    let answer = ask.send(question).ok().and_then(|()| given.recv().ok());
                    answer.unwrap_or_else(|| resume_unwind(Box::new("nobody answers any more")))
                };
                *result = Some(work(&mut question));
            });
            // Gone when this thread panics, so that the work does not wait for an answer.
            let give = give;
            for question in asked {
                let _ = give.send(answer(question));
            }
        });
        result.unwrap_or_else(|| unreachable!("a scope ends after its work"))
    }
}

/// Runs work of one thread on a thread of its own, of the lowest priority, and waits for it: reading a file, hashing.
/// The work must hold no lock that an answer may need.
///
/// # Errors
///
/// When the thread cannot be started, or the work fails.
///
/// # Panics
///
/// When the work does.
pub fn aside<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let lowered = || {
            lower_priority();
            work()
        };
        let thread = std::thread::Builder::new().name("files".into()).spawn_scoped(scope, lowered);
        let thread = thread.map_err(|error| Error::internal(format!("cannot start a thread: {error}")))?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    })
}

/// Gives the calling thread, and those that it starts, the lowest priority of the system's scheduler: it gets what
/// others leave, and about a seventieth of a core that they do not. Where that cannot be had it goes on as it is.
fn lower_priority() {
    // There is nothing to be done about a failure.
    let _ = set_lowest();
}

/// Linux has a priority for each thread; elsewhere it is that of the process.
#[cfg(target_os = "linux")]
fn set_lowest() -> io::Result<()> {
    Ok(rustix::process::setpriority_process(None, 19)?)
}

#[cfg(not(target_os = "linux"))]
fn set_lowest() -> io::Result<()> {
    Ok(())
}

/// Who has the lane: the numbers of those who wait, in the order in which they came.
#[derive(Debug, Default)]
struct Turns {
    state: Mutex<Numbers>,
    passed: Condvar,
}

#[derive(Debug, Default)]
struct Numbers {
    next: u64,
    current: u64,
}

struct Turn<'a>(&'a Turns);

/// The turn of an owned lane.
#[derive(Debug)]
struct OwnTurn(Arc<Lane>);

impl Drop for OwnTurn {
    fn drop(&mut self) {
        self.0.turns.pass();
    }
}

/// A lane that somebody has for themselves, until this is dropped and what was spawned has ended.
#[derive(Debug)]
pub struct OwnedLane(Arc<OwnTurn>);

impl OwnedLane {
    /// Runs the work on a thread of the lane; its own parallel parts run there without waking another thread first. Returns
    /// at once. Pieces run side by side: one that has parallel parts must be the only one, for a thread that waits for such
    /// a part takes another piece up and goes on only when that is done. A panic of the work ends with it.
    pub fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        let turn = self.0.clone();
        self.0.0.pool.spawn(move || {
            let _turn = turn;
            drop(catch_unwind(AssertUnwindSafe(work)));
        });
    }
}

impl Turns {
    fn wait(&self) -> Turn<'_> {
        self.take();
        Turn(self)
    }

    /// Waits for a turn, which lasts until [`Turns::pass`].
    fn take(&self) {
        assert!(rayon::current_thread_index().is_none(), "a thread of a lane waits for a lane");
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let own = state.next;
        state.next += 1;
        let others = |state: &mut Numbers| state.current != own;
        drop(self.passed.wait_while(state, others).unwrap_or_else(PoisonError::into_inner));
    }

    fn pass(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).current += 1;
        self.passed.notify_all();
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.pass();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn lane(threads: usize) -> Lane {
        Lane::new("test", threads.try_into().unwrap()).unwrap()
    }

    #[test]
    fn a_lane_has_one_piece_of_work_at_a_time() {
        let (lane, running) = (lane(4), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    lane.run(|| {
                        assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
                        rayon::join(std::thread::yield_now, std::thread::yield_now);
                        running.fetch_sub(1, Ordering::SeqCst);
                    });
                });
            }
        });
    }

    #[test]
    fn a_thread_of_a_lane_must_not_wait_for_a_lane() {
        let (first, second) = (lane(2), lane(2));
        let waits = || first.run(|| second.run(|| ()));
        assert!(catch_unwind(AssertUnwindSafe(waits)).is_err());
        assert_eq!(first.run(|| 1) + second.run(|| 1), 2);
    }

    #[test]
    fn work_asks_the_thread_that_waits_for_it() {
        let here = std::thread::current().id();
        let mut asked = Vec::new();
        let sum = lane(2).run_asking(
            |ask| ask(1) + ask(2),
            |question: u32| {
                assert_eq!(std::thread::current().id(), here);
                asked.push(question);
                10 * question
            },
        );
        assert_eq!((sum, asked), (30, vec![1, 2]));
    }

    #[test]
    fn an_owned_lane_runs_pieces_side_by_side_and_nobody_elses() {
        let lane = Arc::new(lane(2));
        let owned = lane.own();
        let both = Arc::new(std::sync::Barrier::new(3));
        for _ in 0..2 {
            let both = both.clone();
            owned.spawn(move || {
                assert!(std::thread::current().name().is_some_and(|name| name.starts_with("test-")));
                // Passes only while the other piece runs too.
                both.wait();
                both.wait();
            });
        }
        owned.spawn(|| panic!("work"));
        both.wait();
        drop(owned);
        std::thread::scope(|scope| {
            let (began, begun) = sync_channel(1);
            let lane = &lane;
            scope.spawn(move || lane.run(|| began.send(()).unwrap()));
            assert!(begun.recv_timeout(std::time::Duration::from_millis(50)).is_err());
            both.wait();
            begun.recv().unwrap();
        });
        assert_eq!(lane.run(|| 1), 1);
    }

    #[test]
    fn a_panic_of_the_work_or_of_the_answer_goes_on_and_frees_the_lane() {
        let lane = lane(1);
        let of_work = || lane.run_asking(|_: &mut (dyn FnMut(u8) -> u8 + Send)| panic!("work"), |x| x);
        let of_answer = || lane.run_asking(|ask| ask(1), |_: u8| -> u8 { panic!("answer") });
        assert!(catch_unwind(AssertUnwindSafe(of_work)).is_err());
        assert!(catch_unwind(AssertUnwindSafe(of_answer)).is_err());
        assert_eq!(lane.run(|| 1), 1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_not_for_an_answer_has_the_lowest_priority() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let behind = Lane::behind(&Calls::default(), "test", NonZeroUsize::MIN).unwrap();
        let own = priority();
        assert_eq!(lane(1).run(priority), own);
        assert_eq!(behind.run(priority), 19);
        assert_eq!(aside(|| Ok(priority())).unwrap(), 19);
        assert_eq!(priority(), own);
    }
}
