//! Models: what they answer, where the time of an answer goes, what waits, and what is loaded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, Result,
};

use super::calls::{CANCELLED, OK, code_name};
use super::family::{LATENCY, counters, gauges, histograms};
use crate::trace::call;
use hone_base::error::Error;
use hone_base::panic::lock;
use hone_base::status::code;

/// Models that have series of their own at most; further ones share [`OTHER`].
const MOST: usize = 1000;

/// The label of models beyond [`MOST`].
const OTHER: &str = "other";

/// The label of a request whose model was not found, or not looked for.
const NOT_FOUND: &str = "unknown";

/// Upper bounds for the texts of a batch.
const TEXTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Upper bounds for the tokens of a batch.
const TOKENS: &[f64] =
    &[16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0];

/// Upper bounds in seconds for loading a model.
const LOADING: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The parts of a request's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Until the model is loaded.
    Load,
    /// Text to tokens.
    Tokenize,
    /// From the queue's end to the first batch.
    Queue,
    /// From the first batch to the last answer.
    Compute,
}

impl Stage {
    /// All of them, in the order in which a request passes them.
    pub const ALL: [Self; 4] = [Self::Load, Self::Tokenize, Self::Queue, Self::Compute];

    /// The stage as a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Tokenize => "tokenize",
            Self::Queue => "queue",
            Self::Compute => "compute",
        }
    }
}

/// All models together.
#[derive(Debug)]
pub struct ModelsMetrics {
    classifications: IntCounterVec,
    families: Families,
    known: Mutex<HashMap<String, Arc<ModelMetrics>>>,
}

#[derive(Debug)]
struct Families {
    stages: HistogramVec,
    queue_texts: IntGaugeVec,
    queue_tokens: IntGaugeVec,
    batch_texts: HistogramVec,
    batch_tokens: HistogramVec,
    batch_seconds: HistogramVec,
    texts: IntCounterVec,
    tokens: IntCounterVec,
    cached: IntCounterVec,
    loads: IntCounterVec,
    load_seconds: HistogramVec,
    loaded: IntGaugeVec,
    memory: IntGaugeVec,
}

impl ModelsMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self> {
        let counters = |name, help, labels| counters(registry, name, help, labels);
        let gauges = |name, help| gauges(registry, name, help, &["model"]);
        let histograms = |name, help, buckets| histograms(registry, name, help, &["model"], buckets);
        let families = Families {
            stages: super::family::histograms(
                registry,
                "hone_stage_duration_seconds",
                "Where the time of a request to classify goes: load (until the model is loaded), tokenize, queue, compute.",
                &["model", "stage"],
                LATENCY,
            )?,
            queue_texts: gauges("hone_queue_texts", "Texts that wait for a batch.")?,
            queue_tokens: gauges("hone_queue_tokens", "Tokens of the texts that wait for a batch.")?,
            batch_texts: histograms("hone_batch_texts", "Texts of a batch.", TEXTS)?,
            batch_tokens: histograms(
                "hone_batch_tokens",
                "Tokens of a batch, special tokens included.",
                TOKENS,
            )?,
            batch_seconds: histograms("hone_batch_duration_seconds", "Time to compute a batch.", LATENCY)?,
            texts: counters("hone_texts_total", "Texts that were answered.", &["model"])?,
            tokens: counters(
                "hone_tokens_total",
                "Tokens of the texts that were answered, special tokens included.",
                &["model"],
            )?,
            cached: counters(
                "hone_cached_texts_total",
                "Texts whose answer was kept from before, and not computed.",
                &["model"],
            )?,
            loads: counters(
                "hone_model_loads_total",
                "Loads of a version of a model, by result: ok or error.",
                &["model", "result"],
            )?,
            load_seconds: histograms("hone_model_load_duration_seconds", "Time to load a version.", LOADING)?,
            loaded: gauges("hone_models_loaded", "Versions of a model that are loaded.")?,
            memory: gauges("hone_model_memory_bytes", "Memory of the versions of a model that are loaded.")?,
        };
        Ok(Self {
            classifications: counters(
                "hone_classifications_total",
                "Requests to classify that have ended, by model and status code: a call, or each message of a stream; the \
                 model is `unknown` where it was not found.",
                &["model", "code"],
            )?,
            families,
            known: Mutex::default(),
        })
    }

    /// The handles of a model that exists.
    pub fn model(&self, name: &str) -> Arc<ModelMetrics> {
        let mut known = lock(&self.known);
        if let Some(model) = known.get(name) {
            return model.clone();
        }
        let label = if known.len() < MOST { name } else { OTHER };
        known.entry(label.to_owned()).or_insert_with(|| Arc::new(self.families.model(label))).clone()
    }

    /// A model is gone, and its series with it.
    pub fn forget(&self, name: &str) {
        if lock(&self.known).remove(name).is_some() {
            self.families.forget(name);
            for code in (0..=16).map(code_name) {
                // Only those that were counted are there.
                let _ = self.classifications.remove_label_values(&[name, code]);
            }
        }
    }

    /// A request to classify has begun. It counts as cancelled if this is dropped before it has ended.
    pub fn classification(&self) -> Classification<'_> {
        Classification { metrics: self, model: None, code: CANCELLED }
    }
}

impl Families {
    fn model(&self, name: &str) -> ModelMetrics {
        let labels = &[name];
        ModelMetrics {
            name: name.into(),
            stages: Stage::ALL.map(|stage| self.stages.with_label_values(&[name, stage.name()])),
            queue_texts: self.queue_texts.with_label_values(labels),
            queue_tokens: self.queue_tokens.with_label_values(labels),
            batch_texts: self.batch_texts.with_label_values(labels),
            batch_tokens: self.batch_tokens.with_label_values(labels),
            batch_seconds: self.batch_seconds.with_label_values(labels),
            texts: self.texts.with_label_values(labels),
            tokens: self.tokens.with_label_values(labels),
            cached: self.cached.with_label_values(labels),
            loads: RESULTS.map(|result| self.loads.with_label_values(&[name, result])),
            load_seconds: self.load_seconds.with_label_values(labels),
            loaded: self.loaded.with_label_values(labels),
            memory: self.memory.with_label_values(labels),
        }
    }

    fn forget(&self, name: &str) {
        let labels = &[name];
        for histogram in [&self.batch_texts, &self.batch_tokens, &self.batch_seconds, &self.load_seconds] {
            let _ = histogram.remove_label_values(labels);
        }
        for gauge in [&self.queue_texts, &self.queue_tokens, &self.loaded, &self.memory] {
            let _ = gauge.remove_label_values(labels);
        }
        for counter in [&self.texts, &self.tokens, &self.cached] {
            let _ = counter.remove_label_values(labels);
        }
        for result in RESULTS {
            let _ = self.loads.remove_label_values(&[name, result]);
        }
        for stage in Stage::ALL {
            let _ = self.stages.remove_label_values(&[name, stage.name()]);
        }
    }
}

/// How a load may end.
const RESULTS: [&str; 2] = ["ok", "error"];

/// One model, all versions together.
#[derive(Debug)]
pub struct ModelMetrics {
    name: Arc<str>,
    stages: [Histogram; 4],
    queue_texts: IntGauge,
    queue_tokens: IntGauge,
    batch_texts: Histogram,
    batch_tokens: Histogram,
    batch_seconds: Histogram,
    texts: IntCounter,
    tokens: IntCounter,
    cached: IntCounter,
    loads: [IntCounter; 2],
    load_seconds: Histogram,
    loaded: IntGauge,
    memory: IntGauge,
}

impl ModelMetrics {
    /// The label that stands for the model.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// A request has passed a stage.
    pub fn stage(&self, stage: Stage, took: Duration) {
        if let Some(histogram) = self.stages.get(stage as usize) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// A request was answered, with so many texts and tokens.
    pub fn answered(&self, texts: usize, tokens: usize) {
        self.texts.inc_by(texts as u64);
        self.tokens.inc_by(tokens as u64);
    }

    /// A text waits with so many tokens, until what is returned is dropped.
    pub fn queued(self: &Arc<Self>, tokens: usize) -> Queued {
        let tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
        self.queue_texts.inc();
        self.queue_tokens.add(tokens);
        Queued { model: self.clone(), tokens }
    }

    /// A batch was computed.
    pub fn batch(&self, texts: usize, tokens: usize, took: Duration) {
        self.batch_texts.observe(texts as f64);
        self.batch_tokens.observe(tokens as f64);
        self.batch_seconds.observe(took.as_secs_f64());
    }

    /// A version was loaded, or could not be, after so long.
    pub fn load(&self, is_ok: bool, took: Duration) {
        let [ok, error] = &self.loads;
        if is_ok {
            ok.inc()
        } else {
            error.inc()
        }
        self.load_seconds.observe(took.as_secs_f64());
    }

    /// A version is loaded and takes so many bytes, until what is returned is dropped.
    pub fn loaded(self: &Arc<Self>, bytes: u64) -> Loaded {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.loaded.inc();
        self.memory.add(bytes);
        Loaded { model: self.clone(), bytes }
    }
}

/// A text that waits; it has left the queue when this is dropped.
#[derive(Debug)]
pub struct Queued {
    model: Arc<ModelMetrics>,
    tokens: i64,
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.model.queue_texts.dec();
        self.model.queue_tokens.sub(self.tokens);
    }
}

/// A version that is loaded; it is unloaded when this is dropped.
#[derive(Debug)]
pub struct Loaded {
    model: Arc<ModelMetrics>,
    bytes: i64,
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.model.loaded.dec();
        self.model.memory.sub(self.bytes);
    }
}

/// A request to classify, counted when it is dropped.
#[derive(Debug)]
pub struct Classification<'a> {
    metrics: &'a ModelsMetrics,
    model: Option<Arc<ModelMetrics>>,
    code: &'static str,
}

impl Classification<'_> {
    /// The request's model was found.
    pub fn found(&mut self, name: &str) {
        let model = self.metrics.model(name);
        call::names(&model.name);
        self.model = Some(model);
    }

    /// The request has passed a stage.
    pub fn stage(&self, stage: Stage, from: Instant, to: Instant) {
        if let Some(model) = &self.model {
            model.stage(stage, to.saturating_duration_since(from));
        }
        call::stage(stage.name(), from, to);
    }

    /// The request was answered, with so many texts and tokens.
    pub fn answered(&self, texts: usize, tokens: usize) {
        if let Some(model) = &self.model {
            model.answered(texts, tokens);
        }
    }

    /// So many of the request's texts have answers that were kept from before.
    pub fn cached(&self, texts: usize) {
        if let Some(model) = &self.model {
            model.cached.inc_by(texts as u64);
        }
    }

    /// The request has ended.
    pub fn ended<T>(mut self, result: std::result::Result<T, Error>) -> std::result::Result<T, Error> {
        self.code = match &result {
            Ok(_) => OK,
            Err(error) => code_name(code(error.kind()) as i32),
        };
        result
    }
}

impl Drop for Classification<'_> {
    fn drop(&mut self) {
        let model = self.model.as_ref().map_or_else(|| NOT_FOUND.into(), |model| model.name.clone());
        call::names(&model);
        self.metrics.classifications.with_label_values(&[&*model, self.code]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn what_waits_and_what_is_loaded_goes_down_again() {
        let metrics = Metrics::new().unwrap();
        let model = metrics.models.model("reviews");
        let (queued, loaded) = (model.queued(7), model.loaded(1000));
        let is =
            |line: &str| assert!(metrics.render().contains(&format!("{line}\n")), "{}", metrics.render());
        is("hone_queue_tokens{model=\"reviews\"} 7");
        is("hone_model_memory_bytes{model=\"reviews\"} 1000");
        drop((queued, loaded));
        is("hone_queue_texts{model=\"reviews\"} 0");
        is("hone_queue_tokens{model=\"reviews\"} 0");
        is("hone_models_loaded{model=\"reviews\"} 0");
    }

    #[test]
    fn a_request_that_is_dropped_counts_as_cancelled_and_one_that_fails_by_its_code() {
        let metrics = Metrics::new().unwrap();
        drop(metrics.models.classification());
        let mut found = metrics.models.classification();
        found.found("reviews");
        let failed: std::result::Result<(), _> = found.ended(Err(Error::invalid("why")));
        assert!(failed.is_err());
        let text = metrics.render();
        assert!(
            text.contains("hone_classifications_total{code=\"CANCELLED\",model=\"unknown\"} 1\n"),
            "{text}"
        );
        let line = "hone_classifications_total{code=\"INVALID_ARGUMENT\",model=\"reviews\"} 1\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn a_model_that_is_gone_leaves_no_series() {
        let metrics = Metrics::new().unwrap();
        let model = metrics.models.model("reviews");
        let mut request = metrics.models.classification();
        request.found("reviews");
        request.ended(Ok(())).unwrap();
        model.load(true, Duration::from_secs(1));
        metrics.models.forget("reviews");
        assert!(!metrics.render().contains("reviews"), "{}", metrics.render());
    }

    #[test]
    fn models_beyond_the_bound_share_their_series() {
        let metrics = Metrics::new().unwrap();
        for number in 0..MOST + 5 {
            metrics.models.model(&format!("m{number}")).answered(1, 1);
        }
        let text = metrics.render();
        assert!(text.contains("hone_texts_total{model=\"other\"} 5\n"));
        assert_eq!(text.matches("hone_texts_total{").count(), MOST + 1);
    }
}
