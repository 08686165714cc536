//! The encoder over packed sequences on a GPU: forward, and backward.

use std::sync::Arc;

use super::super::architecture::Architecture;
use super::super::declaration::{Declaration, ParameterId};
use super::super::keep::Keep;
use super::super::noise::{Mode, Site};
use super::super::rows::Rows;
use super::layer::{Layer, LayerTape, Work};
use super::weights::Weights;
use crate::batch::Batch;
use crate::kernels::cuda::attention::Sequences;
use crate::kernels::cuda::embedding::{Lookups, Scatter};
use crate::kernels::cuda::layer_norm::Normal;
use crate::kernels::cuda::linear::{add_bias, drop_out};
use crate::kernels::cuda::{Array, Pointer, Real, Stream};
use hone_base::error::Result;

/// The memory of the encoder's passes.
#[derive(Debug)]
pub(super) struct Encoder {
    declaration: Arc<Declaration>,
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
    /// The projection's input.
    narrow: Array<Real>,
    grad_narrow: Array<Real>,
    /// The input of each layer, and the last one's result.
    hidden: Vec<Array<Real>>,
    layers: Vec<LayerTape>,
    work: Work,
    grad: Array<Real>,
    pass: Option<(Mode, Keep)>,
}

impl Encoder {
    pub(super) fn new(declaration: &Arc<Declaration>, stream: &Stream) -> Self {
        let architecture = &declaration.architecture;
        let (heads, size) = (architecture.num_attention_heads, architecture.head_size());
        Self {
            declaration: declaration.clone(),
            rows: Rows::default(),
            word_ids: Array::new(stream),
            position_ids: Array::new(stream),
            type_ids: Array::new(stream),
            all: Sequences::new(stream, heads, size),
            first: Sequences::new(stream, heads, size),
            first_tokens: Array::new(stream),
            scatter: Scatter::new(stream),
            embeddings: Normal::new(stream),
            narrow: Array::new(stream),
            grad_narrow: Array::new(stream),
            hidden: Vec::new(),
            layers: Vec::new(),
            work: Work::new(stream),
            grad: Array::new(stream),
            pass: None,
        }
    }

    pub(super) fn architecture(&self) -> &Architecture {
        &self.declaration.architecture
    }

    /// Tokens of the last pass.
    pub(super) fn tokens(&self) -> usize {
        self.rows.words.len()
    }

    /// The last pass's result, where there was a pass, and the place of its gradient, which the backward pass uses up.
    pub(super) fn result_and_grad(&mut self) -> (Option<Pointer<'_, Real>>, &mut Array<Real>) {
        let (_, keep) = self.last();
        let result = self.hidden.get(keep.slot(self.declaration.layers.len()));
        (result.map(Array::start), &mut self.grad)
    }

    fn begin(&mut self, batch: &Batch) -> Result<()> {
        self.rows.take(&self.declaration.architecture, batch);
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
    ) -> Result<Pointer<'_, Real>> {
        let count = self.declaration.layers.len();
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
        let (tokens, of) = (self.rows.words.len(), self.declaration.embeddings);
        let width = self.architecture().embedding_size;
        let lookups = Lookups {
            word_table: weights.table(of.tokens),
            position_table: weights.table(of.positions.unwrap_or(of.tokens)),
            type_table: of.token_types.map(|table| weights.table(table)),
            words: self.word_ids.start(),
            positions: self.position_ids.start(),
            types: self.type_ids.start(),
        };
        let (norm, _) = weights.norm(of.norm, self.architecture().layer_norm_eps, width);
        self.embeddings.reserve(tokens, width)?;
        let dropout = mode.dropout(Site::Embeddings);
        let Some(projection) = of.projection else {
            let out = self.hidden[0].reserve(tokens * width)?;
            return lookups.forward(stream, &norm, dropout, &mut self.embeddings, out);
        };
        let narrow = self.narrow.reserve(tokens * width)?;
        lookups.forward(stream, &norm, dropout, &mut self.embeddings, narrow)?;
        let projection = weights.linear(projection);
        let out = self.hidden[0].reserve(tokens * projection.outputs)?;
        projection.apply(stream, narrow, out, tokens)?;
        add_bias(stream, out, projection.bias, tokens, projection.outputs)
    }

    /// What the last pass was asked for.
    fn last(&self) -> (Mode, Keep) {
        self.pass.unwrap_or((Mode::Evaluate, Keep::Nothing))
    }

    fn layer_forward(&mut self, stream: &Stream, weights: &Weights, index: usize) -> Result<()> {
        let (mode, keep) = self.last();
        let (x, out) = (keep.slot(index), keep.slot(index + 1));
        let mut result = std::mem::replace(&mut self.hidden[out], Array::new(stream));
        let state = keep.tape(index);
        let mut tape = std::mem::replace(&mut self.layers[state], LayerTape::new(stream));
        let layer = self.layer(stream, weights, index, mode, false);
        let done = layer.forward(self.hidden[x].start(), &mut tape, &mut result);
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
        let (architecture, of) = (self.architecture(), &self.declaration.layers[layer]);
        let is_last = layer + 1 == self.declaration.layers.len();
        Layer {
            stream,
            weights,
            of,
            width: architecture.hidden_size,
            eps: architecture.layer_norm_eps,
            tokens: self.rows.words.len(),
            sequences: if is_last { &self.first } else { &self.all },
            asked: is_last.then_some(&self.first_tokens),
            has_below,
            dropout: mode.layer(&of.form, layer),
        }
    }

    /// From the gradient of the last pass's result to those of all trainable parameters.
    pub(super) fn backward(&mut self, stream: &Stream, weights: &Weights) -> Result<()> {
        let (mode, keep) = self.last();
        assert!(keep != Keep::Nothing, "the pass before had no backward pass");
        let count = self.declaration.layers.len();
        for index in (0..count).rev() {
            let (learns, has_below) = self.declaration.learns(index, |id| weights.is_trainable(id));
            // Nothing below learns: the backward pass ends here.
            if !has_below && !learns {
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
        match weights.is_trainable(self.declaration.embeddings.tokens) {
            true => self.embed_backward(stream, weights, mode),
            false => Ok(()),
        }
    }

    fn embed_backward(&mut self, stream: &Stream, weights: &Weights, mode: Mode) -> Result<()> {
        let (tokens, of) = (self.rows.words.len(), self.declaration.embeddings);
        let width = self.architecture().embedding_size;
        let eps = self.architecture().layer_norm_eps;
        let mut grad = self.grad.start();
        if let Some(projection) = of.projection {
            let projection = weights.linear(projection);
            projection.push(stream, grad, self.narrow.start(), tokens, &mut self.work.parts)?;
            let narrow = self.grad_narrow.reserve(tokens * width)?;
            projection.pull(stream, grad, narrow, tokens, false)?;
            grad = narrow;
        }
        drop_out(stream, grad, mode.dropout(Site::Embeddings), tokens * width)?;
        let (norm, to) = weights.norm(of.norm, eps, width);
        norm.backward(stream, &self.embeddings, None, grad, None, to, &mut self.work.parts)?;
        let tables: [(Option<ParameterId>, &Vec<u32>); 3] = [
            (Some(of.tokens), &self.rows.words),
            (of.positions, &self.rows.positions),
            (of.token_types, &self.rows.types),
        ];
        for (table, rows) in tables {
            let Some(table) = table.and_then(|table| weights.gradient(table)) else { continue };
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
            + self.narrow.bytes()
            + self.grad_narrow.bytes()
            + self.work.bytes()
            + self.grad.bytes()
    }
}
