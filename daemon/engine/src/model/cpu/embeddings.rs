//! Below the layers: the sum of the tables' rows, its layer norm and dropout, and in some families a projection.

use super::super::declaration::{self, Declaration, ParameterId};
use super::super::noise::{Mode, Site};
use super::super::parameters::Parameters;
use super::super::rows::Rows;
use super::gradients::Gradients;
use super::layer::{linear, norm};
use crate::kernels::embedding::{Groups, Lookup, Table, embed, to_bf16};
use crate::kernels::layer_norm::Normal;
use crate::kernels::linear::Prepared;
use crate::kernels::{Buffer, Compute, Packed, Precision};

/// The tables, and the projection's weight as products read it.
#[derive(Clone, Debug)]
pub(super) struct Embeddings {
    of: declaration::Embeddings,
    compute: Compute,
    /// Columns of the tables.
    width: usize,
    /// Columns of the result.
    hidden: usize,
    eps: f64,
    projection: Prepared,
    /// The table of the words in bfloat16, where a model answers at less than float32.
    words: Option<Vec<u16>>,
}

/// The memory of a pass.
#[derive(Debug, Default)]
pub(super) struct EmbeddingTape {
    pub(super) rows: Rows,
    groups: Groups,
    normal: Normal,
    /// The projection's input.
    narrow: Buffer,
    grad: Buffer,
}

impl Embeddings {
    pub(super) fn new(declaration: &Declaration, compute: Compute) -> Self {
        let architecture = &declaration.architecture;
        Self {
            of: declaration.embeddings,
            compute,
            width: architecture.embedding_size,
            hidden: architecture.hidden_size,
            eps: architecture.layer_norm_eps,
            projection: Prepared::default(),
            words: None,
        }
    }

    /// Prepares the projection's weight, on this thread alone, and at less than float32 the words. Returns what no pass reads
    /// from `parameters` then, beside weights of products.
    pub(super) fn prepare(&mut self, parameters: &Parameters) -> Option<ParameterId> {
        let is_rounded = self.compute.precision() != Precision::Fp32;
        self.words = is_rounded.then(|| to_bf16(parameters.of(self.of.tokens)));
        if let Some(projection) = self.of.projection {
            self.projection.forward_here(self.compute, linear(parameters, projection));
        }
        is_rounded.then_some(self.of.tokens)
    }

    /// The same on all threads, after it has moved.
    pub(super) fn prepare_again(&mut self, parameters: &Parameters) {
        if let Some(projection) = self.of.projection {
            self.projection.forward(self.compute, linear(parameters, projection));
        }
    }

    /// The first layer's input, `[T, H]`, of the tokens in `tape.rows`.
    pub(super) fn forward(
        &self,
        compute: Compute,
        parameters: &Parameters,
        mode: Mode,
        tape: &mut EmbeddingTape,
        out: &mut Buffer,
    ) {
        let tokens = tape.rows.words.len();
        let tables = tables(&self.of, &tape.rows);
        let lookups: Vec<Lookup<'_>> =
            tables.map(|(table, rows)| Lookup { table: self.table(parameters, table), rows }).collect();
        embed(compute, &lookups, self.width, tape.normal.reserve(tokens, self.width));
        let norm = norm(parameters, self.of.norm, self.eps);
        let Some(projection) = self.of.projection else {
            let out = out.reserve(tokens * self.width);
            norm.forward(compute, &mut tape.normal, None, None, out);
            drop_out(compute, mode, out);
            return;
        };
        let narrow = tape.narrow.reserve(tokens * self.width);
        norm.forward(compute, &mut tape.normal, None, None, narrow);
        drop_out(compute, mode, narrow);
        let projection = linear(parameters, projection);
        self.projection.apply(compute, narrow, projection.bias, out.reserve(tokens * self.hidden));
    }

    fn table<'a>(&'a self, parameters: &'a Parameters, table: ParameterId) -> Table<'a> {
        match &self.words {
            Some(words) if table == self.of.tokens => Table::Bf16(words),
            _ => Table::Fp32(parameters.of(table)),
        }
    }

    /// From the gradient of the first layer's input, `grad`, which is used up, to those of the parameters. `unused` is
    /// memory.
    pub(super) fn backward(
        &mut self,
        parameters: &Parameters,
        mode: Mode,
        grad: &mut Buffer,
        gradients: &mut Gradients,
        tape: &mut EmbeddingTape,
        (unused, factor): (&mut Buffer, &mut Packed),
    ) {
        let compute = self.compute;
        let grad = match self.of.projection {
            None => grad,
            Some(projection) => {
                if let Some(mut gradients) = gradients.linear(projection) {
                    gradients.push(compute, grad, &tape.narrow, factor);
                }
                self.projection.backward(compute, linear(parameters, projection));
                let narrow = tape.grad.reserve(tape.narrow.len());
                self.projection.pull(compute, grad, self.hidden, narrow);
                &mut tape.grad
            }
        };
        drop_out(compute, mode, grad);
        let norm = norm(parameters, self.of.norm, self.eps);
        let unused = unused.reserve(grad.len());
        norm.backward(compute, &tape.normal, None, grad, unused, gradients.norm(self.of.norm));
        for (table, rows) in tables(&self.of, &tape.rows) {
            tape.groups.group(rows);
            if table == self.of.tokens {
                gradients.tokens_mut().add(compute, &tape.groups, grad);
            } else {
                tape.groups.add_to_table(compute, grad, self.width, gradients.of_mut(table));
            }
        }
    }

    /// Bytes of what was prepared.
    pub(super) fn bytes(&self) -> usize {
        self.projection.bytes() + self.words.as_ref().map_or(0, |words| size_of_val(words.as_slice()))
    }
}

impl EmbeddingTape {
    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.normal.bytes() + self.narrow.bytes() + self.grad.bytes()
    }
}

/// Each table, and the rows that the tokens of a batch take in it.
fn tables<'a>(
    of: &declaration::Embeddings,
    rows: &'a Rows,
) -> impl Iterator<Item = (ParameterId, &'a [u32])> {
    let tables =
        [(Some(of.tokens), &rows.words), (of.positions, &rows.positions), (of.token_types, &rows.types)];
    tables.into_iter().filter_map(|(table, rows)| Some((table?, rows.as_slice())))
}

/// The dropout behind the embeddings, or its backward pass, which is the same.
fn drop_out(compute: Compute, mode: Mode, x: &mut [f32]) {
    if let Some(dropout) = mode.dropout(Site::Embeddings) {
        dropout.apply(compute, x);
    }
}
