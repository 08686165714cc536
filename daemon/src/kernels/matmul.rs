//! Matrix products on the CPU, through the `gemm` crate.

use gemm::Parallelism;

/// A matrix inside a slice, with any distance between its rows and its columns.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows stand `row_stride` values apart.
    pub(super) fn new(values: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        let matrix = Self { values, rows, columns, row_stride, column_stride: 1 };
        assert!(matrix.end() <= values.len(), "a matrix reaches beyond its values");
        matrix
    }

    /// A matrix without gaps.
    pub(super) fn dense(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::new(values, rows, columns, columns)
    }

    /// The transpose, without moving a value.
    pub(super) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn end(&self) -> usize {
        match (self.rows, self.columns) {
            (0, _) | (_, 0) => 0,
            (rows, columns) => (rows - 1) * self.row_stride + (columns - 1) * self.column_stride + 1,
        }
    }
}

/// `out = scale * a b`, on all threads of the current rayon pool. `out` is dense, row by row.
pub(super) fn multiply(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, scale: f32) {
    let columns = b.columns;
    let threads = rayon::current_num_threads();
    let parallelism = if threads > 1 { Parallelism::Rayon(threads) } else { Parallelism::None };
    product(Target::of(out, a.rows, columns, columns), a, b, scale, parallelism);
}

/// The same on this thread alone, into rows that stand `row_stride` values apart.
pub(super) fn multiply_here(out: Target, a: Matrix<'_>, b: Matrix<'_>, scale: f32) {
    product(out, a, b, scale, Parallelism::None);
}

/// A matrix to be written, whose rows stand `row_stride` values apart.
#[derive(Clone, Copy)]
pub(super) struct Target {
    values: *mut f32,
    rows: usize,
    columns: usize,
    row_stride: usize,
}

impl Target {
    /// A target inside a slice.
    pub(super) fn of(values: &mut [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(
            rows == 0 || (rows - 1) * row_stride + columns <= values.len(),
            "a target reaches beyond its values"
        );
        Self { values: values.as_mut_ptr(), rows, columns, row_stride }
    }

    /// A target of which only the memory is known.
    ///
    /// # Safety
    /// The rows must lie inside one allocation, and nothing else may use them while the target is in use.
    pub(super) unsafe fn at(values: *mut f32, rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { values, rows, columns, row_stride }
    }
}

fn product(out: Target, a: Matrix<'_>, b: Matrix<'_>, scale: f32, parallelism: Parallelism) {
    assert!(
        a.columns == b.rows && out.rows == a.rows && out.columns == b.columns,
        "matrix shapes do not agree"
    );
    if out.rows == 0 || out.columns == 0 {
        return;
    }
    // SAFETY: `Matrix::new` and `Target` guarantee that every element lies inside its allocation, and that nothing
    // else reads or writes the target meanwhile; `read_dst` is false, so the target may be uninitialised.
    unsafe {
        gemm::gemm(
            out.rows,
            out.columns,
            a.columns,
            out.values,
            1,
            out.row_stride as isize,
            false,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            0.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// The sum of the values, in a fixed order with sixteen running sums.
#[inline]
pub(super) fn sum(values: &[f32]) -> f32 {
    dot_by(values, values, |x, _| x)
}

/// The sum of the products, in a fixed order with sixteen running sums.
#[inline]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot_by(a, b, |x, y| x * y)
}

#[inline]
fn dot_by(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0f32; 16];
    let (a_chunks, b_chunks) = (a.chunks_exact(16), b.chunks_exact(16));
    let mut rest = 0f32;
    for (&x, &y) in a_chunks.remainder().iter().zip(b_chunks.remainder()) {
        rest += term(x, y);
    }
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..16 {
            sums[lane] += term(x[lane], y[lane]);
        }
    }
    let mut width = 8;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0] + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{in_pool, normal};

    #[test]
    fn a_product_is_the_same_to_the_bit_on_any_number_of_threads() {
        for (m, k, n) in [(1, 384, 3), (7, 32, 7), (129, 384, 1536), (384, 401, 384), (33, 1536, 384)] {
            let (a, b) = (normal(1, m * k), normal(2, k * n));
            let on = |threads| {
                in_pool(threads, || {
                    let mut out = vec![f32::NAN; m * n];
                    multiply(&mut out, Matrix::dense(&a, m, k), Matrix::dense(&b, k, n), 0.5);
                    out
                })
            };
            let one = on(1);
            for threads in [2, 3, 5] {
                assert_eq!(one, on(threads), "{m} x {k} x {n} on {threads} threads");
            }
            let exact: f64 = (0..k).map(|i| f64::from(a[i]) * f64::from(b[i * n]) * 0.5).sum();
            assert!((f64::from(one[0]) - exact).abs() < 1e-3, "{} is not {exact}", one[0]);
        }
    }

    #[test]
    fn sums_reach_every_value() {
        for length in 0..70 {
            let values: Vec<f32> = (1..=length).map(|x| x as f32).collect();
            assert_eq!(sum(&values), (length * (length + 1) / 2) as f32);
        }
    }
}
