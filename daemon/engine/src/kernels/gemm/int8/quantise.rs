//! Float32 values as 8-bit integers: a row of activations with a scale and a zero of its own, a column of weights with a
//! scale of its own. Every processor rounds alike.

use crate::kernels::isa::{Isa, vectorised};

/// What turns a row's integers back into numbers: `scale (q - zero)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quantised {
    /// NaN where the row has a value that is not finite, so that its products are NaN too.
    pub(super) scale: f32,
    /// From 0 to 255.
    pub(super) zero: i32,
}

/// Values that are looked at together.
const LANES: usize = 32;

/// Adding it rounds to an integer, ties to even, which the lowest bits then are: 1.5 * 2^23.
const ROUND: f32 = 12_582_912.0;

/// The smallest range that is divided by: below it a row is all 0.
const SMALLEST: f32 = 1e-30;

/// Writes each value of `x` as an integer from 0 to 255. The range of `x`, and 0, is divided into 255 steps; 0 is one of the
/// integers, and every value is at most half a step away from its own.
///
/// # Panics
/// When `out` is shorter than `x`.
pub(super) fn row(isa: Isa, x: &[f32], out: &mut [u8]) -> Quantised {
    let (low, high) = range(isa, x);
    let range = high - low;
    if !range.is_finite() {
        out.fill(0);
        return Quantised { scale: f32::NAN, zero: 0 };
    }
    if range < SMALLEST {
        out.fill(0);
        return Quantised { scale: 0.0, zero: 0 };
    }
    let inverse = 255.0 / range;
    let zero = (-low * inverse).round_ties_even();
    unsigned(isa, x, inverse, zero, out);
    Quantised { scale: range / 255.0, zero: zero as i32 }
}

/// Writes each weight as an integer from -127 to 127, and returns the scale that turns them back into numbers.
///
/// # Panics
/// When `out` is shorter than `weights`.
pub(super) fn column(isa: Isa, weights: &[f32], out: &mut [i8]) -> f32 {
    let (low, high) = range(isa, weights);
    let largest = high.max(-low);
    if !largest.is_finite() {
        out.fill(0);
        return f32::NAN;
    }
    if largest < SMALLEST {
        out.fill(0);
        return 0.0;
    }
    let inverse = 127.0 / largest;
    for (out, x) in out.iter_mut().zip(weights) {
        *out = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
    }
    largest / 127.0
}

vectorised! {
    /// The smallest and the largest of the values and 0; infinite where a value is not finite.
    fn range<FMA>(x: &[f32]) -> (f32, f32) {
        let _ = FMA;
        let (mut low, mut high, mut bits) = ([0f32; LANES], [0f32; LANES], [0u32; LANES]);
        let mut look = |x: &[f32; LANES]| {
            for lane in 0..LANES {
                low[lane] = if x[lane] < low[lane] { x[lane] } else { low[lane] };
                high[lane] = if x[lane] > high[lane] { x[lane] } else { high[lane] };
                bits[lane] = bits[lane].max(x[lane].to_bits() & 0x7fff_ffff);
            }
        };
        let (chunks, rest) = x.as_chunks::<LANES>();
        chunks.iter().for_each(&mut look);
        if !rest.is_empty() {
            let mut last = [0f32; LANES];
            last[..rest.len()].copy_from_slice(rest);
            look(&last);
        }
        if bits.iter().any(|&bits| bits >= f32::INFINITY.to_bits()) {
            return (f32::NEG_INFINITY, f32::INFINITY);
        }
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                low[lane] = if low[lane + width] < low[lane] { low[lane + width] } else { low[lane] };
                high[lane] = if high[lane + width] > high[lane] { high[lane + width] } else { high[lane] };
            }
            width /= 2;
        }
        (low[0], high[0])
    }
}

vectorised! {
    /// `x * inverse + zero` to the nearest integer from 0 to 255.
    fn unsigned<FMA>(x: &[f32], inverse: f32, zero: f32, out: &mut [u8]) {
        let _ = FMA;
        let shift = ROUND + zero;
        let nearest = |x: f32| {
            let shifted = x * inverse + shift;
            shifted.to_bits().cast_signed().wrapping_sub(ROUND.to_bits().cast_signed()).clamp(0, 255) as u8
        };
        let (chunks, rest) = x.as_chunks::<LANES>();
        let (outs, out) = out[..x.len()].as_chunks_mut::<LANES>();
        for (x, out) in chunks.iter().zip(outs) {
            for lane in 0..LANES {
                out[lane] = nearest(x[lane]);
            }
        }
        out.iter_mut().zip(rest).for_each(|(out, x)| *out = nearest(*x));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::testing::isas;

    /// Values of all magnitudes that a step can divide.
    fn values() -> impl Strategy<Value = Vec<f32>> {
        let magnitude = (-60i32..60).prop_map(|power| 2f32.powi(power));
        (magnitude, prop::collection::vec(-1f32..1.0, 0..200))
            .prop_map(|(magnitude, values)| values.into_iter().map(|x| x * magnitude).collect())
    }

    proptest! {
        #[test]
        fn an_activation_is_at_most_half_a_step_away_and_0_is_exact(x in values()) {
            let mut expected = vec![0; x.len()];
            let of = row(Isa::PORTABLE, &x, &mut expected);
            prop_assert!((0..=255).contains(&of.zero));
            for (x, q) in x.iter().zip(&expected) {
                let back = f64::from(of.scale) * f64::from(i32::from(*q) - of.zero);
                let away = (back - f64::from(*x)).abs();
                prop_assert!(away <= f64::from(of.scale) * 0.50001, "{x} became {back}");
                prop_assert!(*x != 0.0 || back == 0.0);
            }
            for isa in isas() {
                let mut found = vec![1; x.len()];
                let same = row(isa, &x, &mut found);
                prop_assert_eq!((same.scale.to_bits(), same.zero, found), (of.scale.to_bits(), of.zero, expected.clone()));
            }
        }

        #[test]
        fn a_weight_is_at_most_half_a_step_away(weights in values()) {
            let mut expected = vec![0; weights.len()];
            let scale = column(Isa::PORTABLE, &weights, &mut expected);
            for (x, q) in weights.iter().zip(&expected) {
                let away = (f64::from(scale) * f64::from(*q) - f64::from(*x)).abs();
                prop_assert!(*q >= -127 && away <= f64::from(scale) * 0.50001, "{x} became {q}");
            }
            for isa in isas() {
                let mut found = vec![1; weights.len()];
                let same = column(isa, &weights, &mut found);
                prop_assert_eq!((same.to_bits(), found), (scale.to_bits(), expected.clone()));
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so_and_what_is_all_0_becomes_it() {
        for isa in isas() {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = vec![1.0; 70];
                for place in [0, 31, 40, 69] {
                    x[place] = bad;
                    assert!(row(isa, &x, &mut [0; 70]).scale.is_nan(), "{isa:?}: {bad} at {place}");
                    assert!(column(isa, &x, &mut [0; 70]).is_nan(), "{isa:?}: {bad} at {place}");
                    x[place] = 1.0;
                }
            }
            for x in [[0.0; 9], [f32::from_bits(1); 9]] {
                let (mut q, mut weights) = ([7; 9], [7; 9]);
                let of = row(isa, &x, &mut q);
                assert_eq!((of.scale, of.zero, q), (0.0, 0, [0; 9]));
                assert_eq!((column(isa, &x, &mut weights), weights), (0.0, [0; 9]));
            }
        }
    }
}
