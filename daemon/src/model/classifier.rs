//! The classification head, its loss, and the whole classifier.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::bert::{Bert, Linear, Mode, Site, Supply};
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::objective::sigmoid;
use super::parameters::{Parameters, declare};
use crate::data::batch::Batch;
use crate::error::{Error, Result};
use crate::kernels::cross_entropy::{cross_entropy, softmax};
use crate::kernels::dropout::dropout;

/// Encoder and head: `classifier(dropout(tanh(pooler(h[CLS]))))`.
#[derive(Clone, Debug)]
pub struct Network {
    bert: Bert,
    pooler: Linear,
    classifier: Linear,
}

impl Network {
    fn new(config: &Config, parameters: &Parameters, as_constants: bool) -> candle_core::Result<Self> {
        let mut supply = Supply::new(parameters, as_constants);
        Ok(Self {
            bert: Bert::new(&config.architecture, &mut supply)?,
            pooler: supply.linear()?,
            classifier: supply.linear()?,
        })
    }

    /// The encoder.
    pub fn encoder(&self) -> &Bert {
        &self.bert
    }

    /// The logits of each sequence: `[B, labels]`.
    pub fn logits(&self, batch: &Batch, mode: Mode) -> candle_core::Result<Tensor> {
        let hidden = self.bert.forward(batch, mode)?;
        let starts = batch.offsets.get(..batch.len()).unwrap_or_default();
        let first = hidden.index_select(&Tensor::new(starts, hidden.device())?, 0)?;
        let pooled = self.pooler.forward(&first)?.tanh()?;
        self.classifier.forward(&dropout(&pooled, mode.dropout(Site::Head))?)
    }
}

/// A classifier that learns.
#[derive(Debug)]
pub struct Trainable {
    /// Of the encoder it started from.
    pub config: Config,
    /// What the optimizer moves.
    pub parameters: Parameters,
    training: Network,
    evaluation: Network,
}

impl Trainable {
    /// Starts from an encoder's checkpoint. The head is taken from it when it has one for the same labels; else it
    /// is new, drawn with `seed`.
    pub fn start(checkpoint: &Checkpoint, labels: &[String], seed: u64, device: &Device) -> Result<Self> {
        let config = checkpoint.config().clone();
        let same_labels = config.labels().is_some_and(|known| known == labels);
        let declared = declare(&config.architecture, labels.len());
        let mut stored = |name: &str| match name.starts_with("classifier.") && !same_labels {
            true => Ok(None),
            false => checkpoint.tensor(name),
        };
        let parameters = Parameters::build(declared, &mut stored, seed, device)?;
        let training = Network::new(&config, &parameters, false)?;
        let evaluation = Network::new(&config, &parameters, true)?;
        Ok(Self { config, parameters, training, evaluation })
    }

    /// Logits `[B, labels]` of a batch, recorded for a backward pass.
    pub fn logits(&self, batch: &Batch, mode: Mode) -> candle_core::Result<Tensor> {
        self.training.logits(batch, mode)
    }

    /// Logits `[B, labels]` and mean cross-entropy of a batch, recorded for a backward pass.
    pub fn loss(
        &self,
        batch: &Batch,
        classes: Arc<[u32]>,
        mode: Mode,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        let logits = self.training.logits(batch, mode)?;
        let loss = cross_entropy(&logits, classes)?;
        Ok((logits, loss))
    }

    /// The same parameters without dropout and without a record.
    pub fn evaluation(&self) -> &Network {
        &self.evaluation
    }
}

/// A trained classifier that answers: encoder, head and labels from a checkpoint folder.
#[derive(Debug)]
pub struct Classifier {
    network: Network,
    labels: Vec<String>,
    thresholds: Option<Vec<f32>>,
    max_length: usize,
}

impl Classifier {
    /// Loads a checkpoint folder in Hugging Face layout.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        let config = checkpoint.config();
        let Some(labels) = config.labels().filter(|labels| labels.len() >= 2) else {
            return Err(Error::precondition(format!(
                "{} is not a classifier: its config.json has no id2label with two labels or more",
                folder.display()
            )));
        };
        let declared = declare(&config.architecture, labels.len());
        let mut stored = |name: &str| match checkpoint.tensor(name)? {
            Some(tensor) => Ok(Some(tensor)),
            None => Err(Error::precondition(format!("{}: the weights have no {name}", folder.display()))),
        };
        let parameters = Parameters::build(declared, &mut stored, 0, device)?;
        let max_length = checkpoint.max_length()?;
        let network = Network::new(config, &parameters, true)?;
        Ok(Self { network, labels, thresholds: config.thresholds(), max_length })
    }

    /// In class order.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The score from which on each label is set, in class order, when a text may have several labels.
    pub fn thresholds(&self) -> Option<&[f32]> {
        self.thresholds.as_deref()
    }

    /// Tokens of a sequence at most, special tokens included.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Encoder and head.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The probability of each label for each sequence, in order: `[B][labels]`.
    pub fn scores(&self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let logits = self.network.logits(batch, Mode::Evaluate)?;
        let mut rows = to_rows(&logits)?;
        for row in &mut rows {
            match self.thresholds {
                Some(_) => row.iter_mut().for_each(|x| *x = sigmoid(*x)),
                None => drop(softmax(row)),
            }
        }
        Ok(rows)
    }
}

/// A matrix's values, row by row.
pub fn to_rows(matrix: &Tensor) -> candle_core::Result<Vec<Vec<f32>>> {
    matrix.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.to_vec2()
}
