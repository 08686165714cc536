//! One update of Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019) of one parameter, in place.

use std::sync::Mutex;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor, bail};
use rayon::prelude::*;

use super::matmul::dot;
use super::values;

/// Values that one task takes.
const PIECE: usize = 1 << 14;

/// The numbers of one update.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// The learning rate of this step.
    pub rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Weight decay of this parameter.
    pub decay: f64,
    /// Whether the decay is decoupled from the gradient (AdamW).
    pub decoupled: bool,
    /// Updates done, this one included.
    pub step: u64,
    /// What gradients are multiplied by first: clipping.
    pub scale: f64,
}

/// Updates `parameter` and its two moments, all contiguous float32 of one shape.
pub fn update(
    parameter: &Tensor,
    gradient: &Tensor,
    m: &mut [f32],
    v: &mut [f32],
    update: Update,
) -> Result<()> {
    if parameter.elem_count() != m.len() || m.len() != v.len() || gradient.shape() != parameter.shape() {
        bail!("a gradient of shape {:?} does not fit its parameter", gradient.shape());
    }
    if !parameter.device().is_cpu() {
        return reference(parameter, gradient, m, v, update);
    }
    parameter.inplace_op2(&gradient.contiguous()?, &InPlace { update, moments: Mutex::new((m, v)) })
}

/// The global norm's square of one gradient, summed in a fixed order.
pub fn sum_of_squares(gradient: &Tensor) -> Result<f64> {
    if !gradient.device().is_cpu() {
        return Ok(f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?));
    }
    let gradient = gradient.contiguous()?;
    let values = values::of(&gradient)?;
    let parts: Vec<f64> = values.par_chunks(PIECE).map(|x| f64::from(dot(x, x))).collect();
    Ok(parts.iter().sum())
}

impl Update {
    fn bias_corrections(&self) -> (f64, f64) {
        let power = |beta: f64| 1.0 - beta.powf(self.step as f64);
        (power(self.beta1), power(self.beta2))
    }

    fn apply(&self, parameter: &mut [f32], gradient: &[f32], m: &mut [f32], v: &mut [f32]) {
        let (correction1, correction2) = self.bias_corrections();
        let (beta1, beta2, scale) = (self.beta1 as f32, self.beta2 as f32, self.scale as f32);
        let step_size = (self.rate / correction1) as f32;
        let (inverse_root, epsilon) = ((1.0 / correction2.sqrt()) as f32, self.epsilon as f32);
        let shrink = if self.decoupled { (1.0 - self.rate * self.decay) as f32 } else { 1.0 };
        let added = if self.decoupled { 0.0 } else { self.decay as f32 };
        for (((p, g), m), v) in parameter.iter_mut().zip(gradient).zip(m).zip(v) {
            let g = g * scale + added * *p;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *p = *p * shrink - step_size * *m / (v.sqrt() * inverse_root + epsilon);
        }
    }
}

/// The same with candle's operations, for devices without a kernel. The moments stay in the host's memory.
fn reference(
    parameter: &Tensor,
    gradient: &Tensor,
    m: &mut [f32],
    v: &mut [f32],
    update: Update,
) -> Result<()> {
    let mut values = parameter.flatten_all()?.to_vec1::<f32>()?;
    let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
    update.apply(&mut values, &gradient, m, v);
    let moved = Tensor::from_vec(values, parameter.shape(), parameter.device())?;
    candle_core::Var::from_tensor(parameter)?.set(&moved)
}

struct InPlace<'a> {
    update: Update,
    moments: Mutex<(&'a mut [f32], &'a mut [f32])>,
}

impl InplaceOp2 for InPlace<'_> {
    fn name(&self) -> &'static str {
        "adam"
    }

    fn cpu_fwd(
        &self,
        p: &mut CpuStorage,
        p_at: &Layout,
        gradient: &CpuStorage,
        gradient_at: &Layout,
    ) -> Result<()> {
        let parameter = values::of_storage_mut(p, p_at)?;
        let gradient = values::of_storage(gradient, gradient_at)?;
        let Ok(mut moments) = self.moments.lock() else { bail!("the moments are poisoned") };
        let (m, v) = &mut *moments;
        parameter
            .par_chunks_mut(PIECE)
            .zip(gradient.par_chunks(PIECE))
            .zip(m.par_chunks_mut(PIECE))
            .zip(v.par_chunks_mut(PIECE))
            .for_each(|(((p, g), m), v)| self.update.apply(p, g, m, v));
        Ok(())
    }
}
