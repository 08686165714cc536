//! Encoder and head on a GPU: the same passes as on the CPU, as launches of kernels and products.
//!
//! The parameters live on the device while a model learns there (`weights`): the host's are brought up to date when they
//! are asked for. Otherwise the files are those of the CPU's network: `encoder`, `layer`, `head`.

mod encoder;
mod head;
mod layer;
mod weights;

use std::sync::Arc;

use candle_core::Device;
#[cfg(feature = "cuda")]
use candle_core::DeviceLocation;

use super::config::Architecture;
use super::gradients::Gradients;
use super::keep::Keep;
use super::noise::Mode;
use super::parameters::{Parameter, Parameters};
use crate::batch::Batch;
use crate::kernels::Precision;
use crate::kernels::adam::Coefficients;
use crate::kernels::cuda::{self, Stream, attention, layer_norm};
use hone_base::error::{Error, Result};

use encoder::Encoder;
use head::Head;
use weights::Weights;

/// Encoder and head, their parameters on a GPU, and the memory of their passes, which is used again from one pass to the
/// next.
#[derive(Debug)]
pub struct Network {
    stream: Stream,
    weights: Weights,
    encoder: Encoder,
    head: Head,
    mode: Mode,
    moved: Moved,
}

/// Whose parameters have moved since host and device had the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moved {
    Neither,
    Host,
    Device,
}

/// Whether a device is a GPU and Hone's kernels are to be used on it.
pub fn computes_on(device: &Device) -> Result<bool> {
    Ok(device.is_cuda() && cuda::is_chosen()?)
}

/// A stream of the device, where this network computes on it.
pub(super) fn stream(device: &Device, precision: Precision) -> Result<Option<Stream>> {
    if !computes_on(device)? {
        return Ok(None);
    }
    #[cfg(feature = "cuda")]
    if let DeviceLocation::Cuda { gpu_id } = device.location() {
        return cuda::card::open(gpu_id, precision).map(Some);
    }
    let _ = precision;
    Ok(None)
}

/// Whether there are kernels for such an encoder.
pub fn is_supported(architecture: &Architecture) -> bool {
    architecture.head_size() <= attention::MOST_COLUMNS
        && architecture.hidden_size <= layer_norm::MOST_COLUMNS
        && architecture.hidden_size.is_multiple_of(2)
        && architecture.intermediate_size.is_multiple_of(2)
}

impl Network {
    /// A network whose parameters are those that `declare` gives for this architecture and so many labels.
    pub fn new(
        architecture: &Architecture,
        list: &Arc<[Parameter]>,
        labels: usize,
        stream: &Stream,
    ) -> Result<Self> {
        if !is_supported(architecture) {
            return Err(Error::precondition(format!(
                "the GPU kernels take heads of up to {} columns and even widths of up to {}; this encoder has {} of {}",
                attention::MOST_COLUMNS,
                layer_norm::MOST_COLUMNS,
                architecture.head_size(),
                architecture.hidden_size
            )));
        }
        Ok(Self {
            stream: stream.clone(),
            weights: Weights::new(stream, list),
            encoder: Encoder::new(architecture, stream),
            head: Head::new(architecture, labels, stream),
            mode: Mode::Evaluate,
            moved: Moved::Host,
        })
    }

    /// That of the encoder.
    pub fn architecture(&self) -> &Architecture {
        self.encoder.architecture()
    }

    /// Says that the host's parameters have moved since the last pass. Those of the device are then given up: whoever moves
    /// the host's reads them first.
    pub fn moved(&mut self) {
        self.moved = Moved::Host;
    }

    fn refresh(&mut self, parameters: &Parameters) -> Result<()> {
        if self.moved == Moved::Host {
            self.weights.put(&self.stream, parameters)?;
            self.moved = Moved::Neither;
        }
        Ok(())
    }

    /// The logits of each sequence, `[B, labels]` row by row, for which there is a way back. With `checkpointing`, less
    /// is kept for it and more computed again.
    pub fn train(
        &mut self,
        parameters: &Parameters,
        batch: &Batch,
        mode: Mode,
        checkpointing: bool,
    ) -> Result<Vec<f32>> {
        self.pass(parameters, batch, mode, if checkpointing { Keep::Inputs } else { Keep::All })
    }

    /// The logits of each sequence, `[B, labels]` row by row, without dropout.
    pub fn answer(&mut self, parameters: &Parameters, batch: &Batch) -> Result<Vec<f32>> {
        self.pass(parameters, batch, Mode::Evaluate, Keep::Nothing)
    }

    fn pass(&mut self, parameters: &Parameters, batch: &Batch, mode: Mode, keep: Keep) -> Result<Vec<f32>> {
        if batch.tokens() == 0 {
            return Ok(Vec::new());
        }
        self.refresh(parameters)?;
        self.mode = mode;
        let x = self.encoder.forward(&self.stream, &self.weights, batch, mode, keep)?;
        self.head.forward(&self.stream, &self.weights, x, batch.len(), mode)
    }

    /// From the gradient of the last pass's logits to those of the parameters that are trainable by `of`; they stay on
    /// the device, added to what is there, or in its place.
    pub fn backward(&mut self, grad_logits: &[f32], of: &Gradients, add: bool) -> Result<()> {
        self.weights.begin(&self.stream, of, add)?;
        let grad = self.encoder.grad();
        self.head.backward(&self.stream, &self.weights, grad_logits, self.mode, grad)?;
        self.encoder.backward(&self.stream, &self.weights)
    }

    /// Reads the gradients.
    pub fn read_gradients(&self, gradients: &mut Gradients) -> Result<()> {
        self.weights.read_gradients(gradients)
    }

    /// Moves every trainable parameter once and returns the gradient's global norm before clipping; `coefficients` are
    /// those of each parameter for gradients that are not clipped. Changes nothing when the norm is not finite.
    pub fn step(&mut self, coefficients: &[Coefficients], max_norm: Option<f64>) -> Result<f64> {
        self.moved = Moved::Device;
        self.weights.step(&self.stream, coefficients, max_norm)
    }

    /// Whether the device's parameters have moved since [`Network::read`] or the last pass with the host's.
    pub fn is_ahead(&self) -> bool {
        self.moved == Moved::Device
    }

    /// Reads the parameters and both moments: all values of each, as [`Parameters::values`] has them.
    pub fn read(&mut self, values: &mut [f32], m: &mut [f32], v: &mut [f32]) -> Result<()> {
        self.weights.read(values, m, v)?;
        self.moved = Moved::Neither;
        Ok(())
    }

    /// Whether the device has moments.
    pub fn has_moments(&self) -> bool {
        self.weights.has_moments()
    }

    /// Gives the device both moments.
    pub fn put_moments(&mut self, m: &[f32], v: &[f32]) -> Result<()> {
        self.weights.put_moments(m, v)
    }

    /// Bytes that it takes on the device.
    pub fn bytes(&self) -> usize {
        self.weights.bytes() + self.encoder.bytes() + self.head.bytes()
    }
}

#[cfg(test)]
mod tests;
