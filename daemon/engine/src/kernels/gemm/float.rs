//! Tiles of float32 products.
//!
//! Both factors are packed along the inner dimension: of the left one a panel is some rows, of the right one some
//! columns; the values of one place of the inner dimension stand together. A tile is held in registers for the whole
//! inner dimension.

use super::{Block, Epilogue, Matrix};
use crate::kernels::isa::{Isa, Set};
use crate::kernels::math::mul_add;

/// Rows and columns of a tile.
pub(super) const fn shape(isa: Isa) -> (usize, usize) {
    match isa.set() {
        Set::Portable => (4, 8),
        Set::Avx2 => (6, 16),
        Set::Avx512 | Set::Avx512Bf16 | Set::Amx => (14, 32),
    }
}

/// Packs `height` rows of a matrix from `first` on; rows beyond its end are 0.
pub(super) fn pack(matrix: Matrix<'_>, first: usize, height: usize, rounded: bool, out: &mut [f32]) {
    let rows = height.min(matrix.rows - first);
    if matrix.turned {
        for (inner, out) in out.chunks_exact_mut(height).enumerate() {
            let (kept, rest) = out.split_at_mut(rows);
            kept.copy_from_slice(&matrix.values[inner * matrix.stride + first..][..rows]);
            rest.fill(0.0);
        }
    } else {
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
    if rounded {
        out.iter_mut().for_each(|x| *x = round(*x));
    }
}

/// The nearest value that bfloat16 has, ties to even.
#[inline(always)]
fn round(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    if x.is_nan() { x } else { f32::from_bits(rounded) }
}

/// A tile in registers: `height` rows of `WIDTH` values.
type Tile<const ROWS: usize, const WIDTH: usize> = [[f32; WIDTH]; ROWS];

/// Computes a tile, in a form that the compiler vectorises.
#[inline(always)]
fn tile<const FMA: bool, const ROWS: usize, const WIDTH: usize>(a: &[f32], b: &[f32]) -> Tile<ROWS, WIDTH> {
    let mut sums = [[0f32; WIDTH]; ROWS];
    for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(WIDTH)) {
        for row in 0..ROWS {
            for column in 0..WIDTH {
                sums[row][column] = mul_add::<FMA>(a[row], b[column], sums[row][column]);
            }
        }
    }
    sums
}

/// All tiles of a block.
#[inline(always)]
fn tiles<'b, const FMA: bool, const ROWS: usize, const WIDTH: usize, E: Epilogue>(
    block: &Block<'_>,
    packed: &[f32],
    panels: std::ops::Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
    tile: impl Fn(&[f32], &[f32], usize, &mut [f32]),
) {
    let inner = block.a.columns;
    for index in panels {
        let b = panel(index);
        let mut out = [0f32; 14 * 32];
        for row in (0..block.rows).step_by(ROWS) {
            let rows = ROWS.min(block.rows - row);
            tile(&packed[row * inner..(row + ROWS) * inner], b, rows, &mut out);
            block.store::<FMA, E>(epilogue, row, ROWS, index * WIDTH, WIDTH, &out);
        }
    }
}

/// With what every processor has.
pub(super) fn portable<'b, E: Epilogue>(
    block: &Block<'_>,
    packed: &[f32],
    panels: std::ops::Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
) {
    const FMA: bool = cfg!(target_arch = "aarch64");
    tiles::<FMA, 4, 8, E>(block, packed, panels, panel, epilogue, |a, b, _, out| {
        out[..32].copy_from_slice(tile::<FMA, 4, 8>(a, b).as_flattened());
    });
}

/// With AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub(super) fn avx2<'b, E: Epilogue>(
    block: &Block<'_>,
    packed: &[f32],
    panels: std::ops::Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
) {
    use std::arch::x86_64::*;
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn tile(a: &[f32], b: &[f32], out: &mut [f32]) {
        let mut sums = [[_mm256_setzero_ps(); 2]; 6];
        for (a, b) in a.chunks_exact(6).zip(b.chunks_exact(16)) {
            // SAFETY: a chunk of `b` has sixteen values.
            let b = unsafe { [_mm256_loadu_ps(b.as_ptr()), _mm256_loadu_ps(b.as_ptr().add(8))] };
            for row in 0..6 {
                let a = _mm256_set1_ps(a[row]);
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
    tiles::<true, 6, 16, E>(block, packed, panels, panel, epilogue, |a, b, _, out| tile(a, b, out));
}

/// With AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn avx512<'b, E: Epilogue>(
    block: &Block<'_>,
    packed: &[f32],
    panels: std::ops::Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
) {
    use std::arch::x86_64::*;
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn tile<const ROWS: usize>(a: &[f32], b: &[f32], out: &mut [f32]) {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for (a, b) in a.chunks_exact(14).zip(b.chunks_exact(32)) {
            // SAFETY: a chunk of `b` has 32 values.
            let b = unsafe { [_mm512_loadu_ps(b.as_ptr()), _mm512_loadu_ps(b.as_ptr().add(16))] };
            for row in 0..ROWS {
                let a = _mm512_set1_ps(a[row]);
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
    tiles::<true, 14, 32, E>(block, packed, panels, panel, epilogue, |a, b, rows, out| match rows {
        0..=2 => tile::<2>(a, b, out),
        3..=6 => tile::<6>(a, b, out),
        7..=10 => tile::<10>(a, b, out),
        _ => tile::<14>(a, b, out),
    });
}
