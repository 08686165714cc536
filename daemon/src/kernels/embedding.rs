//! The sum of word, position and token-type embeddings.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{ROWS, values};

/// Rows of a table that one task of the backward pass takes.
const TABLE_ROWS: usize = 512;

/// Which row of each table a token takes: word, position, token type, each `[T]`.
#[derive(Clone, Debug)]
pub struct Indices {
    /// Rows of the word table.
    pub words: Arc<[u32]>,
    /// Rows of the position table.
    pub positions: Arc<[u32]>,
    /// Rows of the token-type table.
    pub types: Arc<[u32]>,
}

/// The sum of three rows a token: the tables are `[rows, H]`, the result `[T, H]`.
pub fn embedding(indices: &Indices, words: &Tensor, positions: &Tensor, types: &Tensor) -> Result<Tensor> {
    for (index, table) in indices.all().into_iter().zip([words, positions, types]) {
        let rows = table.dim(0)?;
        if let Some(row) = index.iter().find(|&&row| row as usize >= rows) {
            bail!("row {row} is beyond an embedding of {rows} rows");
        }
    }
    if !words.device().is_cpu() {
        return reference(indices, words, positions, types);
    }
    words.apply_op3(positions, types, indices.clone())
}

fn reference(indices: &Indices, words: &Tensor, positions: &Tensor, types: &Tensor) -> Result<Tensor> {
    let rows = |table: &Tensor, index: &[u32]| table.index_select(&Tensor::new(index, table.device())?, 0);
    (rows(words, &indices.words)? + rows(positions, &indices.positions)?)? + rows(types, &indices.types)?
}

impl Indices {
    fn all(&self) -> [&[u32]; 3] {
        [&self.words, &self.positions, &self.types]
    }
}

/// Adds each token's gradient to its row of a table. Tokens of a row are added in their order, whatever the number
/// of threads: each task owns a range of rows.
fn scatter(index: &[u32], grad: &[f32], rows: usize, width: usize) -> Vec<f32> {
    let mut order: Vec<u32> = (0..index.len() as u32).collect();
    order.sort_by_key(|&token| index[token as usize]);
    let mut table = vec![0f32; rows * width];
    table.par_chunks_mut(TABLE_ROWS * width).enumerate().for_each(|(piece, table)| {
        let first = piece * TABLE_ROWS;
        let start = order.partition_point(|&token| (index[token as usize] as usize) < first);
        for &token in &order[start..] {
            let (token, row) = (token as usize, index[token as usize] as usize - first);
            let Some(row) = table.get_mut(row * width..(row + 1) * width) else { break };
            row.iter_mut().zip(&grad[token * width..(token + 1) * width]).for_each(|(sum, x)| *sum += x);
        }
    });
    table
}

impl CustomOp3 for Indices {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(
        &self,
        words: &CpuStorage,
        words_at: &Layout,
        positions: &CpuStorage,
        positions_at: &Layout,
        types: &CpuStorage,
        types_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, width) = words_at.shape().dims2()?;
        let tables = [
            values::of_storage(words, words_at)?,
            values::of_storage(positions, positions_at)?,
            values::of_storage(types, types_at)?,
        ];
        let mut y = vec![0f32; self.words.len() * width];
        y.par_chunks_mut(width * ROWS).enumerate().for_each(|(piece, rows)| {
            for (row, y) in rows.chunks_mut(width).enumerate() {
                let token = piece * ROWS + row;
                for (index, table) in self.all().into_iter().zip(tables) {
                    let at = index[token] as usize * width;
                    y.iter_mut().zip(&table[at..at + width]).for_each(|(y, x)| *y += x);
                }
            }
        });
        Ok((CpuStorage::F32(y), (self.words.len(), width).into()))
    }

    fn bwd(
        &self,
        words: &Tensor,
        positions: &Tensor,
        types: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let grad = values::of(&grad)?;
        let table_gradient = |index: &[u32], table: &Tensor| -> Result<Option<Tensor>> {
            let (rows, width) = table.dims2()?;
            Ok(Some(Tensor::from_vec(scatter(index, &grad, rows, width), table.shape(), table.device())?))
        };
        Ok((
            table_gradient(&self.words, words)?,
            table_gradient(&self.positions, positions)?,
            table_gradient(&self.types, types)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_gradients, assert_same, variable};

    fn indices(tokens: usize, rows: [u32; 3]) -> Indices {
        let index = |factor: u32, rows: u32| (0..tokens as u32).map(|token| token * factor % rows).collect();
        Indices { words: index(7919, rows[0]), positions: index(1, rows[1]), types: index(3, rows[2]) }
    }

    #[test]
    fn agrees_with_the_reference() -> Result<()> {
        for (tokens, rows) in [(1, [5, 5, 1]), (300, [1500, 64, 2]), (2000, [1100, 512, 2])] {
            let indices = indices(tokens, rows);
            let tables = [
                variable(1, (rows[0] as usize, 8)),
                variable(2, (rows[1] as usize, 8)),
                variable(3, (rows[2] as usize, 8)),
            ];
            assert_same(
                &[&tables[0], &tables[1], &tables[2]],
                &|v| embedding(&indices, v[0], v[1], v[2]),
                &|v| reference(&indices, v[0], v[1], v[2]),
            )?;
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() -> Result<()> {
        let indices = indices(6, [4, 3, 2]);
        let tables = [variable(1, (4, 2)), variable(2, (3, 2)), variable(3, (2, 2))];
        assert_gradients(&[&tables[0], &tables[1], &tables[2]], &|v| embedding(&indices, v[0], v[1], v[2]))
    }

    #[test]
    fn a_row_beyond_the_table_is_an_error() {
        let tables = [variable(1, (4, 2)), variable(2, (3, 2)), variable(3, (2, 2))];
        assert!(embedding(&indices(6, [5, 3, 2]), &tables[0], &tables[1], &tables[2]).is_err());
    }
}
