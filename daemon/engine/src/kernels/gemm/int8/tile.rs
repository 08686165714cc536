//! Tiles of products of 8-bit integers: with the instructions that multiply four of them and add (VNNI), with those that
//! multiply pairs of 16-bit integers, and in a form that the compiler vectorises.

use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::{GROUP, LINE, WIDTH, bytes, padded, row_bytes};
use crate::kernels::gemm::{Block, Epilogue};
use crate::kernels::isa::{Isa, Set};

/// Sums of a tile's rows in the columns of a panel.
type Sums<const ROWS: usize> = [[i32; WIDTH]; ROWS];

/// Some rows of a left factor: the first at the begin, `stride` bytes apart.
#[derive(Clone, Copy)]
struct Left<'a> {
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> Left<'a> {
    /// So many rows of `inner` values each.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn pointers<const ROWS: usize>(self, inner: usize) -> [*const u8; ROWS] {
        assert!((ROWS - 1) * self.stride + inner <= self.bytes.len(), "a tile reaches beyond its rows");
        std::array::from_fn(|row| self.bytes.as_ptr().wrapping_add(row * self.stride))
    }

    fn row(self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.stride..][..self.stride]
    }
}

/// A panel of the right factor.
pub(super) struct Panel<'a> {
    pub(super) groups: &'a [u8],
    scales: &'a [f32],
    /// Bits of integers.
    sums: &'a [f32],
}

impl<'a> Panel<'a> {
    pub(super) fn new(panel: &'a [f32]) -> Self {
        let (groups, behind) = panel.split_at(panel.len() - 2 * WIDTH);
        let (scales, sums) = behind.split_at(WIDTH);
        Self { groups: bytes(groups), scales, sums }
    }
}

/// All tiles of a block.
pub(in super::super) fn tiles<'b, E: Epilogue>(
    isa: Isa,
    block: &Block<'_>,
    packed: &[f32],
    panels: Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
) {
    match isa.set() {
        // SAFETY: there is no `Isa` of a set that the processor lacks.
        #[cfg(target_arch = "x86_64")]
        Set::Avx2 => unsafe { avx2(block, packed, panels, panel, epilogue) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 => unsafe { avx512(block, packed, panels, panel, epilogue) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Set::AvxVnni => unsafe { avx_vnni(block, packed, panels, panel, epilogue) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Set::Avx512Vnni | Set::Avx512Bf16 => unsafe { avx512_vnni(block, packed, panels, panel, epilogue) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Set::Amx => unsafe { amx::tiles(block, packed, panels, panel, epilogue) },
        _ => portable(block, packed, panels, panel, epilogue),
    }
}

/// Goes through the tiles of a block, of up to `ROWS` rows that `multiply` takes, all of one height or one less, and gives
/// the numbers that their sums stand for to the epilogue.
#[inline(always)]
fn each<'b, const FMA: bool, const ROWS: usize, E: Epilogue>(
    block: &Block<'_>,
    packed: &[f32],
    panels: Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
    multiply: impl Fn(Left<'_>, usize, &[u8], &mut Sums<ROWS>),
) {
    let (inner, stride) = (block.a.columns, row_bytes(block.a.columns));
    let packed = bytes(packed);
    let count = block.rows.div_ceil(ROWS);
    let mut sums = [[0; WIDTH]; ROWS];
    for index in panels {
        let panel = Panel::new(panel(index));
        for tile in 0..count {
            let rows = tile * block.rows / count..(tile + 1) * block.rows / count;
            let left = Left { bytes: &packed[rows.start * stride..], stride };
            multiply(left, rows.len(), panel.groups, &mut sums);
            for (row, sums) in rows.clone().zip(&sums) {
                let values = numbers(sums, &left.row(row - rows.start)[padded(inner)..], &panel);
                block.store_row::<FMA, WIDTH, E>(epilogue, row, index * WIDTH, &values);
            }
        }
    }
}

/// The numbers that a row's sums stand for.
#[inline(always)]
pub(super) fn numbers(sums: &[i32; WIDTH], behind: &[u8], panel: &Panel<'_>) -> [f32; WIDTH] {
    let word = |place: usize| [behind[place], behind[place + 1], behind[place + 2], behind[place + 3]];
    let (scale, zero) = (f32::from_ne_bytes(word(0)), i32::from_ne_bytes(word(4)));
    let (scales, of_columns) = (&panel.scales[..WIDTH], &panel.sums[..WIDTH]);
    let mut values = [0f32; WIDTH];
    for column in 0..WIDTH {
        let of_column = of_columns[column].to_bits().cast_signed();
        let sum = sums[column].wrapping_sub(zero.wrapping_mul(of_column));
        values[column] = sum as f32 * (scale * scales[column]);
    }
    values
}

/// With what every processor has.
fn portable<'b, E: Epilogue>(
    block: &Block<'_>,
    packed: &[f32],
    panels: Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
) {
    const FMA: bool = cfg!(target_arch = "aarch64");
    each::<FMA, 4, E>(block, packed, panels, panel, epilogue, |left, rows, groups, out| {
        for (row, sums) in out.iter_mut().enumerate().take(rows) {
            sums.fill(0);
            for (a, b) in left.row(row).as_chunks::<GROUP>().0.iter().zip(groups.chunks_exact(GROUP * WIDTH))
            {
                for (sum, b) in sums.iter_mut().zip(b.as_chunks::<GROUP>().0) {
                    for place in 0..GROUP {
                        *sum += i32::from(a[place]) * i32::from(b[place].cast_signed());
                    }
                }
            }
        }
    });
}

/// Calls `$tile::<ROWS>` for the number of rows that there are, at most six.
#[cfg(target_arch = "x86_64")]
macro_rules! by_rows {
    ($tile:ident, $left:ident, $rows:ident, $groups:ident, $out:ident) => {
        match $rows {
            0 | 1 => $tile::<1>($left, $groups, $out),
            2 => $tile::<2>($left, $groups, $out),
            3 => $tile::<3>($left, $groups, $out),
            4 => $tile::<4>($left, $groups, $out),
            5 => $tile::<5>($left, $groups, $out),
            _ => $tile::<6>($left, $groups, $out),
        }
    };
}

/// With AVX2: as 16-bit integers, because a sum of two products of 8-bit integers is none.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<'b, E: Epilogue>(
    block: &Block<'_>,
    packed: &[f32],
    panels: Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
) {
    use std::arch::x86_64::*;
    /// Columns whose sums the registers hold.
    const COLUMNS: usize = 8;
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn tile<const ROWS: usize>(left: Left<'_>, groups: &[u8], out: &mut Sums<6>) {
        let steps = groups.len() / (GROUP * WIDTH);
        let rows = left.pointers::<ROWS>(steps * GROUP);
        for first in (0..WIDTH).step_by(COLUMNS) {
            // Two sums of each column, side by side: of its first pair and of its second.
            let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
            for step in 0..steps {
                // SAFETY: each step of a panel has four bytes for each column, and of each row.
                unsafe {
                    let b = groups.as_ptr().add((step * WIDTH + first) * GROUP).cast::<__m128i>();
                    let b = [_mm_loadu_si128(b), _mm_loadu_si128(b.add(1))].map(|b| _mm256_cvtepi8_epi16(b));
                    for row in 0..ROWS {
                        let a = rows[row].add(step * GROUP).cast::<i32>().read_unaligned();
                        let a = _mm256_cvtepu8_epi16(_mm_set1_epi32(a));
                        for (sum, b) in sums[row].iter_mut().zip(b) {
                            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(a, b));
                        }
                    }
                }
            }
            for (out, sums) in out.iter_mut().zip(sums) {
                let sums = _mm256_permute4x64_epi64::<0xd8>(_mm256_hadd_epi32(sums[0], sums[1]));
                let out = &mut out[first..first + COLUMNS];
                // SAFETY: there is room for eight integers.
                unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), sums) };
            }
        }
    }
    each::<true, 6, E>(block, packed, panels, panel, epilogue, |left, rows, groups, out| {
        by_rows!(tile, left, rows, groups, out);
    });
}

/// With AVX-512, likewise as 16-bit integers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<'b, E: Epilogue>(
    block: &Block<'_>,
    packed: &[f32],
    panels: Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
) {
    use std::arch::x86_64::*;
    /// Columns whose sums the registers hold.
    const COLUMNS: usize = 32;
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw")]
    fn tile<const ROWS: usize>(left: Left<'_>, groups: &[u8], out: &mut Sums<6>) {
        let steps = groups.len() / (GROUP * WIDTH);
        let rows = left.pointers::<ROWS>(steps * GROUP);
        for first in (0..WIDTH).step_by(COLUMNS) {
            // Two sums of each column, side by side: of its first pair and of its second.
            let mut sums = [[_mm512_setzero_si512(); 4]; ROWS];
            for step in 0..steps {
                // SAFETY: each step of a panel has four bytes for each column, and of each row.
                unsafe {
                    let b = groups.as_ptr().add((step * WIDTH + first) * GROUP).cast::<__m256i>();
                    let b = [0, 1, 2, 3].map(|part| _mm512_cvtepi8_epi16(_mm256_loadu_si256(b.add(part))));
                    for row in 0..ROWS {
                        let a = rows[row].add(step * GROUP).cast::<i32>().read_unaligned();
                        let a = _mm512_cvtepu8_epi16(_mm256_set1_epi32(a));
                        for (sum, b) in sums[row].iter_mut().zip(b) {
                            *sum = _mm512_add_epi32(*sum, _mm512_madd_epi16(a, b));
                        }
                    }
                }
            }
            for (out, sums) in out.iter_mut().zip(sums) {
                for (out, sum) in out[first..first + COLUMNS].chunks_exact_mut(8).zip(sums) {
                    let both = _mm512_add_epi32(sum, _mm512_srli_epi64::<32>(sum));
                    // SAFETY: there is room for eight integers.
                    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm512_cvtepi64_epi32(both)) };
                }
            }
        }
    }
    each::<true, 6, E>(block, packed, panels, panel, epilogue, |left, rows, groups, out| {
        by_rows!(tile, left, rows, groups, out);
    });
}

/// With AVX-VNNI.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avxvnni")]
fn avx_vnni<'b, E: Epilogue>(
    block: &Block<'_>,
    packed: &[f32],
    panels: Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
) {
    use std::arch::x86_64::*;
    /// Columns whose sums the registers hold.
    const COLUMNS: usize = 16;
    #[inline]
    #[target_feature(enable = "avx2,fma,avxvnni")]
    fn tile<const ROWS: usize>(left: Left<'_>, groups: &[u8], out: &mut Sums<6>) {
        let steps = groups.len() / (GROUP * WIDTH);
        let rows = left.pointers::<ROWS>(steps * GROUP);
        for first in (0..WIDTH).step_by(COLUMNS) {
            let mut sums = [[_mm256_setzero_si256(); 2]; ROWS];
            for step in 0..steps {
                // SAFETY: each step of a panel has four bytes for each column, and of each row.
                unsafe {
                    let b = groups.as_ptr().add((step * WIDTH + first) * GROUP).cast::<__m256i>();
                    let b = [_mm256_loadu_si256(b), _mm256_loadu_si256(b.add(1))];
                    for row in 0..ROWS {
                        let a = rows[row].add(step * GROUP).cast::<i32>().read_unaligned();
                        let a = _mm256_set1_epi32(a);
                        sums[row][0] = _mm256_dpbusd_avx_epi32(sums[row][0], a, b[0]);
                        sums[row][1] = _mm256_dpbusd_avx_epi32(sums[row][1], a, b[1]);
                    }
                }
            }
            for (out, sums) in out.iter_mut().zip(sums) {
                let out = &mut out[first..first + COLUMNS];
                // SAFETY: there is room for sixteen integers.
                unsafe {
                    _mm256_storeu_si256(out.as_mut_ptr().cast(), sums[0]);
                    _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), sums[1]);
                }
            }
        }
    }
    each::<true, 6, E>(block, packed, panels, panel, epilogue, |left, rows, groups, out| {
        by_rows!(tile, left, rows, groups, out);
    });
}

/// With AVX-512-VNNI.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn avx512_vnni<'b, E: Epilogue>(
    block: &Block<'_>,
    packed: &[f32],
    panels: Range<usize>,
    panel: impl Fn(usize) -> &'b [f32],
    epilogue: &E,
) {
    use std::arch::x86_64::*;
    // Not inlined: the places of its rows need all registers.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn tile<const ROWS: usize>(left: Left<'_>, groups: &[u8], out: &mut Sums<6>) {
        let steps = groups.len() / (GROUP * WIDTH);
        let rows = left.pointers::<ROWS>(steps * GROUP);
        let mut sums = [[_mm512_setzero_si512(); 4]; ROWS];
        for step in 0..steps {
            // SAFETY: each step of a panel has four bytes for each column, and of each row.
            unsafe {
                let b = groups.as_ptr().add(step * WIDTH * GROUP);
                let b = [0, 1, 2, 3].map(|line| _mm512_loadu_si512(b.add(line * LINE).cast()));
                for row in 0..ROWS {
                    let a = rows[row].add(step * GROUP).cast::<i32>().read_unaligned();
                    let a = _mm512_set1_epi32(a);
                    for (sum, b) in sums[row].iter_mut().zip(b) {
                        *sum = _mm512_dpbusd_epi32(*sum, a, b);
                    }
                }
            }
        }
        for (out, sums) in out.iter_mut().zip(sums) {
            for (out, sum) in out.chunks_exact_mut(LINE / 4).zip(sums) {
                // SAFETY: there is room for sixteen integers.
                unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), sum) };
            }
        }
    }
    each::<true, 6, E>(block, packed, panels, panel, epilogue, |left, rows, groups, out| {
        by_rows!(tile, left, rows, groups, out);
    });
}
