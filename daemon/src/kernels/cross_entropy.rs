//! The loss: mean cross-entropy of softmax over logits.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::values;

/// The mean cross-entropy, a scalar: logits are `[B, C]`, and `classes` holds the right class of each row.
pub fn cross_entropy(logits: &Tensor, classes: Arc<[u32]>) -> Result<Tensor> {
    let (rows, labels) = logits.dims2()?;
    if rows != classes.len() || rows == 0 || classes.iter().any(|&class| class as usize >= labels) {
        bail!("{} classes do not fit logits of shape {rows} x {labels}", classes.len());
    }
    if !logits.device().is_cpu() {
        return reference(logits, &classes);
    }
    logits.contiguous()?.apply_op1(CrossEntropy { classes })
}

fn reference(logits: &Tensor, classes: &[u32]) -> Result<Tensor> {
    candle_nn::loss::cross_entropy(logits, &Tensor::new(classes, logits.device())?)
}

/// Turns logits into probabilities and returns the logarithm of the sum of their exponentials.
pub fn softmax(row: &mut [f32]) -> f32 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0f32;
    for x in row.iter_mut() {
        *x = (*x - largest).exp();
        total += *x;
    }
    row.iter_mut().for_each(|x| *x /= total);
    largest + total.ln()
}

/// The cross-entropy of one row of logits.
pub fn row_loss(row: &[f32], class: usize) -> f32 {
    softmax(&mut row.to_vec()) - row[class]
}

struct CrossEntropy {
    classes: Arc<[u32]>,
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, labels) = at.shape().dims2()?;
        let logits = values::of_storage(logits, at)?;
        let total: f64 = logits
            .chunks(labels)
            .zip(self.classes.iter())
            .map(|(row, &class)| f64::from(row_loss(row, class as usize)))
            .sum();
        Ok((CpuStorage::F32(vec![(total / rows as f64) as f32]), ().into()))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (rows, labels) = logits.dims2()?;
        let scale = grad.to_scalar::<f32>()? / rows as f32;
        let mut grad_logits = values::of(logits)?.to_vec();
        for (row, &class) in grad_logits.chunks_mut(labels).zip(self.classes.iter()) {
            softmax(row);
            row[class as usize] -= 1.0;
            row.iter_mut().for_each(|x| *x *= scale);
        }
        Ok(Some(Tensor::from_vec(grad_logits, logits.shape(), logits.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_gradients, assert_same, variable};

    #[test]
    fn agrees_with_the_reference() -> Result<()> {
        for (rows, labels) in [(1, 2), (16, 2), (9, 5)] {
            let logits = variable(1, (rows, labels));
            let classes: Arc<[u32]> = (0..rows as u32).map(|row| row * 7 % labels as u32).collect();
            assert_same(&[&logits], &|v| cross_entropy(v[0], classes.clone()), &|v| {
                reference(v[0], &classes)
            })?;
        }
        Ok(())
    }

    #[test]
    fn gradients_agree_with_finite_differences() -> Result<()> {
        let logits = variable(1, (4, 3));
        assert_gradients(&[&logits], &|v| cross_entropy(v[0], [2, 0, 1, 1].into()))
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let mut row = [1000.0, 999.0, -1000.0];
        let log_sum = softmax(&mut row);
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((log_sum - 1_000.313_3).abs() < 1e-3);
        assert!((row_loss(&[-1000.0, 1000.0], 0) - 2000.0).abs() < 1e-3);
    }
}
