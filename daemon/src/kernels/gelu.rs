//! Bias and GELU: `gelu(x + b)` with `gelu(u) = u Φ(u)`, Φ through the error function (Hendrycks and Gimpel 2016).

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::linear::column_sums;
use super::{ROWS, values};

/// `gelu(x + bias)`: x is `[T, I]`, bias `[I]`.
pub fn bias_gelu(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return reference(x, bias);
    }
    x.contiguous()?.apply_op2(bias, BiasGelu)
}

fn reference(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.broadcast_add(bias)?.gelu_erf()
}

/// The error function in single precision: an odd rational approximation (the minimax fit that Eigen and XLA
/// use) up to where the function is 1 to rounding; off by at most 4e-7.
#[inline]
fn erf(x: f32) -> f32 {
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
    let x = x.clamp(-3.832_507, 3.832_507);
    let square = x * x;
    let horner = |coefficients: &[f32]| coefficients.iter().fold(0f32, |sum, c| sum * square + c);
    x * horner(&P) / horner(&Q)
}

/// Φ(u), the standard normal distribution function.
#[inline]
fn normal_cdf(u: f32) -> f32 {
    0.5 * (1.0 + erf(u * std::f32::consts::FRAC_1_SQRT_2))
}

/// The derivative: Φ(u) + u φ(u).
#[inline]
fn slope(u: f32) -> f32 {
    const INVERSE_ROOT_TAU: f32 = 0.398_942_3;
    normal_cdf(u) + u * INVERSE_ROOT_TAU * (-0.5 * u * u).exp()
}

struct BiasGelu;

impl CustomOp2 for BiasGelu {
    fn name(&self) -> &'static str {
        "bias-gelu"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_at: &Layout,
        b: &CpuStorage,
        b_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, bias) = (values::of_storage(x, x_at)?, values::of_storage(b, b_at)?);
        let mut y = vec![0f32; x.len()];
        let piece = bias.len() * ROWS;
        y.par_chunks_mut(piece).zip(x.par_chunks(piece)).for_each(|(y, x)| {
            for (y, x) in y.chunks_mut(bias.len()).zip(x.chunks(bias.len())) {
                for ((y, x), b) in y.iter_mut().zip(x).zip(bias) {
                    let u = x + b;
                    *y = u * normal_cdf(u);
                }
            }
        });
        Ok((CpuStorage::F32(y), x_at.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (values, bias) = (values::of(x)?, values::of(b)?);
        let (values, bias): (&[f32], &[f32]) = (&values, &bias);
        let mut grad_x = values::of(&grad)?.to_vec();
        let piece = bias.len() * ROWS;
        grad_x.par_chunks_mut(piece).zip(values.par_chunks(piece)).for_each(|(grad, x)| {
            for (grad, x) in grad.chunks_mut(bias.len()).zip(x.chunks(bias.len())) {
                for ((grad, x), b) in grad.iter_mut().zip(x).zip(bias) {
                    *grad *= slope(x + b);
                }
            }
        });
        let grad_bias = Tensor::from_vec(column_sums(&grad_x, bias.len()), b.shape(), x.device())?;
        Ok((Some(Tensor::from_vec(grad_x, x.shape(), x.device())?), Some(grad_bias)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_gradients, assert_same, variable};

    #[test]
    fn agrees_with_the_reference() -> Result<()> {
        for (rows, columns) in [(1, 1), (3, 7), (65, 130)] {
            let (x, bias) = (variable(1, (rows, columns)), variable(2, columns));
            assert_same(&[&x, &bias], &|v| bias_gelu(v[0], v[1]), &|v| reference(v[0], v[1]))?;
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() -> Result<()> {
        let (x, bias) = (variable(1, (4, 5)), variable(2, 5));
        assert_gradients(&[&x, &bias], &|v| bias_gelu(v[0], v[1]))
    }

    #[test]
    fn the_error_function_is_right_to_single_precision() {
        for step in -60_000..=60_000 {
            let x = step as f32 * 1e-4;
            let exact = candle_core::cpu::erf::erf_f64(f64::from(x));
            assert!((f64::from(erf(x)) - exact).abs() < 4e-7, "erf({x})");
        }
    }
}
