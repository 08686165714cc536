//! The encoder over packed sequences: forward, and backward.

use std::sync::Arc;

use super::super::architecture::Architecture;
use super::super::declaration::{Declaration, ParameterId};
use super::super::keep::Keep;
use super::super::noise::Mode;
use super::super::parameters::Parameters;
use super::answer::LayerWork;
use super::embeddings::{EmbeddingTape, Embeddings};
use super::gradients::Gradients;
use super::layer::{Layer, LayerTape, PreparedLayer, Work};
use crate::batch::Batch;
use crate::kernels::{Buffer, Compute};

/// Which hidden states a pass gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Those of all tokens.
    All,
    /// That of the first token of each sequence. The last layer then computes no other, and its backward pass
    /// neither: the result is the same.
    First,
}

/// An encoder's weights as products read them.
#[derive(Clone, Debug)]
pub(super) struct Encoder {
    declaration: Arc<Declaration>,
    compute: Compute,
    embeddings: Embeddings,
    /// One for each set of a layer's parameters, which are kept; or one for all of them in turn.
    layers: Vec<PreparedLayer>,
    /// Whether the projection is that of the present weights.
    is_current: bool,
}

/// The memory of passes, used again from one to the next.
#[derive(Debug, Default)]
pub(super) struct Tape {
    embeddings: EmbeddingTape,
    /// Where each sequence starts, and the end of the last.
    tokens: Vec<u32>,
    /// The same, were each sequence its first token alone.
    first: Vec<u32>,
    /// The input of each layer, and the last one's result.
    hidden: Vec<Buffer>,
    layers: Vec<LayerTape>,
    work: Work,
    answer: LayerWork,
    /// The pass that it is of.
    pass: Option<Pass>,
}

/// What a forward pass was asked for.
#[derive(Clone, Copy, Debug)]
struct Pass {
    mode: Mode,
    reach: Reach,
    keep: Keep,
}

impl Encoder {
    /// With `keep`, weights are prepared once ([`Encoder::prepare`]): for a model that answers alone.
    pub(super) fn new(declaration: &Arc<Declaration>, compute: Compute, keep: bool) -> Self {
        let count = if keep { declaration.architecture.own_layers() } else { 1 };
        Self {
            declaration: declaration.clone(),
            compute,
            embeddings: Embeddings::new(declaration, compute),
            layers: vec![PreparedLayer::new(keep); count],
            is_current: false,
        }
    }

    fn count(&self) -> usize {
        self.declaration.layers.len()
    }

    pub(super) fn architecture(&self) -> &Architecture {
        &self.declaration.architecture
    }

    /// Says that the weights have moved.
    pub(super) fn moved(&mut self) {
        self.is_current = false;
    }

    /// The last hidden states that `reach` asks for: `[T, H]` or `[B, H]`.
    pub(super) fn forward<'t>(
        &mut self,
        parameters: &Parameters,
        batch: &Batch,
        mode: Mode,
        reach: Reach,
        keep: Keep,
        tape: &'t mut Tape,
    ) -> &'t Buffer {
        let count = self.count();
        tape.begin(self.architecture(), batch, Pass { mode, reach, keep });
        tape.hidden.resize_with(tape.hidden.len().max(keep.hidden(count)), Buffer::default);
        tape.layers.resize_with(tape.layers.len().max(keep.tapes(count)), LayerTape::default);
        if !self.is_current {
            self.embeddings.prepare_again(parameters);
        }
        let out = &mut tape.hidden[0];
        self.embeddings.forward(self.compute, parameters, mode, &mut tape.embeddings, out);
        let declaration = self.declaration.clone();
        for index in 0..count {
            let queries = asked(&tape.first, &tape.tokens, index + 1 == count && reach == Reach::First);
            let layer = layer(&declaration, self.compute, parameters, index, mode, &tape.tokens, queries);
            let prepared = prepared(&mut self.layers, &layer);
            let (input, output) = two(&mut tape.hidden, keep.slot(index), keep.slot(index + 1));
            layer.forward(prepared, input, &mut tape.layers[keep.tape(index)], keep != Keep::Nothing, output);
        }
        self.is_current = true;
        &tape.hidden[keep.slot(count)]
    }

    /// The last hidden state of each sequence's first token, into `out`, `[B, H]`, on this thread alone.
    ///
    /// # Panics
    /// When the weights were not prepared to be kept.
    pub(super) fn answer(&self, parameters: &Parameters, batch: &Batch, tape: &mut Tape, out: &mut [f32]) {
        let (compute, mode, count) = (self.compute.alone(), Mode::Evaluate, self.count());
        tape.begin(self.architecture(), batch, Pass { mode, reach: Reach::First, keep: Keep::Nothing });
        tape.hidden.resize_with(tape.hidden.len().max(2), Buffer::default);
        self.embeddings.forward(compute, parameters, mode, &mut tape.embeddings, &mut tape.hidden[0]);
        for index in 0..count {
            let is_last = index + 1 == count;
            let queries = asked(&tape.first, &tape.tokens, is_last);
            let layer = layer(&self.declaration, compute, parameters, index, mode, &tape.tokens, queries);
            let prepared = self.layers[layer.of.form.parameters].kept();
            let (input, output) =
                two(&mut tape.hidden, Keep::Nothing.slot(index), Keep::Nothing.slot(index + 1));
            let output = if is_last { &mut *out } else { output.reserve(input.len()) };
            layer.answer(prepared, input, &mut tape.answer, output);
        }
    }

    /// Prepares what is kept, each set of parameters once, on this thread alone. Returns what no pass reads from
    /// `parameters` then, beside weights of products.
    pub(super) fn prepare(&mut self, parameters: &Parameters) -> Option<ParameterId> {
        let table = self.embeddings.prepare(parameters);
        self.is_current = true;
        let declaration = self.declaration.clone();
        let mut before = None;
        for (index, of) in declaration.layers.iter().enumerate() {
            if before.replace(of.form.parameters) != Some(of.form.parameters) {
                let layer = layer(&declaration, self.compute, parameters, index, Mode::Evaluate, &[], &[]);
                prepared(&mut self.layers, &layer).keep(&layer);
            }
        }
        table
    }

    /// From the gradient of the last pass's result to those of all trainable parameters. `grad` is used up.
    ///
    /// # Panics
    ///
    /// When the last pass kept nothing for the backward pass.
    pub(super) fn backward(
        &mut self,
        parameters: &Parameters,
        grad: &mut Buffer,
        gradients: &mut Gradients,
        tape: &mut Tape,
    ) {
        let Some(Pass { mode, reach, keep }) = tape.pass else { return };
        assert!(keep != Keep::Nothing, "the pass before had no backward pass");
        let count = self.count();
        let declaration = self.declaration.clone();
        for index in (0..count).rev() {
            let (learns, has_below) = declaration.learns(index, |id| gradients.is_trainable(id));
            // Nothing below learns: the backward pass ends here.
            if !has_below && !learns {
                break;
            }
            let queries = asked(&tape.first, &tape.tokens, index + 1 == count && reach == Reach::First);
            let layer = layer(&declaration, self.compute, parameters, index, mode, &tape.tokens, queries);
            let layer = Layer { has_below, ..layer };
            let prepared = prepared(&mut self.layers, &layer);
            let state = &mut tape.layers[keep.tape(index)];
            if keep == Keep::Inputs && index + 1 < count {
                let (input, output) = two(&mut tape.hidden, index, index + 1);
                layer.forward(prepared, input, state, true, output);
            }
            layer.backward(prepared, &tape.hidden[index], state, grad, gradients, &mut tape.work);
        }
        if gradients.is_trainable(declaration.embeddings.tokens) {
            let memory = (&mut tape.hidden[0], &mut tape.work.factor);
            let embeddings = &mut tape.embeddings;
            self.embeddings.backward(parameters, mode, grad, gradients, embeddings, memory);
        }
    }

    /// Bytes that the prepared weights take.
    pub(super) fn bytes(&self) -> usize {
        self.embeddings.bytes() + self.layers.iter().map(PreparedLayer::bytes).sum::<usize>()
    }
}

impl Tape {
    fn begin(&mut self, architecture: &Architecture, batch: &Batch, pass: Pass) {
        self.pass = Some(pass);
        self.embeddings.rows.take(architecture, batch);
        self.tokens.clone_from(&batch.offsets);
        self.first.clear();
        self.first.extend(0..=batch.len() as u32);
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.hidden.iter().map(Buffer::bytes).sum::<usize>()
            + self.layers.iter().map(LayerTape::bytes).sum::<usize>()
            + self.embeddings.bytes()
            + self.answer.bytes()
            + self.work.bytes()
    }
}

/// Where a layer's weights lie as products read them.
fn prepared<'a>(layers: &'a mut [PreparedLayer], layer: &Layer<'_>) -> &'a mut PreparedLayer {
    let last = layers.len() - 1;
    &mut layers[layer.of.form.parameters.min(last)]
}

/// A layer, and the pass that goes through it.
fn layer<'a>(
    declaration: &'a Declaration,
    compute: Compute,
    parameters: &'a Parameters,
    layer: usize,
    mode: Mode,
    tokens: &'a [u32],
    queries: &'a [u32],
) -> Layer<'a> {
    let (architecture, of) = (&declaration.architecture, &declaration.layers[layer]);
    Layer {
        parameters,
        of,
        compute,
        heads: architecture.num_attention_heads,
        width: architecture.hidden_size,
        eps: architecture.layer_norm_eps,
        tokens,
        queries,
        has_below: false,
        dropout: mode.layer(&of.form, layer),
    }
}

/// Where the rows that a layer is asked for start: the first of each sequence, or all of them.
fn asked<'a>(first: &'a [u32], tokens: &'a [u32], first_only: bool) -> &'a [u32] {
    if first_only { first } else { tokens }
}

/// Two different places of a list.
fn two(list: &mut [Buffer], first: usize, second: usize) -> (&mut Buffer, &mut Buffer) {
    let (low, high) = list.split_at_mut(first.max(second));
    if first < second { (&mut low[first], &mut high[0]) } else { (&mut high[0], &mut low[second]) }
}
