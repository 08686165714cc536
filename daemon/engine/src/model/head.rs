//! The classification head: `output(dropout(activation(dense(x))))`, x the hidden state of each sequence's first token.

use super::config::{Activation, Architecture, Head as Shape};
use super::gradients::Gradients;
use super::layer::linear;
use super::noise::{Mode, Site};
use super::parameters::Parameters;
use crate::kernels::linear::{Prepared, tanh};
use crate::kernels::{Buffer, Compute, Packed};

/// The head's weights as products read them, and the memory of a pass.
#[derive(Debug)]
pub(super) struct Head {
    shape: Shape,
    width: usize,
    labels: usize,
    /// The place of its first parameter.
    first: usize,
    compute: Compute,
    dense: Prepared,
    output: Prepared,
    is_current: bool,
    input: Buffer,
    active: Buffer,
    dropped: Buffer,
    logits: Buffer,
    grad: Buffer,
    factor: Packed,
}

impl Head {
    pub(super) fn new(architecture: &Architecture, labels: usize, first: usize, compute: Compute) -> Self {
        Self {
            shape: architecture.head(),
            width: architecture.hidden_size,
            labels,
            first,
            compute,
            dense: Prepared::default(),
            output: Prepared::default(),
            is_current: false,
            input: Buffer::default(),
            active: Buffer::default(),
            dropped: Buffer::default(),
            logits: Buffer::default(),
            grad: Buffer::default(),
            factor: Packed::default(),
        }
    }

    /// Says that the weights have moved.
    pub(super) fn moved(&mut self) {
        self.is_current = false;
    }

    fn prepare(&mut self, parameters: &Parameters) {
        if self.is_current {
            return;
        }
        let (dense, output) = (linear(parameters, self.first), linear(parameters, self.first + 2));
        for (prepared, of) in [(&mut self.dense, dense), (&mut self.output, output)] {
            prepared.forward(self.compute, of);
            prepared.backward(self.compute, of);
        }
        self.is_current = true;
    }

    /// The logits, `[B, labels]`, of the hidden states `x`, `[B, H]`.
    pub(super) fn forward(&mut self, parameters: &Parameters, x: &[f32], mode: Mode) -> &[f32] {
        self.prepare(parameters);
        let compute = self.compute;
        let input = self.input.reserve(x.len());
        input.copy_from_slice(x);
        if let Some(dropout) = self.input_dropout(mode) {
            dropout.apply(compute, &mut self.input);
        }
        let active = self.active.reserve(x.len());
        self.dense.apply(compute, &self.input, linear(parameters, self.first).bias, active);
        match self.shape.activation {
            Activation::Tanh => tanh(compute.isa(), active),
            Activation::Relu => active.iter_mut().for_each(|y| *y = y.max(0.0)),
        }
        self.dropped.reserve(x.len()).copy_from_slice(&self.active);
        if let Some(dropout) = mode.dropout(Site::Head) {
            dropout.apply(compute, &mut self.dropped);
        }
        let logits = self.logits.reserve(x.len() / self.width * self.labels);
        self.output.apply(compute, &self.dropped, linear(parameters, self.first + 2).bias, logits);
        &self.logits
    }

    fn input_dropout(&self, mode: Mode) -> Option<crate::kernels::Dropout> {
        if self.shape.input_dropout { mode.dropout(Site::HeadInput) } else { None }
    }

    /// Bytes of the prepared weights and of a pass's memory.
    pub(super) fn bytes(&self) -> usize {
        let buffers = [&self.input, &self.active, &self.dropped, &self.logits, &self.grad];
        let prepared = self.dense.bytes() + self.output.bytes() + self.factor.bytes();
        buffers.into_iter().map(Buffer::bytes).sum::<usize>() + prepared
    }

    /// From the gradient of the last pass's logits to that of `x`, in `grad_x`, and those of the parameters.
    pub(super) fn backward(
        &mut self,
        grad_logits: &[f32],
        mode: Mode,
        grad_x: &mut Buffer,
        gradients: &mut Gradients,
    ) {
        let compute = self.compute;
        let grad = self.grad.reserve(self.active.len());
        if let Some(mut gradients) = gradients.linear(self.first + 2) {
            gradients.push(compute, grad_logits, &self.dropped, &mut self.factor);
        }
        self.output.pull(compute, grad_logits, self.labels, grad);
        if let Some(dropout) = mode.dropout(Site::Head) {
            dropout.apply(compute, grad);
        }
        for (grad, y) in grad.iter_mut().zip(&*self.active) {
            *grad *= match self.shape.activation {
                Activation::Tanh => 1.0 - y * y,
                Activation::Relu => f32::from(u8::from(*y > 0.0)),
            };
        }
        if let Some(mut gradients) = gradients.linear(self.first) {
            gradients.push(compute, grad, &self.input, &mut self.factor);
        }
        let grad_x = grad_x.reserve(self.input.len());
        self.dense.pull(compute, grad, self.width, grad_x);
        if let Some(dropout) = self.input_dropout(mode) {
            dropout.apply(compute, grad_x);
        }
    }
}
