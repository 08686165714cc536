//! Matrix products on the CPU.
//!
//! The right factor is packed into panels first ([`Packed`]: weights once a step, or once for all when they are only
//! served); tasks then take blocks of rows of the left factor, pack them in memory of their own, and compute tile by
//! tile (`float`, `pair`, `amx`). A finished tile goes through an [`Epilogue`] while it is in the cache. Blocks depend on
//! the shapes alone and a sum is never cut, so that a result is the same to the bit on any number of threads.
//!
//! Factors are packed as float32, or as pairs of bfloat16 where the processor multiplies those. With AMX a float32
//! factor is three bfloat16 values whose sum it is, and a product the six partial products that matter (Henry, Tang
//! and Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations"):
//! as exact as float32 and faster. Where a model only answers, weights and activations may also be 8-bit integers
//! (`int8`).

#[cfg(target_arch = "x86_64")]
mod amx;
mod epilogue;
mod float;
mod int8;
mod matrix;
mod packed;
#[cfg(target_arch = "x86_64")]
mod pair;

use rayon::prelude::*;

pub(super) use epilogue::{Added, Epilogue, RowScaled, Rows, Scaled};
pub(super) use int8::MOST_INNER as MOST_INT8_INPUTS;
pub(super) use matrix::Matrix;
pub use packed::Packed;

use super::Compute;
use super::buffer::{Buffer, with_scratch};
use super::calls::give_way;
use super::isa::Set;

/// Multiplications of 8-bit integers that a task does at least: some microseconds.
const SMALLEST_TASK: usize = 1 << 20;

/// How factors are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Float32 values; with `rounded`, such as bfloat16 has too.
    Float { rounded: bool },
    /// Pairs of bfloat16 values; a float32 value is the sum of so many.
    #[cfg(target_arch = "x86_64")]
    Pair { planes: usize },
    /// 8-bit integers: the right factor is weights, the left one activations.
    Int8,
}

impl Compute {
    /// Columns of a panel of the right factor.
    fn panel_width(self) -> usize {
        match self.format() {
            Format::Float { .. } => float::shape(self.isa()).1,
            #[cfg(target_arch = "x86_64")]
            Format::Pair { .. } => pair::WIDTH,
            Format::Int8 => int8::WIDTH,
        }
    }

    /// Float32 places that a panel takes.
    fn panel_values(self, inner: usize) -> usize {
        match self.format() {
            Format::Float { .. } => inner * float::shape(self.isa()).1,
            #[cfg(target_arch = "x86_64")]
            Format::Pair { planes } => pair::panel_values(inner, planes),
            Format::Int8 => int8::panel_values(inner),
        }
    }

    /// Rows of the left factor that a task multiplies: as many as stay in a second-level cache.
    fn block_rows(self, inner: usize) -> usize {
        let rows = match self.format() {
            Format::Float { .. } => float::shape(self.isa()).0 * 8,
            #[cfg(target_arch = "x86_64")]
            Format::Pair { .. } => 128,
            Format::Int8 => 6 * int8::ROWS,
        };
        let bytes = self.left_values(rows, inner) * size_of::<f32>();
        if bytes > 1 << 20 { rows / 2 } else { rows }
    }

    /// Whether a left factor needs no packing: its rows are float32 as they lie, and so far apart that the cache holds some
    /// of them beside each other.
    fn reads_where_it_lies(self, a: Matrix<'_>) -> bool {
        self.format() == Format::Float { rounded: false } && !a.turned && !a.stride.is_multiple_of(1024)
    }

    /// Groups of panels that a product of so many blocks of rows is cut into.
    fn groups(self, a: Matrix<'_>, columns: usize, blocks: usize, panels: usize) -> usize {
        if blocks >= 12 {
            return 1;
        }
        // Two dozen tasks, unless they became tiny: enough for many threads.
        let most = 24_usize.div_ceil(blocks);
        match self.format() {
            Format::Int8 => {
                let most = most.min(a.rows * a.columns * columns / SMALLEST_TASK / blocks).clamp(1, panels);
                // Equal ones, of which two or four threads have equally many.
                let is_even = |groups: &usize| groups.is_multiple_of(2) && panels.is_multiple_of(*groups);
                (1..=most).rev().find(is_even).unwrap_or(most)
            }
            _ => most.min(panels.div_ceil(2)),
        }
    }

    /// Rows of the left factor that are packed together.
    fn piece_rows(self) -> usize {
        match self.format() {
            Format::Float { .. } => float::shape(self.isa()).0,
            #[cfg(target_arch = "x86_64")]
            Format::Pair { .. } => pair::STRIPS * pair::SIDE,
            Format::Int8 => int8::ROWS,
        }
    }

    /// Float32 places that packed rows of the left factor take.
    fn left_values(self, rows: usize, inner: usize) -> usize {
        match self.format() {
            Format::Float { .. } => rows.next_multiple_of(self.piece_rows()) * inner,
            #[cfg(target_arch = "x86_64")]
            Format::Pair { planes } => pair::left_values(rows, inner, planes),
            Format::Int8 => int8::left_values(rows, inner),
        }
    }
}

/// The product `a b` on all threads of the current pool, or on this one if it is to be alone, each finished part given to `epilogue`.
///
/// # Panics
/// When `a` has not as many columns as `b` has rows, or the result's rows have no room for those of the product.
pub(super) fn multiply<E: Epilogue>(compute: Compute, a: Matrix<'_>, b: &Packed, epilogue: E) {
    if compute.is_alone {
        return with_scratch(|[scratch]| multiply_here(compute, a, b, scratch, epilogue));
    }
    check(a, b, &epilogue);
    let epilogue = &epilogue;
    let panels = b.columns.div_ceil(compute.panel_width());
    if a.rows == 0 || panels == 0 {
        return;
    }
    let height = compute.block_rows(a.columns);
    let blocks = a.rows.div_ceil(height);
    let groups = compute.groups(a, b.columns, blocks, panels);
    let group = panels.div_ceil(groups);
    let groups = panels.div_ceil(group);
    let rows_of = |block: usize| block * height..((block + 1) * height).min(a.rows);
    if groups == 1 {
        (0..blocks).into_par_iter().with_max_len(1).for_each(|block| {
            give_way();
            with_scratch(|[scratch]| {
                let packed = scratch.reserve(compute.left_values(rows_of(block).len(), a.columns));
                pack_left(compute, a, rows_of(block), packed);
                block_product(compute, a, Some(packed), b, rows_of(block), 0..panels, epilogue);
            });
        });
        return;
    }
    // Several tasks read the same rows: they are packed once, before.
    with_scratch(|[scratch]| {
        let stride = compute.left_values(height, a.columns);
        let packed = scratch.reserve(blocks * stride);
        // Rows are packed in smaller pieces than they are multiplied in.
        let pieces = height / compute.piece_rows();
        if compute.goes_alone(a.rows * a.columns) {
            for (block, out) in packed.chunks_mut(stride.max(1)).enumerate() {
                pack_left(compute, a, rows_of(block), out);
            }
        } else if stride > 0 {
            packed.par_chunks_mut(stride / pieces).enumerate().for_each(|(piece, out)| {
                let first = (piece * compute.piece_rows()).min(a.rows);
                pack_left(compute, a, first..(first + compute.piece_rows()).min(a.rows), out);
            });
        }
        let packed = &*packed;
        (0..blocks * groups).into_par_iter().with_max_len(1).for_each(|task| {
            give_way();
            // The blocks of a group follow each other, so that its panels stay in the cache.
            let (block, index) = (task % blocks, task / blocks);
            let panels = index * group..((index + 1) * group).min(panels);
            let packed = &packed[block * stride..(block + 1) * stride];
            block_product(compute, a, Some(packed), b, rows_of(block), panels, epilogue);
        });
    });
}

/// The same on this thread alone.
///
/// # Panics
/// As [`multiply`].
pub(super) fn multiply_here<E: Epilogue>(
    compute: Compute,
    a: Matrix<'_>,
    b: &Packed,
    scratch: &mut Buffer,
    epilogue: E,
) {
    check(a, b, &epilogue);
    let epilogue = &epilogue;
    let panels = b.columns.div_ceil(compute.panel_width());
    let height = compute.block_rows(a.columns);
    for first in (0..a.rows).step_by(height) {
        let rows = first..(first + height).min(a.rows);
        if compute.reads_where_it_lies(a) {
            block_product(compute, a, None, b, rows, 0..panels, epilogue);
            continue;
        }
        let packed = scratch.reserve(compute.left_values(rows.len(), a.columns));
        pack_left(compute, a, rows.clone(), packed);
        block_product(compute, a, Some(packed), b, rows, 0..panels, epilogue);
    }
}

/// Whether the factors fit one another and the place of their product. That no two tasks write to one place rests on it.
fn check<E: Epilogue>(a: Matrix<'_>, b: &Packed, epilogue: &E) {
    assert!(a.columns == b.inner, "the factors of a product do not fit");
    assert!(a.rows <= 1 || b.columns <= epilogue.width(), "the rows of a product overlap");
}

/// Packs rows of a left factor.
fn pack_left(compute: Compute, a: Matrix<'_>, rows: std::ops::Range<usize>, out: &mut [f32]) {
    match compute.format() {
        Format::Float { rounded } => {
            let height = float::shape(compute.isa()).0;
            if a.columns > 0 {
                for (first, out) in rows.step_by(height).zip(out.chunks_mut(height * a.columns)) {
                    float::pack(compute.isa(), a, first, height, rounded, out);
                }
            }
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this format is only chosen when the processor has AVX-512 and its bfloat16 part.
        Format::Pair { planes } => unsafe { pair::pack_left(a, rows, planes, out) },
        Format::Int8 => int8::pack_left(compute.isa(), a, rows, out),
    }
}

/// The rows `rows` of a product, which are packed or read where they lie, in the columns of the panels `panels`.
fn block_product<E: Epilogue>(
    compute: Compute,
    a: Matrix<'_>,
    packed: Option<&[f32]>,
    b: &Packed,
    rows: std::ops::Range<usize>,
    panels: std::ops::Range<usize>,
    epilogue: &E,
) {
    let stride = compute.panel_values(b.inner);
    let panel = |index: usize| &b.buffer[index * stride..(index + 1) * stride];
    let place = Block { a, first_row: rows.start, rows: rows.len(), columns: b.columns };
    let rows = packed.unwrap_or_default();
    match (compute.format(), compute.isa().set()) {
        // SAFETY: there is no `Isa` of a set that the processor lacks.
        #[cfg(target_arch = "x86_64")]
        (Format::Float { .. }, Set::Avx2 | Set::AvxVnni) => unsafe {
            float::avx2(&place, packed, panels, panel, epilogue);
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Format::Float { .. }, set) if set >= Set::Avx512 => unsafe {
            float::avx512(&place, packed, panels, panel, epilogue);
        },
        (Format::Float { .. }, _) => float::portable(&place, packed, panels, panel, epilogue),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        (Format::Pair { planes }, Set::Amx) => unsafe {
            amx::tiles(&place, planes, rows, panels, panel, epilogue);
        },
        // SAFETY: this format is only chosen when the processor has AVX-512 and its bfloat16 part.
        #[cfg(target_arch = "x86_64")]
        (Format::Pair { .. }, _) => unsafe { pair::avx512(&place, rows, panels, panel, epilogue) },
        (Format::Int8, _) => int8::tiles(compute.isa(), &place, rows, panels, panel, epilogue),
    }
}

/// Where a task's block lies in the product.
struct Block<'a> {
    a: Matrix<'a>,
    first_row: usize,
    rows: usize,
    columns: usize,
}

impl Block<'_> {
    /// Gives the finished rows of a tile, whose rows stand `stride` apart, to the epilogue.
    #[inline(always)]
    fn store<const FMA: bool, E: Epilogue>(
        &self,
        epilogue: &E,
        row: usize,
        rows: usize,
        column: usize,
        width: usize,
        tile: &[f32],
    ) {
        let count = width.min(self.columns - column);
        for index in 0..rows.min(self.rows - row) {
            let values = &tile[index * width..][..count];
            // SAFETY: the row ends with the product's columns, for which there is room; the block's rows in the panel's
            // columns are those of this task alone.
            unsafe { epilogue.store::<FMA>(self.first_row + row + index, column, values) };
        }
    }

    /// Gives a row of a panel to the epilogue; a whole one as so many values, which the compiler then knows.
    #[inline(always)]
    fn store_row<const FMA: bool, const WIDTH: usize, E: Epilogue>(
        &self,
        epilogue: &E,
        row: usize,
        column: usize,
        values: &[f32; WIDTH],
    ) {
        if row >= self.rows || column + WIDTH > self.columns {
            return self.store::<FMA, E>(epilogue, row, 1, column, WIDTH, values);
        }
        // SAFETY: as in `store`.
        unsafe { epilogue.store::<FMA>(self.first_row + row, column, values) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{computes, in_pool, normal};
    use crate::kernels::{Isa, Precision};

    /// `a b` for transposed and plain factors.
    fn product(compute: Compute, a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
        let mut out = vec![f32::NAN; a.rows * b.columns];
        let mut packed = Packed::default();
        packed.pack(compute, b);
        let epilogue = Scaled { out: Rows::new(&mut out, 0, b.columns), scale: 0.5 };
        multiply(compute, a, &packed, epilogue);
        out
    }

    const SHAPES: [(usize, usize, usize); 9] = [
        (1, 384, 3),
        (7, 32, 7),
        (25, 25, 32),
        (129, 384, 1536),
        (384, 401, 384),
        (33, 1536, 40),
        (16, 1, 16),
        (113, 33, 65),
        (3, 0, 4),
    ];

    #[test]
    fn a_product_is_right_for_every_shape_layout_and_instruction_set() {
        for compute in computes() {
            for (m, k, n) in SHAPES {
                let (a, b) = (normal(1, m * k), normal(2, k * n));
                let transposed = |values: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                    (0..columns * rows).map(|i| values[i % rows * columns + i / rows]).collect()
                };
                let (a_t, b_t) = (transposed(&a, m, k), transposed(&b, k, n));
                let exact: Vec<f64> = (0..m * n)
                    .map(|i| {
                        let (row, column) = (i / n, i % n);
                        let term = |x: usize| f64::from(a[row * k + x]) * f64::from(b[x * n + column]) * 0.5;
                        (0..k).map(term).sum()
                    })
                    .collect();
                let plain = (Matrix::dense(&a, m, k), Matrix::dense(&b, k, n));
                let turned = (Matrix::dense(&a_t, k, m).t(), Matrix::dense(&b_t, n, k).t());
                // A sum of k products of standard normal factors, one after the other.
                let tolerance = compute.epsilon() * (16 + 2 * k) as f64;
                for (a, b) in [plain, (plain.0, turned.1), (turned.0, plain.1), turned] {
                    let result = product(compute, a, b);
                    for (place, (x, exact)) in result.iter().zip(&exact).enumerate() {
                        assert!(
                            (f64::from(*x) - exact).abs() <= tolerance,
                            "{compute:?}, {m} x {k} x {n} at {place}: {x} is not {exact}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_product_is_the_same_to_the_bit_on_any_number_of_threads() {
        for compute in computes() {
            for (m, k, n) in SHAPES {
                let (a, b) = (normal(1, m * k), normal(2, k * n));
                let on = |threads| {
                    in_pool(threads, || product(compute, Matrix::dense(&a, m, k), Matrix::dense(&b, k, n)))
                };
                let one = on(1);
                for threads in [2, 5] {
                    assert_eq!(one, on(threads), "{compute:?}: {m} x {k} x {n} on {threads} threads");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "the rows of a product overlap")]
    fn a_product_whose_rows_would_be_written_by_several_tasks_is_refused() {
        let compute = Compute::new(Isa::PORTABLE, Precision::Fp32);
        let (a, b, mut out) = (normal(1, 6), normal(2, 12), [0.0; 8]);
        let mut packed = Packed::default();
        packed.pack(compute, Matrix::dense(&b, 3, 4));
        // Rows of four values, three apart.
        let epilogue = Scaled { out: Rows::new(&mut out, 0, 3), scale: 1.0 };
        multiply(compute, Matrix::dense(&a, 2, 3), &packed, epilogue);
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        for compute in computes() {
            let (a, b) = (normal(1, 40 * 64), normal(2, 64 * 33));
            let all = product(compute, Matrix::dense(&a, 40, 64), Matrix::dense(&b, 64, 33));
            let one = product(compute, Matrix::dense(&a[37 * 64..38 * 64], 1, 64), Matrix::dense(&b, 64, 33));
            assert_eq!(one, all[37 * 33..38 * 33], "{compute:?}");
        }
    }
}
