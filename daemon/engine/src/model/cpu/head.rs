//! The classification head: `output(dropout(activation(dense(x))))`, x the hidden state of each sequence's first token.

use super::super::architecture::Activation;
use super::super::declaration::{self, Declaration};
use super::super::noise::{Mode, Site};
use super::super::parameters::Parameters;
use super::gradients::Gradients;
use super::layer::{gelu, linear};
use crate::kernels::linear::{Prepared, gelu_backward, tanh};
use crate::kernels::{Buffer, Compute, Dropout, Packed};

/// The head's weights as products read them, and the memory of a pass.
#[derive(Debug)]
pub(super) struct Head {
    of: declaration::Head,
    width: usize,
    labels: usize,
    compute: Compute,
    dense: Prepared,
    output: Prepared,
    is_current: bool,
    tape: HeadTape,
    grad: Buffer,
    factor: Packed,
}

/// The memory of a forward pass.
#[derive(Debug, Default)]
pub(super) struct HeadTape {
    input: Buffer,
    /// What the activation is of, where the backward pass needs it.
    inner: Buffer,
    active: Buffer,
    dropped: Buffer,
    logits: Buffer,
}

impl HeadTape {
    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        let Self { input, inner, active, dropped, logits } = self;
        [input, inner, active, dropped, logits].into_iter().map(Buffer::bytes).sum()
    }
}

impl Head {
    pub(super) fn new(declaration: &Declaration, compute: Compute) -> Self {
        Self {
            of: declaration.head,
            width: declaration.architecture.hidden_size,
            labels: declaration.labels,
            // One row a text: that costs little, and logits keep their digits.
            compute: compute.without_weights(),
            dense: Prepared::default(),
            output: Prepared::default(),
            is_current: false,
            tape: HeadTape::default(),
            grad: Buffer::default(),
            factor: Packed::default(),
        }
    }

    /// Says that the weights have moved.
    pub(super) fn moved(&mut self) {
        self.is_current = false;
    }

    /// Prepares the weights for the forward pass once and for all, on this thread alone: of a model that answers alone.
    pub(super) fn prepare(&mut self, parameters: &Parameters) {
        self.dense.forward_here(self.compute, linear(parameters, self.of.dense));
        self.output.forward_here(self.compute, linear(parameters, self.of.output));
        self.is_current = true;
    }

    fn prepare_again(&mut self, parameters: &Parameters) {
        if self.is_current {
            return;
        }
        let (dense, output) = (linear(parameters, self.of.dense), linear(parameters, self.of.output));
        for (prepared, of) in [(&mut self.dense, dense), (&mut self.output, output)] {
            prepared.forward(self.compute, of);
            prepared.backward(self.compute, of);
        }
        self.is_current = true;
    }

    /// The logits, `[B, labels]`, of the hidden states `x`, `[B, H]`.
    pub(super) fn forward(&mut self, parameters: &Parameters, x: &[f32], mode: Mode) -> &[f32] {
        self.prepare_again(parameters);
        let mut tape = std::mem::take(&mut self.tape);
        self.pass(self.compute, parameters, x, mode, &mut tape);
        self.tape = tape;
        &self.tape.logits
    }

    /// The same of a model that answers alone, on this thread alone.
    pub(super) fn answer<'t>(&self, parameters: &Parameters, x: &[f32], tape: &'t mut HeadTape) -> &'t [f32] {
        self.pass(self.compute.alone(), parameters, x, Mode::Evaluate, tape);
        &tape.logits
    }

    fn pass(&self, compute: Compute, parameters: &Parameters, x: &[f32], mode: Mode, tape: &mut HeadTape) {
        let input = tape.input.reserve(x.len());
        input.copy_from_slice(x);
        if let Some(dropout) = self.input_dropout(mode) {
            dropout.apply(compute, input);
        }
        let active = tape.active.reserve(x.len());
        let bias = linear(parameters, self.of.dense).bias;
        match self.of.form.activation {
            Activation::Relu => {
                self.dense.apply(compute, input, bias, active);
                active.iter_mut().for_each(|y| *y = y.max(0.0));
            }
            activation @ (Activation::Gelu | Activation::GeluTanh) => {
                let inner = tape.inner.reserve(x.len());
                self.dense.apply_gelu(compute, input, bias, gelu(activation), inner, active);
            }
            // No other is computed here.
            Activation::Tanh | Activation::Silu => {
                self.dense.apply(compute, input, bias, active);
                tanh(compute.isa(), active);
            }
        }
        let dropped = tape.dropped.reserve(x.len());
        dropped.copy_from_slice(active);
        if let Some(dropout) = mode.dropout(Site::Head) {
            dropout.apply(compute, dropped);
        }
        let logits = tape.logits.reserve(x.len() / self.width * self.labels);
        self.output.apply(compute, dropped, linear(parameters, self.of.output).bias, logits);
    }

    fn input_dropout(&self, mode: Mode) -> Option<Dropout> {
        if self.of.form.has_input_dropout { mode.dropout(Site::HeadInput) } else { None }
    }

    /// Bytes of the prepared weights, and of a pass's memory.
    pub(super) fn bytes(&self) -> [usize; 2] {
        let memory = self.tape.bytes() + self.grad.bytes() + self.factor.bytes();
        [self.dense.bytes() + self.output.bytes(), memory]
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
        let grad = self.grad.reserve(self.tape.active.len());
        if let Some(mut gradients) = gradients.linear(self.of.output) {
            gradients.push(compute, grad_logits, &self.tape.dropped, &mut self.factor);
        }
        self.output.pull(compute, grad_logits, self.labels, grad);
        if let Some(dropout) = mode.dropout(Site::Head) {
            dropout.apply(compute, grad);
        }
        let slopes = grad.iter_mut().zip(&*self.tape.active);
        match self.of.form.activation {
            Activation::Relu => slopes.for_each(|(grad, y)| *grad *= f32::from(u8::from(*y > 0.0))),
            activation @ (Activation::Gelu | Activation::GeluTanh) => {
                gelu_backward(compute.isa(), gelu(activation), grad, &self.tape.inner);
            }
            Activation::Tanh | Activation::Silu => slopes.for_each(|(grad, y)| *grad *= 1.0 - y * y),
        }
        if let Some(mut gradients) = gradients.linear(self.of.dense) {
            gradients.push(compute, grad, &self.tape.input, &mut self.factor);
        }
        let grad_x = grad_x.reserve(self.tape.input.len());
        self.dense.pull(compute, grad, self.width, grad_x);
        if let Some(dropout) = self.input_dropout(mode) {
            dropout.apply(compute, grad_x);
        }
    }
}
