//! The policy of batching, without threads and clocks: who is admitted, who waits before whom, what goes into the next
//! batch, and on which threads that is computed.
//!
//! A request's rank is when it came, plus what it costs, minus its priority's head start. The lowest rank is computed
//! next. So among requests that wait together the cheap ones go first; and since a rank never changes while those of
//! later requests grow, each request is overtaken only by such as come within its own cost and their head start of it:
//! nothing starves. Sequences are packed, so nothing is gained by batches of one length.
//!
//! Where each thread can compute a batch of its own, those of a few sequences are best: no thread waits for another, and
//! an answer is there when its own sequences are done. All threads together compute one batch where too little waits to
//! feed each of them: see [`Queue::plan`].
//!
//! A queue is as long as the time that its requests take, by [`super::rate::Rate`]. A request that would wait longer
//! than the bound before it begins, or could not be answered before its deadline, is refused before anything is done
//! for it: else, under a load that is too high, all wait until nobody wants their answers any more.
//!
//! Times are durations since the queue's beginning.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use hone_engine::model::backend::Threads;

/// How much earlier a request with the next higher priority might have come.
const HEAD_START: Duration = Duration::from_millis(100);

/// Sequences that wait at most.
pub const CAPACITY: usize = 16_384;

/// What a sequence costs all threads together, as a part of what it costs one: they wait for one another.
const SHARED: (u32, u32) = (5, 4);

/// How many times its bound a queue may be long, of requests that went before those that wait.
const OVERFULL: u32 = 4;

/// How large a batch may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of a batch at most; a longer sequence stands alone.
    pub tokens: usize,
    /// Sequences of a batch at most.
    pub count: usize,
    /// How threads compute batches of their own, where they can.
    pub each: Option<Each>,
}

/// Batches of threads that each compute their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Each {
    /// How many threads there are.
    pub threads: usize,
    /// Sequences are added to such a batch until it has so many tokens. Fewer take a thread hardly less time: it reads all
    /// weights for them.
    pub tokens: usize,
}

impl Limits {
    /// How many batches may be computed at once.
    pub fn threads(&self) -> usize {
        self.each.map_or(1, |each| each.threads)
    }

    /// The part of all threads that a batch on these has, such as 2: every second one.
    pub fn part(&self, threads: Threads) -> u32 {
        match threads {
            Threads::All => 1,
            Threads::Calling => self.threads().max(1) as u32,
        }
    }
}

/// How long requests may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Before it begins, a request waits so long at most, or is refused.
    pub max_wait: Duration,
    /// While batches follow one another, one that is not full waits so long for more.
    pub max_batch_delay: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { max_wait: Duration::from_millis(750), max_batch_delay: Duration::ZERO }
    }
}

/// A loaded model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId(pub u64);

/// A request that asks for its place.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What it asks.
    pub model: ModelId,
    /// Higher goes first.
    pub priority: i32,
    /// When nobody wants its answer any more.
    pub deadline: Option<Duration>,
    /// How many sequences it has.
    pub count: usize,
    /// What they cost together.
    pub cost: Duration,
}

/// A request's place, held until its sequences wait there.
#[derive(Debug)]
#[must_use = "a place stays taken until it is given back"]
pub struct Place {
    model: ModelId,
    rank: Rank,
    arrived: Duration,
    deadline: Option<Duration>,
}

/// Why a request has no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It would wait so long before it begins.
    Busy(Duration),
    /// It would be answered after so long, later than its deadline.
    Late(Duration),
    /// So many sequences wait already.
    Full(usize),
}

/// A sequence, as it is queued.
#[derive(Debug)]
pub struct Sequence<T> {
    /// Tokens, as far as they are known.
    pub tokens: usize,
    /// What it costs.
    pub cost: Duration,
    /// The sequence.
    pub of: T,
}

/// What a thread that has nothing to do does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// It computes a batch.
    Batch(Taken<T>),
    /// It waits so long for more.
    Delay(Duration),
    /// It ends: nothing waits, or others are about to be done with what they have, and take up what waits.
    Nothing,
}

/// A batch, all of one model.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken<T> {
    /// In their order.
    pub sequences: Vec<T>,
    /// What it is computed on.
    pub threads: Threads,
    /// To say that it is done.
    pub number: u64,
}

/// A batch that is computed.
#[derive(Clone, Copy, Debug)]
struct Busy {
    number: u64,
    /// When it will be done.
    until: Duration,
    threads: Threads,
    /// See [`Limits::part`].
    part: u32,
}

impl Busy {
    /// What is left of it for all threads together.
    fn left(&self, now: Duration) -> Duration {
        self.until.saturating_sub(now) / self.part
    }
}

/// What is to be done with what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Nothing,
    Delay(Duration),
    Batch { threads: Threads, tokens: [usize; 2] },
}

/// Sequences that wait, of all models.
#[derive(Debug)]
pub struct Queue<T> {
    policy: Policy,
    models: HashMap<ModelId, BTreeMap<Rank, Waiting<T>>>,
    /// Of everything that waits.
    cost: Duration,
    count: usize,
    /// Places that are held: of how many sequences, and what they cost.
    held: BTreeMap<Rank, (usize, Duration)>,
    /// The batches that are computed now.
    busy: Vec<Busy>,
    /// When the last one was done.
    done: Option<Duration>,
    next: u64,
}

/// The rank in microseconds, and a number of its own for each sequence.
type Rank = (i64, u64);

#[derive(Debug)]
struct Waiting<T> {
    arrived: Duration,
    deadline: Option<Duration>,
    sequence: Sequence<T>,
}

impl<T> Queue<T> {
    /// An empty queue.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            models: HashMap::new(),
            cost: Duration::ZERO,
            count: 0,
            held: BTreeMap::new(),
            busy: Vec::new(),
            done: None,
            next: 0,
        }
    }

    /// Holds a place for a request that came now.
    ///
    /// # Errors
    /// When it would wait too long.
    pub fn admit(&mut self, request: Request, now: Duration) -> Result<Place, Refused> {
        let Request { model, priority, deadline, count, cost } = request;
        let rank = rank(now, cost, priority);
        let (mut ahead, max_wait) = (self.before(now), self.policy.max_wait);
        let late = |ahead| deadline.is_some_and(|deadline| now + ahead + cost > deadline);
        if (ahead > max_wait || late(ahead)) && ahead <= max_wait * OVERFULL {
            // What came before and goes behind does not count.
            let behind = |map: &BTreeMap<Rank, Waiting<T>>| {
                map.range((rank + 1, 0)..).map(|(_, waiting)| waiting.sequence.cost).sum::<Duration>()
            };
            let held: Duration = self.held.range((rank + 1, 0)..).map(|(_, (_, cost))| *cost).sum();
            ahead = ahead.saturating_sub(self.models.values().map(behind).sum::<Duration>() + held);
        }
        let waiting = self.count + self.held.values().map(|(count, _)| count).sum::<usize>();
        // What a queue that is empty refuses would never be tried, and its cost never be known better.
        if ahead > Duration::ZERO {
            if ahead > max_wait {
                return Err(Refused::Busy(ahead));
            }
            if late(ahead) {
                return Err(Refused::Late(ahead + cost));
            }
            if waiting + count > CAPACITY {
                return Err(Refused::Full(waiting));
            }
        }
        let rank = (rank, self.number());
        self.held.insert(rank, (count, cost));
        Ok(Place { model, rank, arrived: now, deadline })
    }

    /// Gives a place back that was not used.
    pub fn release(&mut self, place: Place) {
        self.held.remove(&place.rank);
    }

    /// Queues the sequences of a request in its place.
    pub fn push(&mut self, place: Place, sequences: impl IntoIterator<Item = Sequence<T>>) {
        let Place { model, rank: (rank, _), arrived, deadline } = place;
        for sequence in sequences {
            self.cost += sequence.cost;
            self.count += 1;
            let rank = (rank, self.number());
            self.models.entry(model).or_default().insert(rank, Waiting { arrived, deadline, sequence });
        }
        self.release(place);
    }

    /// What a thread does that has nothing to do. What `gone` says that nobody wants any more is dropped, and what cannot
    /// be answered before its deadline.
    pub fn next(&mut self, now: Duration, limits: Limits, gone: impl Fn(&T) -> bool) -> Next<T> {
        loop {
            let (threads, tokens) = match self.plan(now, limits) {
                Plan::Nothing => return Next::Nothing,
                Plan::Delay(delay) => return Next::Delay(delay),
                Plan::Batch { threads, tokens } => (threads, tokens),
            };
            let (sequences, cost) = self.take(now, tokens, limits.count, &gone);
            if !sequences.is_empty() {
                let number = self.number();
                let part = limits.part(threads);
                self.busy.push(Busy { number, until: now + cost * part, threads, part });
                return Next::Batch(Taken { sequences, threads, number });
            }
        }
    }

    /// Whether all threads together compute a batch.
    pub fn is_whole(&self) -> bool {
        self.busy.iter().any(|busy| busy.threads == Threads::All)
    }

    /// Says that a batch is done.
    pub fn done(&mut self, number: u64, now: Duration) {
        self.busy.retain(|busy| busy.number != number);
        self.done = Some(now);
    }

    /// Threads that each have a batch of their own lose no time with one another; all of them together are sooner done
    /// with a sequence, and read the weights once for few. So they compute together where one thread would need longer for
    /// the longest sequence, or for as many tokens as its batch should have, than they for everything that waits. A thread
    /// that is free beside busy ones waits for them only if that is sooner for the longest sequence: else threads would stand
    /// still as long as little waits, and the queue would grow.
    fn plan(&self, now: Duration, limits: Limits) -> Plan {
        if self.is_whole() {
            return Plan::Nothing;
        }
        let Some((model, _)) = self.first() else { return Plan::Nothing };
        if let Some(delay) = self.delay(now, limits) {
            return Plan::Delay(delay);
        }
        let together = Plan::Batch { threads: Threads::All, tokens: [limits.tokens; 2] };
        let Some(each) = limits.each else {
            return if self.busy.is_empty() { together } else { Plan::Nothing };
        };
        let (mut tokens, mut cost, mut longest) = (0, Duration::ZERO, Duration::ZERO);
        for waiting in self.models.get(&model).into_iter().flat_map(BTreeMap::values).take(limits.count) {
            if tokens >= limits.tokens {
                break;
            }
            tokens += waiting.sequence.tokens;
            cost += waiting.sequence.cost;
            longest = longest.max(waiting.sequence.cost);
        }
        let threads = each.threads as u32;
        let shared = self.cost * SHARED.0 / SHARED.1;
        if let Some(free) = self.busy.iter().map(|busy| busy.until.saturating_sub(now)).max() {
            if free + shared < longest * threads {
                return Plan::Nothing;
            }
        } else {
            let least = cost * each.tokens as u32 / tokens.max(1) as u32;
            if shared < longest.max(least) * threads {
                return together;
            }
        }
        Plan::Batch { threads: Threads::Calling, tokens: [each.tokens, 2 * each.tokens] }
    }

    /// Takes sequences of the first model out until they have so many tokens, and what they cost. No more tokens are taken
    /// than the second number, but for a longer sequence alone.
    fn take(
        &mut self,
        now: Duration,
        [enough, most]: [usize; 2],
        count: usize,
        gone: impl Fn(&T) -> bool,
    ) -> (Vec<T>, Duration) {
        let (mut batch, mut filled, mut cost) = (Vec::new(), 0, Duration::ZERO);
        let Some((model, _)) = self.first() else { return (batch, cost) };
        let Some(waiting) = self.models.get_mut(&model) else { return (batch, cost) };
        while let Some(entry) = waiting.first_entry() {
            let Waiting { deadline, sequence, .. } = entry.get();
            let dropped =
                deadline.is_some_and(|deadline| now + sequence.cost > deadline) || gone(&sequence.of);
            let full = batch.len() >= count || filled >= enough || filled + sequence.tokens > most;
            if !dropped && full && !batch.is_empty() {
                break;
            }
            let sequence = entry.remove().sequence;
            self.count -= 1;
            self.cost = self.cost.saturating_sub(sequence.cost);
            if !dropped {
                filled += sequence.tokens;
                cost += sequence.cost;
                batch.push(sequence.of);
            }
        }
        if waiting.is_empty() {
            self.models.remove(&model);
        }
        (batch, cost)
    }

    /// How long the next batch shall wait for more: not at all when nothing was computed just before, or the batch is
    /// full.
    fn delay(&self, now: Duration, limits: Limits) -> Option<Duration> {
        let delay = self.policy.max_batch_delay;
        let done = self.done.filter(|done| *done + delay > now)?;
        let (model, first) = self.first()?;
        // What waited during the last batch has waited for part of it already.
        let until = (first.arrived + delay).min(done + delay);
        let waiting = self.models.get(&model)?;
        let tokens: usize = waiting.values().map(|waiting| waiting.sequence.tokens).sum();
        (tokens < limits.tokens && waiting.len() < limits.count && until > now).then(|| until - now)
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.models.clear();
        (self.cost, self.count) = (Duration::ZERO, 0);
    }

    /// How many sequences wait.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How long it takes until everything that was admitted is done.
    fn before(&self, now: Duration) -> Duration {
        let held: Duration = self.held.values().map(|(_, cost)| *cost).sum();
        let busy = self.busy.iter().map(|busy| busy.left(now)).sum::<Duration>();
        busy + held + self.cost
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn first(&self) -> Option<(ModelId, &Waiting<T>)> {
        let heads = self.models.iter().filter_map(|(model, waiting)| {
            waiting.first_key_value().map(|(rank, waiting)| (rank, *model, waiting))
        });
        heads.min_by_key(|(rank, ..)| **rank).map(|(_, model, waiting)| (model, waiting))
    }
}

/// See the head of this file.
fn rank(arrived: Duration, cost: Duration, priority: i32) -> i64 {
    let micros = |of: Duration| i64::try_from(of.as_micros()).unwrap_or(i64::MAX);
    let head_start = micros(HEAD_START).saturating_mul(priority.into());
    micros(arrived + cost).saturating_sub(head_start)
}

#[cfg(test)]
mod tests;
