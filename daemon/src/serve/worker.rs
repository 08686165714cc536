//! A version on its way to answers: loaded by a thread of its own, then at hand for callers until it is unloaded.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::watch;

use super::dispatcher::{Dispatcher, Served};
use super::engine::{Loaded, Tokenize};
use super::load::{Checked, Report};
use super::permits::Permits;
use crate::metrics::ModelMetrics;
use hone_base::error::{Error, Result};
use hone_base::panic::guarded;

/// A handle to the version.
pub struct Worker {
    phase: watch::Sender<Phase>,
    metrics: Arc<ModelMetrics>,
}

#[derive(Clone)]
enum Phase {
    Loading,
    Ready(Arc<Ready>),
    Failed(Error),
    Unloaded,
}

/// What callers need of a loaded model. It stays as long as a caller has it, also when it is unloaded meanwhile.
pub struct Ready {
    /// Text to tokens.
    pub tokenizer: Arc<dyn Tokenize>,
    /// In class order.
    pub labels: Arc<[String]>,
    /// In class order, when a text may have several labels.
    pub thresholds: Option<Vec<f32>>,
    /// What computes.
    pub served: Arc<Served>,
    /// Bytes of memory that the model takes.
    pub bytes: u64,
    /// What it computes in, and how it was checked.
    pub report: Report,
}

/// How far a version is.
pub enum Stage {
    /// It is being loaded and checked.
    Loading,
    /// It answers.
    Ready(Arc<Ready>),
    /// It could not be loaded.
    Failed(Error),
    /// It was unloaded.
    Unloaded,
}

impl Worker {
    /// Starts the thread, which loads the model when it has a permit of `loading`, and ends. The caller joins it.
    pub fn start(
        name: &str,
        dispatcher: Arc<Dispatcher>,
        loading: Arc<Permits>,
        metrics: Arc<ModelMetrics>,
        load: impl FnOnce() -> Result<Checked> + Send + 'static,
    ) -> Result<(Arc<Self>, JoinHandle<()>)> {
        let worker = Arc::new(Self { phase: watch::channel(Phase::Loading).0, metrics });
        let (handle, name) = (worker.clone(), name.to_owned());
        let thread = std::thread::Builder::new()
            .name("model".into())
            .spawn(move || handle.load(&name, &dispatcher, &loading, load))
            .map_err(|error| Error::internal(format!("cannot start a thread for a model: {error}")))?;
        Ok((worker, thread))
    }

    /// Waits until the model is loaded; `None` if it has been unloaded.
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

    /// How far the version is.
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

    /// Lets go of the model; it is gone when those who have it are done with it.
    pub fn close(&self) {
        self.phase.send_replace(Phase::Unloaded);
    }

    fn is_closed(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Unloaded)
    }

    fn load(
        &self,
        name: &str,
        dispatcher: &Dispatcher,
        loading: &Permits,
        load: impl FnOnce() -> Result<Checked>,
    ) {
        let start = Instant::now();
        let _permit = loading.take();
        if self.is_closed() {
            return;
        }
        let loaded = guarded(load);
        self.metrics.load(loaded.is_ok(), start.elapsed());
        let phase = match loaded {
            Ok(Checked { loaded: Loaded { tokenizer, model, bytes }, report }) => {
                let (ms, precision) = (start.elapsed().as_millis() as u64, report.precision.name());
                tracing::info!(model = name, ms, precision, bytes, "model loaded");
                let (labels, thresholds) = (model.labels().into(), model.thresholds().map(<[f32]>::to_vec));
                let served = dispatcher.serve(model, tokenizer.cut().max_length, &self.metrics, bytes);
                let tokenizer = tokenizer.into();
                Phase::Ready(Arc::new(Ready { tokenizer, labels, thresholds, served, bytes, report }))
            }
            Err(error) => {
                tracing::warn!(model = name, %error, "model cannot be loaded");
                Phase::Failed(error)
            }
        };
        self.phase.send_if_modified(|present| {
            let wanted = matches!(present, Phase::Loading);
            if wanted {
                *present = phase;
            }
            wanted
        });
    }
}
