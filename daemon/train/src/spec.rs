//! What a job trains, on what, and how: every value checked, every default filled in.

use std::num::{NonZeroU32, NonZeroU64};

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::methods::Methods;
use super::promotion::Promotion;
use hone_base::error::Result;
use hone_data::Columns;
pub use hone_data::Truncation;
use hone_engine::kernels::{self, Compute, Isa};
use hone_engine::model::backend;
use hone_engine::model::memory::Workload;
use hone_engine::model::optimizer::{self, Rule};

/// A whole job. It is stored with the job and, as part of `hone.json`, with the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The model that the checkpoint becomes a version of.
    pub name: String,
    /// The encoder as the user named it: a folder, or a hub id with an optional revision after `@`.
    pub encoder: String,
    /// The training file.
    pub train: Source,
    /// The validation file; without one, `validation_split` of the training rows is held out.
    pub validation: Option<Source>,
    /// The file that is scored once, at the end.
    pub test: Option<Source>,
    /// Share of the training rows that is held out when there is no validation file.
    pub validation_split: f64,
    /// The columns of all files.
    pub columns: Columns,
    /// Only the first rows of the training file.
    pub train_limit: Option<NonZeroU64>,
    /// Only the first rows of the validation file.
    pub validation_limit: Option<NonZeroU64>,
    /// Only the first rows of the test file.
    pub test_limit: Option<NonZeroU64>,
    /// How to train.
    pub hyperparameters: Hyperparameters,
    /// Whether an alias is to point at the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<Promotion>,
}

impl Spec {
    /// The data sets that the job needs.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        std::iter::once(&self.train).chain(&self.validation).chain(&self.test)
    }
}

/// A stored data set under the name that the user knows it by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// SHA-256 of the file's bytes, lower-case hexadecimal.
    pub dataset: String,
    /// The name that messages use.
    pub name: String,
}

/// How to train.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hyperparameters {
    /// Which update rule.
    pub optimizer: Optimizer,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled for AdamW, added to the gradient for Adam; never on biases and layer-norm parameters.
    pub weight_decay: f64,
    /// The shape of the learning rate after the warm-up.
    pub scheduler: Scheduler,
    /// How long the rate rises from 0.
    pub warmup: Warmup,
    /// Passes over the training rows.
    pub epochs: NonZeroU32,
    /// Sequences in a micro-batch.
    pub batch_size: NonZeroU32,
    /// Micro-batches to an optimizer step.
    pub gradient_accumulation: NonZeroU32,
    /// Bound of the gradient's global norm; `None` does not clip.
    pub max_grad_norm: Option<f64>,
    /// Dropout before the classifier; `None` takes what the encoder's configuration says, else its hidden dropout.
    pub dropout: Option<f64>,
    /// Dropout inside the encoder; `None` takes what its configuration says.
    pub encoder_dropout: Option<f64>,
    /// Of everything random.
    pub seed: u64,
    /// Which epoch's checkpoint stays.
    pub keep: Keep,
    /// The validation metric that chooses the best epoch.
    pub metric: Metric,
    /// Stop after this many epochs without a better metric.
    pub early_stopping: Option<NonZeroU32>,
    /// Tokens of a sequence, special tokens included; `None` takes the encoder's positions.
    pub max_length: Option<NonZeroU32>,
    /// The label that precision, recall and F1 are of, when there are two; `None` takes the second one.
    pub positive_label: Option<String>,
    /// What matrix products are computed in.
    pub precision: Precision,
    /// What is kept of a text that is too long.
    pub truncation: Truncation,
    /// How often the position is saved that an interrupted job continues from.
    pub checkpoint_every: CheckpointEvery,
    /// The methods that are off by default.
    pub methods: Methods,
}

/// How often the position of a run is saved. It is also saved when a run stops, and before the last evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointEvery {
    /// After each epoch and after ten minutes.
    #[default]
    Auto,
    /// After each epoch.
    Epoch,
    /// After so many optimizer steps.
    Steps(NonZeroU64),
    /// After so many minutes.
    Minutes(NonZeroU32),
}

/// What matrix products are computed in. Weights, moments, layer norms, softmax and sums are float32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// bfloat16 where the device multiplies it faster, else float32.
    #[default]
    Auto,
    /// float32
    Fp32,
    /// bfloat16 factors, float32 sums.
    Bf16,
}

impl Precision {
    /// How a job with this precision computes on a device.
    pub fn compute(self, device: &Device) -> Result<Compute> {
        let isa = Isa::chosen()?;
        let precision = match self {
            Self::Fp32 => kernels::Precision::Fp32,
            Self::Bf16 => kernels::Precision::Bf16,
            Self::Auto => backend::on(device)?.fastest()?[0],
        };
        Ok(Compute::new(isa, precision))
    }
}

/// Which update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Kingma and Ba 2015; weight decay is added to the gradient.
    Adam,
    /// Loshchilov and Hutter 2019; weight decay is decoupled.
    AdamW,
}

/// The shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheduler {
    /// Stays at the peak.
    Constant,
    /// Falls to 0 in a line.
    Linear,
    /// Falls to 0 along half a cosine.
    Cosine,
}

/// How long the rate rises from 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    /// Optimizer steps.
    Steps(u64),
    /// Share of all optimizer steps.
    Ratio(f64),
    /// Epochs, may be a fraction.
    Epochs(f64),
}

/// Which epoch's checkpoint stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The one with the best validation metric.
    Best,
    /// The last one.
    Last,
}

/// The validation metric that chooses the best epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Mean cross-entropy; lower is better.
    Loss,
    /// Share of right answers.
    Accuracy,
    /// Of the positive label when there are two, else macro.
    F1,
}

impl Default for Hyperparameters {
    fn default() -> Self {
        Self {
            optimizer: Optimizer::AdamW,
            learning_rate: 2e-5,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            scheduler: Scheduler::Linear,
            warmup: Warmup::Ratio(0.1),
            epochs: count(3),
            batch_size: count(16),
            gradient_accumulation: count(1),
            max_grad_norm: Some(1.0),
            dropout: None,
            encoder_dropout: None,
            seed: 42,
            keep: Keep::Best,
            metric: Metric::Loss,
            early_stopping: None,
            max_length: None,
            positive_label: None,
            precision: Precision::Auto,
            truncation: Truncation::Head,
            checkpoint_every: CheckpointEvery::Auto,
            methods: Methods::default(),
        }
    }
}

impl Hyperparameters {
    /// How parameters move.
    pub fn optimizer_settings(&self) -> optimizer::Settings {
        optimizer::Settings {
            rule: match self.optimizer {
                Optimizer::Adam => Rule::Adam,
                Optimizer::AdamW => Rule::AdamW,
            },
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            max_grad_norm: self.max_grad_norm,
            layer_decay: self.methods.layer_decay,
        }
    }

    /// What a job asks of the memory.
    pub fn workload(&self) -> Workload {
        let methods = &self.methods;
        Workload {
            batch_size: self.batch_size.get() as usize,
            passes: if methods.r_drop.is_some() { 2 } else { 1 },
            average: methods.ema_decay.is_some(),
            checkpointing: methods.gradient_checkpointing,
            freeze_embeddings: methods.freeze_embeddings,
            freeze_layers: methods.freeze_layers as usize,
        }
    }
}

fn count(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN)
}
