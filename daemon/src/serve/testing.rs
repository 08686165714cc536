//! What the tests of serving and of services share: an engine that needs no model.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::classify::Serving;
use super::dispatcher::Dispatcher;
use super::engine::{Engine, Loaded, Score, Tokenize};
use super::input::Input;
use super::load;
use super::precision::{Offer, Precision};
use super::queue::{Each, Limits, Policy};
use super::registry::{Models, Settings};
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use hone_base::digest;
use hone_base::error::{Error, Kind, Result};
use hone_base::panic::lock;
use hone_data::sample::{Recorded, SAMPLE, Sample, SampleRow};
use hone_data::tokenize::Tokens;
use hone_data::{Cut, Truncation};
use hone_engine::batch::Batch;
use hone_engine::model::backend::Threads;
use hone_engine::model::checkpoint::WEIGHTS;
use hone_storage::testing::{Home, PROMOTED, spec, version};
use hone_storage::{Blobs, Catalog, DataDir, Version, data_dir};

/// Each word becomes a token; what the first word of a text is decides what happens. Weights that name a precision, or
/// `damaged`, take one label for the other.
#[derive(Clone, Default)]
pub(crate) struct FakeEngine {
    seen: Arc<Mutex<Vec<String>>>,
    loads: Arc<Mutex<Vec<Precision>>>,
    /// Whether each of two threads computes its own batches.
    each: bool,
    /// Texts that `meet` and wait for one another.
    met: Arc<AtomicUsize>,
}

/// Tokens of a text at most.
pub(crate) const MAX_LENGTH: usize = 12;

const WORDS: [&str; 7] = ["", "good", "fail", "panic", "slow", "gone", "meet"];

impl Engine for FakeEngine {
    fn load(&self, folder: &Path, precision: Precision) -> Result<Loaded> {
        let weights = std::fs::read_to_string(folder.join(WEIGHTS)).unwrap();
        lock(&self.loads).push(precision);
        let labels = vec!["negative".into(), "positive".into()];
        let is_turned = weights.contains("damaged") || weights.contains(precision.name());
        let bytes = weights.len() as u64;
        let model = Box::new(Model { labels, is_turned, seen: self.seen.clone(), met: self.met.clone() });
        Ok(Loaded { tokenizer: Box::new(Words), model, bytes })
    }

    fn offer(&self) -> Result<Offer> {
        Ok(Offer { fastest: Precision::Bf16, exact: Precision::Fp32 })
    }

    fn limits(&self) -> Limits {
        let each = self.each.then_some(Each { threads: 2, tokens: 1 });
        Limits { tokens: 16, count: 8, each }
    }
}

struct Words;

impl Tokenize for Words {
    fn cut(&self) -> Cut {
        Cut { max_length: MAX_LENGTH, truncation: Truncation::Head }
    }

    fn special_tokens(&self) -> usize {
        0
    }

    fn encode(&self, text: &str, pair: Option<&str>, cut: Cut) -> Result<Tokens> {
        let id = |word: &str| WORDS.iter().position(|known| *known == word).unwrap_or(0) as u32;
        let words = text.split(' ').chain(pair.into_iter().flat_map(|pair| pair.split(' ')));
        let mut ids: Vec<u32> = words.map(id).collect();
        let full_length = ids.len();
        match cut.truncation {
            Truncation::Tail => drop(ids.drain(..full_length.saturating_sub(cut.max_length))),
            _ => ids.truncate(cut.max_length),
        }
        Ok(Tokens { types: vec![0; ids.len()], full_length, ids })
    }
}

struct Model {
    labels: Vec<String>,
    is_turned: bool,
    seen: Arc<Mutex<Vec<String>>>,
    met: Arc<AtomicUsize>,
}

impl Score for Model {
    fn labels(&self) -> &[String] {
        &self.labels
    }

    fn thresholds(&self) -> Option<&[f32]> {
        None
    }

    fn logits(&self, batch: &Batch, _: Threads) -> Result<Vec<f32>> {
        let firsts: Vec<&str> =
            batch.offsets[..batch.len()].iter().map(|&at| WORDS[batch.ids[at as usize] as usize]).collect();
        lock(&self.seen).extend(firsts.iter().map(|word| (*word).to_owned()));
        if firsts.contains(&"slow") {
            std::thread::sleep(Duration::from_millis(200));
        }
        if firsts.contains(&"meet") {
            let both = self.met.fetch_add(1, Ordering::SeqCst) / 2 * 2 + 2;
            let begun = Instant::now();
            while self.met.load(Ordering::SeqCst) < both {
                assert!(begun.elapsed() < Duration::from_secs(10), "nobody came");
                std::thread::yield_now();
            }
        }
        assert!(!firsts.contains(&"panic"), "index out of bounds");
        if firsts.contains(&"fail") {
            return Err(Error::new(Kind::Exhausted, "out of memory"));
        }
        let logits = |word: &&str| match (*word == "good") != self.is_turned {
            true => [-1.0, 1.0],
            false => [1.0, -0.5],
        };
        Ok(firsts.iter().flat_map(logits).collect())
    }
}

/// Models in a data folder that is gone at the end of the test.
pub(crate) struct Bench {
    pub(crate) models: Arc<Models>,
    pub(crate) data: DataDir,
    store: Arc<dyn Catalog>,
    engine: FakeEngine,
    lanes: Lanes,
    dispatcher: Arc<Dispatcher>,
    settings: Settings,
    _home: Home,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_policy(Policy::default())
    }

    pub(crate) fn with_policy(policy: Policy) -> Self {
        Self::with(policy, Settings { policy: load::Policy::default(), memory: u64::MAX })
    }

    /// With so many bytes for models.
    pub(crate) fn with_memory(memory: u64) -> Self {
        Self::with_settings(Settings { policy: load::Policy::default(), memory })
    }

    pub(crate) fn with_settings(settings: Settings) -> Self {
        Self::with(Policy::default(), settings)
    }

    /// With two threads that each compute batches of their own.
    pub(crate) fn with_threads() -> Self {
        let settings = Settings { policy: load::Policy::default(), memory: u64::MAX };
        let engine = FakeEngine { each: true, ..FakeEngine::default() };
        Self::with_engine(engine, Policy::default(), settings)
    }

    fn with(policy: Policy, settings: Settings) -> Self {
        Self::with_engine(FakeEngine::default(), policy, settings)
    }

    fn with_engine(engine: FakeEngine, policy: Policy, settings: Settings) -> Self {
        let home = Home::new();
        let (data, store) = (home.data(), home.store());
        let lanes = Lanes::new(const { NonZeroUsize::new(2).unwrap() }).unwrap();
        let blobs = Arc::new(data.clone());
        let dispatcher = Arc::new(Dispatcher::start(&lanes.serving, engine.limits(), policy));
        let computes = (Arc::new(engine.clone()) as Arc<dyn Engine>, dispatcher.clone());
        let (catalog, checks) = ((blobs as Arc<dyn Blobs>, store.clone()), lanes.checks.clone());
        let metrics = Arc::new(Metrics::new().unwrap());
        let models = Arc::new(Models::new(catalog, computes, checks, settings, metrics));
        store.insert_job("01a", &spec("reviews"), 8).unwrap();
        Self { models, data, store, engine, lanes, dispatcher, settings, _home: home }
    }

    pub(crate) fn publish(&self, name: &str) -> Arc<Version> {
        self.publish_as(name, "weights", false)
    }

    /// A version that takes so many bytes.
    pub(crate) fn publish_sized(&self, name: &str, bytes: usize) -> Arc<Version> {
        self.publish_as(name, &"w".repeat(bytes), false)
    }

    /// A version that takes one label for the other, and has no sample that would tell.
    pub(crate) fn publish_turned(&self, name: &str) -> Arc<Version> {
        self.publish_as(name, "damaged", false)
    }

    /// The same models as a daemon that starts anew has them.
    pub(crate) fn started_again(&self) -> Arc<Models> {
        let lanes = Lanes::new(NonZeroUsize::MIN).unwrap();
        let limits = self.engine.limits();
        let dispatcher = Arc::new(Dispatcher::start(&lanes.serving, limits, Policy::default()));
        let catalog = (Arc::new(self.data.clone()) as Arc<dyn Blobs>, self.store.clone());
        let computes = (Arc::new(self.engine.clone()) as Arc<dyn Engine>, dispatcher);
        let metrics = Arc::new(Metrics::new().unwrap());
        Arc::new(Models::new(catalog, computes, lanes.checks, self.settings, metrics))
    }

    /// A version with these weights, and a sample of what right ones answer.
    pub(crate) fn publish_sampled(&self, name: &str, weights: &str) -> Arc<Version> {
        self.publish_as(name, weights, true)
    }

    fn publish_as(&self, name: &str, weights: &str, sampled: bool) -> Arc<Version> {
        let number = self.store.reserve_version(name).unwrap();
        let folder = self.data.version(name, number);
        data_dir::create(&folder).unwrap();
        std::fs::write(folder.join(WEIGHTS), weights).unwrap();
        if sampled {
            let row = |(text, class, logits): (&str, u32, [f32; 2])| SampleRow {
                text: text.into(),
                text_pair: None,
                classes: vec![class],
                logits: logits.to_vec(),
            };
            let rows = [("good", 1, [-1.0, 1.0]), ("dull", 0, [1.0, -0.5])].map(row).to_vec();
            let sample = Sample { precision: Recorded::Fp32, rows };
            std::fs::write(folder.join(SAMPLE), sample.to_json().unwrap()).unwrap();
        }
        let mut version = version(name, number, "01a");
        version.files = digest::of_folder(&folder).unwrap();
        version.weights_sha256 = digest::of_bytes(weights.as_bytes());
        self.store.publish(&version, &[], &[]).unwrap();
        Arc::new(version)
    }

    /// Points an alias at a version that need not be loaded.
    pub(crate) fn point(&self, name: &str, version: u32, alias: &str) {
        self.store.promote(name, version, alias, PROMOTED).unwrap();
    }

    pub(crate) fn serving(&self) -> Serving {
        Serving::new(self.models.clone(), self.dispatcher.clone(), self.lanes.clone())
    }

    /// How many texts wait.
    pub(crate) fn waiting(&self) -> usize {
        self.dispatcher.waiting()
    }

    /// What was loaded, in the order in which it was.
    pub(crate) fn loads(&self) -> Vec<Precision> {
        lock(&self.engine.loads).clone()
    }

    /// The first words of everything that was computed.
    pub(crate) fn seen(&self) -> Vec<String> {
        lock(&self.engine.seen).clone()
    }
}

pub(crate) fn input(text: &str) -> Input {
    Input { text: text.into(), text_pair: None }
}
