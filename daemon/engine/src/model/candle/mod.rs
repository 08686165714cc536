//! The backend with candle's own differentiable operations: slow and plain, on any device that candle has. It computes
//! where Hone has no code of its own, and is what the tests compare that code with.

mod adam;
mod memory;
mod network;

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::architecture::Activation;
use super::backend::{Backend, Learning, Platform, Saved, Start, State, answers_alone, no_int8};
use super::declaration::Declaration;
use super::memory::{Memory, Workload};
use super::needs::Need;
use super::noise::Mode;
use super::parameters::{Parameter, Parameters};
use crate::batch::Batch;
use crate::kernels::{Buffer, Compute, Precision, cuda};
use adam::Adam;
use hone_base::error::{Error, Result};
use network::Network;

/// What it computes beyond BERT's layers.
const COMPUTES: [Need; 9] = [
    Need::Projection,
    Need::SharedLayers,
    Need::Activation(Activation::Gelu),
    Need::Activation(Activation::GeluTanh),
    Need::Activation(Activation::Relu),
    Need::Activation(Activation::Silu),
    Need::HeadActivation(Activation::Gelu),
    Need::HeadActivation(Activation::Relu),
    Need::HeadActivation(Activation::Tanh),
];

/// A device of candle's.
#[derive(Clone, Debug)]
pub struct Candle(Device);

impl Candle {
    /// Any device, the CPU too.
    pub fn new(device: &Device) -> Self {
        Self(device.clone())
    }
}

impl Platform for Candle {
    fn check(&self, declaration: &Declaration, precision: Precision) -> Result<()> {
        if precision == Precision::Bf16 {
            return Err(Error::precondition(format!(
                "bfloat16 on this device needs Hone's own kernels, which are not the default yet: start the daemon \
                 with {}=kernels, or use `precision = fp32`",
                cuda::VARIABLE
            )));
        }
        if precision == Precision::Int8 {
            return Err(no_int8());
        }
        declaration.architecture.check_needs("candle, which computes on this device,", &COMPUTES)
    }

    fn fastest(&self) -> Result<[Precision; 2]> {
        Ok([Precision::Fp32; 2])
    }

    fn estimate(
        &self,
        declaration: &Declaration,
        workload: &Workload,
        _: Compute,
        lengths: &mut dyn Iterator<Item = usize>,
    ) -> Memory {
        memory::estimate(declaration, workload, lengths)
    }

    fn open(&self, start: Start) -> Result<Box<dyn Backend>> {
        Ok(Box::new(CandleBackend::open(&self.0, start)?))
    }
}

/// A model on a device of candle's.
#[derive(Debug)]
pub struct CandleBackend {
    network: Network,
    /// The host's parameters.
    host: Parameters,
    /// The host's moments, as far as they were read.
    moments: [Buffer; 2],
    /// Whether the device's parameters have moved since the host's were read.
    is_ahead: bool,
    learner: Option<Learner>,
    tokens: usize,
}

/// What a model has that learns.
#[derive(Debug)]
struct Learner {
    learning: Learning,
    adam: Adam,
    /// Since the last step.
    gradients: Vec<Option<Tensor>>,
    /// The last pass's, with the backward pass.
    logits: Option<Tensor>,
}

impl CandleBackend {
    /// Opens a model.
    ///
    /// # Errors
    ///
    /// When candle's operations do not compute such a classifier, or the device has no memory for it.
    pub fn open(device: &Device, start: Start) -> Result<Self> {
        let Start { declaration, parameters, compute, learning } = start;
        Candle::new(device).check(&declaration, compute.precision())?;
        let learner = learning.map(|learning| Learner::new(&declaration, &parameters, learning));
        Ok(Self {
            network: Network::new(&declaration, &parameters, device)?,
            host: parameters,
            moments: Default::default(),
            is_ahead: false,
            learner,
            tokens: 0,
        })
    }

    fn read(&mut self) -> Result<()> {
        if self.is_ahead {
            self.network.read(&mut self.host)?;
            self.is_ahead = false;
        }
        Ok(())
    }
}

impl Learner {
    fn new(declaration: &Arc<Declaration>, parameters: &Parameters, learning: Learning) -> Self {
        let layers = declaration.architecture.own_layers();
        let adam = Adam::new(learning.optimizer, parameters.list(), layers);
        Self { gradients: vec![None; parameters.list().len()], adam, learning, logits: None }
    }
}

impl Backend for CandleBackend {
    fn forward(&mut self, batch: &Batch, mode: Mode) -> Result<Vec<f32>> {
        self.network.architecture().admit(batch)?;
        let learner = self.learner.as_mut().ok_or_else(answers_alone)?;
        let logits = self.network.logits(batch, mode, true)?;
        let values = values_of(&logits)?;
        learner.logits = Some(logits);
        self.tokens = batch.tokens();
        Ok(values)
    }

    fn backward(&mut self, grad_logits: &[f32]) -> Result<()> {
        let learner = self.learner.as_mut().ok_or_else(answers_alone)?;
        let Some(logits) = learner.logits.take() else { return Ok(()) };
        let learns = |parameter: &Parameter| learner.learning.is_trainable(parameter.id);
        let found = self.network.backward(&logits, grad_logits, learns)?;
        for (sum, grad) in learner.gradients.iter_mut().zip(found) {
            *sum = match (sum.take(), grad) {
                (Some(sum), Some(grad)) => Some((sum + grad)?),
                (sum, grad) => sum.or(grad),
            };
        }
        Ok(())
    }

    fn step(&mut self, rate: f64) -> Result<f64> {
        let learner = self.learner.as_mut().ok_or_else(answers_alone)?;
        let gradients = std::mem::take(&mut learner.gradients);
        learner.gradients.resize(gradients.len(), None);
        learner.logits = None;
        let norm = learner.adam.step(self.network.parameters(), &gradients, rate)?;
        self.is_ahead |= norm.is_finite();
        Ok(norm)
    }

    fn evaluate(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        self.network.architecture().admit(batch)?;
        self.tokens = batch.tokens();
        values_of(&self.network.logits(batch, Mode::Evaluate, false)?)
    }

    fn list(&self) -> &Arc<[Parameter]> {
        self.host.list()
    }

    fn parameters(&mut self) -> Result<&Parameters> {
        self.read()?;
        Ok(&self.host)
    }

    fn state(&mut self) -> Result<State<'_>> {
        self.read()?;
        let learner = self.learner.as_ref().ok_or_else(answers_alone)?;
        learner.adam.read(self.host.values().len(), &mut self.moments)?;
        let [m, v] = &self.moments;
        Ok(State { step: learner.adam.steps(), parameters: &self.host, moments: [m, v] })
    }

    fn restore(&mut self, saved: Saved) -> Result<()> {
        let Saved { step, values, moments } = saved;
        let learner = self.learner.as_mut().ok_or_else(answers_alone)?;
        *self.host.values_mut() = values;
        self.network.write(&self.host)?;
        learner.adam.restore(step, &moments, self.network.parameters())?;
        learner.gradients.fill(None);
        self.moments = moments;
        self.is_ahead = false;
        Ok(())
    }

    fn exchange(&mut self, values: &mut Buffer) -> Result<()> {
        self.read()?;
        std::mem::swap(values, self.host.values_mut());
        self.network.write(&self.host)
    }

    fn gradients(&mut self) -> Result<Vec<f32>> {
        let learner = self.learner.as_ref().ok_or_else(answers_alone)?;
        let mut all = vec![0.0; self.host.values().len()];
        for (parameter, grad) in self.host.iter().zip(&learner.gradients) {
            if let Some(grad) = grad {
                all[parameter.range.clone()].copy_from_slice(&values_of(grad)?);
            }
        }
        Ok(all)
    }

    /// What the passes keep is candle's, and not counted.
    fn memory(&self) -> Memory {
        let parameters = (size_of::<f32>() * self.host.values().len()) as u64;
        let learns = u64::from(self.learner.is_some());
        Memory {
            parameters,
            gradients: learns * parameters,
            moments: 2 * learns * parameters,
            activations: 0,
            batch_tokens: self.tokens as u64,
        }
    }
}

/// All values of a tensor, on the host.
fn values_of(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}
