//! A classifier that learns, and one that answers.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;

use super::backend::{self, Backend, Inference, Learning, Saved, Start, State, Threads};
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::declaration::{Declaration, ParameterId, Place};
use super::memory::{Memory, Workload};
use super::noise::Mode;
use super::objective::sigmoid;
use super::optimizer::Settings;
use super::parameters::{Parameter, Parameters};
use crate::batch::Batch;
use crate::kernels::softmax::softmax;
use crate::kernels::{Buffer, Compute, Isa, Precision};
use hone_base::error::{Error, Result};

/// Tokens from which on the sequences are enough that a thread of a CPU computes by itself.
pub const GROUP: usize = super::cpu::GROUP;

/// How a classifier that learns is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Of new parameters.
    pub seed: u64,
    /// How the CPU computes; another device takes the precision alone.
    pub compute: Compute,
    /// How parameters move.
    pub optimizer: Settings,
    /// Keep less of the forward pass, and compute it again.
    pub checkpointing: bool,
    /// The embeddings stay as they are.
    pub freeze_embeddings: bool,
    /// So many of the lowest layers stay as they are.
    pub freeze_layers: usize,
    /// So many of the highest layers, and the pooler, start anew.
    pub reinit_layers: usize,
}

impl Setup {
    /// Plain fine-tuning.
    pub fn new(seed: u64, compute: Compute) -> Self {
        Self {
            seed,
            compute,
            optimizer: Settings::default(),
            checkpointing: false,
            freeze_embeddings: false,
            freeze_layers: 0,
            reinit_layers: 0,
        }
    }

    fn freezes(&self, place: Place) -> bool {
        let Self { freeze_embeddings, freeze_layers, .. } = *self;
        Workload { freeze_embeddings, freeze_layers, ..Workload::plain(1) }.freezes(place)
    }
}

/// A classifier that learns.
#[derive(Debug)]
pub struct Trainable {
    /// Of the encoder it started from.
    pub config: Config,
    learning: u64,
    backend: Box<dyn Backend>,
}

impl Trainable {
    /// Starts from an encoder's checkpoint, on a device. The head is taken from it when it has one for the same labels;
    /// else it is new.
    ///
    /// # Errors
    ///
    /// When the checkpoint lacks a parameter of the encoder, or the device's backend does not compute such a classifier.
    pub fn start(checkpoint: &Checkpoint, labels: &[String], setup: &Setup, device: &Device) -> Result<Self> {
        let platform = backend::on(device)?;
        Self::start_on(checkpoint, labels, setup, |start| platform.open(start))
    }

    /// The same with the backend that `open` makes.
    ///
    /// # Errors
    ///
    /// As [`Trainable::start`].
    pub fn start_on(
        checkpoint: &Checkpoint,
        labels: &[String],
        setup: &Setup,
        open: impl FnOnce(Start) -> Result<Box<dyn Backend>>,
    ) -> Result<Self> {
        let config = checkpoint.config().clone();
        let declaration = Declaration::new(&config.architecture, labels.len());
        let same_labels =
            config.labels().is_some_and(|known| known == labels) && checkpoint.has_output_layer(labels.len());
        let output = declaration.head.output;
        let is_new = |id: ParameterId| (id == output.weight || Some(id) == output.bias) && !same_labels;
        let mut stored = |id: ParameterId, name: &str| match is_new(id) {
            true => Ok(None),
            false => checkpoint.tensor(name),
        };
        let mut parameters = Parameters::build(&declaration, &mut stored, setup.seed)?;
        let first_new = config.architecture.own_layers().saturating_sub(setup.reinit_layers);
        let dense = declaration.head.dense;
        for declared in &declaration.parameters {
            let starts_anew = match declared.place {
                Place::Embeddings => false,
                Place::Layer(layer) => layer >= first_new,
                Place::Head => {
                    let is_pooler = declared.id == dense.weight || Some(declared.id) == dense.bias;
                    setup.reinit_layers > 0 && is_pooler
                }
            };
            if starts_anew {
                parameters.draw(declared.id, setup.seed);
            }
        }
        let trainable = declaration.parameters.iter().map(|declared| !setup.freezes(declared.place));
        let (optimizer, checkpointing) = (setup.optimizer, setup.checkpointing);
        let learning = Learning { optimizer, trainable: trainable.collect(), checkpointing };
        Ok(Self {
            learning: declaration.count(|declared| learning.is_trainable(declared.id)),
            backend: open(Start {
                declaration: Arc::new(declaration),
                parameters,
                compute: setup.compute,
                learning: Some(learning),
            })?,
            config,
        })
    }

    /// How many numbers learn.
    pub fn learning(&self) -> u64 {
        self.learning
    }

    /// The logits of each sequence, `[B, labels]` row by row, for which there is a backward pass.
    ///
    /// # Errors
    ///
    /// As [`Backend::forward`].
    pub fn forward(&mut self, batch: &Batch, mode: Mode) -> Result<Vec<f32>> {
        self.backend.forward(batch, mode)
    }

    /// Adds the gradients of the parameters, given that of the last pass's logits.
    ///
    /// # Errors
    ///
    /// As [`Backend::backward`].
    pub fn backward(&mut self, grad_logits: &[f32]) -> Result<()> {
        self.backend.backward(grad_logits)
    }

    /// Moves every parameter that learns once, and returns the gradients' global norm before clipping.
    ///
    /// # Errors
    ///
    /// As [`Backend::step`].
    pub fn step(&mut self, rate: f64) -> Result<f64> {
        self.backend.step(rate)
    }

    /// The logits of each sequence, `[B, labels]` row by row, without dropout.
    ///
    /// # Errors
    ///
    /// As [`Backend::evaluate`].
    pub fn evaluate(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        self.backend.evaluate(batch)
    }

    /// The parameters without their values, in their order.
    pub fn list(&self) -> &Arc<[Parameter]> {
        self.backend.list()
    }

    /// The parameters as they are now.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn parameters(&mut self) -> Result<&Parameters> {
        self.backend.parameters()
    }

    /// The parameters and the optimizer's state as they are now.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn state(&mut self) -> Result<State<'_>> {
        self.backend.state()
    }

    /// Goes on from a state that was exported.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn restore(&mut self, saved: Saved) -> Result<()> {
        self.backend.restore(saved)
    }

    /// Puts these values in the place of the parameters, and the parameters in theirs.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn exchange(&mut self, values: &mut Buffer) -> Result<()> {
        self.backend.exchange(values)
    }

    /// The gradients since the last step, in the places of [`Parameters::values`].
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub fn gradients(&mut self) -> Result<Vec<f32>> {
        self.backend.gradients()
    }

    /// Bytes that it holds now, on its device.
    pub fn memory(&self) -> Memory {
        self.backend.memory()
    }
}

/// A trained classifier that answers: encoder, head and labels from a checkpoint folder.
#[derive(Debug)]
pub struct Classifier {
    inference: Box<dyn Inference>,
    precision: Precision,
    labels: Vec<String>,
    thresholds: Option<Vec<f32>>,
    max_length: usize,
}

impl Classifier {
    /// Loads a checkpoint folder in Hugging Face layout, at the precision at which the device answers fastest without being
    /// wrong.
    ///
    /// # Errors
    ///
    /// As [`Classifier::load_at`].
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let [_, precision] = backend::on(device)?.fastest()?;
        Self::load_at(folder, device, precision)
    }

    /// The same at a precision. Its weights are prepared here, on this thread, and of those that products read no other copy
    /// stays.
    ///
    /// # Errors
    ///
    /// When the folder holds no classifier, or the device cannot compute it, or not at this precision.
    pub fn load_at(folder: &Path, device: &Device, precision: Precision) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        let config = checkpoint.config();
        let Some(labels) = config.labels().filter(|labels| labels.len() >= 2) else {
            return Err(Error::precondition(format!(
                "{} is not a classifier: its config.json has no id2label with two labels or more",
                folder.display()
            )));
        };
        let declaration = Declaration::new(&config.architecture, labels.len());
        let mut stored = |_: ParameterId, name: &str| match checkpoint.tensor(name)? {
            Some(tensor) => Ok(Some(tensor)),
            None => Err(Error::precondition(format!("{}: the weights have no {name}", folder.display()))),
        };
        let parameters = Parameters::build(&declaration, &mut stored, 0)?;
        let max_length = checkpoint.max_length()?;
        let thresholds = config.thresholds();
        // The files' bytes.
        drop(checkpoint);
        let inference = backend::on(device)?.open_inference(Start {
            declaration: Arc::new(declaration),
            parameters,
            compute: Compute::new(Isa::chosen()?, precision),
            learning: None,
        })?;
        Ok(Self { inference, precision, labels, thresholds, max_length })
    }

    /// At which it computes.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes that it holds now, on its device: its weights, and the memory of the largest batch so far.
    pub fn bytes(&self) -> u64 {
        self.inference.memory().total()
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

    /// The logits of each sequence, `[B, labels]` row by row, on these threads.
    ///
    /// # Errors
    ///
    /// When the batch has tokens or positions that the encoder does not have, or the device has no memory for it.
    pub fn logits(&self, batch: &Batch, threads: Threads) -> Result<Vec<f32>> {
        self.inference.logits(batch, threads)
    }

    /// The probability of each label for each sequence, in order: `[B][labels]`.
    pub fn scores(&self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let logits = self.logits(batch, Threads::All)?;
        let row = |logits: &[f32]| {
            let mut row = logits.to_vec();
            match self.thresholds {
                Some(_) => row.iter_mut().for_each(|x| *x = sigmoid(*x)),
                None => drop(softmax(&mut row)),
            }
            row
        };
        Ok(logits.chunks(self.labels.len()).map(row).collect())
    }
}
