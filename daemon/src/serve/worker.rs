//! The thread that owns a model: it loads it, takes batches from the queue and answers each sequence.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use super::engine::{Loaded, Score, Tokenize};
use super::permits::Permits;
use super::queue::{Limits, Queue};
use crate::metrics::{ModelMetrics, Queued};
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
    metrics: Arc<ModelMetrics>,
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
}

/// A sequence that waits for its scores.
struct Waiting {
    tokens: Tokens,
    place: usize,
    reply: mpsc::Sender<Answer>,
    /// Until it is in a batch.
    queued: Option<Queued>,
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
        (metrics, bytes): (Arc<ModelMetrics>, u64),
        load: impl FnOnce() -> Result<Loaded> + Send + 'static,
    ) -> Result<(Arc<Self>, JoinHandle<()>)> {
        let state = Mutex::new(State { queue: Queue::new(CAPACITY), closed: false });
        let phase = watch::channel(Phase::Loading).0;
        let worker = Arc::new(Self { state, changed: Condvar::new(), phase, metrics });
        let (handle, name) = (worker.clone(), name.to_owned());
        let thread = std::thread::Builder::new()
            .name("model".into())
            .spawn(move || handle.run(&name, limits, &lane, &loading, bytes, load))
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

    /// Whether loading has failed.
    pub fn has_failed(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Failed(_))
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
            let queued = Some(self.metrics.queued(tokens.ids.len()));
            (tokens.ids.len(), Waiting { tokens, place, reply: reply.clone(), queued, _call: call.clone() })
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
    fn load(&self, loading: &Permits, load: impl FnOnce() -> Result<Loaded>) -> Option<Result<Loaded>> {
        let _permit = loading.take();
        (!lock(&self.state).closed).then(|| guarded(load))
    }

    fn run(
        &self,
        name: &str,
        limits: Limits,
        lane: &Lane,
        loading: &Permits,
        bytes: u64,
        load: impl FnOnce() -> Result<Loaded>,
    ) {
        let start = Instant::now();
        let Some(loaded) = self.load(loading, load) else {
            self.phase.send_replace(Phase::Unloaded);
            return;
        };
        self.metrics.load(loaded.is_ok(), start.elapsed());
        let model = match loaded {
            Ok(Loaded { tokenizer, model }) => {
                tracing::info!(model = name, ms = start.elapsed().as_millis() as u64, "model loaded");
                let thresholds = model.thresholds().map(<[f32]>::to_vec);
                let ready = Ready { tokenizer, labels: model.labels().to_vec(), thresholds };
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
        let _loaded = self.metrics.loaded(bytes);
        while let Some(batch) = self.next_batch(limits) {
            answer(&model, &batch, lane, &self.metrics);
        }
        tracing::info!(model = name, "model unloaded");
    }

    fn next_batch(&self, limits: Limits) -> Option<Vec<Waiting>> {
        let mut state = lock(&self.state);
        loop {
            let mut batch = state.queue.next_batch(limits, |waiting| waiting.reply.is_closed());
            if !batch.is_empty() {
                batch.iter_mut().for_each(|waiting| drop(waiting.queued.take()));
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
fn answer(model: &Mutex<Box<dyn Score>>, batch: &[Waiting], lane: &Lane, metrics: &ModelMetrics) {
    let compute = |members: &[Waiting]| {
        let packed = Batch::pack(members.iter().map(|member| &member.tokens));
        let start = Instant::now();
        let scores = guarded(|| lane.run(|| lock(model).scores(&packed)))?;
        metrics.batch(packed.len(), packed.ids.len(), start.elapsed());
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
