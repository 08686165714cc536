//! The seam between serving and the model's code. Tests put an engine of their own here.

use std::num::NonZeroUsize;
use std::path::Path;

use candle_core::Device;

use super::precision::{Offer, Precision};
use super::queue::{Each, Limits};
use hone_base::error::Result;
use hone_data::Cut;
use hone_data::tokenize::{Tokenizer, Tokens};
use hone_engine::batch::Batch;
use hone_engine::kernels;
use hone_engine::model::backend::{self, Threads};
use hone_engine::model::classifier::{Classifier, GROUP};

/// Tokens of a batch at most.
const MOST_TOKENS: usize = 32_768;

/// Tokens of a batch for each thread of a CPU, about five groups of sequences, which threads take one after the other.
const CPU_TOKENS: usize = 512;

/// Loads checkpoint folders. Blocking.
pub trait Engine: Send + Sync + 'static {
    /// A checkpoint, ready to answer in a precision.
    ///
    /// # Errors
    ///
    /// When the files cannot be used, or the device does not compute such a model in this precision.
    fn load(&self, folder: &Path, precision: Precision) -> Result<Loaded>;

    /// What it computes in.
    ///
    /// # Errors
    ///
    /// When the process was told to use an instruction set that there is not.
    fn offer(&self) -> Result<Offer>;

    /// How large batches shall be.
    fn limits(&self) -> Limits;
}

/// A loaded checkpoint.
pub struct Loaded {
    /// Text to tokens; any thread.
    pub tokenizer: Box<dyn Tokenize>,
    /// Tokens to logits; any thread.
    pub model: Box<dyn Score>,
    /// Bytes of memory that it takes while it is loaded.
    pub bytes: u64,
}

/// Text to tokens.
pub trait Tokenize: Send + Sync {
    /// How texts are cut unless their callers say otherwise; the longest that the model takes.
    fn cut(&self) -> Cut;

    /// Special tokens that are added to one text.
    fn special_tokens(&self) -> usize;

    /// The tokens of a text or pair, cut in this way.
    fn encode(&self, text: &str, pair: Option<&str>, cut: Cut) -> Result<Tokens>;
}

/// Tokens to logits.
pub trait Score: Send + Sync {
    /// In class order.
    fn labels(&self) -> &[String];

    /// In class order: the score from which on a label is set, when a text may have several labels.
    fn thresholds(&self) -> Option<&[f32]>;

    /// The logits of each sequence, `[B, labels]` row by row, computed on these threads.
    fn logits(&self, batch: &Batch, threads: Threads) -> Result<Vec<f32>>;
}

/// The engine of this crate: one device.
pub struct DeviceEngine {
    device: Device,
    threads: NonZeroUsize,
}

impl DeviceEngine {
    /// Serves on a device; on a CPU with so many threads.
    pub fn new(device: Device, threads: NonZeroUsize) -> Self {
        Self { device, threads }
    }
}

impl Engine for DeviceEngine {
    fn load(&self, folder: &Path, precision: Precision) -> Result<Loaded> {
        let precision = match precision {
            Precision::Fp32 => kernels::Precision::Fp32,
            Precision::Bf16 => kernels::Precision::Bf16,
            Precision::Int8 => kernels::Precision::Int8,
        };
        let model = Classifier::load_at(folder, &self.device, precision)?;
        let tokenizer = Tokenizer::from_folder(folder, model.max_length())?;
        let bytes = model.bytes();
        Ok(Loaded { tokenizer: Box::new(tokenizer), model: Box::new(model), bytes })
    }

    fn offer(&self) -> Result<Offer> {
        let of = |precision| match precision {
            kernels::Precision::Fp32 => Precision::Fp32,
            _ => Precision::Bf16,
        };
        let [fastest, exact] = backend::on(&self.device)?.fastest()?.map(of);
        Ok(Offer { fastest, exact })
    }

    fn limits(&self) -> Limits {
        let (threads, count) = (self.threads.get(), 512);
        match self.device.is_cpu() {
            // More tokens at once are not faster, and later requests wait longer.
            true => Limits {
                tokens: threads.saturating_mul(CPU_TOKENS).min(MOST_TOKENS),
                count,
                each: Some(Each { threads, tokens: GROUP }),
            },
            false => Limits { tokens: MOST_TOKENS, count, each: None },
        }
    }
}

impl Tokenize for Tokenizer {
    fn cut(&self) -> Cut {
        Tokenizer::cut(self)
    }

    fn special_tokens(&self) -> usize {
        self.special_tokens_count()
    }

    fn encode(&self, text: &str, pair: Option<&str>, cut: Cut) -> Result<Tokens> {
        self.encode_cut(text, pair, cut)
    }
}

impl Score for Classifier {
    fn labels(&self) -> &[String] {
        Classifier::labels(self)
    }

    fn thresholds(&self) -> Option<&[f32]> {
        Classifier::thresholds(self)
    }

    fn logits(&self, batch: &Batch, threads: Threads) -> Result<Vec<f32>> {
        Classifier::logits(self, batch, threads)
    }
}
