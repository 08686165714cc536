//! What computes a classifier, and what it computes it on.
//!
//! A [`Backend`] owns a model's parameters, gradients and the optimizer's state, wherever they live; a [`Platform`] is a
//! device that opens backends and knows before what one will take. There are three: Hone's own code on the CPU (`cpu`),
//! Hone's own kernels on an NVIDIA card (`cuda`), and candle's operations on any device (`candle`).

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Device;

use super::declaration::{Declaration, ParameterId};
use super::memory::{Memory, Workload};
use super::noise::Mode;
use super::optimizer::Settings;
use super::parameters::{Parameter, Parameters};
use super::{candle, cpu, cuda};
use crate::batch::Batch;
use crate::kernels::{Buffer, Compute, Precision};
use hone_base::error::{Error, Result};

/// A model on a device: its parameters, and, where it learns, gradients and the optimizer's state. Blocking; what runs
/// on the CPU runs on the current rayon pool.
pub trait Backend: Debug + Send {
    /// The logits of each sequence, `[B, labels]` row by row, for which there is a backward pass.
    ///
    /// # Errors
    ///
    /// When the batch has tokens or positions that the encoder does not have, or the device has no memory for it.
    fn forward(&mut self, batch: &Batch, mode: Mode) -> Result<Vec<f32>>;

    /// Adds the gradients of the parameters to those since the last step, given that of the last pass's logits,
    /// `[B, labels]`.
    ///
    /// # Errors
    ///
    /// When the device fails, or the model does not learn.
    fn backward(&mut self, grad_logits: &[f32]) -> Result<()>;

    /// Moves every trainable parameter once, uses the gradients up, and returns their global norm before clipping.
    /// Changes nothing when the norm is not finite.
    ///
    /// # Errors
    ///
    /// When the device fails, or the model does not learn.
    fn step(&mut self, rate: f64) -> Result<f64>;

    /// The logits of each sequence, `[B, labels]` row by row, without dropout and without a backward pass.
    ///
    /// # Errors
    ///
    /// As [`Backend::forward`].
    fn evaluate(&mut self, batch: &Batch) -> Result<Vec<f32>>;

    /// The parameters without their values, in their order.
    fn list(&self) -> &Arc<[Parameter]>;

    /// The parameters as they are now, on the host.
    ///
    /// # Errors
    ///
    /// When the device fails, or the model does not learn: then it may not hold all of them.
    fn parameters(&mut self) -> Result<&Parameters>;

    /// The parameters and the optimizer's state as they are now, on the host.
    ///
    /// # Errors
    ///
    /// When the device fails, or the model does not learn.
    fn state(&mut self) -> Result<State<'_>>;

    /// Goes on from a state that was exported; gradients are forgotten.
    ///
    /// # Errors
    ///
    /// When the device fails, or the model does not learn.
    fn restore(&mut self, saved: Saved) -> Result<()>;

    /// Puts these values in the place of the parameters, as [`Parameters::values`] has them, and the parameters in
    /// theirs. The optimizer's state stays.
    ///
    /// # Errors
    ///
    /// When the device fails, or the model does not learn.
    fn exchange(&mut self, values: &mut Buffer) -> Result<()>;

    /// The gradients since the last step, in the places of [`Parameters::values`]; 0 for what does not learn.
    ///
    /// # Errors
    ///
    /// When the device fails.
    fn gradients(&mut self) -> Result<Vec<f32>>;

    /// Bytes that it holds now, on the device, by what they are for; `batch_tokens` are those of the last pass.
    fn memory(&self) -> Memory;
}

/// The threads that a forward pass runs on. Logits are the same to the bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// All of the current rayon pool; nobody else computes on them meanwhile.
    All,
    /// The calling one, while others may be in passes of their own.
    Calling,
}

/// A model on a device that answers alone, for callers on several threads.
pub trait Inference: Debug + Send + Sync {
    /// The logits of each sequence, `[B, labels]` row by row.
    ///
    /// # Errors
    ///
    /// As [`Backend::forward`].
    fn logits(&self, batch: &Batch, threads: Threads) -> Result<Vec<f32>>;

    /// Bytes that it holds now, on the device, by what they are for.
    fn memory(&self) -> Memory;
}

/// Callers take turns.
impl Inference for Mutex<Box<dyn Backend>> {
    fn logits(&self, batch: &Batch, _: Threads) -> Result<Vec<f32>> {
        self.lock().unwrap_or_else(PoisonError::into_inner).evaluate(batch)
    }

    fn memory(&self) -> Memory {
        self.lock().unwrap_or_else(PoisonError::into_inner).memory()
    }
}

/// A model's parameters and the optimizer's state, exported.
#[derive(Clone, Copy, Debug)]
pub struct State<'a> {
    /// Steps done.
    pub step: u64,
    /// The parameters.
    pub parameters: &'a Parameters,
    /// The first and the second moments, in the places of [`Parameters::values`].
    pub moments: [&'a [f32]; 2],
}

/// The same, to go on from.
#[derive(Debug)]
pub struct Saved {
    /// Steps done.
    pub step: u64,
    /// In the places of [`Parameters::values`].
    pub values: Buffer,
    /// The first and the second moments, in the same places.
    pub moments: [Buffer; 2],
}

/// What a backend is opened with.
#[derive(Debug)]
pub struct Start {
    /// What the model is.
    pub declaration: Arc<Declaration>,
    /// Its parameters' values.
    pub parameters: Parameters,
    /// How the CPU computes; another device takes the precision alone.
    pub compute: Compute,
    /// `None` for a model that answers alone.
    pub learning: Option<Learning>,
}

/// How a model learns.
#[derive(Clone, Debug)]
pub struct Learning {
    /// How parameters move.
    pub optimizer: Settings,
    /// For each parameter, in their order, whether it moves.
    pub trainable: Arc<[bool]>,
    /// Keep less of the forward pass, and compute it again.
    pub checkpointing: bool,
}

impl Learning {
    /// Whether a parameter moves.
    pub fn is_trainable(&self, id: ParameterId) -> bool {
        self.trainable.get(id.index()).copied().unwrap_or(false)
    }
}

/// A device, and whose code computes on it.
pub trait Platform: Debug + Send + Sync {
    /// Fails when it cannot compute such a classifier, or not at this precision; says what it lacks.
    ///
    /// # Errors
    ///
    /// With a message that names the need.
    fn check(&self, declaration: &Declaration, precision: Precision) -> Result<()>;

    /// The precision at which it is fastest without being wrong: for training, and for inference.
    ///
    /// # Errors
    ///
    /// When the process was told to use an instruction set that there is not.
    fn fastest(&self) -> Result<[Precision; 2]>;

    /// The memory that training takes, by shapes alone: what a run holds all the time, and what it keeps of the batch
    /// with the longest rows for the backward pass. `lengths` are the tokens of each row.
    fn estimate(
        &self,
        declaration: &Declaration,
        workload: &Workload,
        compute: Compute,
        lengths: &mut dyn Iterator<Item = usize>,
    ) -> Memory;

    /// Opens a model.
    ///
    /// # Errors
    ///
    /// As [`Platform::check`], and when the device fails.
    fn open(&self, start: Start) -> Result<Box<dyn Backend>>;

    /// Opens a model that answers alone.
    ///
    /// # Errors
    ///
    /// As [`Platform::open`].
    fn open_inference(&self, start: Start) -> Result<Box<dyn Inference>> {
        Ok(Box::new(Mutex::new(self.open(start)?)))
    }
}

/// What computes on a device: on the CPU Hone's own code; on an NVIDIA card Hone's own kernels where the process is told
/// to use them; else candle.
///
/// # Errors
///
/// When the process's choice of kernels cannot be read.
pub fn on(device: &Device) -> Result<Box<dyn Platform>> {
    if device.is_cpu() {
        return Ok(Box::new(cpu::Cpu));
    }
    Ok(match cuda::Cuda::of(device)? {
        Some(platform) => Box::new(platform),
        None => Box::new(candle::Candle::new(device)),
    })
}

/// The error of a device that is asked for 8-bit integers and has no products of them.
pub(super) fn no_int8() -> Error {
    Error::precondition(
        "8-bit integers are for the CPU alone: use `precision = fp32` or `bf16` on this device",
    )
}

/// The error of a model that answers alone and is asked to learn.
pub(super) fn answers_alone() -> Error {
    Error::internal("a model that was opened for inference alone cannot learn")
}
