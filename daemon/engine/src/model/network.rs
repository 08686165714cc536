//! Encoder and head on the CPU: a pass to the logits, and the way back to the gradients.

use super::config::Architecture;
use super::encoder::{Encoder, Reach, Tape};
use super::gradients::Gradients;
use super::head::Head;
use super::keep::Keep;
use super::noise::Mode;
use super::parameters::Parameters;
use crate::batch::Batch;
use crate::kernels::{Buffer, Compute};

/// Encoder and head, their weights as products read them, and the memory of their passes, which is used again from one
/// pass to the next.
#[derive(Debug)]
pub struct Network {
    encoder: Encoder,
    head: Head,
    tape: Tape,
    grad: Buffer,
    mode: Mode,
}

impl Network {
    /// A network whose parameters are those that `declare` gives for this architecture and so many labels. With `keep`,
    /// weights are prepared once and not again before they move: for one that answers.
    pub fn new(architecture: &Architecture, labels: usize, compute: Compute, keep: bool) -> Self {
        let encoder = Encoder::new(architecture, compute, keep);
        let head = Head::new(architecture, labels, encoder.end(), compute);
        Self { encoder, head, tape: Tape::default(), grad: Buffer::default(), mode: Mode::Evaluate }
    }

    /// That of the encoder.
    pub fn architecture(&self) -> &Architecture {
        self.encoder.architecture()
    }

    /// How it computes.
    pub fn compute(&self) -> Compute {
        self.encoder.compute()
    }

    /// Says that the parameters have moved since the last pass.
    pub fn moved(&mut self) {
        self.encoder.moved();
        self.head.moved();
    }

    /// The logits of each sequence, `[B, labels]` row by row, for which there is a way back.
    pub(super) fn train(
        &mut self,
        parameters: &Parameters,
        batch: &Batch,
        mode: Mode,
        checkpointing: bool,
    ) -> &[f32] {
        self.mode = mode;
        let keep = if checkpointing { Keep::Inputs } else { Keep::All };
        let x = self.encoder.forward(parameters, batch, mode, Reach::First, keep, &mut self.tape);
        self.head.forward(parameters, x, mode)
    }

    /// From the gradient of the last pass's logits to those of the parameters.
    pub(super) fn backward(
        &mut self,
        parameters: &Parameters,
        grad_logits: &[f32],
        gradients: &mut Gradients,
    ) {
        self.head.backward(grad_logits, self.mode, &mut self.grad, gradients);
        self.encoder.backward(parameters, &mut self.grad, gradients, &mut self.tape);
    }

    /// The logits of each sequence, `[B, labels]` row by row, without dropout.
    pub fn answer(&mut self, parameters: &Parameters, batch: &Batch) -> &[f32] {
        let (mode, keep) = (Mode::Evaluate, Keep::Nothing);
        let x = self.encoder.forward(parameters, batch, mode, Reach::First, keep, &mut self.tape);
        self.head.forward(parameters, x, mode)
    }

    /// The last hidden states of all tokens, `[T, H]` row by row.
    pub fn hidden(&mut self, parameters: &Parameters, batch: &Batch) -> &[f32] {
        let (mode, keep) = (Mode::Evaluate, Keep::Nothing);
        self.encoder.forward(parameters, batch, mode, Reach::All, keep, &mut self.tape)
    }

    /// Bytes of the prepared weights and of the passes' memory.
    pub fn bytes(&self) -> usize {
        self.encoder.bytes() + self.head.bytes() + self.tape.bytes() + self.grad.bytes()
    }
}
