//! Tiles of float32 products.
//!
//! Both factors are packed along the inner dimension: of the left one a panel is some rows, of the right one some
//! columns; the values of one place of the inner dimension stand together. A tile is held in registers for the whole
//! inner dimension.

#[cfg(target_arch = "x86_64")]
use super::pair;
use super::{Block, Epilogue, Matrix};
use crate::kernels::isa::{Isa, Set};
use crate::kernels::math::{mul_add, round_to_bf16};

/// Rows and columns of a tile.
pub(super) const fn shape(isa: Isa) -> (usize, usize) {
    match isa.set() {
        Set::Portable => (4, 8),
        Set::Avx2 | Set::AvxVnni => (6, 16),
        Set::Avx512 | Set::Avx512Vnni | Set::Avx512Bf16 | Set::Amx => (14, 32),
    }
}

/// Packs `height` rows of a matrix from `first` on; rows beyond its end are 0.
pub(super) fn pack(
    isa: Isa,
    matrix: Matrix<'_>,
    first: usize,
    height: usize,
    rounded: bool,
    out: &mut [f32],
) {
    let rows = height.min(matrix.rows - first);
    if matrix.turned {
        for (inner, out) in out.chunks_exact_mut(height).enumerate() {
            let (kept, rest) = out.split_at_mut(rows);
            kept.copy_from_slice(&matrix.values[inner * matrix.stride + first..][..rows]);
            rest.fill(0.0);
        }
    } else {
        match isa.set() {
            // SAFETY: there is no `Isa` of a set that the processor lacks.
            #[cfg(target_arch = "x86_64")]
            set if set >= Set::Avx512 => unsafe { transpose_avx512(matrix, first, height, out) },
            _ => transpose(matrix, first, height, out),
        }
    }
    if rounded {
        out.iter_mut().for_each(|x| *x = round_to_bf16(*x));
    }
}

/// Packs rows that are contiguous: their values at one place of the inner dimension become so.
fn transpose(matrix: Matrix<'_>, first: usize, height: usize, out: &mut [f32]) {
    let rows = height.min(matrix.rows - first);
    if rows < height {
        out.fill(0.0);
    }
    for row in 0..rows {
        let values = &matrix.values[(first + row) * matrix.stride..][..matrix.columns];
        for (out, x) in out.iter_mut().skip(row).step_by(height).zip(values) {
            *out = *x;
        }
    }
}

/// The same, sixteen rows and sixteen values at a time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn transpose_avx512(matrix: Matrix<'_>, first: usize, height: usize, out: &mut [f32]) {
    use std::arch::x86_64::*;
    const SIDE: usize = pair::SIDE;
    for start in (0..height).step_by(SIDE) {
        let width = SIDE.min(height - start);
        let rows = width.min(matrix.rows.saturating_sub(first + start));
        for inner in (0..matrix.columns).step_by(SIDE) {
            let count = SIDE.min(matrix.columns - inner);
            let mut lines = [_mm512_setzero_si512(); SIDE];
            for (row, line) in lines.iter_mut().enumerate().take(rows) {
                let at = (first + start + row) * matrix.stride + inner;
                // SAFETY: the processor has AVX-512.
                *line = _mm512_castps_si512(unsafe { pair::load(matrix.values, at, count) });
            }
            // SAFETY: as above.
            let lines = unsafe { pair::transpose(lines) };
            for (place, line) in lines.into_iter().enumerate().take(count) {
                let out = &mut out[(inner + place) * height + start..][..width];
                // SAFETY: only the first `width` values are written.
                unsafe {
                    let mask = ((1u32 << width) - 1) as u16;
                    _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, _mm512_castsi512_ps(line));
                }
            }
        }
    }
}

/// The rows of a left factor that a tile takes: packed, `HEIGHT` together, or `LYING` as they do in the matrix.
#[derive(Clone, Copy)]
struct Left<'a, const HEIGHT: usize, const LYING: bool> {
    values: &'a [f32],
    /// Rows that there are, and how far apart they lie.
    rows: usize,
    stride: usize,
}

impl<const HEIGHT: usize, const LYING: bool> Left<'_, HEIGHT, LYING> {
    /// From a value to the next of its row.
    const STEP: usize = if LYING { 1 } else { HEIGHT };

    /// The begins of `ROWS` rows of `inner` values. In the place of those that there are not it is that of the last.
    #[inline(always)]
    fn rows<const ROWS: usize>(self, inner: usize) -> [*const f32; ROWS] {
        let last = self.rows - 1;
        let end = if LYING { last * self.stride + inner } else { HEIGHT * inner };
        assert!(ROWS <= HEIGHT && end <= self.values.len(), "a tile reaches beyond its rows");
        let start = |row: usize| if LYING { row.min(last) * self.stride } else { row };
        std::array::from_fn(|row| self.values.as_ptr().wrapping_add(start(row)))
    }
}

/// All tiles of a block. Without packed rows they are read where they lie.
#[inline(always)]
fn tiles<'b, const FMA: bool, const ROWS: usize, const WIDTH: usize, E: Epilogue>(
    block: &Block<'_>,
    packed: Option<&[f32]>,
    panels: std::ops::Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
    packed_tile: impl Fn(Left<'_, ROWS, false>, &[f32], &mut [f32]),
    lying_tile: impl Fn(Left<'_, ROWS, true>, &[f32], &mut [f32]),
) {
    let (inner, stride) = (block.a.columns, block.a.stride);
    for index in panels {
        let b = panel(index);
        let mut out = [0f32; 14 * 32];
        for row in (0..block.rows).step_by(ROWS) {
            let rows = ROWS.min(block.rows - row);
            match packed {
                Some(packed) => {
                    let values = &packed[row * inner..(row + ROWS) * inner];
                    packed_tile(Left { values, rows, stride: 0 }, b, &mut out);
                }
                None => {
                    let values = &block.a.values[(block.first_row + row) * stride..];
                    lying_tile(Left { values, rows, stride }, b, &mut out);
                }
            }
            block.store::<FMA, E>(epilogue, row, ROWS, index * WIDTH, WIDTH, &out);
        }
    }
}

/// With what every processor has.
pub(super) fn portable<'b, E: Epilogue>(
    block: &Block<'_>,
    packed: Option<&[f32]>,
    panels: std::ops::Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
) {
    const FMA: bool = cfg!(target_arch = "aarch64");
    /// In a form that the compiler vectorises.
    #[inline(always)]
    fn tile<const LYING: bool>(left: Left<'_, 4, LYING>, b: &[f32], out: &mut [f32]) {
        let rows = left.rows::<4>(b.len() / 8);
        let mut sums = [[0f32; 8]; 4];
        for (place, b) in b.chunks_exact(8).enumerate() {
            for row in 0..4 {
                // SAFETY: each row has as many values as there are chunks.
                let a = unsafe { *rows[row].add(place * Left::<4, LYING>::STEP) };
                for column in 0..8 {
                    sums[row][column] = mul_add::<FMA>(a, b[column], sums[row][column]);
                }
            }
        }
        out[..32].copy_from_slice(sums.as_flattened());
    }
    tiles::<FMA, 4, 8, E>(block, packed, panels, panel, epilogue, tile::<false>, tile::<true>);
}

/// With AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub(super) fn avx2<'b, E: Epilogue>(
    block: &Block<'_>,
    packed: Option<&[f32]>,
    panels: std::ops::Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
) {
    use std::arch::x86_64::*;
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn tile<const LYING: bool>(left: Left<'_, 6, LYING>, b: &[f32], out: &mut [f32]) {
        let rows = left.rows::<6>(b.len() / 16);
        let mut sums = [[_mm256_setzero_ps(); 2]; 6];
        for (place, b) in b.chunks_exact(16).enumerate() {
            // SAFETY: a chunk of `b` has sixteen values.
            let b = unsafe { [_mm256_loadu_ps(b.as_ptr()), _mm256_loadu_ps(b.as_ptr().add(8))] };
            for row in 0..6 {
                // SAFETY: each row has as many values as there are chunks.
                let a = unsafe { _mm256_set1_ps(*rows[row].add(place * Left::<6, LYING>::STEP)) };
                sums[row][0] = _mm256_fmadd_ps(a, b[0], sums[row][0]);
                sums[row][1] = _mm256_fmadd_ps(a, b[1], sums[row][1]);
            }
        }
        for (out, sums) in out.chunks_exact_mut(16).zip(sums) {
            // SAFETY: a chunk of `out` has sixteen values.
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), sums[0]);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), sums[1]);
            }
        }
    }
    let (packed_tile, lying_tile) = (
        |left: Left<'_, 6, false>, b: &[f32], out: &mut [f32]| tile(left, b, out),
        |left: Left<'_, 6, true>, b: &[f32], out: &mut [f32]| tile(left, b, out),
    );
    tiles::<true, 6, 16, E>(block, packed, panels, panel, epilogue, packed_tile, lying_tile);
}

/// With AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn avx512<'b, E: Epilogue>(
    block: &Block<'_>,
    packed: Option<&[f32]>,
    panels: std::ops::Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
) {
    use std::arch::x86_64::*;
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn tile<const ROWS: usize, const LYING: bool>(left: Left<'_, 14, LYING>, b: &[f32], out: &mut [f32]) {
        let rows = left.rows::<ROWS>(b.len() / 32);
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for (place, b) in b.chunks_exact(32).enumerate() {
            // SAFETY: a chunk of `b` has 32 values.
            let b = unsafe { [_mm512_loadu_ps(b.as_ptr()), _mm512_loadu_ps(b.as_ptr().add(16))] };
            for row in 0..ROWS {
                // SAFETY: each row has as many values as there are chunks.
                let a = unsafe { _mm512_set1_ps(*rows[row].add(place * Left::<14, LYING>::STEP)) };
                sums[row][0] = _mm512_fmadd_ps(a, b[0], sums[row][0]);
                sums[row][1] = _mm512_fmadd_ps(a, b[1], sums[row][1]);
            }
        }
        for (out, sums) in out.chunks_exact_mut(32).zip(sums) {
            // SAFETY: a chunk of `out` has 32 values.
            unsafe {
                _mm512_storeu_ps(out.as_mut_ptr(), sums[0]);
                _mm512_storeu_ps(out.as_mut_ptr().add(16), sums[1]);
            }
        }
    }
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn of_height<const LYING: bool>(left: Left<'_, 14, LYING>, b: &[f32], out: &mut [f32]) {
        match left.rows {
            0..=2 => tile::<2, LYING>(left, b, out),
            3..=6 => tile::<6, LYING>(left, b, out),
            7..=10 => tile::<10, LYING>(left, b, out),
            _ => tile::<14, LYING>(left, b, out),
        }
    }
    let (packed_tile, lying_tile) = (
        |left: Left<'_, 14, false>, b: &[f32], out: &mut [f32]| of_height(left, b, out),
        |left: Left<'_, 14, true>, b: &[f32], out: &mut [f32]| of_height(left, b, out),
    );
    tiles::<true, 14, 32, E>(block, packed, panels, panel, epilogue, packed_tile, lying_tile);
}
