//! What computes answers: threads of the lane of answers take batches of all models from the queue, compute them and
//! answer each sequence, as long as something waits.

use std::cmp::Reverse;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use tokio::sync::{Notify, mpsc};

use super::engine::Score;
use super::options::going_down;
use super::queue::{
    CAPACITY, Limits, ModelId, Next, Place, Policy, Queue, Refused, Request, Sequence, Taken,
};
use super::rate::Rate;
use crate::metrics::{Loaded, ModelMetrics, Queued};
use hone_base::error::{Error, Result};
use hone_base::panic::{guarded, lock};
use hone_data::tokenize::Tokens;
use hone_engine::batch::Batch;
use hone_engine::kernels::calls::Call;
use hone_engine::kernels::lane::{Lane, OwnedLane};
use hone_engine::model::backend::Threads;

/// When a refused call is tried again at the soonest.
const SOONEST_RETRY: Duration = Duration::from_millis(50);

/// How long a caller that sends no more meanwhile waits for room at least.
const PATIENCE: Duration = Duration::from_secs(10);

/// Texts of a batch from which on several threads make tokens of them, if they compute it.
const TOKENIZED_TOGETHER: usize = 8;

/// The queue, and the threads that take from it.
pub struct Dispatcher {
    shared: Arc<Shared>,
    policy: Policy,
    models: AtomicU64,
}

struct Shared {
    state: Mutex<State>,
    /// More waits, for a thread that waits for it.
    changed: Condvar,
    /// No thread takes from the queue any more.
    ended: Condvar,
    /// There may be room in the queue again.
    room: Notify,
    begun: Instant,
    limits: Limits,
}

struct State {
    queue: Queue<Waiting>,
    /// What computes; `None` when the daemon goes down.
    lane: Option<OwnedLane>,
    /// Threads that take from the queue.
    running: usize,
    /// Those of them that wait for more before they take a batch.
    delayed: usize,
}

/// A loaded model, as the threads have it. It goes with the last of its sequences.
pub struct Served {
    id: ModelId,
    model: Box<dyn Score>,
    rate: Mutex<Rate>,
    /// Tokens of a sequence at most.
    max_length: usize,
    metrics: Arc<ModelMetrics>,
    /// Counts it as loaded.
    _loaded: Loaded,
}

/// What a caller says of a request's place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order {
    /// Higher goes first.
    pub priority: i32,
    /// When the caller does not want the answer any more.
    pub deadline: Option<Instant>,
}

/// A sequence as it is queued.
pub enum Content {
    /// Its tokens.
    Tokens(Tokens),
    /// A text of so many bytes, of which the thread makes tokens that computes it: that is less than waking another one.
    Text(usize, Box<dyn FnOnce() -> Result<Tokens> + Send>),
}

/// A sequence that waits for its logits.
struct Waiting {
    served: Arc<Served>,
    content: Content,
    reply: Reply,
    /// Counts it as one that waits.
    _queued: Queued,
}

/// Where an answer goes.
struct Reply {
    place: usize,
    to: mpsc::Sender<Answer>,
    /// Other work gives way until the last sequence of the request has its answer.
    _call: Arc<Call>,
}

/// The answer to one sequence of a request.
#[derive(Debug)]
pub struct Answer {
    /// The sequence's place in the request.
    pub place: usize,
    /// Its logits.
    pub scored: Result<Scored>,
    /// When its batch began.
    pub began: Instant,
    /// When its batch was done.
    pub done: Instant,
}

/// What a model says of a sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// In class order.
    pub logits: Vec<f32>,
    /// Tokens that were computed, special tokens included.
    pub tokens: usize,
    /// Whether the text was cut.
    pub truncated: bool,
}

/// A request with a place in the queue, which it gives back when it is dropped.
pub struct Admitted {
    shared: Arc<Shared>,
    served: Arc<Served>,
    place: Option<Place>,
}

impl Dispatcher {
    /// Computes on a lane, which it has for itself from now on.
    pub fn start(lane: &Arc<Lane>, limits: Limits, policy: Policy) -> Self {
        let lane = Some(lane.own());
        let state = Mutex::new(State { queue: Queue::new(policy), lane, running: 0, delayed: 0 });
        let (changed, ended, room) = (Condvar::new(), Condvar::new(), Notify::new());
        let shared = Arc::new(Shared { state, changed, ended, room, begun: Instant::now(), limits });
        Self { shared, policy, models: AtomicU64::new(0) }
    }

    /// Takes a model of so many bytes, whose sequences have at most `max_length` tokens.
    pub fn serve(
        &self,
        model: Box<dyn Score>,
        max_length: usize,
        metrics: &Arc<ModelMetrics>,
        bytes: u64,
    ) -> Arc<Served> {
        let id = ModelId(self.models.fetch_add(1, Ordering::Relaxed));
        let (metrics, _loaded) = (metrics.clone(), metrics.loaded(bytes));
        Arc::new(Served { id, model, rate: Mutex::default(), max_length, metrics, _loaded })
    }

    /// A place for a request whose texts have so many bytes.
    ///
    /// # Errors
    /// `Exhausted` when the request would wait too long, `Unavailable` when the daemon goes down.
    pub fn admit(&self, served: &Arc<Served>, order: Order, bytes: &[usize]) -> Result<Admitted> {
        self.place(served, order, bytes)?.map_err(|refused| self.refusal(refused))
    }

    fn place(
        &self,
        served: &Arc<Served>,
        order: Order,
        bytes: &[usize],
    ) -> Result<std::result::Result<Admitted, Refused>> {
        let cost = {
            let rate = lock(&served.rate);
            let tokens: usize = bytes.iter().map(|&bytes| served.tokens(&rate, bytes)).sum();
            rate.cost(tokens)
        };
        let now = self.shared.begun.elapsed();
        let deadline = order.deadline.map(|deadline| deadline.saturating_duration_since(self.shared.begun));
        let (model, priority, count) = (served.id, order.priority, bytes.len());
        let mut state = lock(&self.shared.state);
        if state.lane.is_none() {
            return Err(going_down());
        }
        let place = state.queue.admit(Request { model, priority, deadline, count, cost }, now);
        drop(state);
        let (shared, served) = (self.shared.clone(), served.clone());
        Ok(place.map(|place| Admitted { shared, served, place: Some(place) }))
    }

    /// The same for a caller that sends more only when this one is admitted, such as a stream: it waits for room, for
    /// [`PATIENCE`] or twice as long as what is before it should take.
    ///
    /// # Errors
    /// As [`Dispatcher::admit`].
    pub async fn admit_patiently(
        &self,
        served: &Arc<Served>,
        order: Order,
        bytes: &[usize],
    ) -> Result<Admitted> {
        let mut until = None;
        loop {
            let mut room = std::pin::pin!(self.shared.room.notified());
            // From now on, so that no room is missed that comes after the next line.
            room.as_mut().enable();
            let refused = match self.place(served, order, bytes)? {
                Ok(admitted) => return Ok(admitted),
                Err(refused) => refused,
            };
            let patience = match refused {
                Refused::Busy(wait) | Refused::Late(wait) => 2 * wait,
                Refused::Full(_) => Duration::ZERO,
            };
            let patience = patience.max(PATIENCE);
            let until = *until.get_or_insert_with(|| tokio::time::Instant::now() + patience);
            if tokio::time::timeout_at(until, room).await.is_err() {
                return Err(self.refusal(refused));
            }
        }
    }

    /// How many sequences wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        lock(&self.shared.state).queue.len()
    }

    /// Answers nobody any more, and waits until nothing is computed. Blocking.
    pub fn shut_down(&self) {
        let mut state = lock(&self.shared.state);
        state.lane = None;
        state.queue.clear();
        self.shared.changed.notify_all();
        self.shared.room.notify_waiters();
        let running = |state: &mut State| state.running > 0;
        drop(self.shared.ended.wait_while(state, running).unwrap_or_else(PoisonError::into_inner));
    }

    fn refusal(&self, refused: Refused) -> Error {
        let (ms, bound) = (|of: Duration| of.as_millis(), self.policy.max_wait);
        let (retry, why) = match refused {
            Refused::Busy(wait) => (
                wait.saturating_sub(bound),
                format!(
                    "the queue is full: an answer would begin in {} ms, and none shall wait longer than {} ms \
                     (--max-queue-ms); try again later",
                    ms(wait),
                    ms(bound)
                ),
            ),
            Refused::Late(until) => (
                until,
                format!(
                    "the queue is too long for the call's deadline: the answer would be there in {} ms; try again \
                     later, or with a later deadline",
                    ms(until)
                ),
            ),
            Refused::Full(count) => {
                (bound, format!("the queue is full: {count} texts wait, at most {CAPACITY}; try again later"))
            }
        };
        Error::busy(retry.max(SOONEST_RETRY), why)
    }
}

impl Served {
    /// Its number, which no other model that is loaded in this process has.
    pub fn id(&self) -> ModelId {
        self.id
    }

    /// Tokens that a text of so many bytes probably has.
    fn tokens(&self, rate: &Rate, bytes: usize) -> usize {
        rate.tokens(bytes).min(self.max_length)
    }
}

impl Admitted {
    /// Queues the sequences. As many answers come as there are sequences, in any order; the last of them ends the call.
    pub fn queue(mut self, sequences: Vec<Content>, call: Call) -> mpsc::Receiver<Answer> {
        let call = Arc::new(call);
        let (to, answers) = mpsc::channel(sequences.len().max(1));
        let rate = *lock(&self.served.rate);
        let mut sequences: Vec<_> = sequences
            .into_iter()
            .enumerate()
            .map(|(place, content)| {
                let tokens = match &content {
                    Content::Tokens(tokens) => tokens.ids.len(),
                    Content::Text(bytes, _) => self.served.tokens(&rate, *bytes),
                };
                let reply = Reply { place, to: to.clone(), _call: call.clone() };
                let _queued = self.served.metrics.queued(tokens);
                let of = Waiting { served: self.served.clone(), content, reply, _queued };
                Sequence { tokens, cost: rate.cost(tokens), of }
            })
            .collect();
        // The longest first, so that threads end together.
        sequences.sort_by_key(|sequence| Reverse(sequence.tokens));
        if let Some(place) = self.place.take() {
            let mut state = lock(&self.shared.state);
            // What nobody would compute is dropped, and its caller is told.
            if state.lane.is_some() {
                state.queue.push(place, sequences);
                self.shared.start(&mut state);
            }
        }
        answers
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            lock(&self.shared.state).queue.release(place);
        }
    }
}

impl Shared {
    /// Has one more thread take from the queue, if there is one and the present batch leaves it free.
    fn start(self: &Arc<Self>, state: &mut State) {
        if state.delayed > 0 {
            self.changed.notify_one();
        } else if state.running < self.limits.threads()
            && !state.queue.is_whole()
            && let Some(lane) = &state.lane
        {
            state.running += 1;
            let shared = self.clone();
            lane.spawn(move || shared.run());
        }
    }

    /// Computes as long as something waits. A thread that ended by a panic takes from the queue no more, and whoever shuts
    /// down does not wait for it.
    fn run(self: Arc<Self>) {
        let outcome = guarded(|| {
            self.answer_all();
            Ok(())
        });
        if outcome.is_err() {
            self.end(&mut lock(&self.state));
        }
    }

    fn answer_all(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        loop {
            let now = self.begun.elapsed();
            match state.queue.next(now, self.limits, |waiting| waiting.reply.to.is_closed()) {
                Next::Batch(batch) => {
                    if batch.threads == Threads::Calling && !state.queue.is_empty() {
                        self.start(&mut state);
                    }
                    drop(state);
                    let number = batch.number;
                    self.answer(batch);
                    state = lock(&self.state);
                    state.queue.done(number, self.begun.elapsed());
                    self.room.notify_waiters();
                }
                Next::Delay(delay) => state = self.wait(state, delay),
                Next::Nothing => break,
            }
        }
        // Under the lock that has shown an empty queue: who fills it then starts a thread.
        self.end(&mut state);
    }

    fn end(&self, state: &mut State) {
        state.running -= 1;
        if state.running == 0 {
            self.ended.notify_all();
        }
    }

    fn wait<'a>(&self, mut state: MutexGuard<'a, State>, delay: Duration) -> MutexGuard<'a, State> {
        state.delayed += 1;
        let waited = self.changed.wait_timeout(state, delay);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.delayed -= 1;
        state
    }

    /// Computes a batch and answers its members. A panic is that of the model: its callers are told, and nobody else.
    fn answer(&self, batch: Taken<Waiting>) {
        let part = self.limits.part(batch.threads);
        let outcome = guarded(|| {
            answer(batch.sequences, batch.threads, part);
            Ok(())
        });
        if let Err(error) = outcome {
            tracing::error!(%error, "a batch was given up");
        }
    }
}

/// A sequence with its tokens.
struct Member {
    tokens: Tokens,
    reply: Reply,
}

/// Computes a batch and answers its members. When it fails, each member is tried alone, so that one bad member fails no
/// other. The threads are that part of all: see [`Limits::part`].
fn answer(batch: Vec<Waiting>, threads: Threads, part: u32) {
    let Some(served) = batch.first().map(|first| first.served.clone()) else { return };
    let began = Instant::now();
    let members = tokenized(&served, batch, threads, began);
    if members.is_empty() {
        return;
    }
    let compute = |members: &[Member]| {
        let packed = Batch::pack(members.iter().map(|member| &member.tokens));
        let start = Instant::now();
        let logits = guarded(|| served.model.logits(&packed, threads))?;
        served.metrics.batch(packed.len(), packed.ids.len(), start.elapsed());
        match logits.len().checked_div(members.len()) {
            Some(labels) if labels > 0 && logits.len() == labels * members.len() => Ok((logits, labels)),
            _ => Err(Error::internal(format!("{} logits came for {} texts", logits.len(), members.len()))),
        }
    };
    let together = compute(&members);
    let tokens = members.iter().map(|member| member.tokens.ids.len()).sum();
    lock(&served.rate).computed(tokens, began.elapsed() / part);
    for (place, member) in members.iter().enumerate() {
        let logits = match &together {
            Ok((logits, labels)) => Ok(logits.iter().skip(place * labels).take(*labels).copied().collect()),
            Err(error) if members.len() == 1 => Err(error.clone()),
            Err(_) => compute(std::slice::from_ref(member)).map(|(logits, _)| logits),
        };
        let Tokens { ids, full_length, .. } = &member.tokens;
        let (tokens, truncated) = (ids.len(), *full_length > ids.len());
        member.reply.send(logits.map(|logits| Scored { logits, tokens, truncated }), began);
    }
}

/// Makes tokens of those that are texts; those of which none can be made have their answers.
fn tokenized(served: &Served, batch: Vec<Waiting>, threads: Threads, began: Instant) -> Vec<Member> {
    let texts = batch.iter().filter(|waiting| matches!(waiting.content, Content::Text(..))).count();
    let tokens = |Waiting { content, reply, .. }: Waiting| match content {
        Content::Tokens(tokens) => (0, Ok(tokens), reply),
        Content::Text(bytes, encode) => (bytes, guarded(encode), reply),
    };
    let encoded: Vec<_> = match texts {
        TOKENIZED_TOGETHER.. if threads == Threads::All => batch.into_par_iter().map(tokens).collect(),
        _ => batch.into_iter().map(tokens).collect(),
    };
    let mut rate = lock(&served.rate);
    let member = |(bytes, tokens, reply): (usize, Result<Tokens>, Reply)| match tokens {
        Ok(tokens) => {
            if bytes > 0 && tokens.full_length == tokens.ids.len() {
                rate.counted(bytes, tokens.ids.len());
            }
            Some(Member { tokens, reply })
        }
        Err(error) => {
            reply.send(Err(error), began);
            None
        }
    };
    encoded.into_iter().filter_map(member).collect()
}

impl Reply {
    fn send(&self, scored: Result<Scored>, began: Instant) {
        let answer = Answer { place: self.place, scored, began, done: Instant::now() };
        // The channel has room for every answer; an error means that the caller went away.
        let _ = self.to.try_send(answer);
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("id", &self.id).finish_non_exhaustive()
    }
}
