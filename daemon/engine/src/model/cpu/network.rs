//! Encoder and head: a pass to the logits, and the backward pass to the gradients.

use std::sync::Arc;

use super::super::architecture::Architecture;
use super::super::declaration::{Declaration, ParameterId};
use super::super::keep::Keep;
use super::super::noise::Mode;
use super::super::parameters::Parameters;
use super::answer::Groups;
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
    /// Of a model that answers alone.
    groups: Option<Groups>,
    first: Buffer,
    /// Tokens of the last pass.
    tokens: usize,
}

impl Network {
    /// One that learns: weights are prepared whenever they have moved.
    pub(super) fn new(declaration: &Arc<Declaration>, compute: Compute) -> Self {
        Self::with(Encoder::new(declaration, compute, false), Head::new(declaration, compute))
    }

    /// One that answers alone: weights are prepared now, on this thread. Beside it what no pass reads from `parameters` any
    /// more.
    pub(super) fn prepared(
        declaration: &Arc<Declaration>,
        compute: Compute,
        parameters: &Parameters,
    ) -> (Self, Vec<ParameterId>) {
        let mut network =
            Self::with(Encoder::new(declaration, compute, true), Head::new(declaration, compute));
        let mut unread = declaration.products();
        unread.extend(network.encoder.prepare(parameters));
        network.head.prepare(parameters);
        network.groups = Some(Groups::default());
        (network, unread)
    }

    fn with(encoder: Encoder, head: Head) -> Self {
        Self {
            encoder,
            head,
            tape: Tape::default(),
            grad: Buffer::default(),
            mode: Mode::Evaluate,
            groups: None,
            first: Buffer::default(),
            tokens: 0,
        }
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
        (self.mode, self.tokens) = (mode, batch.tokens());
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
        self.tokens = batch.tokens();
        let (mode, keep) = (Mode::Evaluate, Keep::Nothing);
        let groups = self.groups.as_mut();
        let is_done = groups
            .is_some_and(|groups| groups.first_states(&self.encoder, parameters, batch, &mut self.first));
        if is_done {
            return self.head.forward(parameters, &self.first, mode);
        }
        let x = self.encoder.forward(parameters, batch, mode, Reach::First, keep, &mut self.tape);
        self.head.forward(parameters, x, mode)
    }

    /// The logits of each sequence, `[B, labels]` row by row, of a model that answers alone, on this thread alone.
    pub(super) fn answer(&self, parameters: &Parameters, batch: &Batch) -> Vec<f32> {
        match &self.groups {
            Some(groups) => groups.answer(&self.encoder, &self.head, parameters, batch),
            None => unreachable!("a model that learns was asked as one that answers alone"),
        }
    }

    /// The last hidden states of all tokens, `[T, H]` row by row.
    pub(super) fn hidden(&mut self, parameters: &Parameters, batch: &Batch) -> &[f32] {
        self.tokens = batch.tokens();
        let (mode, keep) = (Mode::Evaluate, Keep::Nothing);
        self.encoder.forward(parameters, batch, mode, Reach::All, keep, &mut self.tape)
    }

    /// Tokens of the last pass.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes of the prepared weights, and of the passes' memory.
    pub(super) fn bytes(&self) -> (usize, usize) {
        let [prepared, memory] = self.head.bytes();
        let groups = self.groups.as_ref().map_or(0, Groups::bytes) + self.first.bytes();
        (self.encoder.bytes() + prepared, memory + self.tape.bytes() + groups + self.grad.bytes())
    }
}
