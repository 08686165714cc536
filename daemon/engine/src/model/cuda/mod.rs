//! The backend on an NVIDIA card: the same passes as on the CPU, as launches of Hone's kernels and products.
//!
//! Parameters, gradients and moments live on the device (`weights`); the host's are brought up to date when they are
//! asked for. Otherwise the files are those of the CPU's backend: `encoder`, `layer`, `head`.

mod encoder;
mod head;
mod layer;
mod memory;
mod weights;

use std::sync::Arc;

use candle_core::Device;
#[cfg(feature = "cuda")]
use candle_core::DeviceLocation;

use super::architecture::{Activation, Architecture};
use super::backend::{Backend, Platform, Saved, Start, State, answers_alone, no_int8};
use super::declaration::Declaration;
use super::keep::Keep;
use super::memory::{Memory, Workload};
use super::needs::Need;
use super::noise::Mode;
use super::optimizer::Settings;
use super::parameters::{Parameter, Parameters};
use crate::batch::Batch;
use crate::kernels::adam::Coefficients;
use crate::kernels::cuda::{self, Stream, attention, layer_norm};
use crate::kernels::linear::Gelu;
use crate::kernels::{Buffer, Compute, Precision};
use hone_base::error::{Error, Result};

use encoder::Encoder;
use head::Head;
use weights::Weights;

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

/// An NVIDIA card on which the process is told to use Hone's kernels.
#[derive(Clone, Debug)]
pub struct Cuda {
    device: Device,
}

impl Cuda {
    /// The device, if it is such a card.
    ///
    /// # Errors
    ///
    /// When the process's choice of kernels cannot be read.
    pub fn of(device: &Device) -> Result<Option<Self>> {
        let is_chosen = device.is_cuda() && cuda::is_chosen()?;
        Ok(is_chosen.then(|| Self { device: device.clone() }))
    }

    fn stream(&self, precision: Precision) -> Result<Stream> {
        #[cfg(feature = "cuda")]
        if let DeviceLocation::Cuda { gpu_id } = self.device.location() {
            return cuda::card::open(gpu_id, precision);
        }
        Err(Error::internal(format!("no kernels at {precision:?} for {:?}", self.device.location())))
    }
}

impl Platform for Cuda {
    fn check(&self, declaration: &Declaration, precision: Precision) -> Result<()> {
        if precision == Precision::Int8 {
            return Err(no_int8());
        }
        check(&declaration.architecture)
    }

    fn fastest(&self) -> Result<[Precision; 2]> {
        Ok([Precision::Bf16; 2])
    }

    fn estimate(
        &self,
        declaration: &Declaration,
        workload: &Workload,
        compute: Compute,
        lengths: &mut dyn Iterator<Item = usize>,
    ) -> Memory {
        memory::estimate(declaration, workload, compute.precision(), lengths)
    }

    fn open(&self, start: Start) -> Result<Box<dyn Backend>> {
        self.check(&start.declaration, start.compute.precision())?;
        let stream = self.stream(start.compute.precision())?;
        Ok(Box::new(CudaBackend::open(&stream, start)?))
    }
}

fn check(architecture: &Architecture) -> Result<()> {
    architecture.check_needs("Hone's GPU kernels", &COMPUTES)?;
    let widths = [architecture.hidden_size, architecture.embedding_size, architecture.intermediate_size];
    let is_supported = architecture.head_size() <= attention::MOST_COLUMNS
        && architecture.hidden_size <= layer_norm::MOST_COLUMNS
        && architecture.embedding_size <= layer_norm::MOST_COLUMNS
        && widths.iter().all(|width| width.is_multiple_of(2));
    match is_supported {
        true => Ok(()),
        false => Err(Error::precondition(format!(
            "the GPU kernels take heads of up to {} columns and even widths of up to {}; this encoder has {} of {}",
            attention::MOST_COLUMNS,
            layer_norm::MOST_COLUMNS,
            architecture.head_size(),
            architecture.hidden_size
        ))),
    }
}

/// Which form of GELU an activation is; the kernels compute no other between the linear layers of a layer.
fn gelu(activation: Activation) -> Gelu {
    if activation == Activation::GeluTanh { Gelu::Tanh } else { Gelu::Exact }
}

/// A model on a card, and the memory of its passes, which is used again from one pass to the next.
#[derive(Debug)]
pub struct CudaBackend {
    stream: Stream,
    weights: Weights,
    encoder: Encoder,
    head: Head,
    mode: Mode,
    moved: Moved,
    /// The host's parameters.
    host: Parameters,
    /// The host's moments, as far as they were read.
    moments: [Buffer; 2],
    learner: Option<Learner>,
}

/// What a model has that learns, beside what lies on the card.
#[derive(Debug)]
struct Learner {
    settings: Settings,
    /// Sets of layers' parameters.
    layers: usize,
    step: u64,
    checkpointing: bool,
    /// Whether there are gradients since the last step.
    has_gradients: bool,
}

/// Whose parameters have moved since host and device had the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moved {
    Neither,
    Host,
    Device,
}

impl CudaBackend {
    /// Opens a model on a stream of a card.
    ///
    /// # Errors
    ///
    /// When there are no kernels for such a classifier.
    pub fn open(stream: &Stream, start: Start) -> Result<Self> {
        let Start { declaration, parameters, learning, .. } = start;
        check(&declaration.architecture)?;
        let learner = learning.as_ref().map(|learning| Learner {
            settings: learning.optimizer,
            layers: declaration.architecture.own_layers(),
            step: 0,
            checkpointing: learning.checkpointing,
            has_gradients: false,
        });
        Ok(Self {
            stream: stream.clone(),
            weights: Weights::new(stream, parameters.list(), learning),
            encoder: Encoder::new(&declaration, stream),
            head: Head::new(&declaration, stream),
            mode: Mode::Evaluate,
            moved: Moved::Host,
            host: parameters,
            moments: Default::default(),
            learner,
        })
    }

    fn pass(&mut self, batch: &Batch, mode: Mode, keep: Keep) -> Result<Vec<f32>> {
        self.encoder.architecture().admit(batch)?;
        if batch.tokens() == 0 {
            return Ok(Vec::new());
        }
        if self.moved == Moved::Host {
            self.weights.put(&self.stream, &self.host)?;
            self.moved = Moved::Neither;
        }
        self.mode = mode;
        let x = self.encoder.forward(&self.stream, &self.weights, batch, mode, keep)?;
        self.head.forward(&self.stream, &self.weights, x, batch.len(), mode)
    }

    fn read(&mut self) -> Result<()> {
        if self.moved == Moved::Device {
            self.weights.read(self.host.values_mut())?;
            self.moved = Moved::Neither;
        }
        Ok(())
    }
}

impl Backend for CudaBackend {
    fn forward(&mut self, batch: &Batch, mode: Mode) -> Result<Vec<f32>> {
        let learner = self.learner.as_ref().ok_or_else(answers_alone)?;
        let keep = if learner.checkpointing { Keep::Inputs } else { Keep::All };
        self.pass(batch, mode, keep)
    }

    fn backward(&mut self, grad_logits: &[f32]) -> Result<()> {
        let learner = self.learner.as_mut().ok_or_else(answers_alone)?;
        self.weights.begin(&self.stream, learner.has_gradients)?;
        learner.has_gradients = true;
        let (x, grad) = self.encoder.result_and_grad();
        if let Some(x) = x {
            self.head.backward(&self.stream, &self.weights, x, grad_logits, self.mode, grad)?;
        }
        self.encoder.backward(&self.stream, &self.weights)
    }

    fn step(&mut self, rate: f64) -> Result<f64> {
        let learner = self.learner.as_mut().ok_or_else(answers_alone)?;
        let update = |parameter| {
            learner.settings.update(parameter, learner.layers, rate, learner.step + 1, 1.0).coefficients()
        };
        let by: Vec<Coefficients> = self.host.iter().map(update).collect();
        self.moved = Moved::Device;
        let norm = self.weights.step(&self.stream, &by, learner.settings.max_grad_norm)?;
        learner.step += u64::from(norm.is_finite());
        learner.has_gradients = false;
        Ok(norm)
    }

    fn evaluate(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        self.pass(batch, Mode::Evaluate, Keep::Nothing)
    }

    fn list(&self) -> &Arc<[Parameter]> {
        self.host.list()
    }

    fn parameters(&mut self) -> Result<&Parameters> {
        self.read()?;
        Ok(&self.host)
    }

    fn state(&mut self) -> Result<State<'_>> {
        let step = self.learner.as_ref().ok_or_else(answers_alone)?.step;
        self.read()?;
        let count = self.host.values().len();
        let [m, v] = &mut self.moments;
        self.weights.read_moments(m.reserve(count), v.reserve(count))?;
        let [m, v] = &self.moments;
        Ok(State { step, parameters: &self.host, moments: [m, v] })
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        let learner = self.learner.as_mut().ok_or_else(answers_alone)?;
        let Saved { step, values, moments } = saved;
        (learner.step, learner.has_gradients) = (step, false);
        *self.host.values_mut() = values;
        self.moved = Moved::Host;
        self.weights.put_moments(&moments[0], &moments[1])?;
        self.moments = moments;
        Ok(())
    }

    fn exchange(&mut self, values: &mut Buffer) -> Result<()> {
        self.read()?;
        std::mem::swap(values, self.host.values_mut());
        self.moved = Moved::Host;
        Ok(())
    }

    fn gradients(&mut self) -> Result<Vec<f32>> {
        match self.learner.as_ref().ok_or_else(answers_alone)?.has_gradients {
            true => self.weights.read_gradients(),
            false => Ok(vec![0.0; self.host.values().len()]),
        }
    }

    fn memory(&self) -> Memory {
        let [parameters, gradients, moments] = self.weights.bytes().map(|bytes| bytes as u64);
        let activations = (self.encoder.bytes() + self.head.bytes()) as u64;
        let batch_tokens = self.encoder.tokens() as u64;
        Memory { parameters, gradients, moments, activations, batch_tokens }
    }
}

#[cfg(test)]
mod tests;
