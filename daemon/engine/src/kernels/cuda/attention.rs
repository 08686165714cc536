//! Attention over packed sequences: no matrix of scores is ever in memory.

use super::stream::{Argument, launch};
use super::{Array, Mask, Pointer, Real, Stream, WARP};
use crate::kernels::{Dropout, Precision};
use hone_base::error::Result;

/// Warps of a block that takes a row a warp.
const ROW_WARPS: u32 = 8;

/// Columns of a head, at most.
pub const MOST_COLUMNS: usize = 64;

/// The kernels of one sort and size of head, and the form of their blocks.
#[derive(Clone, Copy, Debug)]
struct Kernels {
    forward: &'static str,
    backward_queries: &'static str,
    backward_tokens: &'static str,
    /// Rows of a block: queries, or keys.
    tile: u32,
    warps: u32,
}

impl Kernels {
    /// Those for heads of so many columns. On tensor cores for bfloat16, where columns and rows fill their tiles.
    fn of(precision: Precision, heads: usize, size: usize) -> Self {
        let plain = |forward, backward_queries, backward_tokens| Self {
            forward,
            backward_queries,
            backward_tokens,
            tile: 32,
            warps: 8,
        };
        let tensor = |forward, backward_queries, backward_tokens| Self {
            tile: 64,
            warps: 4,
            ..plain(forward, backward_queries, backward_tokens)
        };
        // Rows are read sixteen bytes at a time.
        let is_aligned = (heads * size).is_multiple_of(8);
        match (precision, size) {
            (Precision::Bf16, 32) if is_aligned => tensor(
                "tensor_attention_forward_32",
                "tensor_attention_backward_queries_32",
                "tensor_attention_backward_tokens_32",
            ),
            (Precision::Bf16, 64) if is_aligned => tensor(
                "tensor_attention_forward_64",
                "tensor_attention_backward_queries_64",
                "tensor_attention_backward_tokens_64",
            ),
            (_, ..=32) => {
                plain("attention_forward_32", "attention_backward_queries_32", "attention_backward_tokens_32")
            }
            _ => {
                plain("attention_forward_64", "attention_backward_queries_64", "attention_backward_tokens_64")
            }
        }
    }
}

/// What attends to what, on the device.
#[derive(Debug)]
pub struct Sequences {
    kernels: Kernels,
    heads: usize,
    size: usize,
    rows: usize,
    queries: Array<u32>,
    tokens: Array<u32>,
    probabilities: Array<u64>,
    /// Sequence and first row of each block.
    query_tiles: Array<[u32; 2]>,
    token_tiles: Array<[u32; 2]>,
}

impl Sequences {
    /// No sequences yet; heads have so many columns, [`MOST_COLUMNS`] at most.
    ///
    /// # Panics
    /// When they have more.
    pub fn new(stream: &Stream, heads: usize, size: usize) -> Self {
        assert!(size <= MOST_COLUMNS, "heads are too wide");
        Self {
            kernels: Kernels::of(stream.precision(), heads, size),
            heads,
            size,
            rows: 0,
            queries: Array::new(stream),
            tokens: Array::new(stream),
            probabilities: Array::new(stream),
            query_tiles: Array::new(stream),
            token_tiles: Array::new(stream),
        }
    }

    /// Of sequence `s`, queries are the rows `queries[s]..queries[s + 1]` and tokens `tokens[s]..tokens[s + 1]`.
    pub fn put(&mut self, queries: &[u32], tokens: &[u32]) -> Result<()> {
        self.rows = queries.last().map_or(0, |&end| end as usize);
        self.queries.put(queries)?;
        self.tokens.put(tokens)?;
        let mut next = 0;
        let mut probabilities = Vec::with_capacity(tokens.len());
        for pair in tokens.windows(2) {
            probabilities.push(next);
            next += self.heads as u64 * Dropout::of_head((pair[1] - pair[0]) as usize);
        }
        self.probabilities.put(&probabilities)?;
        self.query_tiles.put(&tiles(queries, self.kernels.tile))?;
        self.token_tiles.put(&tiles(tokens, self.kernels.tile))?;
        Ok(())
    }

    /// Queries of all sequences.
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// The blocks of all sequences, those of the longest first, so that the card ends with short ones.
fn tiles(offsets: &[u32], tile: u32) -> Vec<[u32; 2]> {
    let mut sequences: Vec<(u32, u32)> = offsets.windows(2).map(|pair| pair[1] - pair[0]).zip(0..).collect();
    sequences.sort_by_key(|(rows, _)| std::cmp::Reverse(*rows));
    let of =
        |(rows, sequence): (u32, u32)| (0..rows).step_by(tile as usize).map(move |first| [sequence, first]);
    sequences.into_iter().flat_map(of).collect()
}

/// Queries `[R, .]` and keys and values `[T, .]` of all heads.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Who attends to whom.
    pub sequences: &'a Sequences,
    /// Queries, and how far rows are from one another.
    pub q: (Pointer<'a, Real>, usize),
    /// Keys.
    pub k: Pointer<'a, Real>,
    /// Values.
    pub v: Pointer<'a, Real>,
    /// How far rows of keys, and those of values, are from one another.
    pub kv_stride: usize,
    /// Columns of all heads.
    pub width: usize,
    /// Of the probabilities.
    pub dropout: Option<Dropout>,
}

/// The same as kernels read it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Of<'a> {
    q: Pointer<'a, Real>,
    k: Pointer<'a, Real>,
    v: Pointer<'a, Real>,
    q_stride: u32,
    kv_stride: u32,
    queries: Pointer<'a, u32>,
    tokens: Pointer<'a, u32>,
    probabilities: Pointer<'a, u64>,
    size: u32,
    rows: u32,
    scale: f32,
    dropout: Mask,
}

impl Argument for Of<'_> {}

/// What the backward pass reads beside the inputs.
#[derive(Clone, Copy)]
#[repr(C)]
struct Backward<'a> {
    grad: Pointer<'a, Real>,
    stride: u32,
    logsums: Pointer<'a, f32>,
    along: Pointer<'a, f32>,
}

impl Argument for Backward<'_> {}

/// Where the gradients of queries, keys and values go; rows are as far from one another as those of the inputs.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<'a> {
    /// Of the queries.
    pub q: Pointer<'a, Real>,
    /// Of the keys.
    pub k: Pointer<'a, Real>,
    /// Of the values.
    pub v: Pointer<'a, Real>,
}

impl Attention<'_> {
    fn heads(&self) -> usize {
        self.sequences.heads
    }

    fn size(&self) -> usize {
        self.sequences.size
    }

    fn argument(&self) -> Of<'_> {
        let sequences = self.sequences;
        Of {
            q: self.q.0,
            k: self.k,
            v: self.v,
            q_stride: self.q.1 as u32,
            kv_stride: self.kv_stride as u32,
            queries: sequences.queries.start(),
            tokens: sequences.tokens.start(),
            probabilities: sequences.probabilities.start(),
            size: self.size() as u32,
            rows: sequences.rows as u32,
            scale: 1.0 / (self.size() as f32).sqrt(),
            dropout: self.dropout.into(),
        }
    }

    /// `out = dropout(softmax(q k^T / sqrt(size))) v`, `[R, H]`, and what the backward pass needs of the softmax.
    pub fn forward(&self, stream: &Stream, out: Pointer<'_, Real>, logsums: &mut Array<f32>) -> Result<()> {
        let logsums = logsums.reserve(self.heads() * self.sequences.rows)?;
        let kernels = self.sequences.kernels;
        let tiles = &self.sequences.query_tiles;
        launch!(
            stream,
            kernels.forward,
            [tiles.len(), self.heads()],
            kernels.warps * WARP,
            0,
            self.argument(),
            tiles.start(),
            out,
            self.width as u32,
            logsums,
        )
    }

    /// The gradients of queries, keys and values, for the result `out` and its gradient `grad`.
    pub fn backward(
        &self,
        stream: &Stream,
        [out, grad]: [Pointer<'_, Real>; 2],
        logsums: &Array<f32>,
        along: &mut Array<f32>,
        to: Gradients<'_>,
    ) -> Result<()> {
        let (rows, kernels) = (self.sequences.rows, self.sequences.kernels);
        let along = along.reserve(self.heads() * rows)?;
        launch!(
            stream,
            "attention_along",
            [rows.div_ceil(ROW_WARPS as usize), self.heads()],
            ROW_WARPS * WARP,
            0,
            out,
            grad,
            along,
            self.size() as u32,
            rows as u32,
            self.width as u32,
        )?;
        let from = Backward { grad, stride: self.width as u32, logsums: logsums.start(), along };
        let tiles = &self.sequences.query_tiles;
        launch!(
            stream,
            kernels.backward_queries,
            [tiles.len(), self.heads()],
            kernels.warps * WARP,
            0,
            self.argument(),
            from,
            tiles.start(),
            to.q,
            self.q.1 as u32,
        )?;
        let tiles = &self.sequences.token_tiles;
        launch!(
            stream,
            kernels.backward_tokens,
            [tiles.len(), self.heads()],
            kernels.warps * WARP,
            0,
            self.argument(),
            from,
            tiles.start(),
            to.k,
            to.v,
            self.kv_stride as u32,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::attention as host;
    use crate::kernels::cuda::emulation::{on_every_device, reals, round};
    use crate::kernels::testing::{assert_close, normal};
    use crate::kernels::{Compute, Isa};
    use hone_base::random::{Purpose, Stream as Random};

    fn offsets(lengths: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let ends = lengths.into_iter().scan(0, |end, length| {
            *end += length;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }

    /// Result and gradients by the CPU.
    fn by_the_cpu(attention: host::Attention<'_>, q: &[f32], kv: &[f32], grad: &[f32]) -> [Vec<f32>; 3] {
        let compute = Compute::new(Isa::PORTABLE, Precision::Fp32);
        let (mut out, mut grad_q, mut grad_kv) =
            (vec![f32::NAN; q.len()], vec![f32::NAN; q.len()], vec![f32::NAN; kv.len()]);
        attention.forward(compute, q, kv, &mut out);
        attention.backward(compute, q, kv, grad, &mut grad_q, &mut grad_kv);
        [out, grad_q, grad_kv]
    }

    fn check(tokens: &[u32], queries: &[u32], heads: usize, size: usize, dropout: Option<Dropout>) {
        let (width, rows) = (heads * size, queries[queries.len() - 1] as usize);
        let count = tokens[tokens.len() - 1] as usize;
        on_every_device(|stream, epsilon| {
            let [q, grad] = [1, 2].map(|seed| round(stream, normal(seed, rows * width)));
            let kv = round(stream, normal(3, count * 2 * width));
            let expected =
                by_the_cpu(host::Attention { queries, tokens, heads, width, dropout }, &q, &kv, &grad);
            let mut sequences = Sequences::new(stream, heads, size);
            sequences.put(queries, tokens)?;
            let [q, grad, kv] = [q, grad, kv].map(|values| reals(stream, &values));
            let attention = Attention {
                sequences: &sequences,
                q: (q.start(), width),
                k: kv.start(),
                v: kv.part(width, width),
                kv_stride: 2 * width,
                width,
                dropout,
            };
            let [out, grad_q] = [0, 1].map(|_| reals(stream, &vec![f32::NAN; rows * width]));
            let grad_kv = reals(stream, &vec![f32::NAN; count * 2 * width]);
            let mut logsums = Array::new(stream);
            attention.forward(stream, out.start(), &mut logsums)?;
            let to = Gradients { q: grad_q.start(), k: grad_kv.start(), v: grad_kv.part(width, width) };
            let given = [out.start(), grad.start()];
            attention.backward(stream, given, &logsums, &mut Array::new(stream), to)?;
            for (what, (found, expected)) in [out, grad_q, grad_kv].iter().zip(&expected).enumerate() {
                let name = format!("{:?}, {heads} x {size}, {what}", stream.precision());
                assert_close(&found.values(), expected, 1e-5_f64.max(2.0 * epsilon), &name);
            }
            Ok(())
        });
    }

    fn some_dropout() -> Option<Dropout> {
        Dropout::new(0.25, Random::new(5, Purpose::Dropout, 3, 1))
    }

    #[test]
    fn agrees_with_the_cpu_at_every_size_of_a_head() {
        let tokens = offsets([1, 7, 33, 70, 2, 64, 150]);
        for size in [8, 32, 48, 64] {
            check(&tokens, &tokens, 2, size, None);
            check(&tokens, &tokens, 2, size, some_dropout());
        }
    }

    #[test]
    fn agrees_with_the_cpu_where_only_first_tokens_ask() {
        for size in [32, 64] {
            check(&offsets([1, 7, 33, 70, 2, 150]), &offsets([1; 6]), 2, size, some_dropout());
        }
    }

    #[test]
    fn agrees_with_the_cpu_on_the_longest_sequence() {
        let tokens = offsets([512]);
        check(&tokens, &tokens, 1, 32, some_dropout());
    }

    #[test]
    fn agrees_with_the_cpu_on_a_thousand_short_sequences() {
        let tokens = offsets((0..1000).map(|sequence| 1 + sequence % 5));
        check(&tokens, &tokens, 1, 32, some_dropout());
    }
}
