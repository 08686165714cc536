//! What the tests of serving and of services share: an engine that needs no model.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::classify::Serving;
use super::dispatcher::Dispatcher;
use super::engine::{Engine, Loaded, Score, Tokenize};
use super::input::Input;
use super::queue::{Limits, Policy};
use super::registry::Models;
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use hone_base::digest;
use hone_base::error::{Error, Kind, Result};
use hone_base::panic::lock;
use hone_data::tokenize::Tokens;
use hone_data::{Cut, Truncation};
use hone_engine::batch::Batch;
use hone_storage::testing::{Home, spec, version};
use hone_storage::{Catalog, DataDir, Version, data_dir};

/// Each word becomes a token; what the first word of a text is decides what happens.
#[derive(Clone, Default)]
pub(crate) struct FakeEngine {
    seen: Arc<Mutex<Vec<String>>>,
}

/// Tokens of a text at most.
pub(crate) const MAX_LENGTH: usize = 12;

const WORDS: [&str; 6] = ["", "good", "fail", "panic", "slow", "gone"];

impl Engine for FakeEngine {
    fn load(&self, folder: &Path) -> Result<Loaded> {
        std::fs::metadata(folder.join("model.safetensors")).unwrap();
        let labels = vec!["negative".into(), "positive".into()];
        Ok(Loaded { tokenizer: Box::new(Words), model: Box::new(Model { labels, seen: self.seen.clone() }) })
    }

    fn limits(&self) -> Limits {
        Limits { tokens: 16, count: 8 }
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
    seen: Arc<Mutex<Vec<String>>>,
}

impl Score for Model {
    fn labels(&self) -> &[String] {
        &self.labels
    }

    fn thresholds(&self) -> Option<&[f32]> {
        None
    }

    fn logits(&self, batch: &Batch) -> Result<Vec<f32>> {
        let firsts: Vec<&str> =
            batch.offsets[..batch.len()].iter().map(|&at| WORDS[batch.ids[at as usize] as usize]).collect();
        lock(&self.seen).extend(firsts.iter().map(|word| (*word).to_owned()));
        if firsts.contains(&"slow") {
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        assert!(!firsts.contains(&"panic"), "index out of bounds");
        if firsts.contains(&"fail") {
            return Err(Error::new(Kind::Exhausted, "out of memory"));
        }
        Ok(firsts.iter().flat_map(|&word| if word == "good" { [-1.0, 1.0] } else { [1.0, -0.5] }).collect())
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
    _home: Home,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_policy(Policy::default())
    }

    pub(crate) fn with_policy(policy: Policy) -> Self {
        let home = Home::new();
        let (data, store, engine) = (home.data(), home.store(), FakeEngine::default());
        let lanes = Lanes::new(const { NonZeroUsize::new(2).unwrap() }).unwrap();
        let blobs = Arc::new(data.clone());
        let dispatcher = Arc::new(Dispatcher::start(&lanes.serving, engine.limits(), policy));
        let engine_of = Arc::new(engine.clone());
        let metrics = Arc::new(Metrics::new().unwrap());
        let models = Arc::new(Models::new(blobs, store.clone(), engine_of, dispatcher.clone(), metrics));
        store.insert_job("01a", &spec("reviews"), 8).unwrap();
        Self { models, data, store, engine, lanes, dispatcher, _home: home }
    }

    pub(crate) fn publish(&self, name: &str) -> Arc<Version> {
        let number = self.store.reserve_version(name).unwrap();
        let folder = self.data.version(name, number);
        data_dir::create(&folder).unwrap();
        std::fs::write(folder.join("model.safetensors"), "weights").unwrap();
        let mut version = version(name, number, "01a");
        version.files = digest::of_folder(&folder).unwrap();
        self.store.publish(&version, &[]).unwrap();
        Arc::new(version)
    }

    pub(crate) fn serving(&self) -> Serving {
        Serving::new(self.models.clone(), self.dispatcher.clone(), self.lanes.clone())
    }

    /// How many texts wait.
    pub(crate) fn waiting(&self) -> usize {
        self.dispatcher.waiting()
    }

    /// The first words of everything that was computed.
    pub(crate) fn seen(&self) -> Vec<String> {
        lock(&self.engine.seen).clone()
    }
}

pub(crate) fn input(text: &str) -> Input {
    Input { text: text.into(), text_pair: None }
}
