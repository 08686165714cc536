//! Adam and AdamW as candle's operations, on the device where the parameters are.

use std::sync::Arc;

use candle_core::{D, Tensor, Var};

use super::super::optimizer::Settings;
use super::super::parameters::Parameter;
use super::values_of;
use crate::kernels::Buffer;
use hone_base::error::Result;

/// The moments of every parameter, and how to use them.
#[derive(Debug)]
pub(super) struct Adam {
    settings: Settings,
    list: Arc<[Parameter]>,
    /// Sets of layers' parameters.
    layers: usize,
    /// Of the parameters that have moved.
    moments: Vec<Option<[Tensor; 2]>>,
    step: u64,
}

impl Adam {
    /// Before the first step: all moments are 0.
    pub(super) fn new(settings: Settings, list: &Arc<[Parameter]>, layers: usize) -> Self {
        Self { settings, list: list.clone(), layers, moments: vec![None; list.len()], step: 0 }
    }

    /// Updates done.
    pub(super) fn steps(&self) -> u64 {
        self.step
    }

    /// Moves every parameter that has a gradient and returns the gradients' global norm before clipping. Changes nothing
    /// when the norm is not finite.
    pub(super) fn step(
        &mut self,
        parameters: &[Var],
        gradients: &[Option<Tensor>],
        rate: f64,
    ) -> Result<f64> {
        let norm = norm(gradients)?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.step += 1;
        let scale = self.settings.clip(norm);
        let list = self.list.clone();
        for (((parameter, var), gradient), moments) in
            list.iter().zip(parameters).zip(gradients).zip(&mut self.moments)
        {
            let Some(gradient) = gradient else { continue };
            let by = self.settings.update(parameter, self.layers, rate, self.step, scale).coefficients();
            let [beta1, beta2, rest1, rest2, scale, step_size, inverse_root, epsilon, shrink, added] =
                by.numbers().map(f64::from);
            let value = var.as_detached_tensor();
            let mut g = (gradient * scale)?;
            if added != 0.0 {
                g = (g + (&value * added)?)?;
            }
            let [m, v] = match moments.take() {
                Some(moments) => moments,
                None => [value.zeros_like()?, value.zeros_like()?],
            };
            let m = ((m * beta1)? + (&g * rest1)?)?;
            let v = ((v * beta2)? + (g.sqr()? * rest2)?)?;
            let root = ((v.sqrt()? * inverse_root)? + epsilon)?;
            var.set(&((value * shrink)? - ((&m * step_size)? / root)?)?)?;
            *moments = Some([m, v]);
        }
        Ok(norm)
    }

    /// Reads both moments, so many values each, to the places of the parameters' values.
    pub(super) fn read(&self, count: usize, to: &mut [Buffer; 2]) -> Result<()> {
        for (which, to) in to.iter_mut().enumerate() {
            to.reserve(count).fill(0.0);
            for (parameter, moments) in self.list.iter().zip(&self.moments) {
                if let Some(moments) = moments {
                    to[parameter.range.clone()].copy_from_slice(&values_of(&moments[which])?);
                }
            }
        }
        Ok(())
    }

    /// Goes on after so many updates.
    pub(super) fn restore(&mut self, step: u64, from: &[Buffer; 2], parameters: &[Var]) -> Result<()> {
        self.step = step;
        for ((parameter, var), moments) in self.list.iter().zip(parameters).zip(&mut self.moments) {
            let moment = |of: &Buffer| {
                let values = of.get(parameter.range.clone()).unwrap_or_default();
                Tensor::from_slice(values, parameter.shape.as_slice(), var.device())
            };
            *moments = Some([moment(&from[0])?, moment(&from[1])?]);
        }
        Ok(())
    }
}

/// The global norm of all gradients: rows are summed on the device, the sums in float64 on the host.
fn norm(gradients: &[Option<Tensor>]) -> Result<f64> {
    let sums = gradients.iter().flatten().map(|grad| grad.sqr()?.sum(D::Minus1)?.flatten_all());
    let sums: Vec<Tensor> = sums.collect::<candle_core::Result<_>>()?;
    if sums.is_empty() {
        return Ok(0.0);
    }
    let sums = values_of(&Tensor::cat(&sums, 0)?)?;
    Ok(sums.iter().map(|sum| f64::from(*sum)).sum::<f64>().sqrt())
}
