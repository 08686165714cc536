//! The linear layer: `y = x wᵀ + b`.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::ROWS;
use super::matmul::{Matrix, multiply};
use super::values;

/// `x wᵀ + bias`: x is `[T, I]`, w `[O, I]`, bias `[O]`; the result is `[T, O]`.
pub fn linear(x: &Tensor, w: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return reference(x, w)?.broadcast_add(bias);
    }
    x.contiguous()?.apply_op3(w, bias, Linear)
}

/// `x wᵀ`: x is `[T, I]`, w `[O, I]`; the result is `[T, O]`.
pub fn project(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return reference(x, w);
    }
    x.contiguous()?.apply_op2(w, Linear)
}

fn reference(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.matmul(&w.t()?)
}

struct Linear;

fn forward(
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    (rows, inputs, outputs): (usize, usize, usize),
) -> Vec<f32> {
    let mut y = vec![0f32; rows * outputs];
    multiply(&mut y, Matrix::dense(x, rows, inputs), Matrix::dense(w, outputs, inputs).t(), 1.0);
    if let Some(bias) = bias {
        y.par_chunks_mut(outputs * ROWS).for_each(|rows| {
            for row in rows.chunks_mut(outputs) {
                row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
            }
        });
    }
    y
}

/// The gradients of `x` and `w`.
fn backward(x: &Tensor, w: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    let ((rows, inputs), (outputs, _)) = (x.dims2()?, w.dims2()?);
    let (x_values, w_values, grad_values) = (values::of(x)?, values::of(w)?, values::of(grad)?);
    let grad_matrix = Matrix::dense(&grad_values, rows, outputs);
    let mut grad_x = vec![0f32; rows * inputs];
    multiply(&mut grad_x, grad_matrix, Matrix::dense(&w_values, outputs, inputs), 1.0);
    let mut grad_w = vec![0f32; outputs * inputs];
    multiply(&mut grad_w, grad_matrix.t(), Matrix::dense(&x_values, rows, inputs), 1.0);
    Ok((
        Tensor::from_vec(grad_x, (rows, inputs), x.device())?,
        Tensor::from_vec(grad_w, (outputs, inputs), x.device())?,
    ))
}

/// The sums of the columns of `grad`, `[T, O]`: the gradient of a bias.
pub(super) fn column_sums(grad: &[f32], columns: usize) -> Vec<f32> {
    let add = |mut sums: Vec<f32>, row: &[f32]| {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        sums
    };
    let parts: Vec<Vec<f32>> = grad
        .par_chunks(columns * ROWS)
        .map(|rows| rows.chunks(columns).fold(vec![0f32; columns], add))
        .collect();
    parts.iter().map(Vec::as_slice).fold(vec![0f32; columns], add)
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "project"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_at: &Layout,
        w: &CpuStorage,
        w_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((rows, inputs), (outputs, _)) = (x_at.shape().dims2()?, w_at.shape().dims2()?);
        let (x, w) = (values::of_storage(x, x_at)?, values::of_storage(w, w_at)?);
        let y = forward(x, w, None, (rows, inputs, outputs));
        Ok((CpuStorage::F32(y), (rows, outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (grad_x, grad_w) = backward(x, w, &grad.contiguous()?)?;
        Ok((Some(grad_x), Some(grad_w)))
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_at: &Layout,
        w: &CpuStorage,
        w_at: &Layout,
        bias: &CpuStorage,
        bias_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((rows, inputs), (outputs, _)) = (x_at.shape().dims2()?, w_at.shape().dims2()?);
        let (x, w) = (values::of_storage(x, x_at)?, values::of_storage(w, w_at)?);
        let y = forward(x, w, Some(values::of_storage(bias, bias_at)?), (rows, inputs, outputs));
        Ok((CpuStorage::F32(y), (rows, outputs).into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (grad_x, grad_w) = backward(x, w, &grad)?;
        let grad_bias =
            Tensor::from_vec(column_sums(&values::of(&grad)?, bias.dim(0)?), bias.shape(), x.device())?;
        Ok((Some(grad_x), Some(grad_w), Some(grad_bias)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_gradients, assert_same, variable};

    #[test]
    fn agrees_with_the_reference() -> Result<()> {
        for (rows, inputs, outputs) in [(1, 3, 2), (37, 32, 96), (130, 48, 16)] {
            let (x, w, b) =
                (variable(1, (rows, inputs)), variable(2, (outputs, inputs)), variable(3, outputs));
            let plain = |v: &[&Tensor]| reference(v[0], v[1])?.broadcast_add(v[2]);
            assert_same(&[&x, &w, &b], &|v| linear(v[0], v[1], v[2]), &plain)?;
            assert_same(&[&x, &w], &|v| project(v[0], v[1]), &|v| reference(v[0], v[1]))?;
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() -> Result<()> {
        let (x, w, b) = (variable(1, (5, 4)), variable(2, (3, 4)), variable(3, 3));
        assert_gradients(&[&x, &w, &b], &|v| linear(v[0], v[1], v[2]))
    }
}
