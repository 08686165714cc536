//! Encoder and head: a pass to the logits, and the backward pass to the gradients.

use std::sync::Arc;

use super::super::architecture::Architecture;
use super::super::declaration::Declaration;
use super::super::keep::Keep;
use super::super::noise::Mode;
use super::super::parameters::Parameters;
use super::encoder::{Encoder, Reach, Tape};
use super::gradients::Gradients;
use super::head::Head;
use crate::batch::Batch;
use crate::kernels::{Buffer, Compute};

/// Encoder and head, their weights as products read them, and the memory of their passes, which is used again from one
/// pass to the next.
#[derive(Debug)]
pub(super) struct Network {
    encoder: Encoder,
    head: Head,
    tape: Tape,
    grad: Buffer,
    mode: Mode,
}

impl Network {
    /// With `keep`, weights are prepared once and not again before they move: for a model that answers alone.
    pub(super) fn new(declaration: &Arc<Declaration>, compute: Compute, keep: bool) -> Self {
        let (encoder, head) = (Encoder::new(declaration, compute, keep), Head::new(declaration, compute));
        Self { encoder, head, tape: Tape::default(), grad: Buffer::default(), mode: Mode::Evaluate }
    }

    /// That of the encoder.
    pub(super) fn architecture(&self) -> &Architecture {
        self.encoder.architecture()
    }

    /// Says that the parameters have moved since the last pass.
    pub(super) fn moved(&mut self) {
        self.encoder.moved();
        self.head.moved();
    }

    /// The logits of each sequence, `[B, labels]` row by row, for which there is a backward pass.
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
    pub(super) fn evaluate(&mut self, parameters: &Parameters, batch: &Batch) -> &[f32] {
        let (mode, keep) = (Mode::Evaluate, Keep::Nothing);
        let x = self.encoder.forward(parameters, batch, mode, Reach::First, keep, &mut self.tape);
        self.head.forward(parameters, x, mode)
    }

    /// The last hidden states of all tokens, `[T, H]` row by row.
    pub(super) fn hidden(&mut self, parameters: &Parameters, batch: &Batch) -> &[f32] {
        let (mode, keep) = (Mode::Evaluate, Keep::Nothing);
        self.encoder.forward(parameters, batch, mode, Reach::All, keep, &mut self.tape)
    }

    /// Tokens of the last pass.
    pub(super) fn tokens(&self) -> usize {
        self.tape.tokens()
    }

    /// Bytes of the prepared weights, and of the passes' memory.
    pub(super) fn bytes(&self) -> (usize, usize) {
        let [prepared, memory] = self.head.bytes();
        (self.encoder.bytes() + prepared, memory + self.tape.bytes() + self.grad.bytes())
    }
}
