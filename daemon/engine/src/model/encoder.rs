//! The encoder of the BERT family over packed sequences: forward, and backward, on the CPU.

use super::config::Architecture;
use super::declaration::{head_at, layer_at, norm_at};
use super::gradients::Gradients;
use super::keep::Keep;
use super::layer::{Layer, LayerTape, PreparedLayer, Work, norm};
use super::noise::{Mode, Site};
use super::parameters::Parameters;
use super::rows::Rows;
use crate::batch::Batch;
use crate::kernels::embedding::{Groups, Lookup, embed};
use crate::kernels::layer_norm::Normal;
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
    architecture: Architecture,
    compute: Compute,
    /// One for each layer, kept while the weights stay as they are; or one for all of them in turn.
    layers: Vec<PreparedLayer>,
    /// Whether the kept ones are those of the present weights.
    is_current: bool,
}

/// The memory of passes, used again from one to the next.
#[derive(Debug, Default)]
pub(super) struct Tape {
    rows: Rows,
    /// Where each sequence starts, and the end of the last.
    tokens: Vec<u32>,
    /// The same, were each sequence its first token alone.
    first: Vec<u32>,
    groups: Groups,
    embeddings: Normal,
    /// The input of each layer, and the last one's result.
    hidden: Vec<Buffer>,
    layers: Vec<LayerTape>,
    work: Work,
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
    /// With `keep`, weights are prepared once and not again before they move: for answering.
    pub(super) fn new(architecture: &Architecture, compute: Compute, keep: bool) -> Self {
        let count = if keep { architecture.num_hidden_layers } else { 1 };
        Self {
            architecture: architecture.clone(),
            compute,
            layers: vec![PreparedLayer::new(keep); count],
            is_current: false,
        }
    }

    fn count(&self) -> usize {
        self.architecture.num_hidden_layers
    }

    pub(super) fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    pub(super) fn compute(&self) -> Compute {
        self.compute
    }

    fn norm_at(&self) -> usize {
        norm_at(&self.architecture)
    }

    /// The place of the first parameter behind the encoder's.
    pub(super) fn end(&self) -> usize {
        head_at(&self.architecture)
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
        tape.begin(&self.architecture, batch, Pass { mode, reach, keep });
        tape.hidden.resize_with(tape.hidden.len().max(keep.hidden(count)), Buffer::default);
        tape.layers.resize_with(tape.layers.len().max(keep.tapes(count)), LayerTape::default);
        self.embed(parameters, mode, tape);
        let last = self.layers.len() - 1;
        for index in 0..count {
            let queries = asked(&tape.first, &tape.tokens, index + 1 == count && reach == Reach::First);
            let layer =
                layer(&self.architecture, self.compute, parameters, index, mode, &tape.tokens, queries);
            let prepared = &mut self.layers[index.min(last)];
            if !self.is_current {
                prepared.keep(&layer);
            }
            let (input, output) = two(&mut tape.hidden, keep.slot(index), keep.slot(index + 1));
            layer.forward(prepared, input, &mut tape.layers[keep.tape(index)], keep != Keep::Nothing, output);
        }
        self.is_current = true;
        &tape.hidden[keep.slot(count)]
    }

    fn embed(&self, parameters: &Parameters, mode: Mode, tape: &mut Tape) {
        let width = self.architecture.hidden_size;
        let mut lookups = vec![
            Lookup { table: parameters.of(0), rows: &tape.rows.words },
            Lookup { table: parameters.of(1), rows: &tape.rows.positions },
        ];
        if self.norm_at() > 2 {
            lookups.push(Lookup { table: parameters.of(2), rows: &tape.rows.types });
        }
        let sum = tape.embeddings.reserve(tape.rows.words.len(), width);
        embed(self.compute, &lookups, width, sum);
        let norm = norm(parameters, self.norm_at(), self.architecture.layer_norm_eps);
        let out = tape.hidden[0].reserve(tape.rows.words.len() * width);
        norm.forward(self.compute, &mut tape.embeddings, None, None, out);
        drop_out(self.compute, mode, out);
    }

    /// From the gradient of the last pass's result to those of all trainable parameters. `grad` is used up.
    pub(super) fn backward(
        &mut self,
        parameters: &Parameters,
        grad: &mut Buffer,
        gradients: &mut Gradients,
        tape: &mut Tape,
    ) {
        let Some(Pass { mode, reach, keep }) = tape.pass else { return };
        assert!(keep != Keep::Nothing, "the pass before had no way back");
        let count = self.count();
        let last = self.layers.len() - 1;
        for index in (0..count).rev() {
            // Nothing below learns: the way back ends here.
            let has_below =
                (0..layer_at(&self.architecture, index)).any(|place| gradients.is_trainable(place));
            if !has_below && !gradients.is_trainable(layer_at(&self.architecture, index)) {
                break;
            }
            let queries = asked(&tape.first, &tape.tokens, index + 1 == count && reach == Reach::First);
            let layer =
                layer(&self.architecture, self.compute, parameters, index, mode, &tape.tokens, queries);
            let layer = Layer { has_below, ..layer };
            let prepared = &mut self.layers[index.min(last)];
            let state = &mut tape.layers[keep.tape(index)];
            if keep == Keep::Inputs && index + 1 < count {
                let (input, output) = two(&mut tape.hidden, index, index + 1);
                layer.forward(prepared, input, state, true, output);
            }
            layer.backward(prepared, &tape.hidden[index], state, grad, gradients, &mut tape.work);
        }
        if gradients.is_trainable(0) {
            self.embed_backward(parameters, mode, grad, gradients, tape);
        }
    }

    fn embed_backward(
        &self,
        parameters: &Parameters,
        mode: Mode,
        grad: &mut Buffer,
        gradients: &mut Gradients,
        tape: &mut Tape,
    ) {
        let (compute, width) = (self.compute, self.architecture.hidden_size);
        drop_out(compute, mode, grad);
        let norm = norm(parameters, self.norm_at(), self.architecture.layer_norm_eps);
        let unused = tape.hidden[0].reserve(grad.len());
        norm.backward(compute, &tape.embeddings, None, grad, unused, gradients.norm(self.norm_at()));
        tape.groups.group(&tape.rows.words);
        gradients.words_mut().add(compute, &tape.groups, grad);
        tape.groups.group(&tape.rows.positions);
        tape.groups.add_to_table(compute, grad, width, gradients.of_mut(1));
        if self.norm_at() > 2 {
            tape.groups.group(&tape.rows.types);
            tape.groups.add_to_table(compute, grad, width, gradients.of_mut(2));
        }
    }

    /// Bytes that the prepared weights take.
    pub(super) fn bytes(&self) -> usize {
        self.layers.iter().map(PreparedLayer::bytes).sum()
    }
}

impl Tape {
    fn begin(&mut self, architecture: &Architecture, batch: &Batch, pass: Pass) {
        self.pass = Some(pass);
        self.rows.take(architecture, batch);
        self.tokens.clone_from(&batch.offsets);
        self.first.clear();
        self.first.extend(0..=batch.len() as u32);
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.hidden.iter().map(Buffer::bytes).sum::<usize>()
            + self.layers.iter().map(LayerTape::bytes).sum::<usize>()
            + self.embeddings.bytes()
            + self.work.bytes()
    }
}

/// A layer, and the pass that goes through it.
fn layer<'a>(
    architecture: &Architecture,
    compute: Compute,
    parameters: &'a Parameters,
    layer: usize,
    mode: Mode,
    tokens: &'a [u32],
    queries: &'a [u32],
) -> Layer<'a> {
    Layer {
        parameters,
        first: layer_at(architecture, layer),
        compute,
        heads: architecture.num_attention_heads,
        width: architecture.hidden_size,
        eps: architecture.layer_norm_eps,
        tokens,
        queries,
        has_below: false,
        dropout: mode.layer(architecture, layer),
    }
}

/// The dropout behind the embeddings, or its backward pass, which is the same.
fn drop_out(compute: Compute, mode: Mode, x: &mut [f32]) {
    if let Some(dropout) = mode.dropout(Site::Embeddings) {
        dropout.apply(compute, x);
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
