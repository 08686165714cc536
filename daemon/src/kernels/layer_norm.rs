//! Layer norm (Ba, Kiros and Hinton 2016), alone and as the end of a block: `norm(residual + dropout(x))`.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::matmul::{dot, sum};
use super::{Dropout, ROWS, values};

/// The parameters of a layer norm.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// `[H]`
    pub weight: Tensor,
    /// `[H]`
    pub bias: Tensor,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// `norm(x)`: x is `[T, H]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !x.device().is_cpu() {
            return self.reference(x, None, None);
        }
        x.contiguous()?.apply_op2(&self.parameters()?, self.operation(None))
    }

    /// `norm(residual + dropout(x))`: x and residual are `[T, H]`.
    pub fn forward_residual(
        &self,
        x: &Tensor,
        residual: &Tensor,
        dropout: Option<Dropout>,
    ) -> Result<Tensor> {
        if !x.device().is_cpu() {
            return self.reference(x, Some(residual), dropout);
        }
        x.contiguous()?.apply_op3(&residual.contiguous()?, &self.parameters()?, self.operation(dropout))
    }

    fn reference(&self, x: &Tensor, residual: Option<&Tensor>, dropout: Option<Dropout>) -> Result<Tensor> {
        let mut x = super::dropout::dropout(x, dropout)?;
        if let Some(residual) = residual {
            x = (x + residual)?;
        }
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        centred.broadcast_div(&deviation)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }

    /// Weight and bias as one tensor, `[2, H]`: a custom operation takes at most three.
    fn parameters(&self) -> Result<Tensor> {
        Tensor::stack(&[&self.weight, &self.bias], 0)
    }

    fn operation(&self, dropout: Option<Dropout>) -> Operation {
        Operation { eps: self.eps as f32, dropout }
    }
}

struct Operation {
    eps: f32,
    dropout: Option<Dropout>,
}

/// What the backward pass returns: the gradient before dropout is undone, and that of the parameters.
struct Gradients {
    sum: Vec<f32>,
    parameters: Vec<f32>,
}

impl Operation {
    /// `residual + dropout(x)` of one row into `row`.
    fn add(&self, row: &mut [f32], x: &[f32], residual: Option<&[f32]>, start: usize) {
        row.copy_from_slice(x);
        if let Some(dropout) = &self.dropout {
            dropout.apply(row, start as u64);
        }
        if let Some(residual) = residual {
            row.iter_mut().zip(residual).for_each(|(y, r)| *y += r);
        }
    }

    /// Turns a row into `(row - mean) / deviation` and returns `1 / deviation`.
    fn normalise(&self, row: &mut [f32]) -> f32 {
        let width = row.len() as f32;
        let mean = sum(row) / width;
        row.iter_mut().for_each(|x| *x -= mean);
        let inverse = 1.0 / (dot(row, row) / width + self.eps).sqrt();
        row.iter_mut().for_each(|x| *x *= inverse);
        inverse
    }

    fn forward(&self, x: &[f32], residual: Option<&[f32]>, parameters: &[f32]) -> Vec<f32> {
        let width = parameters.len() / 2;
        let (weight, bias) = parameters.split_at(width);
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(width * ROWS).enumerate().for_each(|(piece, rows)| {
            for (row, y) in rows.chunks_mut(width).enumerate() {
                let start = (piece * ROWS + row) * width;
                let at = start..start + width;
                self.add(y, &x[at.clone()], residual.map(|r| &r[at]), start);
                self.normalise(y);
                y.iter_mut().zip(weight).zip(bias).for_each(|((y, w), b)| *y = *y * w + b);
            }
        });
        y
    }

    fn backward(&self, x: &[f32], residual: Option<&[f32]>, parameters: &[f32], grad: &[f32]) -> Gradients {
        let width = parameters.len() / 2;
        let weight = &parameters[..width];
        let mut grad_sum = vec![0f32; x.len()];
        let parts: Vec<Vec<f32>> = grad_sum
            .par_chunks_mut(width * ROWS)
            .enumerate()
            .map(|(piece, rows)| {
                let mut part = vec![0f32; 2 * width];
                let (part_weight, part_bias) = part.split_at_mut(width);
                let mut normal = vec![0f32; width];
                for (row, out) in rows.chunks_mut(width).enumerate() {
                    let start = (piece * ROWS + row) * width;
                    let at = start..start + width;
                    let grad = &grad[at.clone()];
                    self.add(&mut normal, &x[at.clone()], residual.map(|r| &r[at]), start);
                    let inverse = self.normalise(&mut normal);
                    for i in 0..width {
                        part_weight[i] += grad[i] * normal[i];
                        part_bias[i] += grad[i];
                        out[i] = grad[i] * weight[i];
                    }
                    let mean = sum(out) / width as f32;
                    let along = dot(out, &normal) / width as f32;
                    out.iter_mut()
                        .zip(&normal)
                        .for_each(|(out, n)| *out = inverse * (*out - mean - n * along));
                }
                part
            })
            .collect();
        let mut grad_parameters = vec![0f32; 2 * width];
        for part in parts {
            grad_parameters.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        Gradients { sum: grad_sum, parameters: grad_parameters }
    }

    fn undo_dropout(&self, grad: &[f32], width: usize) -> Vec<f32> {
        let mut grad_x = grad.to_vec();
        if let Some(dropout) = &self.dropout {
            let piece = width * ROWS;
            grad_x
                .par_chunks_mut(piece)
                .enumerate()
                .for_each(|(index, rows)| dropout.apply(rows, (index * piece) as u64));
        }
        grad_x
    }
}

impl CustomOp2 for Operation {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_at: &Layout,
        p: &CpuStorage,
        p_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = self.forward(values::of_storage(x, x_at)?, None, values::of_storage(p, p_at)?);
        Ok((CpuStorage::F32(y), x_at.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        p: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let gradients = self.backward(&values::of(x)?, None, &values::of(p)?, &values::of(&grad)?);
        let grad_x = Tensor::from_vec(gradients.sum, x.shape(), x.device())?;
        Ok((Some(grad_x), Some(Tensor::from_vec(gradients.parameters, p.shape(), x.device())?)))
    }
}

impl CustomOp3 for Operation {
    fn name(&self) -> &'static str {
        "residual-dropout-layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_at: &Layout,
        residual: &CpuStorage,
        residual_at: &Layout,
        p: &CpuStorage,
        p_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let residual = values::of_storage(residual, residual_at)?;
        let y = self.forward(values::of_storage(x, x_at)?, Some(residual), values::of_storage(p, p_at)?);
        Ok((CpuStorage::F32(y), x_at.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        residual: &Tensor,
        p: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let residual_values = values::of(residual)?;
        let gradients =
            self.backward(&values::of(x)?, Some(&residual_values), &values::of(p)?, &values::of(&grad)?);
        let grad_x = self.undo_dropout(&gradients.sum, p.dim(1)?);
        Ok((
            Some(Tensor::from_vec(grad_x, x.shape(), x.device())?),
            Some(Tensor::from_vec(gradients.sum, x.shape(), x.device())?),
            Some(Tensor::from_vec(gradients.parameters, p.shape(), x.device())?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_gradients, assert_same, variable};
    use crate::random::{Purpose, Stream};

    fn norm(v: &[&Tensor]) -> LayerNorm {
        LayerNorm { weight: v[0].clone(), bias: v[1].clone(), eps: 1e-12 }
    }

    fn some_dropout() -> Option<Dropout> {
        Dropout::new(0.25, Stream::new(5, Purpose::Dropout, 3, 1))
    }

    #[test]
    fn agrees_with_the_reference() -> Result<()> {
        for (rows, width) in [(1, 4), (17, 33), (100, 384)] {
            let (w, b) = (variable(1, width), variable(2, width));
            let (x, r) = (variable(3, (rows, width)), variable(4, (rows, width)));
            assert_same(&[&w, &b, &x], &|v| norm(v).forward(v[2]), &|v| norm(v).reference(v[2], None, None))?;
            for dropout in [None, some_dropout()] {
                assert_same(&[&w, &b, &x, &r], &|v| norm(v).forward_residual(v[2], v[3], dropout), &|v| {
                    norm(v).reference(v[2], Some(v[3]), dropout)
                })?;
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() -> Result<()> {
        let (w, b) = (variable(1, 6), variable(2, 6));
        let (x, r) = (variable(3, (3, 6)), variable(4, (3, 6)));
        assert_gradients(&[&w, &b, &x, &r], &|v| norm(v).forward_residual(v[2], v[3], some_dropout()))
    }
}
