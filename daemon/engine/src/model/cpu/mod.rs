//! The backend on the CPU: Hone's own code.

mod adam;
mod answer;
mod embeddings;
mod encoder;
mod gradients;
mod head;
mod layer;
mod memory;
mod network;

use std::sync::{Arc, PoisonError, RwLock};

use super::architecture::Activation;
use super::backend::{Backend, Inference, Learning, Platform, Saved, Start, State, Threads, answers_alone};
use super::declaration::Declaration;
use super::memory::{Memory, Workload};
use super::needs::Need;
use super::noise::Mode;
use super::parameters::{Parameter, Parameters};
use crate::batch::Batch;
use crate::kernels::{Buffer, Compute, Isa, MOST_INT8_INPUTS, Precision, fastest_precision};
use adam::Adam;
pub(super) use answer::TOKENS as GROUP;
use gradients::Gradients;
use hone_base::error::{Error, Result};
use network::Network;

/// What it computes beyond BERT's layers.
const COMPUTES: [Need; 7] = [
    Need::Projection,
    Need::SharedLayers,
    Need::Activation(Activation::Gelu),
    Need::Activation(Activation::GeluTanh),
    Need::HeadActivation(Activation::Gelu),
    Need::HeadActivation(Activation::Relu),
    Need::HeadActivation(Activation::Tanh),
];

/// The CPU.
#[derive(Clone, Copy, Debug)]
pub struct Cpu;

impl Platform for Cpu {
    fn check(&self, declaration: &Declaration, precision: Precision) -> Result<()> {
        let architecture = &declaration.architecture;
        let widths = [architecture.embedding_size, architecture.hidden_size, architecture.intermediate_size];
        let widest = widths.into_iter().max().unwrap_or_default();
        if precision == Precision::Int8 && widest > MOST_INT8_INPUTS {
            return Err(Error::precondition(format!(
                "the encoder has layers of {widest} inputs, and products of 8-bit integers take up to \
                 {MOST_INT8_INPUTS}; use `precision = fp32`"
            )));
        }
        architecture.check_needs("the CPU's engine", &COMPUTES)
    }

    fn fastest(&self) -> Result<[Precision; 2]> {
        Ok([fastest_precision(Isa::chosen()?), Precision::Fp32])
    }

    fn estimate(
        &self,
        declaration: &Declaration,
        workload: &Workload,
        compute: Compute,
        lengths: &mut dyn Iterator<Item = usize>,
    ) -> Memory {
        memory::estimate(declaration, workload, compute, lengths)
    }

    fn open(&self, start: Start) -> Result<Box<dyn Backend>> {
        Ok(Box::new(CpuBackend::open(start)?))
    }

    fn open_inference(&self, start: Start) -> Result<Box<dyn Inference>> {
        Ok(Box::new(RwLock::new(CpuBackend::open(Start { learning: None, ..start })?)))
    }
}

/// A model on the CPU.
#[derive(Debug)]
pub struct CpuBackend {
    parameters: Parameters,
    network: Network,
    learner: Option<Learner>,
}

/// What a model has that learns.
#[derive(Debug)]
struct Learner {
    gradients: Gradients,
    adam: Adam,
    checkpointing: bool,
    /// Whether there are gradients since the last step.
    has_gradients: bool,
}

impl CpuBackend {
    /// Opens a model.
    ///
    /// # Errors
    ///
    /// When the CPU's engine does not compute such a classifier, or is to learn in 8-bit integers.
    pub fn open(start: Start) -> Result<Self> {
        let Start { declaration, parameters, compute, learning } = start;
        Cpu.check(&declaration, compute.precision())?;
        let Some(learning) = learning else {
            let (network, unread) = Network::prepared(&declaration, compute, &parameters);
            let parameters = parameters.without(&unread);
            return Ok(Self { parameters, network, learner: None });
        };
        if compute.precision() == Precision::Int8 {
            return Err(Error::precondition(
                "a model cannot learn in 8-bit integers, only answer: use `precision = auto`, `fp32` or `bf16`",
            ));
        }
        let network = Network::new(&declaration, compute);
        let learner = Some(Learner::new(&declaration, &parameters, learning));
        Ok(Self { parameters, network, learner })
    }

    /// The last hidden states of all tokens, `[T, H]` row by row, without dropout.
    ///
    /// # Errors
    ///
    /// When the batch has tokens or positions that the encoder does not have.
    pub fn hidden(&mut self, batch: &Batch) -> Result<&[f32]> {
        self.admit(batch)?;
        Ok(self.network.hidden(&self.parameters, batch))
    }

    /// Refuses what the tables have no row for, and brings the rows up to date that the batch reads.
    fn admit(&mut self, batch: &Batch) -> Result<()> {
        self.network.architecture().admit(batch)?;
        match &mut self.learner {
            Some(learner) => learner.adam.refresh(&mut self.parameters, &batch.ids),
            None => Ok(()),
        }
    }

    fn learner(&mut self) -> Result<(&mut Learner, &mut Parameters, &mut Network)> {
        let learner = self.learner.as_mut().ok_or_else(answers_alone)?;
        Ok((learner, &mut self.parameters, &mut self.network))
    }
}

impl Learner {
    fn new(declaration: &Arc<Declaration>, parameters: &Parameters, learning: Learning) -> Self {
        Self {
            adam: Adam::new(&learning.optimizer, declaration, parameters),
            checkpointing: learning.checkpointing,
            gradients: Gradients::new(declaration, parameters.list(), learning),
            has_gradients: false,
        }
    }
}

/// Passes of one thread each run side by side; one of all threads has the model for itself.
impl Inference for RwLock<CpuBackend> {
    fn logits(&self, batch: &Batch, threads: Threads) -> Result<Vec<f32>> {
        match threads {
            Threads::All => self.write().unwrap_or_else(PoisonError::into_inner).evaluate(batch),
            Threads::Calling => {
                let model = self.read().unwrap_or_else(PoisonError::into_inner);
                model.network.architecture().admit(batch)?;
                Ok(model.network.answer(&model.parameters, batch))
            }
        }
    }

    fn memory(&self) -> Memory {
        Backend::memory(&*self.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Backend for CpuBackend {
    fn forward(&mut self, batch: &Batch, mode: Mode) -> Result<Vec<f32>> {
        self.admit(batch)?;
        let (learner, parameters, network) = self.learner()?;
        Ok(network.train(parameters, batch, mode, learner.checkpointing).to_vec())
    }

    fn backward(&mut self, grad_logits: &[f32]) -> Result<()> {
        let (learner, parameters, network) = self.learner()?;
        learner.gradients.begin(learner.has_gradients);
        learner.has_gradients = true;
        network.backward(parameters, grad_logits, &mut learner.gradients);
        Ok(())
    }

    fn step(&mut self, rate: f64) -> Result<f64> {
        let (learner, parameters, network) = self.learner()?;
        let norm = learner.adam.step(parameters, &learner.gradients, rate)?;
        learner.has_gradients = false;
        network.moved();
        Ok(norm)
    }

    fn evaluate(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        self.admit(batch)?;
        Ok(self.network.evaluate(&self.parameters, batch).to_vec())
    }

    fn list(&self) -> &Arc<[Parameter]> {
        self.parameters.list()
    }

    fn parameters(&mut self) -> Result<&Parameters> {
        let learner = self.learner.as_mut().ok_or_else(answers_alone)?;
        learner.adam.settle(&mut self.parameters)?;
        Ok(&self.parameters)
    }

    fn state(&mut self) -> Result<State<'_>> {
        let learner = self.learner.as_mut().ok_or_else(answers_alone)?;
        learner.adam.settle(&mut self.parameters)?;
        let (step, moments) = (learner.adam.steps(), learner.adam.moments());
        Ok(State { step, parameters: &self.parameters, moments })
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        let (learner, parameters, network) = self.learner()?;
        let Saved { step, values, moments } = saved;
        *parameters.values_mut() = values;
        learner.adam.restore(step, moments);
        learner.has_gradients = false;
        network.moved();
        Ok(())
    }

    fn exchange(&mut self, values: &mut Buffer) -> Result<()> {
        self.parameters()?;
        std::mem::swap(values, self.parameters.values_mut());
        self.network.moved();
        Ok(())
    }

    fn gradients(&mut self) -> Result<Vec<f32>> {
        let learner = self.learner.as_ref().ok_or_else(answers_alone)?;
        match learner.has_gradients {
            true => Ok(learner.gradients.dense()),
            false => Ok(vec![0.0; self.parameters.values().len()]),
        }
    }

    fn memory(&self) -> Memory {
        let (prepared, activations) = self.network.bytes();
        let bytes = |of: fn(&Learner) -> usize| self.learner.as_ref().map_or(0, of) as u64;
        Memory {
            parameters: (self.parameters.values().bytes() + prepared) as u64,
            gradients: bytes(|learner| learner.gradients.bytes()),
            moments: bytes(|learner| learner.adam.bytes()),
            activations: activations as u64,
            batch_tokens: self.network.tokens() as u64,
        }
    }
}
