//! Elementary functions and sums that the compiler can vectorise.

/// `a * b + c`, in one instruction where the processor has one.
#[inline(always)]
pub(super) fn mul_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The nearest value that bfloat16 has, ties to even.
#[inline(always)]
pub(super) fn round_to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    if x.is_nan() { x } else { f32::from_bits(rounded) }
}

/// `e^x` for x up to 88, off by at most 2 units in the last place; 0 below -87.3.
///
/// `x = n ln 2 + r`; `2^n` is put together from bits, `e^r` is a polynomial (the minimax fit of the Cephes library).
#[inline(always)]
pub(super) fn exp<const FMA: bool>(x: f32) -> f32 {
    let zero = x < -87.3;
    let x = if zero { -87.3 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let y = power_of_e::<FMA>(x);
    if zero { 0.0 } else { y }
}

/// `e^x` for x from -87.3 to 88.
#[inline(always)]
fn power_of_e<const FMA: bool>(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    /// Adding it rounds to an integer: 1.5 * 2^23.
    const ROUND: f32 = 12_582_912.0;
    const P: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];
    let shifted = mul_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = mul_add::<FMA>(n, -LN_2_LOW, mul_add::<FMA>(n, -LN_2_HIGH, x));
    let mut p = P[0];
    p = mul_add::<FMA>(p, r, P[1]);
    p = mul_add::<FMA>(p, r, P[2]);
    p = mul_add::<FMA>(p, r, P[3]);
    p = mul_add::<FMA>(p, r, P[4]);
    p = mul_add::<FMA>(p, r, P[5]);
    let y = mul_add::<FMA>(p, r * r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    y * power
}

/// `e^x` for x up to 0, as [`exp`]; below -87.3 what it is there, 1.2e-38.
#[inline(always)]
pub(super) fn exp_of_negative<const FMA: bool>(x: f32) -> f32 {
    let x = if x < -87.3 { -87.3 } else { x };
    power_of_e::<FMA>(x)
}

/// The error function: an odd rational approximation (the minimax fit that Eigen and XLA use) up to where the
/// function is 1 to rounding; off by at most 4e-7.
#[inline(always)]
pub(super) fn erf<const FMA: bool>(x: f32) -> f32 {
    const P: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_5e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const Q: [f32; 5] = [-1.456_607_2e-5, -2.133_740_5e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];
    let x = if x > 3.832_507 { 3.832_507 } else { x };
    let x = if x < -3.832_507 { -3.832_507 } else { x };
    let square = x * x;
    let mut p = P[0];
    p = mul_add::<FMA>(p, square, P[1]);
    p = mul_add::<FMA>(p, square, P[2]);
    p = mul_add::<FMA>(p, square, P[3]);
    p = mul_add::<FMA>(p, square, P[4]);
    p = mul_add::<FMA>(p, square, P[5]);
    p = mul_add::<FMA>(p, square, P[6]);
    let mut q = Q[0];
    q = mul_add::<FMA>(q, square, Q[1]);
    q = mul_add::<FMA>(q, square, Q[2]);
    q = mul_add::<FMA>(q, square, Q[3]);
    q = mul_add::<FMA>(q, square, Q[4]);
    x * p / q
}

/// Values that one vector operation takes.
pub(super) const VECTOR: usize = 16;

/// Writes `f(a, b)` for each place of slices of one length. Whole vectors lie in arrays of their own, which the
/// compiler turns into registers whatever `f` is; the last values are computed as part of one, too.
#[inline(always)]
pub(super) fn map2(a: &[f32], b: &[f32], out: &mut [f32], f: impl Fn(f32, f32) -> f32) {
    let vector = |a: &[f32], b: &[f32], out: &mut [f32], count: usize| {
        let (mut x, mut y, mut z) = ([0f32; VECTOR], [0f32; VECTOR], [0f32; VECTOR]);
        x[..count].copy_from_slice(&a[..count]);
        y[..count].copy_from_slice(&b[..count]);
        for lane in 0..VECTOR {
            z[lane] = f(x[lane], y[lane]);
        }
        out[..count].copy_from_slice(&z[..count]);
    };
    let whole = out.len() / VECTOR * VECTOR;
    for start in (0..whole).step_by(VECTOR) {
        let at = start..start + VECTOR;
        vector(&a[at.clone()], &b[at.clone()], &mut out[at], VECTOR);
    }
    if whole < out.len() {
        vector(&a[whole..], &b[whole..], &mut out[whole..], a.len() - whole);
    }
}

/// Replaces each value `x` by `f(x, y)`.
#[inline(always)]
pub(super) fn replace2(x: &mut [f32], y: &[f32], f: impl Fn(f32, f32) -> f32) {
    let vector = |x: &mut [f32], y: &[f32], count: usize| {
        let (mut a, mut b) = ([0f32; VECTOR], [0f32; VECTOR]);
        a[..count].copy_from_slice(&x[..count]);
        b[..count].copy_from_slice(&y[..count]);
        for lane in 0..VECTOR {
            a[lane] = f(a[lane], b[lane]);
        }
        x[..count].copy_from_slice(&a[..count]);
    };
    let whole = x.len() / VECTOR * VECTOR;
    for start in (0..whole).step_by(VECTOR) {
        let at = start..start + VECTOR;
        vector(&mut x[at.clone()], &y[at], VECTOR);
    }
    if whole < x.len() {
        let count = x.len() - whole;
        vector(&mut x[whole..], &y[whole..], count);
    }
}

/// Replaces each value `x` by `f(x)`.
#[inline(always)]
pub(super) fn replace(x: &mut [f32], f: impl Fn(f32) -> f32) {
    let vector = |x: &mut [f32], count: usize| {
        let mut a = [0f32; VECTOR];
        a[..count].copy_from_slice(&x[..count]);
        for a in &mut a {
            *a = f(*a);
        }
        x[..count].copy_from_slice(&a[..count]);
    };
    let mut chunks = x.chunks_exact_mut(VECTOR);
    for x in &mut chunks {
        vector(x, VECTOR);
    }
    let rest = chunks.into_remainder();
    if !rest.is_empty() {
        let count = rest.len();
        vector(rest, count);
    }
}

/// Running sums, so that sums are vectorised and always taken in one order.
const LANES: usize = 32;

/// The sum of `term(a, b)` over two slices of one length, in a fixed order.
#[inline(always)]
pub(super) fn sum_by(a: &[f32], b: &[f32], term: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let mut rest = 0f32;
    for (&x, &y) in a_chunks.remainder().iter().zip(b_chunks.remainder()) {
        rest = term(x, y, rest);
    }
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] = term(x[lane], y[lane], sums[lane]);
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0] + rest
}

/// The sum of a vector's lanes, in a fixed order.
#[inline(always)]
pub(super) fn sum_of_lanes(mut lanes: [f32; VECTOR]) -> f32 {
    let mut width = VECTOR / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest of a vector's lanes.
#[inline(always)]
pub(super) fn largest_of_lanes(mut lanes: [f32; VECTOR]) -> f32 {
    let mut width = VECTOR / 2;
    while width > 0 {
        for lane in 0..width {
            let other = lanes[lane + width];
            lanes[lane] = if other > lanes[lane] { other } else { lanes[lane] };
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of the values.
#[inline(always)]
pub(super) fn sum(values: &[f32]) -> f32 {
    sum_by(values, values, |x, _, sum| sum + x)
}

/// The sum of the products.
#[inline(always)]
pub(super) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    sum_by(a, b, mul_add::<FMA>)
}

/// The largest value.
#[inline(always)]
pub(super) fn largest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let mut rest = f32::NEG_INFINITY;
    for &x in chunks.remainder() {
        rest = if x > rest { x } else { rest };
    }
    for x in chunks {
        for lane in 0..LANES {
            lanes[lane] = if x[lane] > lanes[lane] { x[lane] } else { lanes[lane] };
        }
    }
    lanes.into_iter().fold(rest, |most, x| if x > most { x } else { most })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_right_to_single_precision() {
        for step in -60_000..=60_000 {
            let x = step as f32 * 1e-4;
            let exact = candle_core::cpu::erf::erf_f64(f64::from(x));
            assert!((f64::from(erf::<false>(x)) - exact).abs() < 4e-7, "erf({x})");
            assert!((f64::from(erf::<true>(x)) - exact).abs() < 4e-7, "erf({x})");
        }
    }

    #[test]
    fn the_exponential_is_right_to_single_precision() {
        for step in -87_000..88_000 {
            let x = step as f32 * 1e-3;
            let exact = f64::from(x).exp();
            for y in [exp::<false>(x), exp::<true>(x)] {
                assert!((f64::from(y) / exact - 1.0).abs() < 2.5e-7, "exp({x}) is {y}, not {exact}");
            }
        }
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert!(exp::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn sums_and_maxima_reach_every_value() {
        for length in 0..70 {
            let values: Vec<f32> = (1..=length).map(|x| x as f32).collect();
            assert_eq!(sum(&values), (length * (length + 1) / 2) as f32);
            let most = if length == 0 { f32::NEG_INFINITY } else { length as f32 };
            assert_eq!(largest(&values), most);
        }
    }
}
