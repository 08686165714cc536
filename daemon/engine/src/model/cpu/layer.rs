//! A layer of the encoder (Vaswani et al. 2017, Devlin et al. 2019): attention, then two linear layers with GELU
//! between them, each followed by dropout, the sum with its input, and a layer norm.

use super::super::architecture::{Activation, FeedForward};
use super::super::declaration::{self, Norm};
use super::super::noise::LayerDropout;
use super::super::parameters::Parameters;
use super::gradients::Gradients;
use crate::kernels::attention::Attention;
use crate::kernels::layer_norm::{LayerNorm, Normal};
use crate::kernels::linear::{Gelu, Linear, Prepared};
use crate::kernels::{Buffer, Compute, Packed};

/// A linear layer's values. One without a bias is none that this engine computes.
pub(super) fn linear(parameters: &Parameters, of: declaration::Linear) -> Linear<'_> {
    Linear { weight: parameters.of(of.weight), bias: of.bias.map_or(&[], |bias| parameters.of(bias)) }
}

/// A layer norm's values.
pub(super) fn norm(parameters: &Parameters, of: Norm, eps: f64) -> LayerNorm<'_> {
    let bias = of.bias.map_or(&[][..], |bias| parameters.of(bias));
    LayerNorm { weight: parameters.of(of.weight), bias, eps: eps as f32 }
}

/// Which form of GELU an activation is; this engine computes no other between the linear layers of a layer.
pub(super) fn gelu(activation: Activation) -> Gelu {
    if activation == Activation::GeluTanh { Gelu::Tanh } else { Gelu::Exact }
}

/// A layer's weights as products read them.
#[derive(Clone, Debug)]
pub(super) enum PreparedLayer {
    /// All of them, for as long as they do not move.
    Kept(Box<[Prepared; PRODUCTS]>),
    /// The weight at work alone: prepared right before its product, it is still in the cache.
    AtWork(Prepared),
}

/// The products of a layer.
pub(super) const PRODUCTS: usize = 5;

/// One of them.
#[derive(Clone, Copy)]
pub(super) enum Product {
    Query,
    KeyValue,
    AttentionOutput,
    Intermediate,
    Output,
}

impl PreparedLayer {
    pub(super) fn new(keep: bool) -> Self {
        if keep { Self::Kept(Box::default()) } else { Self::AtWork(Prepared::default()) }
    }

    /// Prepares what is kept for the forward pass, on this thread alone.
    pub(super) fn keep(&mut self, layer: &Layer<'_>) {
        if let Self::Kept(all) = self {
            let products = [
                Product::Query,
                Product::KeyValue,
                Product::AttentionOutput,
                Product::Intermediate,
                Product::Output,
            ];
            for (prepared, product) in all.iter_mut().zip(products) {
                prepared.forward_here(layer.compute, layer.weight(product));
            }
        }
    }

    /// Those that are kept.
    ///
    /// # Panics
    /// When they are not.
    pub(super) fn kept(&self) -> &[Prepared; PRODUCTS] {
        match self {
            Self::Kept(all) => all,
            Self::AtWork(_) => unreachable!("a model that learns keeps no prepared weights"),
        }
    }

    /// A weight, ready for the forward pass.
    fn forward(&mut self, layer: &Layer<'_>, product: Product) -> &Prepared {
        match self {
            Self::Kept(all) => &all[product as usize],
            Self::AtWork(prepared) => {
                prepared.forward(layer.compute, layer.weight(product));
                prepared
            }
        }
    }

    /// A weight, ready for the backward pass.
    fn backward(&mut self, layer: &Layer<'_>, product: Product) -> &Prepared {
        let prepared = match self {
            Self::Kept(all) => &mut all[product as usize],
            Self::AtWork(prepared) => prepared,
        };
        prepared.backward(layer.compute, layer.weight(product));
        prepared
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Kept(all) => all.iter().map(Prepared::bytes).sum(),
            Self::AtWork(prepared) => prepared.bytes(),
        }
    }
}

/// What the backward pass of a layer needs of its forward pass, besides the layer's input.
#[derive(Debug, Default)]
pub(super) struct LayerTape {
    /// The input's rows that are asked for, when that is not all of them.
    rows: Buffer,
    query: Buffer,
    key_value: Buffer,
    context: Buffer,
    attention: Normal,
    middle: Buffer,
    inner: Buffer,
    active: Buffer,
    output: Normal,
}

impl LayerTape {
    pub(super) fn bytes(&self) -> usize {
        let buffers = [
            &self.rows,
            &self.query,
            &self.key_value,
            &self.context,
            &self.middle,
            &self.inner,
            &self.active,
        ];
        buffers.into_iter().map(Buffer::bytes).sum::<usize>() + self.attention.bytes() + self.output.bytes()
    }
}

/// Memory of a backward pass that no layer keeps.
#[derive(Debug, Default)]
pub(super) struct Work {
    grad_x: Buffer,
    context: Buffer,
    query: Buffer,
    key_value: Buffer,
    input: Buffer,
    pub(super) factor: Packed,
}

impl Work {
    pub(super) fn bytes(&self) -> usize {
        let buffers = [&self.grad_x, &self.context, &self.query, &self.key_value, &self.input];
        buffers.into_iter().map(Buffer::bytes).sum::<usize>() + self.factor.bytes()
    }
}

/// One layer, and the pass that goes through it.
#[derive(Clone, Copy)]
pub(super) struct Layer<'a> {
    pub(super) parameters: &'a Parameters,
    pub(super) of: &'a declaration::Layer,
    pub(super) compute: Compute,
    pub(super) heads: usize,
    pub(super) width: usize,
    pub(super) eps: f64,
    /// Where each sequence starts, and the end of the last.
    pub(super) tokens: &'a [u32],
    /// Where the rows that are asked for start, likewise: those of `tokens`, or one for each sequence, its first.
    pub(super) queries: &'a [u32],
    /// Whether something below it learns.
    pub(super) has_below: bool,
    pub(super) dropout: LayerDropout,
}

impl<'a> Layer<'a> {
    pub(super) fn linear(&self, of: declaration::Linear) -> Linear<'a> {
        linear(self.parameters, of)
    }

    pub(super) fn norm(&self, of: Norm) -> LayerNorm<'a> {
        norm(self.parameters, of, self.eps)
    }

    pub(super) fn gelu(&self) -> Gelu {
        let (FeedForward::Plain(activation) | FeedForward::Gated(activation)) = self.of.form.feed_forward;
        gelu(activation)
    }

    /// Queries and, together, keys and values: two parts of one parameter.
    fn query_and_key_value(&self) -> (Linear<'a>, Linear<'a>) {
        let Linear { weight, bias } = self.linear(self.of.qkv);
        let (query, key_value) = weight.split_at(self.width * self.width);
        let (query_bias, key_value_bias) = bias.split_at(self.width);
        (Linear { weight: query, bias: query_bias }, Linear { weight: key_value, bias: key_value_bias })
    }

    fn weight(&self, product: Product) -> Linear<'a> {
        match product {
            Product::Query => self.query_and_key_value().0,
            Product::KeyValue => self.query_and_key_value().1,
            Product::AttentionOutput => self.linear(self.of.attention_output),
            Product::Intermediate => self.linear(self.of.intermediate),
            Product::Output => self.linear(self.of.output),
        }
    }

    pub(super) fn attention(&self) -> Attention<'a> {
        Attention {
            queries: self.queries,
            tokens: self.tokens,
            heads: self.heads,
            width: self.width,
            dropout: self.dropout.attention,
        }
    }

    /// The first row of each sequence.
    pub(super) fn gather<'r>(&self, x: &[f32], rows: &'r mut Buffer) -> &'r mut [f32] {
        let gathered = rows.reserve(self.rows() * self.width);
        for (row, &token) in gathered.chunks_mut(self.width).zip(self.tokens) {
            row.copy_from_slice(&x[token as usize * self.width..][..self.width]);
        }
        gathered
    }

    /// Whether only the first row of each sequence is asked for.
    pub(super) fn is_partial(&self) -> bool {
        self.queries != self.tokens
    }

    pub(super) fn rows(&self) -> usize {
        self.queries.last().map_or(0, |&end| end as usize)
    }

    /// From the hidden states `x` of all tokens to those that are asked for. With `keep`, the tape is ready for the
    /// backward pass.
    pub(super) fn forward(
        &self,
        prepared: &mut PreparedLayer,
        x: &[f32],
        tape: &mut LayerTape,
        keep: bool,
        out: &mut Buffer,
    ) {
        let (compute, width, rows) = (self.compute, self.width, self.rows());
        let inner = self.linear(self.of.intermediate).bias;
        // The weights themselves may have gone.
        let (query_bias, key_value_bias) = self.linear(self.of.qkv).bias.split_at(width);
        if self.is_partial() {
            self.gather(x, &mut tape.rows);
        }
        let asked = if self.is_partial() { &*tape.rows } else { x };
        prepared.forward(self, Product::Query).apply(
            compute,
            asked,
            query_bias,
            tape.query.reserve(rows * width),
        );
        prepared.forward(self, Product::KeyValue).apply(
            compute,
            x,
            key_value_bias,
            tape.key_value.reserve(2 * x.len()),
        );
        let context = tape.context.reserve(rows * width);
        self.attention().forward(compute, &tape.query, &tape.key_value, context);

        let sum = tape.attention.reserve(rows, width);
        prepared.forward(self, Product::AttentionOutput).apply(
            compute,
            context,
            self.linear(self.of.attention_output).bias,
            sum,
        );
        let middle = tape.middle.reserve(rows * width);
        let dropout = self.dropout.attention_output;
        self.norm(self.of.attention_norm).forward(compute, &mut tape.attention, Some(asked), dropout, middle);

        let active = tape.active.reserve(rows * inner.len());
        if keep {
            let before = tape.inner.reserve(rows * inner.len());
            prepared.forward(self, Product::Intermediate).apply_gelu(
                compute,
                middle,
                inner,
                self.gelu(),
                before,
                active,
            );
        } else {
            prepared.forward(self, Product::Intermediate).answer_gelu(
                compute,
                middle,
                inner,
                self.gelu(),
                active,
            );
        }
        let sum = tape.output.reserve(rows, width);
        prepared.forward(self, Product::Output).apply(compute, active, self.linear(self.of.output).bias, sum);
        let out = out.reserve(rows * width);
        self.norm(self.of.output_norm).forward(
            compute,
            &mut tape.output,
            Some(middle),
            self.dropout.output,
            out,
        );
    }

    /// The gradients of the parameters, and, where something below learns, that of the layer's input in place of that of its result.
    pub(super) fn backward(
        &self,
        prepared: &mut PreparedLayer,
        x: &[f32],
        tape: &mut LayerTape,
        grad: &mut Buffer,
        gradients: &mut Gradients,
        work: &mut Work,
    ) {
        let (compute, width, rows) = (self.compute, self.width, self.rows());
        let grad_x = work.grad_x.reserve(rows * width);
        let of = self.of;

        let norm = self.norm(self.of.output_norm);
        norm.backward(
            compute,
            &tape.output,
            self.dropout.output,
            grad,
            grad_x,
            gradients.norm(of.output_norm),
        );
        if let Some(mut gradients) = gradients.linear(of.output) {
            gradients.push(compute, grad_x, &tape.active, &mut work.factor);
        }
        prepared.backward(self, Product::Output).pull_gelu(
            compute,
            grad_x,
            width,
            self.gelu(),
            &mut tape.inner,
        );
        if let Some(mut gradients) = gradients.linear(of.intermediate) {
            gradients.push(compute, &tape.inner, &tape.middle, &mut work.factor);
        }
        let inner = self.linear(self.of.intermediate).bias.len();
        prepared.backward(self, Product::Intermediate).pull_added(compute, &tape.inner, inner, grad);

        let norm = self.norm(self.of.attention_norm);
        let (dropout, of_norm) = (self.dropout.attention_output, gradients.norm(of.attention_norm));
        norm.backward(compute, &tape.attention, dropout, grad, grad_x, of_norm);
        if let Some(mut gradients) = gradients.linear(of.attention_output) {
            gradients.push(compute, grad_x, &tape.context, &mut work.factor);
        }
        let context = work.context.reserve(rows * width);
        prepared.backward(self, Product::AttentionOutput).pull(compute, grad_x, width, context);
        let query = work.query.reserve(rows * width);
        let key_value = work.key_value.reserve(tape.key_value.len());
        self.attention().backward(compute, &tape.query, &tape.key_value, context, query, key_value);

        let asked = if self.is_partial() { &*tape.rows } else { x };
        if let Some([mut of_query, mut of_key_value]) = gradients.parts(of.qkv, width) {
            of_query.push(compute, query, asked, &mut work.factor);
            of_key_value.push(compute, key_value, x, &mut work.factor);
        }
        if !self.has_below {
            return;
        }
        prepared.backward(self, Product::Query).pull_added(compute, query, width, grad);
        if !self.is_partial() {
            prepared.backward(self, Product::KeyValue).pull_added(compute, key_value, 2 * width, grad);
            return;
        }
        let input = work.input.reserve(x.len());
        prepared.backward(self, Product::KeyValue).pull(compute, key_value, 2 * width, input);
        for (row, &token) in grad.chunks(width).zip(self.tokens) {
            let at = token as usize * width;
            input[at..at + width].iter_mut().zip(row).for_each(|(x, grad)| *x += grad);
        }
        std::mem::swap(grad, &mut work.input);
    }
}
