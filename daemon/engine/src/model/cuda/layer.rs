//! A layer of the encoder on a GPU.

use super::super::architecture::FeedForward;
use super::super::declaration;
use super::super::noise::LayerDropout;
use super::gelu;
use super::weights::{Linear, Weights};
use crate::kernels::cuda::attention::{Attention, Gradients, Sequences};
use crate::kernels::cuda::embedding::{add_to_rows, gather_rows};
use crate::kernels::cuda::layer_norm::Normal;
use crate::kernels::cuda::linear::{add_bias, gelu_backward, gelu_forward};
use crate::kernels::cuda::{Array, Pointer, Real, Stream};
use crate::kernels::linear::Gelu;
use hone_base::error::Result;

/// What a layer's backward pass needs of its forward pass.
#[derive(Debug)]
pub(super) struct LayerTape {
    /// The rows that are asked for, where those are not all.
    rows: Array<Real>,
    /// Queries, where they are not beside keys and values.
    query: Array<Real>,
    /// Queries, keys and values side by side, or keys and values.
    qkv: Array<Real>,
    context: Array<Real>,
    logsums: Array<f32>,
    attention: Normal,
    middle: Array<Real>,
    inner: Array<Real>,
    active: Array<Real>,
    output: Normal,
}

/// The memory of a layer's backward pass.
#[derive(Debug)]
pub(super) struct Work {
    grad_x: Array<Real>,
    grad_inner: Array<Real>,
    grad_context: Array<Real>,
    grad_query: Array<Real>,
    grad_qkv: Array<Real>,
    input: Array<Real>,
    along: Array<f32>,
    pub(super) parts: Array<f32>,
}

/// A layer, and the pass that goes through it.
pub(super) struct Layer<'a> {
    pub(super) stream: &'a Stream,
    pub(super) weights: &'a Weights,
    pub(super) of: &'a declaration::Layer,
    pub(super) width: usize,
    pub(super) eps: f64,
    pub(super) tokens: usize,
    /// Who attends to whom, and so which rows are asked for.
    pub(super) sequences: &'a Sequences,
    /// The first token of each sequence, where only those are asked for.
    pub(super) asked: Option<&'a Array<u32>>,
    /// Whether something below it learns.
    pub(super) has_below: bool,
    pub(super) dropout: LayerDropout,
}

impl LayerTape {
    pub(super) fn new(stream: &Stream) -> Self {
        Self {
            rows: Array::new(stream),
            query: Array::new(stream),
            qkv: Array::new(stream),
            context: Array::new(stream),
            logsums: Array::new(stream),
            attention: Normal::new(stream),
            middle: Array::new(stream),
            inner: Array::new(stream),
            active: Array::new(stream),
            output: Normal::new(stream),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let reals =
            [&self.rows, &self.query, &self.qkv, &self.context, &self.middle, &self.inner, &self.active];
        let normals = [&self.attention, &self.output];
        reals.iter().map(|array| array.bytes()).sum::<usize>()
            + normals.iter().map(|normal| normal.values.bytes() + normal.inverse.bytes()).sum::<usize>()
            + self.logsums.bytes()
    }
}

impl Work {
    pub(super) fn new(stream: &Stream) -> Self {
        Self {
            grad_x: Array::new(stream),
            grad_inner: Array::new(stream),
            grad_context: Array::new(stream),
            grad_query: Array::new(stream),
            grad_qkv: Array::new(stream),
            input: Array::new(stream),
            along: Array::new(stream),
            parts: Array::new(stream),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let reals = [
            &self.grad_x,
            &self.grad_inner,
            &self.grad_context,
            &self.grad_query,
            &self.grad_qkv,
            &self.input,
        ];
        reals.iter().map(|array| array.bytes()).sum::<usize>() + self.along.bytes() + self.parts.bytes()
    }
}

impl Layer<'_> {
    fn linear(&self, of: declaration::Linear) -> Linear<'_> {
        self.weights.linear(of)
    }

    fn gelu(&self) -> Gelu {
        let (FeedForward::Plain(activation) | FeedForward::Gated(activation)) = self.of.form.feed_forward;
        gelu(activation)
    }

    /// Queries and, together, keys and values: two parts of one parameter.
    fn query_and_key_value(&self) -> (Linear<'_>, Linear<'_>) {
        let of = self.of.qkv;
        (self.weights.part(of, 0, self.width), self.weights.part(of, self.width, 2 * self.width))
    }

    /// Rows that are asked for.
    fn rows(&self) -> usize {
        self.sequences.rows()
    }

    /// The attention over what a tape holds as `query` and `qkv`.
    fn attention<'t>(&'t self, query: &'t Array<Real>, qkv: &'t Array<Real>) -> Attention<'t> {
        let (width, tokens) = (self.width, self.tokens);
        let (sequences, dropout) = (self.sequences, self.dropout.attention);
        let part = |which: usize| qkv.part(which * width, (tokens * width).min(width));
        match self.asked {
            None => Attention {
                sequences,
                q: (qkv.start(), 3 * width),
                k: part(1),
                v: part(2),
                kv_stride: 3 * width,
                width,
                dropout,
            },
            Some(_) => Attention {
                sequences,
                q: (query.start(), width),
                k: qkv.start(),
                v: part(1),
                kv_stride: 2 * width,
                width,
                dropout,
            },
        }
    }

    /// From the hidden states `x` of all tokens to those that are asked for, in `out`.
    pub(super) fn forward(
        &self,
        x: Pointer<'_, Real>,
        tape: &mut LayerTape,
        out: &mut Array<Real>,
    ) -> Result<()> {
        let (stream, width, rows, tokens) = (self.stream, self.width, self.rows(), self.tokens);
        let residual = match self.asked {
            None => {
                let qkv = self.linear(self.of.qkv);
                let to = tape.qkv.reserve(tokens * 3 * width)?;
                qkv.apply(stream, x, to, tokens)?;
                add_bias(stream, to, qkv.bias, tokens, 3 * width)?;
                x
            }
            Some(asked) => {
                let (query, key_value) = self.query_and_key_value();
                let gathered = tape.rows.reserve(rows * width)?;
                gather_rows(stream, x, asked, gathered, width)?;
                let to = tape.query.reserve(rows * width)?;
                query.apply(stream, gathered, to, rows)?;
                add_bias(stream, to, query.bias, rows, width)?;
                let to = tape.qkv.reserve(tokens * 2 * width)?;
                key_value.apply(stream, x, to, tokens)?;
                add_bias(stream, to, key_value.bias, tokens, 2 * width)?;
                gathered
            }
        };
        let context = tape.context.reserve(rows * width)?;
        self.attention(&tape.query, &tape.qkv).forward(stream, context, &mut tape.logsums)?;

        let linear = self.linear(self.of.attention_output);
        linear.apply(stream, context, tape.attention.reserve(rows, width)?, rows)?;
        let middle = tape.middle.reserve(rows * width)?;
        let (norm, _) = self.weights.norm(self.of.attention_norm, self.eps, width);
        let dropout = self.dropout.attention_output;
        norm.forward(stream, &mut tape.attention, Some(linear.bias), Some(residual), dropout, middle)?;

        let linear = self.linear(self.of.intermediate);
        let inner = tape.inner.reserve(rows * linear.outputs)?;
        let active = tape.active.reserve(rows * linear.outputs)?;
        linear.apply(stream, middle, inner, rows)?;
        gelu_forward(stream, inner, linear.bias, active, rows, linear.outputs, self.gelu())?;
        let linear = self.linear(self.of.output);
        linear.apply(stream, active, tape.output.reserve(rows, width)?, rows)?;
        let (norm, _) = self.weights.norm(self.of.output_norm, self.eps, width);
        let out = out.reserve(rows * width)?;
        norm.forward(stream, &mut tape.output, Some(linear.bias), Some(middle), self.dropout.output, out)
    }

    /// The gradients of the parameters, and, where something below learns, that of the layer's input in place of that of
    /// its result.
    pub(super) fn backward(
        &self,
        x: Pointer<'_, Real>,
        tape: &LayerTape,
        grad: &mut Array<Real>,
        work: &mut Work,
    ) -> Result<()> {
        let (stream, width, rows, tokens) = (self.stream, self.width, self.rows(), self.tokens);
        let of_result = grad.start();
        let grad_x = work.grad_x.reserve(rows * width)?;
        let parts = &mut work.parts;

        let (norm, to) = self.weights.norm(self.of.output_norm, self.eps, width);
        norm.backward(stream, &tape.output, self.dropout.output, of_result, Some(grad_x), to, parts)?;
        let linear = self.linear(self.of.output);
        linear.push(stream, grad_x, tape.active.start(), rows, parts)?;
        let grad_inner = work.grad_inner.reserve(rows * linear.inputs)?;
        linear.pull(stream, grad_x, grad_inner, rows, false)?;
        gelu_backward(stream, grad_inner, tape.inner.start(), rows * linear.inputs, self.gelu())?;
        let linear = self.linear(self.of.intermediate);
        linear.push(stream, grad_inner, tape.middle.start(), rows, parts)?;
        linear.pull(stream, grad_inner, of_result, rows, true)?;

        let (norm, to) = self.weights.norm(self.of.attention_norm, self.eps, width);
        let dropout = self.dropout.attention_output;
        norm.backward(stream, &tape.attention, dropout, of_result, Some(grad_x), to, parts)?;
        let linear = self.linear(self.of.attention_output);
        linear.push(stream, grad_x, tape.context.start(), rows, parts)?;
        let grad_context = work.grad_context.reserve(rows * width)?;
        linear.pull(stream, grad_x, grad_context, rows, false)?;

        let given = [tape.context.start(), grad_context];
        let attention = self.attention(&tape.query, &tape.qkv);
        let Some(asked) = self.asked else {
            let qkv = self.linear(self.of.qkv);
            work.grad_qkv.reserve(tokens * 3 * width)?;
            let to = work.grad_qkv.start();
            let part = |which: usize| work.grad_qkv.part(which * width, width);
            let gradients = Gradients { q: to, k: part(1), v: part(2) };
            attention.backward(stream, given, &tape.logsums, &mut work.along, gradients)?;
            qkv.push(stream, to, x, tokens, parts)?;
            return match self.has_below {
                true => qkv.pull(stream, to, of_result, tokens, true),
                false => Ok(()),
            };
        };
        let (query, key_value) = self.query_and_key_value();
        let of_query = work.grad_query.reserve(rows * width)?;
        work.grad_qkv.reserve(tokens * 2 * width)?;
        let of_key_value = work.grad_qkv.start();
        let gradients = Gradients { q: of_query, k: of_key_value, v: work.grad_qkv.part(width, width) };
        attention.backward(stream, given, &tape.logsums, &mut work.along, gradients)?;
        query.push(stream, of_query, tape.rows.start(), rows, parts)?;
        key_value.push(stream, of_key_value, x, tokens, parts)?;
        if !self.has_below {
            return Ok(());
        }
        query.pull(stream, of_query, of_result, rows, true)?;
        let input = work.input.reserve(tokens * width)?;
        key_value.pull(stream, of_key_value, input, tokens, false)?;
        add_to_rows(stream, input, asked, of_result, width)?;
        std::mem::swap(grad, &mut work.input);
        Ok(())
    }
}
