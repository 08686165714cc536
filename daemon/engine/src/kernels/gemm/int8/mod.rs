//! Factors packed as 8-bit integers, and tiles of their products (`tile`, `amx`).
//!
//! A row of the left factor, a token's activations, is `scale (q - zero)`, q from 0 to 255 (`quantise`); a column of the
//! right factor, the weights of an output, is `scale q`, q from -127 to 127. So the product of both is
//! `scale scale (sum of q q - zero * sum of the column's q)`: integers, which are exact on every processor and in any
//! order, and two scales at the end. A row's result depends on nothing beside it, and is the same to the bit with every
//! instruction set.
//!
//! The left factor lies row by row; behind each row stand its scale and its zero. The right factor lies in panels of 64
//! columns: the four values of a column at four places of the inner dimension stand together, then those of the next
//! column; behind a panel stand its columns' scales and sums. The inner dimension is a whole number of cache lines, as AMX
//! reads it; weights beyond its end are 0.

#[cfg(target_arch = "x86_64")]
mod amx;
mod quantise;
mod tile;

use std::ops::Range;

use super::Matrix;
use crate::kernels::isa::Isa;

pub(super) use tile::tiles;

/// Columns of a panel.
pub(super) const WIDTH: usize = 64;

/// Rows of a left factor that are quantised together.
pub(super) const ROWS: usize = 16;

/// Values along the inner dimension that an instruction multiplies in each column.
const GROUP: usize = 4;

/// Bytes of a cache line.
const LINE: usize = 64;

/// The longest inner dimension: a sum of so many products of 255 and 127 is a 32-bit integer.
pub(in super::super) const MOST_INNER: usize = 1 << 16;

/// Bytes of a row of the left factor without what stands behind it.
fn padded(inner: usize) -> usize {
    inner.next_multiple_of(LINE)
}

/// Bytes from one row of the left factor to the next.
fn row_bytes(inner: usize) -> usize {
    padded(inner) + LINE
}

/// Float32 places that a panel takes.
pub(super) fn panel_values(inner: usize) -> usize {
    padded(inner) / GROUP * WIDTH + 2 * WIDTH
}

/// Float32 places that packed rows take.
pub(super) fn left_values(rows: usize, inner: usize) -> usize {
    rows.next_multiple_of(ROWS) * row_bytes(inner) / size_of::<f32>()
}

/// Packs rows of a left factor, which lie one after the other.
///
/// # Panics
/// When the columns of the factor, not its rows, lie one after the other.
pub(super) fn pack_left(isa: Isa, matrix: Matrix<'_>, rows: Range<usize>, out: &mut [f32]) {
    assert!(!matrix.turned, "only rows become 8-bit integers");
    let inner = matrix.columns;
    for (row, out) in rows.zip(bytes_mut(out).chunks_exact_mut(row_bytes(inner))) {
        let (values, behind) = out.split_at_mut(padded(inner));
        let x = &matrix.values[row * matrix.stride..][..inner];
        let quantised = quantise::row(isa, x, &mut values[..inner]);
        behind[..4].copy_from_slice(&quantised.scale.to_ne_bytes());
        behind[4..8].copy_from_slice(&quantised.zero.to_ne_bytes());
    }
}

/// Packs as many panels of a right factor as there is room for, the first of which starts at column `first`.
///
/// # Panics
/// When the rows of the factor, not its columns, lie one after the other, or its inner dimension is longer than
/// [`MOST_INNER`].
pub(super) fn pack_right(isa: Isa, matrix: Matrix<'_>, first: usize, out: &mut [f32]) {
    let inner = matrix.rows;
    assert!(matrix.turned && inner <= MOST_INNER, "only weights become 8-bit integers");
    let weights = padded(inner) * WIDTH;
    let mut values = vec![0; inner];
    for (panel, out) in bytes_mut(out).chunks_exact_mut(panel_values(inner) * size_of::<f32>()).enumerate() {
        out.fill(0);
        let (groups, behind) = out.split_at_mut(weights);
        for column in 0..WIDTH.min(matrix.columns.saturating_sub(first + panel * WIDTH)) {
            let start = (first + panel * WIDTH + column) * matrix.stride;
            let scale = quantise::column(isa, &matrix.values[start..][..inner], &mut values);
            for (group, values) in groups.chunks_exact_mut(WIDTH * GROUP).zip(values.chunks(GROUP)) {
                let group = &mut group[column * GROUP..];
                group.iter_mut().zip(values).for_each(|(byte, value)| *byte = value.cast_unsigned());
            }
            let sum: i32 = values.iter().map(|&value| i32::from(value)).sum();
            behind[column * 4..][..4].copy_from_slice(&scale.to_ne_bytes());
            behind[(WIDTH + column) * 4..][..4].copy_from_slice(&sum.to_ne_bytes());
        }
    }
}

/// The memory of float32 values.
fn bytes(values: &[f32]) -> &[u8] {
    // SAFETY: so many bytes lie there, any of which is one.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// The same, to be written.
fn bytes_mut(values: &mut [f32]) -> &mut [u8] {
    // SAFETY: as above; four bytes, whatever they are, are a float32 value.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

#[cfg(test)]
mod tests;
