//! A version on its way to answers: loaded by a thread of its own, then at hand for callers until it is unloaded.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::watch;

use super::dispatcher::{Dispatcher, Served};
use super::engine::{Loaded, Tokenize};
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
    pub labels: Vec<String>,
    /// In class order, when a text may have several labels.
    pub thresholds: Option<Vec<f32>>,
    /// What computes.
    pub served: Arc<Served>,
}

impl Worker {
    /// Starts the thread, which loads the model when it has a permit of `loading`, and ends. The caller joins it.
    pub fn start(
        name: &str,
        dispatcher: Arc<Dispatcher>,
        loading: Arc<Permits>,
        (metrics, bytes): (Arc<ModelMetrics>, u64),
        load: impl FnOnce() -> Result<Loaded> + Send + 'static,
    ) -> Result<(Arc<Self>, JoinHandle<()>)> {
        let worker = Arc::new(Self { phase: watch::channel(Phase::Loading).0, metrics });
        let (handle, name) = (worker.clone(), name.to_owned());
        let thread = std::thread::Builder::new()
            .name("model".into())
            .spawn(move || handle.load(&name, &dispatcher, &loading, bytes, load))
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

    /// Whether loading has failed.
    pub fn has_failed(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Failed(_))
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
        bytes: u64,
        load: impl FnOnce() -> Result<Loaded>,
    ) {
        let start = Instant::now();
        let _permit = loading.take();
        if self.is_closed() {
            return;
        }
        let loaded = guarded(load);
        self.metrics.load(loaded.is_ok(), start.elapsed());
        let phase = match loaded {
            Ok(Loaded { tokenizer, model }) => {
                tracing::info!(model = name, ms = start.elapsed().as_millis() as u64, "model loaded");
                let (labels, thresholds) = (model.labels().to_vec(), model.thresholds().map(<[f32]>::to_vec));
                let served = dispatcher.serve(model, tokenizer.cut().max_length, &self.metrics, bytes);
                Phase::Ready(Arc::new(Ready { tokenizer: tokenizer.into(), labels, thresholds, served }))
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
