//! The sum of embeddings, its backward pass, and rows of a matrix.

use super::layer_norm::{LayerNorm, Normal};
use super::stream::launch;
use super::{Array, Mask, Pointer, Real, Stream, WARP};
use crate::kernels::Dropout;
use hone_base::error::Result;

/// Rows that a block of the forward pass takes, each by a warp.
const ROWS: usize = 4;

/// Threads that share a row, where a block takes one.
const THREADS: u32 = 128;

/// Tokens that one block sums, at most.
const SLICE: usize = 64;

/// The tables, and which of their rows the tokens take, `[T]` each.
#[derive(Clone, Copy, Debug)]
pub struct Lookups<'a> {
    /// `[words, H]`
    pub word_table: Pointer<'a, f32>,
    /// `[positions, H]`
    pub position_table: Pointer<'a, f32>,
    /// `[types, H]`, where there are types.
    pub type_table: Option<Pointer<'a, f32>>,
    /// Every row must be in its table.
    pub words: Pointer<'a, u32>,
    /// Likewise.
    pub positions: Pointer<'a, u32>,
    /// Likewise.
    pub types: Pointer<'a, u32>,
}

impl Lookups<'_> {
    /// `out = dropout(norm(sum of the tables' rows))`, `[T, H]`, for the tokens that `normal` has room for.
    pub fn forward(
        &self,
        stream: &Stream,
        norm: &LayerNorm<'_>,
        dropout: Option<Dropout>,
        normal: &mut Normal,
        out: Pointer<'_, Real>,
    ) -> Result<()> {
        let rows = normal.inverse.len();
        launch!(
            stream,
            "embed_forward",
            [rows.div_ceil(ROWS), 1],
            ROWS as u32 * WARP,
            ROWS * norm.width * size_of::<f32>(),
            self.word_table,
            self.position_table,
            Pointer::from(self.type_table),
            self.words,
            self.positions,
            self.types,
            norm.argument(),
            Mask::from(dropout),
            normal.values.start(),
            normal.inverse.start(),
            out,
            rows as u32,
        )
    }
}

/// Tokens in groups that share a row of a table, cut into slices.
#[derive(Debug, Default)]
struct Slices {
    tokens: Vec<u32>,
    /// Where each slice starts among the tokens, and the end of the last.
    starts: Vec<u32>,
    rows: Vec<u32>,
    /// Where each row's slices start, and the end of the last.
    slices: Vec<u32>,
}

impl Slices {
    fn cut(&mut self, rows: &[u32]) {
        for list in [&mut self.tokens, &mut self.starts, &mut self.rows, &mut self.slices] {
            list.clear();
        }
        let mut pairs: Vec<(u32, u32)> = rows.iter().copied().zip(0..).collect();
        pairs.sort_unstable();
        for group in pairs.chunk_by(|a, b| a.0 == b.0) {
            self.rows.extend(group.first().map(|(row, _)| *row));
            self.slices.push(self.starts.len() as u32);
            for slice in group.chunks(SLICE) {
                self.starts.push(self.tokens.len() as u32);
                self.tokens.extend(slice.iter().map(|(_, token)| *token));
            }
        }
        self.slices.push(self.starts.len() as u32);
        self.starts.push(self.tokens.len() as u32);
    }
}

/// The backward pass of a lookup: which tokens share a row, on the device.
#[derive(Debug)]
pub struct Scatter {
    slices: Slices,
    tokens: Array<u32>,
    starts: Array<u32>,
    rows: Array<u32>,
    row_slices: Array<u32>,
}

impl Scatter {
    /// For no tokens yet.
    pub fn new(stream: &Stream) -> Self {
        Self {
            slices: Slices::default(),
            tokens: Array::new(stream),
            starts: Array::new(stream),
            rows: Array::new(stream),
            row_slices: Array::new(stream),
        }
    }

    /// Takes the row of each token, `[T]`.
    pub fn group(&mut self, rows: &[u32]) -> Result<()> {
        self.slices.cut(rows);
        self.tokens.put(&self.slices.tokens)?;
        self.starts.put(&self.slices.starts)?;
        self.rows.put(&self.slices.rows)?;
        self.row_slices.put(&self.slices.slices)?;
        Ok(())
    }

    /// Adds the gradient `grad`, `[T, H]`, of the tokens to that of their rows of a table.
    pub fn add(
        &self,
        stream: &Stream,
        grad: Pointer<'_, Real>,
        table: Pointer<'_, f32>,
        width: usize,
        parts: &mut Array<f32>,
    ) -> Result<()> {
        let slices = self.starts.len().saturating_sub(1);
        let parts = parts.reserve(slices * width)?;
        launch!(
            stream,
            "sum_slices",
            [slices, 1],
            THREADS,
            0,
            grad,
            self.tokens.start(),
            self.starts.start(),
            parts,
            width as u32,
        )?;
        launch!(
            stream,
            "add_slices",
            [self.rows.len(), 1],
            THREADS,
            0,
            parts,
            self.rows.start(),
            self.row_slices.start(),
            table,
            width as u32,
        )
    }
}

/// `out[i] = x[rows[i]]`, rows of H values.
pub fn gather_rows(
    stream: &Stream,
    x: Pointer<'_, Real>,
    rows: &Array<u32>,
    out: Pointer<'_, Real>,
    width: usize,
) -> Result<()> {
    launch!(stream, "gather_rows", [rows.len(), 1], THREADS, 0, x, rows.start(), out, width as u32)
}

/// `x[rows[i]] += add[i]`; no row may stand there twice.
pub fn add_to_rows(
    stream: &Stream,
    x: Pointer<'_, Real>,
    rows: &Array<u32>,
    add: Pointer<'_, Real>,
    width: usize,
) -> Result<()> {
    launch!(stream, "add_to_rows", [rows.len(), 1], THREADS, 0, x, rows.start(), add, width as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::emulation::{on_every_device, reals, round, upload, upload_words};
    use crate::kernels::testing::{assert_close, normal};
    use hone_base::random::{Purpose, Stream as Random};

    const WIDTH: usize = 70;

    /// Rows of a table of nine, the first of them far more often than the others.
    fn some_rows(count: u64) -> Vec<u32> {
        let random = Random::new(7, Purpose::Split, count, 0);
        (0..count).map(|token| (random.word(token) % 20).saturating_sub(11)).collect()
    }

    #[test]
    fn a_table_s_gradient_is_the_sum_over_the_tokens_of_each_row() {
        on_every_device(|stream, _| {
            let mut scatter = Scatter::new(stream);
            for count in [1, 2, 65, 1000, 3] {
                let rows = some_rows(count);
                let grad = round(stream, normal(count, rows.len() * WIDTH));
                let mut expected = vec![1.0f64; 9 * WIDTH];
                for (&row, grad) in rows.iter().zip(grad.chunks(WIDTH)) {
                    let sums = expected[row as usize * WIDTH..][..WIDTH].iter_mut();
                    sums.zip(grad).for_each(|(sum, x)| *sum += f64::from(*x));
                }
                let expected: Vec<f32> = expected.iter().map(|x| *x as f32).collect();
                let table = upload(stream, &[1.0; 9 * WIDTH]);
                scatter.group(&rows)?;
                let grad = reals(stream, &grad);
                scatter.add(stream, grad.start(), table.start(), WIDTH, &mut Array::new(stream))?;
                let mut found = vec![0.0; expected.len()];
                table.read(&mut found)?;
                assert_close(&found, &expected, 1e-6, &format!("{count} tokens"));
            }
            Ok(())
        });
    }

    #[test]
    fn no_slice_is_long_and_every_token_stands_in_one() {
        let mut slices = Slices::default();
        slices.cut(&some_rows(1000));
        assert!(slices.starts.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= SLICE as u32));
        let mut tokens = slices.tokens.clone();
        tokens.sort_unstable();
        assert_eq!(tokens, (0..1000).collect::<Vec<_>>());
        assert_eq!(slices.rows, (0..9).collect::<Vec<_>>());
    }

    #[test]
    fn embeddings_are_the_norm_of_the_sum_of_rows() {
        use crate::kernels::embedding::{Lookup, Table, embed};
        use crate::kernels::layer_norm as host;
        use crate::kernels::{Compute, Dropout, Isa, Precision};

        let compute = Compute::new(Isa::PORTABLE, Precision::Fp32);
        let dropout = Dropout::new(0.2, Random::new(5, Purpose::Dropout, 3, 1));
        on_every_device(|stream, epsilon| {
            for (rows, has_types) in [(1, true), (33, false), (50, true)] {
                let [words, positions, types] = [rows, rows + 100, rows + 200].map(some_rows);
                let [words, positions, types] =
                    [words, positions, types].map(|list| list[..rows as usize].to_vec());
                let tables = [1, 2, 3].map(|seed| normal(seed, 9 * WIDTH));
                let [weight, bias] = [4, 5].map(|seed| normal(seed, WIDTH));
                let mut lookups: Vec<Lookup<'_>> = [&words, &positions, &types]
                    .into_iter()
                    .zip(&tables)
                    .map(|(rows, table)| Lookup { table: Table::Fp32(table), rows })
                    .collect();
                lookups.truncate(if has_types { 3 } else { 2 });
                let (mut state, mut expected) = (host::Normal::default(), vec![0.0; words.len() * WIDTH]);
                embed(compute, &lookups, WIDTH, state.reserve(words.len(), WIDTH));
                let norm = host::LayerNorm { weight: &weight, bias: &bias, eps: 1e-12 };
                norm.forward(compute, &mut state, None, None, &mut expected);
                dropout.expect("a dropout").apply(compute, &mut expected);

                let [word_table, position_table, type_table] = tables.map(|table| upload(stream, &table));
                let [words, positions, types] =
                    [words, positions, types].map(|list| upload_words(stream, &list));
                let [weight, bias] = [weight, bias].map(|values| upload(stream, &values));
                let lookups = Lookups {
                    word_table: word_table.start(),
                    position_table: position_table.start(),
                    type_table: has_types.then(|| type_table.start()),
                    words: words.start(),
                    positions: positions.start(),
                    types: types.start(),
                };
                let norm = LayerNorm { weight: weight.start(), bias: bias.start(), eps: 1e-12, width: WIDTH };
                let mut state = Normal::new(stream);
                state.reserve(words.len(), WIDTH)?;
                let out = reals(stream, &vec![f32::NAN; expected.len()]);
                lookups.forward(stream, &norm, dropout, &mut state, out.start())?;
                let what = format!("{:?}, {rows}", stream.precision());
                assert_close(&out.values(), &expected, 1e-6_f64.max(epsilon), &what);
            }
            Ok(())
        });
    }

    #[test]
    fn rows_are_gathered_and_added_back() {
        on_every_device(|stream, epsilon| {
            let (x, add) = (round(stream, normal(1, 9 * WIDTH)), round(stream, normal(2, 3 * WIDTH)));
            let rows = [0, 4, 8];
            let (on_device, of_rows) = (reals(stream, &x), upload_words(stream, &rows));
            let out = reals(stream, &vec![f32::NAN; add.len()]);
            gather_rows(stream, on_device.start(), &of_rows, out.start(), WIDTH)?;
            let row = |row: u32| x[row as usize * WIDTH..][..WIDTH].to_vec();
            assert_eq!(out.values(), rows.map(row).concat());
            add_to_rows(stream, on_device.start(), &of_rows, reals(stream, &add).start(), WIDTH)?;
            let mut expected = x.clone();
            for (&row, add) in rows.iter().zip(add.chunks(WIDTH)) {
                expected[row as usize * WIDTH..][..WIDTH].iter_mut().zip(add).for_each(|(x, add)| *x += add);
            }
            assert_close(&on_device.values(), &expected, epsilon, "sums");
            Ok(())
        });
    }
}
