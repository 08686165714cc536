//! What the training loop tells. Nothing else comes out of it; what a job's log holds is more (`hone_storage::JobEvent`).

use serde::{Deserialize, Serialize};

use hone_data::{LabelCount, Quantiles};

/// One thing that the training loop tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TrainEvent {
    /// The data as the job will use it, before training starts.
    Prepared(Prepared),
    /// An optimizer step; throttled.
    Step(StepMetrics),
    /// How far the evaluation of a split is; throttled.
    Evaluation {
        /// The split under evaluation.
        split: Split,
        /// Rows done.
        rows_done: u64,
        /// Rows in all.
        rows: u64,
    },
    /// The end of an epoch.
    Epoch(EpochMetrics),
    /// The test result.
    Test(TestMetrics),
    /// Something that the user should know and the job goes on after.
    Notice {
        /// For people.
        message: String,
    },
}

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Learned from.
    Train,
    /// Chooses the epoch.
    Validation,
    /// Scored once, at the end.
    Test,
}

/// The data as the job will use it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// One for each split that the job has.
    pub splits: Vec<SplitReport>,
    /// Labels in the order of their class numbers.
    pub labels: Vec<String>,
    /// Texts that stand in both of two splits.
    pub overlaps: Vec<Overlap>,
    /// Optimizer steps of the whole job.
    pub total_steps: u64,
    /// Optimizer steps of one epoch.
    pub steps_per_epoch: u64,
    /// Optimizer steps of the warm-up.
    pub warmup_steps: u64,
    /// Tokens of a sequence, special tokens included.
    pub max_length: u32,
    /// Trainable parameters.
    pub parameters: u64,
    /// For example `cpu (2 threads)`.
    pub device: String,
    /// The encoder's folder or hub id.
    pub encoder: String,
    /// SHA-256 of the encoder's weights.
    pub encoder_sha256: String,
}

/// What is known of one split before training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitReport {
    /// Which split.
    pub split: Split,
    /// The file's name.
    pub name: String,
    /// Rows in use.
    pub rows: u64,
    /// Rows of each label.
    pub labels: Vec<LabelCount>,
    /// Tokens of a sequence before truncation, special tokens included.
    pub tokens: Quantiles,
    /// Tokens after truncation, all rows together.
    pub total_tokens: u64,
    /// Rows that were cut.
    pub truncated: u64,
    /// Rows without text.
    pub empty_texts: u64,
    /// Rows whose text and labels stand in an earlier row too.
    pub duplicates: u64,
    /// Texts that stand with different labels.
    pub contradictions: u64,
    /// Rows in which no token is known to the encoder.
    #[serde(default)]
    pub unknown: u64,
    /// What else is to be told of how the file was read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Texts that stand in both of two splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    /// The split that is learned from or chosen by.
    pub first: Split,
    /// The split that should be new to the model.
    pub second: Split,
    /// Rows of the second split whose text stands in the first.
    pub rows: u64,
    /// Those of them whose labels are none of those that the text has in the first.
    #[serde(default)]
    pub contradictions: u64,
}

/// One optimizer step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Steps done, from 1.
    pub step: u64,
    /// Steps of the whole job.
    pub total_steps: u64,
    /// From 1.
    pub epoch: u32,
    /// Steps done in this epoch, from 1.
    pub step_in_epoch: u64,
    /// Steps of one epoch.
    pub steps_per_epoch: u64,
    /// Mean loss of the step's examples.
    pub loss: f64,
    /// The rate that the step used.
    pub learning_rate: f64,
    /// The gradient's global norm before clipping.
    pub gradient_norm: f64,
    /// Since the step event before this one.
    pub steps_per_second: f64,
    /// Since the step event before this one.
    pub tokens_per_second: f64,
}

/// The five metrics of a pass over a split, from the counts of the whole pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Mean cross-entropy; of rows with several labels, mean binary cross-entropy over rows and labels.
    pub loss: f64,
    /// Share of right answers; of rows with several labels, of those with exactly the right ones.
    pub accuracy: f64,
    /// Of the positive label when there are two, else macro.
    pub f1: f64,
    /// Likewise.
    pub recall: f64,
    /// Likewise.
    pub precision: f64,
    /// Rows of the pass.
    pub rows: u64,
    /// One for each label, in class order.
    pub labels: Vec<LabelMetrics>,
    /// From the counts of all labels together; only where rows have several labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro: Option<Average>,
}

/// Precision, recall and F1 of several labels together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Average {
    /// Of what was called, the share that is.
    pub precision: f64,
    /// Of what is, the share that was found.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
}

/// The metrics of one label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelMetrics {
    /// The label.
    pub label: String,
    /// Of what was called this label, the share that is.
    pub precision: f64,
    /// Of what is this label, the share that was found.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
    /// Rows that have this label.
    pub rows: u64,
    /// The score from which on the label counts as set; only where rows have several labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
}

/// The end of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// From 1.
    pub epoch: u32,
    /// Epochs of the whole job.
    pub epochs: u32,
    /// Collected while training, so with dropout on and weights that still change.
    pub train: Metrics,
    /// After the epoch; where rows have several labels, at the thresholds that are the best for these rows.
    pub validation: Metrics,
    /// Training and evaluation together.
    pub seconds: f64,
    /// Of the training part.
    pub train_seconds: f64,
    /// Of the training part.
    pub steps_per_second: f64,
    /// Of the training part.
    pub tokens_per_second: f64,
    /// The best so far by the job's metric.
    pub best: bool,
    /// Validation loss is higher than after the epoch before.
    pub validation_loss_rose: bool,
    /// Optimizer steps done.
    pub step: u64,
}

/// The test result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestMetrics {
    /// The five metrics.
    pub metrics: Metrics,
    /// The epoch whose checkpoint was scored.
    pub epoch: u32,
    /// Of the evaluation.
    pub seconds: f64,
}
