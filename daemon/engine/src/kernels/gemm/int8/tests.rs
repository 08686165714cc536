//! Products of 8-bit integers against exact arithmetic, with every instruction set.

use proptest::prelude::*;

use super::super::{Matrix, Packed, Rows, Scaled, multiply, multiply_here};
use super::{MOST_INNER, quantise};
use crate::kernels::buffer::Buffer;
use crate::kernels::testing::{in_pool, isas, normal};
use crate::kernels::{Compute, Isa, Precision};

/// `a b^T`, `[m, n]`: a is `[m, k]`, b `[n, k]`.
fn product(isa: Isa, a: &[f32], b: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    let compute = Compute::new(isa, Precision::Int8);
    let mut out = vec![f32::NAN; m * n];
    let mut packed = Packed::default();
    packed.pack(compute, Matrix::dense(b, n, k).t());
    let epilogue = Scaled { out: Rows::new(&mut out, 0, n), scale: 1.0 };
    multiply(compute, Matrix::dense(a, m, k), &packed, epilogue);
    out
}

/// The same from integers that are added exactly.
fn exact(a: &[f32], b: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    let rows: Vec<_> = (0..m)
        .map(|row| {
            let mut q = vec![0; k];
            (quantise::row(Isa::PORTABLE, &a[row * k..][..k], &mut q), q)
        })
        .collect();
    let columns: Vec<_> = (0..n)
        .map(|column| {
            let mut q = vec![0; k];
            (quantise::column(Isa::PORTABLE, &b[column * k..][..k], &mut q), q)
        })
        .collect();
    let value = |(row, x): &(quantise::Quantised, Vec<u8>), (scale, w): &(f32, Vec<i8>)| {
        let term = |(x, w): (&u8, &i8)| (i64::from(*x) - i64::from(row.zero)) * i64::from(*w);
        let sum: i64 = x.iter().zip(w).map(term).sum();
        sum as f32 * (row.scale * scale)
    };
    rows.iter().flat_map(|row| columns.iter().map(move |column| value(row, column))).collect()
}

/// Bits, which are the same only if numbers are.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

const SHAPES: [[usize; 3]; 10] = [
    [1, 384, 384],
    [5, 64, 64],
    [6, 63, 65],
    [7, 1, 1],
    [25, 384, 1536],
    [97, 65, 130],
    [200, 127, 384],
    [1200, 70, 3],
    [3, 0, 5],
    [0, 9, 9],
];

#[test]
fn a_product_is_the_exact_one_to_the_bit_with_every_instruction_set_and_number_of_threads() {
    for [m, k, n] in SHAPES {
        let (a, b) = (normal(1, m * k), normal(2, n * k));
        let expected = bits(&exact(&a, &b, [m, k, n]));
        for isa in isas() {
            for threads in [1, 3] {
                let found = in_pool(threads, || product(isa, &a, &b, [m, k, n]));
                assert_eq!(bits(&found), expected, "{isa:?}: {m} x {k} x {n} on {threads} threads");
            }
            let compute = Compute::new(isa, Precision::Int8);
            let (mut packed, mut scratch, mut out) = (Packed::default(), Buffer::default(), vec![0.0; m * n]);
            packed.pack_here(compute, Matrix::dense(&b, n, k).t());
            let epilogue = Scaled { out: Rows::new(&mut out, 0, n), scale: 1.0 };
            multiply_here(compute, Matrix::dense(&a, m, k), &packed, &mut scratch, epilogue);
            assert_eq!(bits(&out), expected, "{isa:?}: {m} x {k} x {n} on this thread");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_product_of_any_shape_is_the_exact_one(m in 1usize..40, k in 1usize..300, n in 1usize..140, seed: u64) {
        let (a, b) = (normal(seed, m * k), normal(seed ^ 1, n * k));
        let expected = bits(&exact(&a, &b, [m, k, n]));
        for isa in isas() {
            prop_assert_eq!(bits(&product(isa, &a, &b, [m, k, n])), expected.clone(), "{:?}", isa);
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    let [m, k, n] = [230, 96, 70];
    let (a, b) = (normal(1, m * k), normal(2, n * k));
    for isa in isas() {
        let all = product(isa, &a, &b, [m, k, n]);
        for row in [0, 5, 101, 229] {
            let alone = product(isa, &a[row * k..][..k], &b, [1, k, n]);
            assert_eq!(bits(&alone), bits(&all[row * n..][..n]), "{isa:?}: row {row}");
        }
    }
}

#[test]
fn the_largest_sums_of_the_longest_inner_dimension_fit() {
    let k = MOST_INNER;
    for isa in isas() {
        for sign in [1.0, -1.0] {
            let found = product(isa, &vec![sign; k], &vec![0.5; k], [1, k, 1]);
            let away = f64::from(found[0]) / (f64::from(sign) * 0.5 * k as f64) - 1.0;
            assert!(away.abs() < 1e-6, "{isa:?}: {found:?}");
        }
    }
}

#[test]
fn a_product_is_close_to_that_of_the_numbers_themselves() {
    let [m, k, n] = [40, 384, 96];
    let (a, b) = (normal(1, m * k), normal(2, n * k));
    let found = product(Isa::best(), &a, &b, [m, k, n]);
    let (mut away, mut norm) = (0.0, 0.0);
    for row in 0..m {
        for column in 0..n {
            let term = |i: usize| f64::from(a[row * k + i]) * f64::from(b[column * k + i]);
            let real: f64 = (0..k).map(term).sum();
            away += (f64::from(found[row * n + column]) - real).powi(2);
            norm += real * real;
        }
    }
    // A step is a 255th of about 6 deviations of an activation, and a 127th of 3 of a weight; what is rounded away is a step
    // over the root of 12: 0.7 % of each.
    assert!((away / norm).sqrt() < 0.0125, "{}", (away / norm).sqrt());
}

#[test]
fn a_value_that_is_not_finite_makes_its_row_so_and_no_other() {
    let [m, k, n] = [9, 40, 66];
    let (mut a, b) = (normal(1, m * k), normal(2, n * k));
    a[4 * k + 7] = f32::INFINITY;
    a[6 * k + 39] = f32::NAN;
    for isa in isas() {
        let found = product(isa, &a, &b, [m, k, n]);
        for (row, values) in found.chunks(n).enumerate() {
            assert!(values.iter().all(|x| x.is_nan() == [4, 6].contains(&row)), "{isa:?}: row {row}");
        }
    }
}
