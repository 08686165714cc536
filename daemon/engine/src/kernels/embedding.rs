//! The sum of embeddings, and its backward pass, which costs what the batch touched.

use rayon::prelude::*;

use super::buffer::Shared;
use super::isa::vectorised;
use super::layer_norm::add;
use super::math::round_to_bf16;
use super::{Buffer, Compute, ROWS};

/// The values of a table, `[rows, H]`.
#[derive(Clone, Copy)]
pub enum Table<'a> {
    /// float32
    Fp32(&'a [f32]),
    /// The bits of bfloat16 values, for models that only answer.
    Bf16(&'a [u16]),
}

/// One row of each table for every token.
#[derive(Clone, Copy)]
pub struct Lookup<'a> {
    /// `[rows, H]`
    pub table: Table<'a>,
    /// The row of each token, `[T]`. Every row must be in the table.
    pub rows: &'a [u32],
}

/// `out = sum of the tables' rows`, `[T, H]`.
///
/// # Panics
/// When `width` is 0, or a lookup has fewer rows than there are tokens, or a row that is not in its table.
pub fn embed(compute: Compute, lookups: &[Lookup<'_>], width: usize, out: &mut [f32]) {
    let each = |(index, out): (usize, &mut [f32])| {
        for (token, out) in (index * ROWS..).zip(out.chunks_mut(width)) {
            out.fill(0.0);
            for lookup in lookups {
                let start = lookup.rows[token] as usize * width;
                match lookup.table {
                    Table::Fp32(table) => add(compute.isa(), out, &table[start..start + width]),
                    Table::Bf16(table) => add_bf16(compute.isa(), out, &table[start..start + width]),
                }
            }
        }
    };
    match compute.goes_alone(out.len()) {
        true => out.chunks_mut(width * ROWS).enumerate().for_each(each),
        false => out.par_chunks_mut(width * ROWS).enumerate().for_each(each),
    }
}

/// The bits of the nearest bfloat16 values, ties to even.
pub fn to_bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|x| (round_to_bf16(*x).to_bits() >> 16) as u16).collect()
}

vectorised! {
    /// `sum += row`.
    fn add_bf16<FMA>(sum: &mut [f32], row: &[u16]) {
        let _ = FMA;
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f32::from_bits(u32::from(*x) << 16));
    }
}

/// Tokens in groups that share a row of a table, in the order of the rows.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// Row and token, sorted.
    pairs: Vec<u64>,
    /// Where each group starts in `pairs`, and the end of the last.
    starts: Vec<usize>,
}

impl Groups {
    /// Groups tokens by their rows, `[T]`.
    pub fn group(&mut self, rows: &[u32]) {
        self.pairs.clear();
        self.pairs.extend(rows.iter().zip(0u64..).map(|(&row, token)| u64::from(row) << 32 | token));
        self.pairs.sort_unstable();
        self.starts.clear();
        let mut before = None;
        for (place, pair) in self.pairs.iter().enumerate() {
            if before != Some(pair >> 32) {
                self.starts.push(place);
                before = Some(pair >> 32);
            }
        }
        self.starts.push(self.pairs.len());
    }

    /// The rows that are touched, in order.
    pub fn rows(&self) -> impl Iterator<Item = u32> + '_ {
        self.starts.windows(2).map(|pair| (self.pairs[pair[0]] >> 32) as u32)
    }

    /// Adds each group's rows of `grad`, `[T, H]`, to the row of `out` that `place` gives for the group's row.
    ///
    /// # Safety
    /// `place` must give another one for each row.
    unsafe fn scatter(
        &self,
        compute: Compute,
        grad: &[f32],
        width: usize,
        out: &mut [f32],
        place: impl Fn(u32) -> usize + Sync,
    ) {
        let shared = Shared::new(out);
        self.starts.par_windows(2).with_min_len(8).for_each(|pair| {
            let group = &self.pairs[pair[0]..pair[1]];
            let row = (group[0] >> 32) as u32;
            // SAFETY: each group has a row of its own, and so, by the caller's promise, a place of its own.
            let out = unsafe { shared.slice(place(row) * width, width) };
            for pair in group {
                let token = (pair & 0xffff_ffff) as usize;
                add(compute.isa(), out, &grad[token * width..(token + 1) * width]);
            }
        });
    }

    /// Adds to the gradient of a whole table, `[rows, H]`, the gradient `grad`, `[T, H]`, of the tokens.
    ///
    /// # Panics
    /// When a group's row is not in the table, or one of its tokens not in `grad`.
    pub fn add_to_table(&self, compute: Compute, grad: &[f32], width: usize, table: &mut [f32]) {
        // SAFETY: the place is the row.
        unsafe { self.scatter(compute, grad, width, table, |row| row as usize) };
    }
}

/// The gradient of a table of which few rows were touched.
#[derive(Clone, Debug, Default)]
pub struct RowGradients {
    /// The place of each row's gradient and one; 0 for rows that were not touched.
    places: Vec<u32>,
    rows: Vec<u32>,
    values: Buffer,
    width: usize,
}

impl RowGradients {
    /// No gradient yet of a table of so many rows.
    pub fn new(rows: usize, width: usize) -> Self {
        Self { places: vec![0; rows], width, ..Self::default() }
    }

    /// Forgets all gradients.
    pub fn clear(&mut self) {
        for row in self.rows.drain(..) {
            self.places[row as usize] = 0;
        }
        self.values.reserve(0);
    }

    /// Adds the gradient `grad`, `[T, H]`, of the tokens in `groups`.
    ///
    /// # Panics
    /// When a group's row is not in the table, or one of its tokens not in `grad`.
    pub fn add(&mut self, compute: Compute, groups: &Groups, grad: &[f32]) {
        let known = self.rows.len();
        for row in groups.rows() {
            let place = &mut self.places[row as usize];
            if *place == 0 {
                self.rows.push(row);
                *place = self.rows.len() as u32;
            }
        }
        let values = self.values.reserve(self.rows.len() * self.width);
        values[known * self.width..].fill(0.0);
        let places = &self.places;
        // SAFETY: above, a row that has no place yet gets the next one.
        unsafe { groups.scatter(compute, grad, self.width, values, |row| places[row as usize] as usize - 1) };
    }

    /// Adds the rows `words` of the gradient of a whole table, `[rows, H]`.
    ///
    /// # Panics
    /// When a word is not in the table.
    pub fn add_from_table(&mut self, words: &[u32], table: &[f32]) {
        let mut rows = words.to_vec();
        rows.sort_unstable();
        rows.dedup();
        for row in rows {
            let place = &mut self.places[row as usize];
            if *place == 0 {
                self.rows.push(row);
                *place = self.rows.len() as u32;
                let known = self.values.len();
                self.values.reserve(known + self.width)[known..].fill(0.0);
            }
            let at = (*place as usize - 1) * self.width;
            let from = &table[row as usize * self.width..][..self.width];
            self.values[at..at + self.width].iter_mut().zip(from).for_each(|(sum, x)| *sum += x);
        }
    }

    /// The touched rows, each once.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// Their gradients, in the order of `rows`: `[rows, H]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.values.bytes() + self.places.len() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{computes, in_pool, normal};

    const WIDTH: usize = 33;
    const TOKENS: [u32; 7] = [5, 2, 5, 0, 2, 5, 8];

    #[test]
    fn a_token_is_the_sum_of_its_rows() {
        let (words, types) = (normal(1, 9 * WIDTH), normal(2, 2 * WIDTH));
        let kinds = [0, 1, 1, 0, 0, 1, 0];
        for compute in computes() {
            let mut out = vec![f32::NAN; 7 * WIDTH];
            let types_of_tokens = Lookup { table: Table::Fp32(&types), rows: &kinds };
            let lookups = [Lookup { table: Table::Fp32(&words), rows: &TOKENS }, types_of_tokens];
            embed(compute, &lookups, WIDTH, &mut out);
            for (token, out) in out.chunks(WIDTH).enumerate() {
                let (word, kind) = (TOKENS[token] as usize, kinds[token] as usize);
                for (column, x) in out.iter().enumerate() {
                    assert_eq!(*x, words[word * WIDTH + column] + types[kind * WIDTH + column]);
                }
            }
        }
    }

    #[test]
    fn rows_of_a_bfloat16_table_are_the_nearest_values() {
        let words = normal(1, 9 * WIDTH);
        let halves = to_bf16(&words);
        for compute in computes() {
            let mut out = vec![f32::NAN; 7 * WIDTH];
            embed(compute, &[Lookup { table: Table::Bf16(&halves), rows: &TOKENS }], WIDTH, &mut out);
            for (out, token) in out.chunks(WIDTH).zip(TOKENS) {
                for (x, word) in out.iter().zip(&words[token as usize * WIDTH..]) {
                    assert!((x - word).abs() <= word.abs() / 256.0 && x.to_bits() << 16 == 0, "{x}, {word}");
                }
            }
        }
    }

    #[test]
    fn gradients_by_row_are_those_of_the_whole_table() {
        let grad = normal(3, 7 * WIDTH);
        for compute in computes() {
            let mut groups = Groups::default();
            let mut by_row = RowGradients::new(9, WIDTH);
            let mut dense = vec![0.0; 9 * WIDTH];
            // A second micro-batch adds to the first, a cleared gradient starts anew.
            for tokens in [&TOKENS[..], &[1, 2], &[8, 8, 8]] {
                if tokens.len() == 3 {
                    by_row.clear();
                    dense.fill(0.0);
                }
                groups.group(tokens);
                by_row.add(compute, &groups, &grad[..tokens.len() * WIDTH]);
                groups.add_to_table(compute, &grad[..tokens.len() * WIDTH], WIDTH, &mut dense);
                let mut found = vec![0.0; 9 * WIDTH];
                for (&row, values) in by_row.rows().iter().zip(by_row.values().chunks(WIDTH)) {
                    found[row as usize * WIDTH..][..WIDTH].copy_from_slice(values);
                }
                assert_eq!(found, dense);
            }
            let expected: Vec<f32> =
                (0..WIDTH).map(|i| grad[i] + grad[WIDTH + i] + grad[2 * WIDTH + i]).collect();
            assert_eq!(dense[8 * WIDTH..], expected);
        }
    }

    #[test]
    fn is_the_same_to_the_bit_on_any_number_of_threads() {
        let tokens: Vec<u32> = (0..500).map(|i| i * 7919 % 97).collect();
        let grad = normal(1, 500 * WIDTH);
        for compute in computes() {
            let on = |threads| {
                in_pool(threads, || {
                    let mut groups = Groups::default();
                    groups.group(&tokens);
                    let mut by_row = RowGradients::new(97, WIDTH);
                    by_row.add(compute, &groups, &grad);
                    by_row.values().to_vec()
                })
            };
            assert_eq!(on(1), on(3));
        }
    }
}
