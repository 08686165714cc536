//! Factors packed as pairs of bfloat16 values, and tiles of their products with AVX-512-BF16; `amx` has those with AMX.
//!
//! A block of a left factor is 16 rows of 32 values, that of a right factor 32 rows of 16 columns; both are 16 by 16
//! pairs of neighbours along the inner dimension, 1 KiB. The blocks of 16 rows (left) or of two times 16 columns
//! (right, a panel) follow one another along the inner dimension. Where a float32 value is three bfloat16 values, a
//! block is three: the first parts, the second parts, the third parts. What lies beyond a factor is 0.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{Block, Epilogue, Matrix};

/// Columns of a panel.
pub(super) const WIDTH: usize = 32;

/// Rows, or columns, of a block; also its pairs.
pub(super) const SIDE: usize = 16;

/// Strips of sixteen rows of a left factor that are packed together.
pub(super) const STRIPS: usize = 4;

/// Float32 places of a block: 1 KiB.
pub(super) const BLOCK: usize = 256;

/// Blocks along the inner dimension.
pub(super) fn blocks(inner: usize) -> usize {
    inner.div_ceil(2 * SIDE)
}

/// Float32 places of a panel.
pub(super) fn panel_values(inner: usize, planes: usize) -> usize {
    blocks(inner) * planes * 2 * BLOCK
}

/// Float32 places of packed rows.
pub(super) fn left_values(rows: usize, inner: usize, planes: usize) -> usize {
    rows.div_ceil(SIDE) * blocks(inner) * planes * BLOCK
}

/// One plane of a block: a register a row.
pub(super) type Plane = [__m512i; SIDE];

/// Packs rows of a left factor.
///
/// # Safety
/// The processor must have AVX-512 and its bfloat16 part.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn pack_left(matrix: Matrix<'_>, rows: Range<usize>, planes: usize, out: &mut [f32]) {
    // SAFETY: promised by the caller.
    unsafe {
        match planes {
            1 => left::<1>(matrix, rows, out),
            _ => left::<3>(matrix, rows, out),
        }
    }
}

/// Packs as many panels of a right factor as there is room for, the first of which starts at column `first`.
///
/// # Safety
/// The processor must have AVX-512 and its bfloat16 part.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn pack_right(matrix: Matrix<'_>, first: usize, planes: usize, out: &mut [f32]) {
    // SAFETY: promised by the caller.
    unsafe {
        match planes {
            1 => right::<1>(matrix, first, out),
            _ => right::<3>(matrix, first, out),
        }
    }
}

// The functions below are inlined into those above, whose instructions they use; they read and write inside slices.

#[inline(always)]
unsafe fn left<const PLANES: usize>(matrix: Matrix<'_>, rows: Range<usize>, out: &mut [f32]) {
    let steps = blocks(matrix.columns);
    let strips = rows.len().div_ceil(SIDE);
    for turn in 0..strips * steps {
        // Along memory first: else each block would begin with a walk over as many pages as it has rows.
        let (strip, step) = match matrix.turned {
            true => (turn % strips, turn / strips),
            false => (turn / steps, turn % steps),
        };
        let (first, inner) = (rows.start + strip * SIDE, step * 2 * SIDE);
        let (count, left) = (SIDE.min(rows.end - first), matrix.columns - inner);
        let out = &mut out[(strip * steps + step) * PLANES * BLOCK..][..PLANES * BLOCK];
        // SAFETY: as said above.
        unsafe {
            let planes = match matrix.turned {
                true => transposed(pairs::<PLANES>(matrix, inner, left, first, count)),
                false => lines::<PLANES>(matrix, first, count, inner, left),
            };
            store(&planes, out, 1);
        }
    }
}

#[inline(always)]
unsafe fn right<const PLANES: usize>(matrix: Matrix<'_>, first: usize, out: &mut [f32]) {
    let steps = blocks(matrix.rows);
    let halves = 2 * (out.len() / (steps * PLANES * 2 * BLOCK).max(1));
    for turn in 0..halves * steps {
        // As above.
        let (half, step) = match matrix.turned {
            true => (turn / steps, turn % steps),
            false => (turn % halves, turn / halves),
        };
        let (column, inner) = (first + half * SIDE, step * 2 * SIDE);
        let (count, left) = (SIDE.min(matrix.columns.saturating_sub(column)), matrix.rows - inner);
        let block = (half / 2 * steps + step) * PLANES * 2 + half % 2;
        // SAFETY: as said above.
        unsafe {
            let planes = match (count, matrix.turned) {
                (0, _) => [[_mm512_setzero_si512(); SIDE]; PLANES],
                (_, true) => transposed(lines::<PLANES>(matrix.t(), column, count, inner, left)),
                (_, false) => pairs::<PLANES>(matrix, inner, left, column, count),
            };
            store(&planes, &mut out[block * BLOCK..], 2);
        }
    }
}

/// Writes the planes of a block, `distance` blocks apart.
#[inline(always)]
unsafe fn store<const PLANES: usize>(planes: &[Plane; PLANES], out: &mut [f32], distance: usize) {
    for (plane, out) in planes.iter().zip(out.chunks_mut(distance * BLOCK)) {
        for (line, out) in plane.iter().zip(out[..BLOCK].chunks_exact_mut(SIDE)) {
            // SAFETY: a chunk of `out` is 64 bytes.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), *line) };
        }
    }
}

/// Reads up to sixteen values, 0 beyond `count`.
///
/// # Safety
/// As [`transpose`].
#[inline(always)]
pub(super) unsafe fn load(values: &[f32], start: usize, count: usize) -> __m512 {
    let count = count.min(SIDE);
    let values = &values[start..start + count];
    // SAFETY: only the first `count` values are read.
    unsafe { _mm512_maskz_loadu_ps(((1u32 << count) - 1) as u16, values.as_ptr()) }
}

/// Each of sixteen rows (of which `rows` are there) becomes the pairs of its 32 values from column `first` on.
#[inline(always)]
unsafe fn lines<const PLANES: usize>(
    matrix: Matrix<'_>,
    row: usize,
    rows: usize,
    first: usize,
    columns: usize,
) -> [Plane; PLANES] {
    // SAFETY: as said above.
    unsafe {
        let mut planes = [[_mm512_setzero_si512(); SIDE]; PLANES];
        for index in 0..rows {
            let start = (row + index) * matrix.stride + first;
            let low = load(matrix.values, start, columns);
            let high = match columns.checked_sub(SIDE) {
                Some(columns) if columns > 0 => load(matrix.values, start + SIDE, columns),
                _ => _mm512_setzero_ps(),
            };
            let parts = split::<PLANES>(low, high);
            planes.iter_mut().zip(parts).for_each(|(plane, part)| plane[index] = part);
        }
        planes
    }
}

/// Each of sixteen pairs of rows (of which `rows` rows are there) becomes the pairs of their sixteen columns from
/// `first` on.
#[inline(always)]
unsafe fn pairs<const PLANES: usize>(
    matrix: Matrix<'_>,
    row: usize,
    rows: usize,
    first: usize,
    columns: usize,
) -> [Plane; PLANES] {
    // SAFETY: as said above.
    unsafe {
        let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
        let mut planes = [[_mm512_setzero_si512(); SIDE]; PLANES];
        for index in 0..SIDE.min(rows.div_ceil(2)) {
            let start = (row + 2 * index) * matrix.stride + first;
            let low = load(matrix.values, start, columns);
            let high = match 2 * index + 1 < rows {
                true => load(matrix.values, start + matrix.stride, columns),
                false => _mm512_setzero_ps(),
            };
            let parts = split::<PLANES>(low, high);
            planes.iter_mut().zip(parts).for_each(|(plane, part)| {
                plane[index] = _mm512_permutexvar_epi16(order, part);
            });
        }
        planes
    }
}

/// Makes `a0 b0 a1 b1 ..` of `a0 a1 .. b0 b1 ..`.
static ORDER: [u16; 32] = {
    let mut order = [0; 32];
    let mut index = 0;
    while index < 16 {
        order[2 * index] = index as u16;
        order[2 * index + 1] = 16 + index as u16;
        index += 1;
    }
    order
};

/// Two times sixteen float32 values as 32 bfloat16 values, or as three times 32 whose sums they are.
#[inline(always)]
unsafe fn split<const PLANES: usize>(low: __m512, high: __m512) -> [__m512i; PLANES] {
    // SAFETY: as said above; `__m512bh` and `__m512i` are 64 bytes without a meaning of their own.
    unsafe {
        let (mut low, mut high) = (low, high);
        let mut parts = [_mm512_setzero_si512(); PLANES];
        for (plane, part) in parts.iter_mut().enumerate() {
            *part = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            if plane + 1 < PLANES {
                low = _mm512_sub_ps(low, widen(_mm512_castsi512_si256(*part)));
                high = _mm512_sub_ps(high, widen(_mm512_extracti64x4_epi64::<1>(*part)));
            }
        }
        parts
    }
}

#[inline(always)]
unsafe fn widen(values: __m256i) -> __m512 {
    // SAFETY: as said above.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(values))) }
}

/// The transpose of each plane's 16 by 16 pairs.
#[inline(always)]
unsafe fn transposed<const PLANES: usize>(mut planes: [Plane; PLANES]) -> [Plane; PLANES] {
    for plane in &mut planes {
        // SAFETY: as said above.
        *plane = unsafe { transpose(*plane) };
    }
    planes
}

/// The transpose of sixteen rows of sixteen 32-bit values.
///
/// # Safety
/// The processor must have AVX-512. It is inlined into code that is compiled for it.
#[inline(always)]
pub(super) unsafe fn transpose(rows: Plane) -> Plane {
    // SAFETY: as said above.
    unsafe {
        let mut a = rows;
        for i in 0..8 {
            a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        let mut b = a;
        for i in 0..4 {
            b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
            b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
            b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
            b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
        }
        // b[4 q + c] holds, in its 128-bit lane l, the pairs of column 4 l + c of the rows 4 q .. 4 q + 4.
        let mut out = rows;
        for c in 0..4 {
            let low01 = _mm512_shuffle_i32x4::<0x88>(b[c], b[4 + c]);
            let high01 = _mm512_shuffle_i32x4::<0xdd>(b[c], b[4 + c]);
            let low23 = _mm512_shuffle_i32x4::<0x88>(b[8 + c], b[12 + c]);
            let high23 = _mm512_shuffle_i32x4::<0xdd>(b[8 + c], b[12 + c]);
            out[c] = _mm512_shuffle_i32x4::<0x88>(low01, low23);
            out[8 + c] = _mm512_shuffle_i32x4::<0xdd>(low01, low23);
            out[4 + c] = _mm512_shuffle_i32x4::<0x88>(high01, high23);
            out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(high01, high23);
        }
        out
    }
}

/// A tile of 32 by 32, aligned so that its rows are whole cache lines.
#[repr(C, align(64))]
pub(super) struct Tile(pub(super) [f32; 2 * SIDE * WIDTH]);

/// All tiles of a block, with AVX-512-BF16.
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn avx512<'b, E: Epilogue>(
    block: &Block<'_>,
    packed: &[f32],
    panels: Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
) {
    /// Half of a block's rows: as many sums as the registers hold.
    const ROWS: usize = SIDE / 2;
    let strip = blocks(block.a.columns) * BLOCK;
    let mut out = Tile([0.0; 2 * SIDE * WIDTH]);
    for index in panels {
        let b = panel(index);
        for row in (0..block.rows).step_by(ROWS) {
            let a = &packed[row / SIDE * strip..][..strip];
            let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
            for (a, b) in a.chunks_exact(BLOCK).zip(b.chunks_exact(2 * BLOCK)) {
                let a = &a[row % SIDE * SIDE..][..ROWS * SIDE];
                for pair in 0..SIDE {
                    // SAFETY: both halves of the block have sixteen lines of sixteen pairs.
                    let b: [__m512bh; 2] = unsafe {
                        let line = b.as_ptr().add(pair * SIDE);
                        [
                            std::mem::transmute::<__m512, __m512bh>(_mm512_loadu_ps(line)),
                            std::mem::transmute::<__m512, __m512bh>(_mm512_loadu_ps(line.add(BLOCK))),
                        ]
                    };
                    for row in 0..ROWS {
                        // SAFETY: both types are 64 bytes without a meaning of their own.
                        let a: __m512bh =
                            unsafe { std::mem::transmute(_mm512_set1_ps(a[row * SIDE + pair])) };
                        sums[row][0] = _mm512_dpbf16_ps(sums[row][0], a, b[0]);
                        sums[row][1] = _mm512_dpbf16_ps(sums[row][1], a, b[1]);
                    }
                }
            }
            for (out, sums) in out.0.chunks_exact_mut(WIDTH).zip(sums) {
                // SAFETY: a chunk of `out` has 32 values.
                unsafe {
                    _mm512_storeu_ps(out.as_mut_ptr(), sums[0]);
                    _mm512_storeu_ps(out.as_mut_ptr().add(SIDE), sums[1]);
                }
            }
            block.store::<true, E>(epilogue, row, ROWS, index * WIDTH, WIDTH, &out.0);
        }
    }
}
