//! What computes a classifier: the CPU's network, or, on other devices, the plain one.

use candle_core::Device;

use super::config::Architecture;
use super::gradients::Gradients;
use super::network::Network;
use super::noise::Mode;
use super::parameters::Parameters;
use super::reference::Reference;
use crate::data::batch::Batch;
use crate::error::{Error, Result};
use crate::kernels::{Compute, Precision};

/// What computes a classifier. Every method runs on the current rayon pool.
#[derive(Debug)]
pub enum Engine {
    /// On the CPU.
    Host(Box<Network>),
    /// On another device.
    Device(Box<Reference>),
}

impl Engine {
    /// For a classifier with so many labels, that answers alone or learns. Fails when the device cannot compute at this
    /// precision.
    pub fn new(
        architecture: &Architecture,
        labels: usize,
        compute: Compute,
        device: &Device,
        answers_alone: bool,
    ) -> Result<Self> {
        if device.is_cpu() {
            return Ok(Self::Host(Box::new(Network::new(architecture, labels, compute, answers_alone))));
        }
        match compute.precision() {
            Precision::Fp32 => Ok(Self::Device(Box::new(Reference::new(architecture, device)))),
            Precision::Bf16 => {
                Err(Error::precondition("bfloat16 is not supported on this device yet; use --precision fp32"))
            }
        }
    }

    /// Says that the parameters have moved since the last pass.
    pub fn moved(&mut self) {
        match self {
            Self::Host(network) => network.moved(),
            Self::Device(reference) => reference.moved(),
        }
    }

    /// The logits of each sequence, `[B, labels]` row by row, for which there is a way back. With `checkpointing`,
    /// less is kept for it and more computed again.
    pub fn train(
        &mut self,
        parameters: &Parameters,
        batch: &Batch,
        mode: Mode,
        checkpointing: bool,
    ) -> Result<Vec<f32>> {
        match self {
            Self::Host(network) => Ok(network.train(parameters, batch, mode, checkpointing).to_vec()),
            Self::Device(reference) => Ok(reference.logits(parameters, batch, mode)?),
        }
    }

    /// From the gradient of the last pass's logits to those of the parameters: added to `gradients`, or in place of
    /// what is there.
    pub fn backward(
        &mut self,
        parameters: &Parameters,
        grad_logits: &[f32],
        gradients: &mut Gradients,
        add: bool,
    ) -> Result<()> {
        gradients.begin(add);
        match self {
            Self::Host(network) => network.backward(parameters, grad_logits, gradients),
            Self::Device(reference) => reference.backward(grad_logits, gradients)?,
        }
        Ok(())
    }

    /// The logits of each sequence, `[B, labels]` row by row, without dropout.
    pub fn answer(&mut self, parameters: &Parameters, batch: &Batch) -> Result<Vec<f32>> {
        match self {
            Self::Host(network) => Ok(network.answer(parameters, batch).to_vec()),
            Self::Device(reference) => Ok(reference.logits(parameters, batch, Mode::Evaluate)?),
        }
    }

    /// Bytes that it takes beside the parameters.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Host(network) => network.bytes(),
            Self::Device(_) => 0,
        }
    }
}
