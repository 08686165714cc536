//! What computes a classifier: the CPU's network, a GPU's, or, on other devices, the plain one.

use std::sync::Arc;

use candle_core::Device;

use super::config::Architecture;
use super::gpu;
use super::gradients::Gradients;
use super::network::Network;
use super::noise::Mode;
use super::parameters::{Parameter, Parameters};
use super::reference::Reference;
use crate::batch::Batch;
use crate::kernels::{Compute, Precision, cuda};
use hone_base::error::{Error, Result};

/// What computes a classifier. Every method runs on the current rayon pool.
#[derive(Debug)]
pub enum Engine {
    /// On the CPU.
    Host(Box<Network>),
    /// On a GPU, by Hone's kernels.
    Gpu(Box<gpu::Network>),
    /// On another device, by candle's operations.
    Device(Box<Reference>),
}

impl Engine {
    /// For a classifier with these parameters and so many labels, that answers alone or learns. Fails when the device
    /// cannot compute at this precision.
    pub fn new(
        architecture: &Architecture,
        list: &Arc<[Parameter]>,
        labels: usize,
        compute: Compute,
        device: &Device,
        answers_alone: bool,
    ) -> Result<Self> {
        if device.is_cpu() {
            return Ok(Self::Host(Box::new(Network::new(architecture, labels, compute, answers_alone))));
        }
        if let Some(stream) = gpu::stream(device, compute.precision())? {
            return Ok(Self::Gpu(Box::new(gpu::Network::new(architecture, list, labels, &stream)?)));
        }
        match compute.precision() {
            Precision::Fp32 => Ok(Self::Device(Box::new(Reference::new(architecture, device)))),
            Precision::Bf16 => Err(Error::precondition(format!(
                "bfloat16 on this device needs Hone's own kernels, which are not the default yet: start the daemon \
                     with {}=kernels, or use `precision = fp32`",
                cuda::VARIABLE
            ))),
        }
    }

    /// That of the encoder.
    fn architecture(&self) -> &Architecture {
        match self {
            Self::Host(network) => network.architecture(),
            Self::Gpu(network) => network.architecture(),
            Self::Device(reference) => reference.architecture(),
        }
    }

    /// Says that the parameters have moved since the last pass.
    pub fn moved(&mut self) {
        match self {
            Self::Host(network) => network.moved(),
            Self::Gpu(network) => network.moved(),
            Self::Device(reference) => reference.moved(),
        }
    }

    /// The logits of each sequence, `[B, labels]` row by row, for which there is a way back. With `checkpointing`,
    /// less is kept for it and more computed again. Fails when the batch has tokens that the encoder does not have.
    pub fn train(
        &mut self,
        parameters: &Parameters,
        batch: &Batch,
        mode: Mode,
        checkpointing: bool,
    ) -> Result<Vec<f32>> {
        self.architecture().admit(batch)?;
        match self {
            Self::Host(network) => Ok(network.train(parameters, batch, mode, checkpointing).to_vec()),
            Self::Gpu(network) => network.train(parameters, batch, mode, checkpointing),
            Self::Device(reference) => Ok(reference.logits(parameters, batch, mode)?),
        }
    }

    /// From the gradient of the last pass's logits to those of the parameters: added to `gradients`, or in place of
    /// what is there. On a GPU they stay there.
    pub fn backward(
        &mut self,
        parameters: &Parameters,
        grad_logits: &[f32],
        gradients: &mut Gradients,
        add: bool,
    ) -> Result<()> {
        match self {
            Self::Host(network) => {
                gradients.begin(add);
                network.backward(parameters, grad_logits, gradients);
                Ok(())
            }
            Self::Gpu(network) => network.backward(grad_logits, gradients, add),
            Self::Device(reference) => {
                gradients.begin(add);
                Ok(reference.backward(grad_logits, gradients)?)
            }
        }
    }

    /// The logits of each sequence, `[B, labels]` row by row, without dropout.
    pub fn answer(&mut self, parameters: &Parameters, batch: &Batch) -> Result<Vec<f32>> {
        self.architecture().admit(batch)?;
        match self {
            Self::Host(network) => Ok(network.answer(parameters, batch).to_vec()),
            Self::Gpu(network) => network.answer(parameters, batch),
            Self::Device(reference) => Ok(reference.logits(parameters, batch, Mode::Evaluate)?),
        }
    }

    /// Bytes of the host's memory that it takes beside the parameters.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Host(network) => network.bytes(),
            Self::Gpu(_) | Self::Device(_) => 0,
        }
    }
}
