//! The classification head on a GPU.

use super::super::architecture::Activation;
use super::super::declaration::{self, Declaration};
use super::super::noise::{Mode, Site};
use super::gelu;
use super::weights::Weights;
use crate::kernels::Dropout;
use crate::kernels::cuda::linear::{
    HeadEnd, add_bias_to_logits, convert, drop_out, gelu_backward, gelu_forward,
};
use crate::kernels::cuda::{Array, Pointer, Real, Stream};
use hone_base::error::Result;

/// The memory of the head's passes.
#[derive(Debug)]
pub(super) struct Head {
    of: declaration::Head,
    width: usize,
    labels: usize,
    rows: usize,
    /// The activation's result; in a head with GELU what it is of.
    active: Array<Real>,
    dropped: Array<Real>,
    logits: Array<f32>,
    grad_logits: Array<f32>,
    grad_output: Array<Real>,
    grad: Array<Real>,
    parts: Array<f32>,
}

impl Head {
    pub(super) fn new(declaration: &Declaration, stream: &Stream) -> Self {
        Self {
            of: declaration.head,
            width: declaration.architecture.hidden_size,
            labels: declaration.labels,
            rows: 0,
            active: Array::new(stream),
            dropped: Array::new(stream),
            logits: Array::new(stream),
            grad_logits: Array::new(stream),
            grad_output: Array::new(stream),
            grad: Array::new(stream),
            parts: Array::new(stream),
        }
    }

    fn input_dropout(&self, mode: Mode) -> Option<Dropout> {
        if self.of.form.has_input_dropout { mode.dropout(Site::HeadInput) } else { None }
    }

    fn has_gelu(&self) -> bool {
        matches!(self.of.form.activation, Activation::Gelu | Activation::GeluTanh)
    }

    fn end(&self, mode: Mode) -> HeadEnd {
        HeadEnd { is_relu: self.of.form.activation == Activation::Relu, dropout: mode.dropout(Site::Head) }
    }

    /// The logits, `[B, labels]`, of the hidden states `x`, `[B, H]`. Waits for them.
    pub(super) fn forward(
        &mut self,
        stream: &Stream,
        weights: &Weights,
        x: Pointer<'_, Real>,
        rows: usize,
        mode: Mode,
    ) -> Result<Vec<f32>> {
        let count = rows * self.width;
        self.rows = rows;
        drop_out(stream, x, self.input_dropout(mode), count)?;
        let (dense, output) = (weights.linear(self.of.dense), weights.linear(self.of.output));
        self.active.reserve(count)?;
        self.dropped.reserve(count)?;
        let (active, dropped) = (self.active.start(), self.dropped.start());
        dense.apply(stream, x, active, rows)?;
        if self.has_gelu() {
            let gelu = gelu(self.of.form.activation);
            gelu_forward(stream, active, dense.bias, dropped, rows, self.width, gelu)?;
            drop_out(stream, dropped, mode.dropout(Site::Head), count)?;
        } else {
            self.end(mode).forward(stream, active, dense.bias, dropped, rows, self.width)?;
        }
        let logits = self.logits.reserve(rows * self.labels)?;
        let shape = [rows, self.width, self.labels];
        stream.float_product(shape, dropped.as_it_is(), output.weight.turned(), logits, false)?;
        add_bias_to_logits(stream, logits, output.bias, rows, self.labels)?;
        let mut values = vec![0.0; rows * self.labels];
        self.logits.read(&mut values)?;
        Ok(values)
    }

    /// From the gradient of the last pass's logits to that of its hidden states `x`, in `grad_x`, and those of the
    /// parameters.
    pub(super) fn backward(
        &mut self,
        stream: &Stream,
        weights: &Weights,
        x: Pointer<'_, Real>,
        grad_logits: &[f32],
        mode: Mode,
        grad_x: &mut Array<Real>,
    ) -> Result<()> {
        let (rows, count) = (self.rows, self.rows * self.width);
        let (dense, output) = (weights.linear(self.of.dense), weights.linear(self.of.output));
        let given = self.grad_logits.put(grad_logits)?;
        let grad_output = self.grad_output.reserve(grad_logits.len())?;
        convert(stream, given, grad_output, grad_logits.len())?;
        output.push(stream, grad_output, self.dropped.start(), rows, &mut self.parts)?;
        self.grad.reserve(count)?;
        let grad = self.grad.start();
        output.pull(stream, grad_output, grad, rows, false)?;
        if self.has_gelu() {
            drop_out(stream, grad, mode.dropout(Site::Head), count)?;
            gelu_backward(stream, grad, self.active.start(), count, gelu(self.of.form.activation))?;
        } else {
            self.end(mode).backward(stream, grad, self.active.start(), count)?;
        }
        dense.push(stream, grad, x, rows, &mut self.parts)?;
        let grad_x = grad_x.reserve(count)?;
        dense.pull(stream, grad, grad_x, rows, false)?;
        drop_out(stream, grad_x, self.input_dropout(mode), count)
    }

    pub(super) fn bytes(&self) -> usize {
        let reals = [&self.active, &self.dropped, &self.grad_output, &self.grad];
        let floats = [&self.logits, &self.grad_logits, &self.parts];
        let reals: usize = reals.iter().map(|array| array.bytes()).sum();
        reals + floats.iter().map(|array| array.bytes()).sum::<usize>()
    }
}
