//! The encoder over packed sequences on a GPU: forward, and backward.

use super::super::config::Architecture;
use super::super::declaration::{layer_at, norm_at};
use super::super::keep::Keep;
use super::super::noise::{Mode, Site};
use super::super::rows::Rows;
use super::layer::{Layer, LayerTape, Work};
use super::weights::Weights;
use crate::batch::Batch;
use crate::kernels::cuda::attention::Sequences;
use crate::kernels::cuda::embedding::{Lookups, Scatter};
use crate::kernels::cuda::layer_norm::Normal;
use crate::kernels::cuda::linear::drop_out;
use crate::kernels::cuda::{Array, Pointer, Real, Stream};
use hone_base::error::Result;

/// The memory of the encoder's passes.
#[derive(Debug)]
pub(super) struct Encoder {
    architecture: Architecture,
    rows: Rows,
    word_ids: Array<u32>,
    position_ids: Array<u32>,
    type_ids: Array<u32>,
    /// Every token asks.
    all: Sequences,
    /// The first token of each sequence asks.
    first: Sequences,
    first_tokens: Array<u32>,
    scatter: Scatter,
    embeddings: Normal,
    /// The input of each layer, and the last one's result.
    hidden: Vec<Array<Real>>,
    layers: Vec<LayerTape>,
    work: Work,
    grad: Array<Real>,
    pass: Option<(Mode, Keep)>,
}

impl Encoder {
    pub(super) fn new(architecture: &Architecture, stream: &Stream) -> Self {
        let (heads, size) = (architecture.num_attention_heads, architecture.head_size());
        Self {
            architecture: architecture.clone(),
            rows: Rows::default(),
            word_ids: Array::new(stream),
            position_ids: Array::new(stream),
            type_ids: Array::new(stream),
            all: Sequences::new(stream, heads, size),
            first: Sequences::new(stream, heads, size),
            first_tokens: Array::new(stream),
            scatter: Scatter::new(stream),
            embeddings: Normal::new(stream),
            hidden: Vec::new(),
            layers: Vec::new(),
            work: Work::new(stream),
            grad: Array::new(stream),
            pass: None,
        }
    }

    pub(super) fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// The gradient of the last pass's result; used up by the way back.
    pub(super) fn grad(&mut self) -> &mut Array<Real> {
        &mut self.grad
    }

    fn begin(&mut self, batch: &Batch) -> Result<()> {
        self.rows.take(&self.architecture, batch);
        self.word_ids.put(&self.rows.words)?;
        self.position_ids.put(&self.rows.positions)?;
        self.type_ids.put(&self.rows.types)?;
        self.all.put(&batch.offsets, &batch.offsets)?;
        let first: Vec<u32> = (0..=batch.len() as u32).collect();
        self.first.put(&first, &batch.offsets)?;
        self.first_tokens.put(batch.offsets.get(..batch.len()).unwrap_or_default())?;
        Ok(())
    }

    /// The last hidden state of the first token of each sequence, `[B, H]`.
    pub(super) fn forward(
        &mut self,
        stream: &Stream,
        weights: &Weights,
        batch: &Batch,
        mode: Mode,
        keep: Keep,
    ) -> Result<Pointer<Real>> {
        let count = self.architecture.num_hidden_layers;
        self.pass = Some((mode, keep));
        self.begin(batch)?;
        self.hidden.resize_with(self.hidden.len().max(keep.hidden(count)), || Array::new(stream));
        self.layers.resize_with(self.layers.len().max(keep.tapes(count)), || LayerTape::new(stream));
        self.embed(stream, weights, mode)?;
        for index in 0..count {
            self.layer_forward(stream, weights, index)?;
        }
        Ok(self.hidden[keep.slot(count)].start())
    }

    fn embed(&mut self, stream: &Stream, weights: &Weights, mode: Mode) -> Result<()> {
        let (tokens, width) = (self.rows.words.len(), self.architecture.hidden_size);
        let at = norm_at(&self.architecture);
        let lookups = Lookups {
            word_table: weights.table(0),
            position_table: weights.table(1),
            type_table: (at > 2).then(|| weights.table(2)),
            words: self.word_ids.start(),
            positions: self.position_ids.start(),
            types: self.type_ids.start(),
        };
        let (norm, _) = weights.norm(at, self.architecture.layer_norm_eps, width);
        self.embeddings.reserve(tokens, width)?;
        let out = self.hidden[0].reserve(tokens * width)?;
        lookups.forward(stream, &norm, mode.dropout(Site::Embeddings), &mut self.embeddings, out)
    }

    /// What the last pass was asked for.
    fn last(&self) -> (Mode, Keep) {
        self.pass.unwrap_or((Mode::Evaluate, Keep::Nothing))
    }

    fn layer_forward(&mut self, stream: &Stream, weights: &Weights, index: usize) -> Result<()> {
        let (mode, keep) = self.last();
        let (x, out) = (keep.slot(index), keep.slot(index + 1));
        let x = self.hidden[x].start();
        let mut result = std::mem::replace(&mut self.hidden[out], Array::new(stream));
        let state = keep.tape(index);
        let mut tape = std::mem::replace(&mut self.layers[state], LayerTape::new(stream));
        let done = self.layer(stream, weights, index, mode, false).forward(x, &mut tape, &mut result);
        self.layers[state] = tape;
        self.hidden[out] = result;
        done
    }

    /// A layer, and the pass that goes through it.
    fn layer<'a>(
        &'a self,
        stream: &'a Stream,
        weights: &'a Weights,
        layer: usize,
        mode: Mode,
        has_below: bool,
    ) -> Layer<'a> {
        let architecture = &self.architecture;
        let is_last = layer + 1 == architecture.num_hidden_layers;
        Layer {
            stream,
            weights,
            first: layer_at(architecture, layer),
            width: architecture.hidden_size,
            eps: architecture.layer_norm_eps,
            tokens: self.rows.words.len(),
            sequences: if is_last { &self.first } else { &self.all },
            asked: is_last.then_some(&self.first_tokens),
            has_below,
            dropout: mode.layer(architecture, layer),
        }
    }

    /// From the gradient of the last pass's result to those of all trainable parameters.
    pub(super) fn backward(&mut self, stream: &Stream, weights: &Weights) -> Result<()> {
        let (mode, keep) = self.last();
        assert!(keep != Keep::Nothing, "the pass before had no way back");
        let count = self.architecture.num_hidden_layers;
        for index in (0..count).rev() {
            // Nothing below learns: the way back ends here.
            let first = layer_at(&self.architecture, index);
            let has_below = weights.any_before(first);
            if !has_below && weights.gradient(first).is_none() {
                break;
            }
            if keep == Keep::Inputs && index + 1 < count {
                self.layer_forward(stream, weights, index)?;
            }
            let state = keep.tape(index);
            let mut grad = std::mem::replace(&mut self.grad, Array::new(stream));
            let mut work = std::mem::replace(&mut self.work, Work::new(stream));
            let layer = self.layer(stream, weights, index, mode, has_below);
            let done = layer.backward(self.hidden[index].start(), &self.layers[state], &mut grad, &mut work);
            (self.grad, self.work) = (grad, work);
            done?;
        }
        if weights.gradient(0).is_some() { self.embed_backward(stream, weights, mode) } else { Ok(()) }
    }

    fn embed_backward(&mut self, stream: &Stream, weights: &Weights, mode: Mode) -> Result<()> {
        let width = self.architecture.hidden_size;
        let (grad, at) = (self.grad.start(), norm_at(&self.architecture));
        drop_out(stream, grad, mode.dropout(Site::Embeddings), self.rows.words.len() * width)?;
        let (norm, to) = weights.norm(at, self.architecture.layer_norm_eps, width);
        norm.backward(stream, &self.embeddings, None, grad, None, to, &mut self.work.parts)?;
        for (table, rows) in
            [&self.rows.words, &self.rows.positions, &self.rows.types].into_iter().enumerate().take(at)
        {
            let Some(table) = weights.gradient(table) else { continue };
            self.scatter.group(rows)?;
            self.scatter.add(stream, grad, table, width, &mut self.work.parts)?;
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> usize {
        self.hidden.iter().map(Array::bytes).sum::<usize>()
            + self.layers.iter().map(LayerTape::bytes).sum::<usize>()
            + self.embeddings.values.bytes()
            + self.embeddings.inverse.bytes()
            + self.work.bytes()
            + self.grad.bytes()
    }
}
