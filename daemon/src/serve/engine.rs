//! The seam between serving and the model's code. Tests put an engine of their own here.

use std::path::Path;

use candle_core::Device;

use super::queue::Limits;
use hone_base::error::Result;
use hone_data::tokenize::{Tokenizer, Tokens};
use hone_engine::batch::Batch;
use hone_engine::model::classifier::Classifier;

/// Loads checkpoint folders. Blocking.
pub trait Engine: Send + Sync + 'static {
    /// A checkpoint, ready to answer.
    fn load(&self, folder: &Path) -> Result<Loaded>;

    /// How large batches shall be.
    fn limits(&self) -> Limits;
}

/// A loaded checkpoint.
pub struct Loaded {
    /// Text to tokens; any thread.
    pub tokenizer: Box<dyn Tokenize>,
    /// Tokens to probabilities; one thread.
    pub model: Box<dyn Score>,
}

/// Text to tokens.
pub trait Tokenize: Send + Sync {
    /// The tokens of a text or pair, cut to the model's length.
    fn encode(&self, text: &str, pair: Option<&str>) -> Result<Tokens>;
}

/// Tokens to probabilities.
pub trait Score: Send {
    /// In class order.
    fn labels(&self) -> &[String];

    /// In class order: the score from which on a label is set, when a text may have several labels.
    fn thresholds(&self) -> Option<&[f32]>;

    /// The probability of each label for each sequence.
    fn scores(&self, batch: &Batch) -> Result<Vec<Vec<f32>>>;
}

/// The engine of this crate: one device.
pub struct DeviceEngine {
    device: Device,
}

impl DeviceEngine {
    /// Serves on a device.
    pub fn new(device: Device) -> Self {
        Self { device }
    }
}

impl Engine for DeviceEngine {
    fn load(&self, folder: &Path) -> Result<Loaded> {
        let model = Classifier::load(folder, &self.device)?;
        let tokenizer = Tokenizer::from_folder(folder, model.max_length())?;
        Ok(Loaded { tokenizer: Box::new(tokenizer), model: Box::new(model) })
    }

    fn limits(&self) -> Limits {
        // On a CPU more tokens at once are not faster, and later requests wait longer.
        let tokens = if self.device.is_cpu() { 2048 } else { 32_768 };
        Limits { tokens, count: 512 }
    }
}

impl Tokenize for Tokenizer {
    fn encode(&self, text: &str, pair: Option<&str>) -> Result<Tokens> {
        Tokenizer::encode(self, text, pair)
    }
}

impl Score for Classifier {
    fn labels(&self) -> &[String] {
        Classifier::labels(self)
    }

    fn thresholds(&self) -> Option<&[f32]> {
        Classifier::thresholds(self)
    }

    fn scores(&self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        Classifier::scores(self, batch)
    }
}
