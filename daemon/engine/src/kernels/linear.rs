//! Linear layers, `y = x W^T + b`, alone or followed by GELU, and their backward passes.

use rayon::prelude::*;

use super::Compute;
use super::buffer::with_scratch;
use super::gemm::{Added, Epilogue, Matrix, Packed, Rows, Scaled, multiply};
use super::isa::vectorised;
use super::layer_norm::add;
use super::math::{erf, exp, map2, mul_add, replace2};

/// Rows whose columns one task sums.
const SUMMED: usize = 64;

/// Which form of GELU (Hendrycks and Gimpel 2016) follows a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// `u Φ(u)`.
    Exact,
    /// `u/2 (1 + tanh(√(2/π) (u + 0.044715 u³)))`, which `transformers` calls `gelu_new`.
    Tanh,
}

/// A linear layer's parameters: `weight` is `[outputs, inputs]`, `bias` `[outputs]`.
#[derive(Clone, Copy)]
pub struct Linear<'a> {
    /// `[outputs, inputs]`
    pub weight: &'a [f32],
    /// `[outputs]`
    pub bias: &'a [f32],
}

/// The gradients of a linear layer's parameters.
pub struct LinearGradients<'a> {
    /// `[outputs, inputs]`
    pub weight: &'a mut [f32],
    /// `[outputs]`
    pub bias: &'a mut [f32],
    /// Whether gradients are added to what is there, or take its place.
    pub add: bool,
}

/// A weight as the products of the forward pass and of the backward pass read it.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    forward: Packed,
    backward: Packed,
}

impl Prepared {
    /// Prepares a weight for `y = x W^T`.
    ///
    /// # Panics
    /// When the weight has fewer values than its shape.
    pub fn forward(&mut self, compute: Compute, of: Linear<'_>) {
        self.forward.pack(compute, of.matrix().t());
    }

    /// The same on this thread alone.
    ///
    /// # Panics
    /// As [`Prepared::forward`].
    pub fn forward_here(&mut self, compute: Compute, of: Linear<'_>) {
        self.forward.pack_here(compute, of.matrix().t());
    }

    /// Prepares a weight for the backward pass, too.
    ///
    /// # Panics
    /// As [`Prepared::forward`].
    pub fn backward(&mut self, compute: Compute, of: Linear<'_>) {
        self.backward.pack(compute, of.matrix());
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.forward.bytes() + self.backward.bytes()
    }

    /// `y = x W^T + b`: x is `[rows, inputs]`, y `[rows, outputs]`.
    ///
    /// # Panics
    /// When x, y and the bias do not have the shapes of the weight that was prepared.
    pub fn apply(&self, compute: Compute, x: &[f32], bias: &[f32], y: &mut [f32]) {
        let (rows, inputs, outputs) = fit(x.len(), y.len(), bias.len());
        let epilogue = Biased { out: Rows::new(y, 0, outputs), bias };
        multiply(compute, Matrix::dense(x, rows, inputs), &self.forward, epilogue);
    }

    /// `inner = x W^T + b` and `y = gelu(inner)`.
    ///
    /// # Panics
    ///
    /// Where `inner` and `y` are not of one length, or the lengths of `x`, `y` and `bias` do not fit together.
    pub fn apply_gelu(
        &self,
        compute: Compute,
        x: &[f32],
        bias: &[f32],
        gelu: Gelu,
        inner: &mut [f32],
        y: &mut [f32],
    ) {
        let (rows, inputs, outputs) = fit(x.len(), y.len(), bias.len());
        assert_eq!(inner.len(), y.len());
        let (inner, out) = (Some(Rows::new(inner, 0, outputs)), Rows::new(y, 0, outputs));
        let epilogue = BiasedGelu { inner, out, bias, gelu };
        multiply(compute, Matrix::dense(x, rows, inputs), &self.forward, epilogue);
    }

    /// `y = gelu(x W^T + b)`, for passes that have no backward pass.
    ///
    /// # Panics
    ///
    /// Where the lengths of `x`, `y` and `bias` do not fit together.
    pub fn answer_gelu(&self, compute: Compute, x: &[f32], bias: &[f32], gelu: Gelu, y: &mut [f32]) {
        let (rows, inputs, outputs) = fit(x.len(), y.len(), bias.len());
        let epilogue = BiasedGelu { inner: None, out: Rows::new(y, 0, outputs), bias, gelu };
        multiply(compute, Matrix::dense(x, rows, inputs), &self.forward, epilogue);
    }

    /// The gradient of x, `grad W`, into `grad_x`: grad is `[rows, outputs]`, grad_x `[rows, inputs]`.
    ///
    /// # Panics
    /// When `outputs` is 0, or `grad` and `grad_x` do not have the shapes of the weight that was prepared.
    pub fn pull(&self, compute: Compute, grad: &[f32], outputs: usize, grad_x: &mut [f32]) {
        let rows = grad.len() / outputs;
        let epilogue = Scaled { out: Rows::new(grad_x, 0, grad_x.len() / rows.max(1)), scale: 1.0 };
        multiply(compute, Matrix::dense(grad, rows, outputs), &self.backward, epilogue);
    }

    /// The same, added to what is in `grad_x`.
    ///
    /// # Panics
    /// As [`Prepared::pull`].
    pub fn pull_added(&self, compute: Compute, grad: &[f32], outputs: usize, grad_x: &mut [f32]) {
        let rows = grad.len() / outputs;
        let epilogue = Added { out: Rows::new(grad_x, 0, grad_x.len() / rows.max(1)) };
        multiply(compute, Matrix::dense(grad, rows, outputs), &self.backward, epilogue);
    }

    /// The gradient of `inner` where `y = gelu(inner)` was this layer's input, in place of `inner`.
    pub fn pull_gelu(&self, compute: Compute, grad: &[f32], outputs: usize, gelu: Gelu, inner: &mut [f32]) {
        let rows = grad.len() / outputs;
        let epilogue = GeluSlope { inner: Rows::new(inner, 0, inner.len() / rows.max(1)), gelu };
        multiply(compute, Matrix::dense(grad, rows, outputs), &self.backward, epilogue);
    }
}

impl<'a> Linear<'a> {
    fn matrix(self) -> Matrix<'a> {
        let outputs = self.bias.len();
        Matrix::dense(self.weight, outputs, self.weight.len() / outputs.max(1))
    }
}

impl LinearGradients<'_> {
    /// The gradients of weight, `grad^T x`, and bias, the sum of `grad`'s rows: grad is `[rows, outputs]`, x
    /// `[rows, inputs]`. `scratch` is memory for a factor.
    ///
    /// # Panics
    /// When there is no output, or `grad` and `x` do not have these shapes.
    pub fn push(&mut self, compute: Compute, grad: &[f32], x: &[f32], scratch: &mut Packed) {
        let outputs = self.bias.len();
        let (rows, inputs) = (grad.len() / outputs, self.weight.len() / outputs);
        scratch.pack(compute, Matrix::dense(x, rows, inputs));
        let factor = Matrix::dense(grad, rows, outputs).t();
        let out = Rows::new(self.weight, 0, inputs);
        if self.add {
            multiply(compute, factor, scratch, Added { out });
        } else {
            multiply(compute, factor, scratch, Scaled { out, scale: 1.0 });
            self.bias.fill(0.0);
        }
        add_column_sums(compute, grad, self.bias);
    }
}

/// Rows, inputs and outputs of a layer that takes so many values to so many.
fn fit(x: usize, y: usize, outputs: usize) -> (usize, usize, usize) {
    let rows = y / outputs.max(1);
    assert!(rows * outputs == y && (rows == 0 || x.is_multiple_of(rows)), "a layer's values do not fit");
    (rows, x / rows.max(1), outputs)
}

/// Adds the sum of the rows of `x`, `[rows, columns]`, to `sums`.
pub(super) fn add_column_sums(compute: Compute, x: &[f32], sums: &mut [f32]) {
    let columns = sums.len();
    let piece = columns * SUMMED;
    with_scratch(|[parts]| {
        let parts = parts.reserve(x.len().div_ceil(piece) * columns);
        parts.par_chunks_mut(columns).zip(x.par_chunks(piece)).for_each(|(part, rows)| {
            part.fill(0.0);
            rows.chunks(columns).for_each(|row| add(compute.isa(), part, row));
        });
        parts.chunks(columns).for_each(|part| add(compute.isa(), sums, part));
    });
}

/// Stores `product + bias`.
struct Biased<'a> {
    out: Rows<'a>,
    bias: &'a [f32],
}

impl Epilogue for Biased<'_> {
    fn width(&self) -> usize {
        self.out.stride()
    }

    #[inline(always)]
    unsafe fn store<const FMA: bool>(&self, row: usize, column: usize, values: &[f32]) {
        // SAFETY: promised by the caller.
        let out = unsafe { self.out.at(row, column, values.len()) };
        let bias = &self.bias[column..column + values.len()];
        out.iter_mut().zip(values).zip(bias).for_each(|((out, x), b)| *out = x + b);
    }
}

/// Stores `product + bias` and its GELU.
struct BiasedGelu<'a> {
    inner: Option<Rows<'a>>,
    out: Rows<'a>,
    bias: &'a [f32],
    gelu: Gelu,
}

impl Epilogue for BiasedGelu<'_> {
    fn width(&self) -> usize {
        self.inner.as_ref().map_or(self.out.stride(), |inner| inner.stride().min(self.out.stride()))
    }

    #[inline(always)]
    unsafe fn store<const FMA: bool>(&self, row: usize, column: usize, values: &[f32]) {
        // SAFETY: promised by the caller.
        let out = unsafe { self.out.at(row, column, values.len()) };
        let bias = &self.bias[column..column + values.len()];
        if let Some(inner) = &self.inner {
            // SAFETY: as above.
            let inner = unsafe { inner.at(row, column, values.len()) };
            inner.iter_mut().zip(values).zip(bias).for_each(|((inner, x), b)| *inner = x + b);
        }
        match self.gelu {
            Gelu::Exact => map2(values, bias, out, |x, b| {
                let u = x + b;
                u * normal_cdf::<FMA>(u)
            }),
            Gelu::Tanh => map2(values, bias, out, |x, b| {
                let u = x + b;
                u * tanh_cdf::<FMA>(u)
            }),
        }
    }
}

/// Replaces the input of a GELU by its gradient: the product is that of the result.
struct GeluSlope<'a> {
    inner: Rows<'a>,
    gelu: Gelu,
}

impl Epilogue for GeluSlope<'_> {
    fn width(&self) -> usize {
        self.inner.stride()
    }

    #[inline(always)]
    unsafe fn store<const FMA: bool>(&self, row: usize, column: usize, values: &[f32]) {
        // SAFETY: promised by the caller.
        let inner = unsafe { self.inner.at(row, column, values.len()) };
        match self.gelu {
            Gelu::Exact => replace2(inner, values, |u, grad| grad * slope::<FMA>(u)),
            Gelu::Tanh => replace2(inner, values, |u, grad| grad * tanh_slope::<FMA>(u)),
        }
    }
}

/// Φ(u), the standard normal distribution function.
#[inline(always)]
fn normal_cdf<const FMA: bool>(u: f32) -> f32 {
    mul_add::<FMA>(0.5, erf::<FMA>(u * std::f32::consts::FRAC_1_SQRT_2), 0.5)
}

/// The derivative of GELU: Φ(u) + u φ(u).
#[inline(always)]
fn slope<const FMA: bool>(u: f32) -> f32 {
    const INVERSE_ROOT_TAU: f32 = 0.398_942_3;
    mul_add::<FMA>(u * INVERSE_ROOT_TAU, exp::<FMA>(-0.5 * u * u), normal_cdf::<FMA>(u))
}

/// √(2/π), and the factor of the cube.
const TANH_GELU: [f32; 2] = [0.797_884_6, 0.044_715];

/// What takes the place of Φ(u) in the approximation: `(1 + tanh(z)) / 2 = 1 / (1 + e^(-2 z))`,
/// `z = √(2/π) (u + 0.044715 u³)`.
#[inline(always)]
fn tanh_cdf<const FMA: bool>(u: f32) -> f32 {
    let z = TANH_GELU[0] * u * mul_add::<FMA>(TANH_GELU[1] * u, u, 1.0);
    1.0 / (1.0 + exp::<FMA>(-2.0 * z))
}

/// The derivative of the approximation: `s + u s (1 - s) 2 z'`, where s is `tanh_cdf(u)`.
#[inline(always)]
fn tanh_slope<const FMA: bool>(u: f32) -> f32 {
    let s = tanh_cdf::<FMA>(u);
    let steepness = 2.0 * TANH_GELU[0] * mul_add::<FMA>(3.0 * TANH_GELU[1] * u, u, 1.0);
    mul_add::<FMA>(u * s * (1.0 - s), steepness, s)
}

vectorised! {
    /// In place of the gradient of `gelu(inner)`, that of `inner`; both of one length.
    pub fn gelu_backward<FMA>(gelu: Gelu, grad: &mut [f32], inner: &[f32]) {
        match gelu {
            Gelu::Exact => replace2(grad, inner, |grad, u| grad * slope::<FMA>(u)),
            Gelu::Tanh => replace2(grad, inner, |grad, u| grad * tanh_slope::<FMA>(u)),
        }
    }
}

vectorised! {
    /// `y = tanh(y)`, through the exponential.
    pub fn tanh<FMA>(y: &mut [f32]) {
        for y in y.iter_mut() {
            let e = exp::<FMA>(-2.0 * y.abs());
            let t = (1.0 - e) / (1.0 + e);
            // Near 0 the difference above loses digits; the series does not.
            let square = *y * *y;
            let series = mul_add::<FMA>(square, mul_add::<FMA>(square, 2.0 / 15.0, -1.0 / 3.0), 1.0) * y.abs();
            *y = if square < 1e-3 { series } else { t }.copysign(*y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Precision;
    use crate::kernels::testing::isas;

    /// The approximation by tanh and its derivative, in float64.
    fn by_tanh(x: f64) -> [f64; 2] {
        let root = (2.0 / std::f64::consts::PI).sqrt();
        let t = (root * (x + 0.044715 * x.powi(3))).tanh();
        let slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * root * (1.0 + 3.0 * 0.044715 * x * x);
        [0.5 * x * (1.0 + t), slope]
    }

    #[test]
    fn gelu_s_approximation_and_its_slope_are_those_of_the_formula() {
        let x: Vec<f32> = (-800..=800).map(|place| place as f32 / 80.0).collect();
        for isa in isas() {
            let compute = Compute::new(isa, Precision::Fp32);
            let mut prepared = Prepared::default();
            prepared.forward(compute, Linear { weight: &[1.0], bias: &[0.0] });
            let (mut inner, mut y, mut again) = (x.clone(), x.clone(), x.clone());
            prepared.apply_gelu(compute, &x, &[0.0], Gelu::Tanh, &mut inner, &mut y);
            prepared.answer_gelu(compute, &x, &[0.0], Gelu::Tanh, &mut again);
            assert_eq!(again, y, "{isa:?}");
            let mut slopes = vec![1.0; x.len()];
            gelu_backward(isa, Gelu::Tanh, &mut slopes, &x);
            for ((x, y), slope) in x.iter().zip(&y).zip(&slopes) {
                let exact = by_tanh(f64::from(*x));
                let tolerance = 1e-6 * f64::from(x.abs()).max(1.0);
                let away = [(f64::from(*y) - exact[0]).abs(), (f64::from(*slope) - exact[1]).abs()];
                assert!(away[0] < tolerance && away[1] < 2e-6, "{isa:?}: at {x} {away:?} away");
            }
        }
    }
}
