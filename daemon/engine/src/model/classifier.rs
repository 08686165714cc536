//! A classifier that learns, and one that answers.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use candle_core::Device;

use super::checkpoint::Checkpoint;
use super::config::Config;
use super::declaration::{Place, declare};
use super::engine::Engine;
use super::gpu;
use super::gradients::Gradients;
use super::noise::Mode;
use super::objective::sigmoid;
use super::parameters::Parameters;
use crate::batch::Batch;
use crate::kernels::softmax::softmax;
use crate::kernels::{Compute, Isa, Precision};
use hone_base::error::{Error, Result};

/// How a classifier that learns is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Of new parameters.
    pub seed: u64,
    /// How the CPU computes; another device takes the precision alone.
    pub compute: Compute,
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
            checkpointing: false,
            freeze_embeddings: false,
            freeze_layers: 0,
            reinit_layers: 0,
        }
    }

    fn freezes(&self, place: Place) -> bool {
        match place {
            Place::Embeddings => self.freeze_embeddings || self.freeze_layers > 0,
            Place::Layer(layer) => layer < self.freeze_layers,
            Place::Head => false,
        }
    }
}

/// A classifier that learns.
#[derive(Debug)]
pub struct Trainable {
    /// Of the encoder it started from.
    pub config: Config,
    parameters: Parameters,
    gradients: Gradients,
    engine: Engine,
    checkpointing: bool,
    has_gradients: bool,
}

impl Trainable {
    /// Starts from an encoder's checkpoint. The head is taken from it when it has one for the same labels; else it
    /// is new.
    pub fn start(checkpoint: &Checkpoint, labels: &[String], setup: &Setup, device: &Device) -> Result<Self> {
        let config = checkpoint.config().clone();
        let architecture = &config.architecture;
        let same_labels =
            config.labels().is_some_and(|known| known == labels) && checkpoint.has_output_layer(labels.len());
        let output_layer = architecture.family.output_layer();
        let mut stored = |name: &str| match name.starts_with(output_layer) && !same_labels {
            true => Ok(None),
            false => checkpoint.tensor(name),
        };
        let declared = declare(architecture, labels.len());
        let mut parameters = Parameters::build(declared, &mut stored, setup.seed)?;
        let first_new = architecture.num_hidden_layers.saturating_sub(setup.reinit_layers);
        let list = parameters.list().clone();
        for (index, parameter) in list.iter().enumerate() {
            let starts_anew = match parameter.place {
                Place::Embeddings => false,
                Place::Layer(layer) => layer >= first_new,
                // The first two parameters of the head are the pooler's.
                Place::Head => setup.reinit_layers > 0 && index + 4 >= list.len() && index + 2 < list.len(),
            };
            if starts_anew {
                parameters.draw(index, setup.seed);
            }
        }
        let trainable = list.iter().map(|parameter| !setup.freezes(parameter.place)).collect();
        Ok(Self {
            gradients: Gradients::new(&list, trainable),
            engine: Engine::new(architecture, &list, labels.len(), setup.compute, device, false)?,
            checkpointing: setup.checkpointing,
            has_gradients: false,
            parameters,
            config,
        })
    }

    /// What the optimizer moves.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// How many numbers learn.
    pub fn learning(&self) -> u64 {
        let learning =
            self.parameters.iter().enumerate().filter(|(index, _)| self.gradients.is_trainable(*index));
        learning.map(|(_, parameter)| parameter.range.len() as u64).sum()
    }

    /// The gradients of the backward passes so far; on a GPU they stay there.
    pub fn gradients(&self) -> &Gradients {
        &self.gradients
    }

    /// What computes.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// The logits of each sequence, `[B, labels]` row by row, for which there is a way back.
    pub fn forward(&mut self, batch: &Batch, mode: Mode) -> Result<Vec<f32>> {
        self.engine.train(&self.parameters, batch, mode, self.checkpointing)
    }

    /// Adds the gradients of the parameters, given that of the last pass's logits.
    pub fn backward(&mut self, grad_logits: &[f32]) -> Result<()> {
        let add = self.has_gradients;
        self.has_gradients = true;
        self.engine.backward(&self.parameters, grad_logits, &mut self.gradients, add)
    }

    /// Lets the parameters be changed. With `step`, the gradients are used up.
    pub fn change<R>(&mut self, step: bool, change: impl FnOnce(&mut Parameters, &Gradients) -> R) -> R {
        let result = change(&mut self.parameters, &self.gradients);
        self.engine.moved();
        if step {
            self.has_gradients = false;
        }
        result
    }

    /// The network on a GPU, where parameters, gradients and moments live there, with the host's parameters.
    pub fn gpu(&mut self) -> Option<(&mut gpu::Network, &mut Parameters)> {
        match &mut self.engine {
            Engine::Gpu(network) => Some((network, &mut self.parameters)),
            _ => None,
        }
    }

    /// Says that the gradients on a GPU are used up.
    pub fn forget_gradients(&mut self) {
        self.has_gradients = false;
    }

    /// Brings rows of the embeddings up to date, which matrix products do not read.
    pub fn refresh<R>(&mut self, refresh: impl FnOnce(&mut Parameters) -> R) -> R {
        if let Engine::Device(reference) = &mut self.engine {
            reference.moved();
        }
        refresh(&mut self.parameters)
    }

    /// The logits of each sequence, `[B, labels]` row by row, without dropout.
    pub fn answer(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        self.engine.answer(&self.parameters, batch)
    }

    /// Bytes of parameters, gradients, prepared weights and activations.
    pub fn bytes(&self) -> usize {
        self.parameters.values().bytes() + self.gradients.bytes() + self.engine.bytes()
    }
}

/// A trained classifier that answers: encoder, head and labels from a checkpoint folder.
#[derive(Debug)]
pub struct Classifier {
    parameters: Parameters,
    /// Its passes share memory, so that they take turns.
    engine: Mutex<Engine>,
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
        let parameters = Parameters::build(declared, &mut stored, 0)?;
        let max_length = checkpoint.max_length()?;
        let thresholds = config.thresholds();
        let precision = if gpu::computes_on(device)? { Precision::Bf16 } else { Precision::Fp32 };
        let compute = Compute::new(Isa::chosen()?, precision);
        let list = parameters.list();
        let engine = Engine::new(&config.architecture, list, labels.len(), compute, device, true)?;
        Ok(Self { parameters, engine: Mutex::new(engine), labels, thresholds, max_length })
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

    /// The logits of each sequence, `[B, labels]` row by row.
    pub fn logits(&self, batch: &Batch) -> Result<Vec<f32>> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner).answer(&self.parameters, batch)
    }

    /// The probability of each label for each sequence, in order: `[B][labels]`.
    pub fn scores(&self, batch: &Batch) -> Result<Vec<Vec<f32>>> {
        let logits = self.logits(batch)?;
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
