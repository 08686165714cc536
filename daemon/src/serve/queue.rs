//! The policy of batching, without threads and clocks: who is admitted, who waits before whom, and what goes into the
//! next batch.
//!
//! A request's rank is when it came, plus what it costs, minus its priority's head start. The lowest rank is computed
//! next. So among requests that wait together the cheap ones go first; and since a rank never changes while those of
//! later requests grow, each request is overtaken only by such as come within its own cost and their head start of it:
//! nothing starves. Sequences are packed, so nothing is gained by batches of one length.
//!
//! A queue is as long as the time that its requests take, by [`super::rate::Rate`]. A request that would wait longer
//! than the bound before it begins, or could not be answered before its deadline, is refused before anything is done
//! for it: else, under a load that is too high, all wait until nobody wants their answers any more.
//!
//! Times are durations since the queue's beginning.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// How much earlier a request with the next higher priority might have come.
const HEAD_START: Duration = Duration::from_millis(100);

/// Sequences that wait at most.
pub const CAPACITY: usize = 16_384;

/// How many times its bound a queue may be long, of requests that went before those that wait.
const OVERFULL: u32 = 4;

/// How large a batch may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of a batch at most; a longer sequence stands alone.
    pub tokens: usize,
    /// Sequences of a batch at most.
    pub count: usize,
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
    /// When the present batch will be done.
    busy_until: Duration,
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
            busy_until: Duration::ZERO,
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

    /// The next batch, all of one model; `None` when nothing waits. What `gone` says that nobody wants
    /// any more is dropped, and what cannot be answered before its deadline.
    pub fn next_batch(&mut self, now: Duration, limits: Limits, gone: impl Fn(&T) -> bool) -> Option<Vec<T>> {
        loop {
            let (model, _) = self.first()?;
            let (mut batch, mut filled, mut cost) = (Vec::new(), 0, Duration::ZERO);
            let waiting = self.models.get_mut(&model)?;
            while let Some(entry) = waiting.first_entry() {
                let Waiting { deadline, sequence, .. } = entry.get();
                let dropped =
                    deadline.is_some_and(|deadline| now + sequence.cost > deadline) || gone(&sequence.of);
                let full = batch.len() >= limits.count || filled + sequence.tokens > limits.tokens;
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
            if !batch.is_empty() {
                self.busy_until = now + cost;
                return Some(batch);
            }
        }
    }

    /// Says that the batch is done which was taken last.
    pub fn done(&mut self, now: Duration) {
        self.busy_until = now;
        self.done = Some(now);
    }

    /// How long the next batch shall wait for more: not at all when nothing was computed just before, or the batch is
    /// full.
    pub fn delay(&self, now: Duration, limits: Limits) -> Option<Duration> {
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
        self.busy_until.saturating_sub(now) + held + self.cost
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
