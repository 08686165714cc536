//! The thread that owns a model: it loads it, takes batches from the queue and answers each sequence.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use super::engine::{Loaded, Score, Tokenize};
use super::load::{Checked, Report};
use super::permits::Permits;
use super::queue::{Limits, Queue};
use hone_base::error::{Error, Kind, Result};
use hone_base::panic::{guarded, lock};
use hone_data::tokenize::Tokens;
use hone_engine::batch::Batch;
use hone_engine::kernels::calls::Call;
use hone_engine::kernels::lane::Lane;

/// Sequences that wait for one model at most.
const CAPACITY: usize = 8192;

/// A handle to the thread.
pub struct Worker {
    state: Mutex<State>,
    changed: Condvar,
    phase: watch::Sender<Phase>,
}

struct State {
    queue: Queue<Waiting>,
    closed: bool,
}

#[derive(Clone)]
enum Phase {
    Loading,
    Ready(Arc<Ready>),
    Failed(Error),
    /// Before it was loaded.
    Unloaded,
}

/// What callers need of a loaded model.
pub struct Ready {
    /// Text to tokens.
    pub tokenizer: Box<dyn Tokenize>,
    /// In class order.
    pub labels: Vec<String>,
    /// In class order, when a text may have several labels.
    pub thresholds: Option<Vec<f32>>,
    /// Bytes of memory that the model takes.
    pub bytes: u64,
    /// What it computes in, and how it was checked.
    pub report: Report,
}

/// How far a model is.
pub enum Stage {
    /// It is being loaded and checked.
    Loading,
    /// It answers.
    Ready(Arc<Ready>),
    /// It could not be loaded.
    Failed(Error),
    /// It was unloaded before it was loaded.
    Unloaded,
}

/// A sequence that waits for its scores.
struct Waiting {
    tokens: Tokens,
    place: usize,
    reply: mpsc::Sender<Answer>,
    /// Other work gives way until the last sequence of the request has its answer.
    _call: Arc<Call>,
}

/// The answer to one sequence of a request.
#[derive(Debug)]
pub struct Answer {
    /// The sequence's place in the request.
    pub place: usize,
    /// The probability of each label.
    pub scores: Result<Vec<f32>>,
    /// When its batch began.
    pub began: Instant,
    /// When its batch was done.
    pub done: Instant,
}

/// Why a request was not queued.
#[derive(Debug)]
pub enum Refused {
    /// The model is being unloaded; the tokens come back for another worker.
    Closed(Vec<Tokens>),
    /// The queue is full.
    Full(Error),
}

impl Worker {
    /// Starts the thread, which first loads the model, when it has a permit of `loading`. It ends after `close`; the caller
    /// joins it.
    pub fn start(
        name: &str,
        limits: Limits,
        lane: Arc<Lane>,
        loading: Arc<Permits>,
        load: impl FnOnce() -> Result<Checked> + Send + 'static,
    ) -> Result<(Arc<Self>, JoinHandle<()>)> {
        let state = Mutex::new(State { queue: Queue::new(CAPACITY), closed: false });
        let worker =
            Arc::new(Self { state, changed: Condvar::new(), phase: watch::channel(Phase::Loading).0 });
        let (handle, name) = (worker.clone(), name.to_owned());
        let thread = std::thread::Builder::new()
            .name("model".into())
            .spawn(move || handle.run(&name, limits, &lane, &loading, load))
            .map_err(|error| Error::internal(format!("cannot start a thread for a model: {error}")))?;
        Ok((worker, thread))
    }

    /// Waits until the model is loaded; `None` if it was unloaded before that.
    pub async fn ready(&self) -> Result<Option<Arc<Ready>>> {
        let mut phase = self.phase.subscribe();
        let phase = phase.wait_for(|phase| !matches!(phase, Phase::Loading)).await;
        match phase.as_deref() {
            Ok(Phase::Ready(ready)) => Ok(Some(ready.clone())),
            Ok(Phase::Unloaded) => Ok(None),
            Ok(Phase::Failed(error)) => Err(error.clone()),
            Ok(Phase::Loading) | Err(_) => Err(Error::internal("a model's thread is gone")),
        }
    }

    /// How far the model is.
    pub fn stage(&self) -> Stage {
        match &*self.phase.borrow() {
            Phase::Loading => Stage::Loading,
            Phase::Ready(ready) => Stage::Ready(ready.clone()),
            Phase::Failed(error) => Stage::Failed(error.clone()),
            Phase::Unloaded => Stage::Unloaded,
        }
    }

    /// Whether a call waits for the model, or holds what it needs of it until its last answer.
    pub fn is_in_use(&self) -> bool {
        match &*self.phase.borrow() {
            Phase::Loading => self.phase.receiver_count() > 0,
            Phase::Ready(ready) => Arc::strong_count(ready) > 1,
            Phase::Failed(_) | Phase::Unloaded => false,
        }
    }

    /// Queues all sequences of a request or none. As many answers come as there are sequences, in any order; the last
    /// of them ends the call.
    pub fn submit(&self, sequences: Vec<Tokens>, call: Call) -> Result<mpsc::Receiver<Answer>, Refused> {
        let call = Arc::new(call);
        let (reply, answers) = mpsc::channel(sequences.len().max(1));
        let mut state = lock(&self.state);
        if state.closed {
            return Err(Refused::Closed(sequences));
        }
        let waiting = |(place, tokens): (usize, Tokens)| {
            (tokens.ids.len(), Waiting { tokens, place, reply: reply.clone(), _call: call.clone() })
        };
        state.queue.push_all(sequences.into_iter().enumerate().map(waiting).collect()).map_err(|full| {
            Refused::Full(Error::new(
                Kind::Exhausted,
                format!(
                    "the model's queue is full ({} texts wait, at most {CAPACITY}); try again",
                    full.waiting
                ),
            ))
        })?;
        self.changed.notify_one();
        Ok(answers)
    }

    /// Takes no further request. The thread answers what waits, and ends.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_one();
    }

    /// Takes no further request, and drops those that wait. The thread ends after its batch.
    pub fn abort(&self) {
        lock(&self.state).queue.clear();
        self.close();
    }

    /// The model, or `None` if nobody wants it any more.
    fn load(&self, loading: &Permits, load: impl FnOnce() -> Result<Checked>) -> Option<Result<Checked>> {
        let _permit = loading.take();
        (!lock(&self.state).closed).then(|| guarded(load))
    }

    fn run(
        &self,
        name: &str,
        limits: Limits,
        lane: &Lane,
        loading: &Permits,
        load: impl FnOnce() -> Result<Checked>,
    ) {
        let start = Instant::now();
        let Some(loaded) = self.load(loading, load) else {
            self.phase.send_replace(Phase::Unloaded);
            return;
        };
        let model = match loaded {
            Ok(Checked { loaded: Loaded { tokenizer, model, bytes }, report }) => {
                let (ms, precision) = (start.elapsed().as_millis() as u64, report.precision.name());
                tracing::info!(model = name, ms, precision, bytes, "model loaded");
                let thresholds = model.thresholds().map(<[f32]>::to_vec);
                let ready = Ready { tokenizer, labels: model.labels().to_vec(), thresholds, bytes, report };
                self.phase.send_replace(Phase::Ready(Arc::new(ready)));
                Mutex::new(model)
            }
            Err(error) => {
                tracing::warn!(model = name, %error, "model cannot be loaded");
                self.close();
                self.phase.send_replace(Phase::Failed(error));
                return;
            }
        };
        while let Some(batch) = self.next_batch(limits) {
            answer(&model, &batch, lane);
        }
        tracing::info!(model = name, "model unloaded");
    }

    fn next_batch(&self, limits: Limits) -> Option<Vec<Waiting>> {
        let mut state = lock(&self.state);
        loop {
            let batch = state.queue.next_batch(limits, |waiting| waiting.reply.is_closed());
            if !batch.is_empty() {
                return Some(batch);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Computes a batch on the lane and answers its members. When it fails, each member is tried alone, so that one bad
/// member fails no other.
fn answer(model: &Mutex<Box<dyn Score>>, batch: &[Waiting], lane: &Lane) {
    let compute = |members: &[Waiting]| {
        let packed = Batch::pack(members.iter().map(|member| &member.tokens));
        let scores = guarded(|| lane.run(|| lock(model).scores(&packed)))?;
        if scores.len() == members.len() {
            return Ok(scores);
        }
        Err(Error::internal(format!("{} answers came for {} texts", scores.len(), members.len())))
    };
    let began = Instant::now();
    let mut together = compute(batch).map(Vec::into_iter);
    for member in batch {
        let scores = match &mut together {
            Ok(scores) => scores.next().ok_or_else(|| Error::internal("an answer is missing")),
            Err(error) if batch.len() == 1 => Err(error.clone()),
            Err(_) => {
                compute(std::slice::from_ref(member)).map(|mut scores| scores.pop().unwrap_or_default())
            }
        };
        // The channel has room for every answer; an error means that the caller went away.
        let answer = Answer { place: member.place, scores, began, done: Instant::now() };
        let _ = member.reply.try_send(answer);
    }
}
