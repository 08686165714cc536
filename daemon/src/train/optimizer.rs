//! Adam and AdamW over all parameters at once, with moments in float32 that can be saved.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};

use super::spec::{self, Hyperparameters};
use crate::error::{Error, Result};
use crate::kernels::adam::{self, Update};
use crate::model::parameters::Parameters;

/// The moments of every parameter, and how to use them.
///
/// Parameters are in two groups: those that weight decay applies to, and biases and layer-norm parameters.
pub struct Optimizer {
    hyperparameters: Hyperparameters,
    moments: Vec<Moments>,
    step: u64,
}

#[derive(Clone)]
struct Moments {
    m: Vec<f32>,
    v: Vec<f32>,
}

impl Optimizer {
    /// Before the first step: all moments are 0.
    pub fn new(hyperparameters: &Hyperparameters, parameters: &Parameters) -> Self {
        let zeros = |count: usize| Moments { m: vec![0.0; count], v: vec![0.0; count] };
        let moments = parameters.iter().map(|parameter| zeros(parameter.value.elem_count())).collect();
        Self { hyperparameters: hyperparameters.clone(), moments, step: 0 }
    }

    /// Moves every parameter once and returns the gradient's global norm before clipping.
    ///
    /// The norm is clipped as in `torch.nn.utils.clip_grad_norm_`: times `max / (norm + 1e-6)` when that is below 1.
    /// Fails when a parameter has no gradient, and changes nothing when the norm is not finite.
    pub fn step(&mut self, parameters: &Parameters, gradients: &GradStore, rate: f64) -> Result<f64> {
        let mut list = Vec::with_capacity(self.moments.len());
        let mut squares = 0.0;
        for parameter in parameters.iter() {
            let gradient = gradients.get(parameter.value.as_tensor()).ok_or_else(|| {
                Error::internal(format!("{} received no gradient", parameter.parts.join(", ")))
            })?;
            squares += adam::sum_of_squares(gradient)?;
            list.push((parameter, gradient));
        }
        let norm = squares.sqrt();
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.step += 1;
        let of = &self.hyperparameters;
        let scale = of.max_grad_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        for ((parameter, gradient), moments) in list.into_iter().zip(&mut self.moments) {
            let update = Update {
                rate,
                beta1: of.beta1,
                beta2: of.beta2,
                epsilon: of.epsilon,
                decay: if parameter.decays { of.weight_decay } else { 0.0 },
                decoupled: of.optimizer == spec::Optimizer::AdamW,
                step: self.step,
                scale,
            };
            adam::update(parameter.value.as_tensor(), gradient, &mut moments.m, &mut moments.v, update)?;
        }
        Ok(norm)
    }

    /// Updates done.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Both moments of every parameter, named `m.` and `v.` before the parameter's names in a checkpoint.
    pub fn state(&self, parameters: &Parameters) -> Result<Vec<(String, Tensor)>> {
        let mut state = Vec::new();
        for (parameter, moments) in parameters.iter().zip(&self.moments) {
            for (prefix, values) in [("m", &moments.m), ("v", &moments.v)] {
                let tensor = Tensor::from_slice(values, parameter.value.shape(), &Device::Cpu)?;
                let parts = parameter.split(&tensor)?;
                state.extend(parts.into_iter().map(|(name, part)| (format!("{prefix}.{name}"), part)));
            }
        }
        Ok(state)
    }

    /// The optimizer that `state` was taken from.
    pub fn restore(
        hyperparameters: &Hyperparameters,
        parameters: &Parameters,
        step: u64,
        state: &HashMap<String, Tensor>,
    ) -> Result<Self> {
        let mut restored = Self { step, ..Self::new(hyperparameters, parameters) };
        for (parameter, moments) in parameters.iter().zip(&mut restored.moments) {
            for (prefix, values) in [("m", &mut moments.m), ("v", &mut moments.v)] {
                let part = |name: &String| {
                    let name = format!("{prefix}.{name}");
                    state
                        .get(&name)
                        .ok_or_else(|| Error::corrupt(format!("the saved optimizer has no {name}")))
                };
                let parts: Vec<&Tensor> = parameter.parts.iter().map(part).collect::<Result<_>>()?;
                let joined = Tensor::cat(&parts, 0)?;
                if joined.shape() != parameter.value.shape() {
                    let name = parameter.parts.join(", ");
                    return Err(Error::corrupt(format!("the saved moments of {name} have another shape")));
                }
                *values = joined.flatten_all()?.to_vec1()?;
            }
        }
        Ok(restored)
    }
}
