//! How parameters move: Adam and AdamW, in two groups (those that weight decay applies to, and biases and layer-norm
//! parameters), at rates that may differ from layer to layer.

use super::declaration::Place;
use super::parameters::Parameter;
use crate::kernels::adam::Update;

/// How parameters move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Which update rule.
    pub rule: Rule,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled for AdamW, added to the gradient for Adam; never on biases and layer-norm parameters.
    pub weight_decay: f64,
    /// Bound of the gradient's global norm; `None` does not clip.
    pub max_grad_norm: Option<f64>,
    /// The rate of each layer is that of the layer above times this (Sun et al. 2019).
    pub layer_decay: Option<f64>,
}

/// Which update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Kingma and Ba 2015; weight decay is added to the gradient.
    Adam,
    /// Loshchilov and Hutter 2019; weight decay is decoupled.
    AdamW,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rule: Rule::AdamW,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            max_grad_norm: Some(1.0),
            layer_decay: None,
        }
    }
}

impl Settings {
    /// The update of a parameter in step `step` (from 1), where there are so many sets of layers' parameters, at the
    /// schedule's rate; gradients are multiplied by `scale` first.
    pub fn update(&self, parameter: &Parameter, layers: usize, rate: f64, step: u64, scale: f64) -> Update {
        Update {
            rate: rate * self.share(parameter.place, layers),
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            decay: if parameter.decays() { self.weight_decay } else { 0.0 },
            decoupled: self.rule == Rule::AdamW,
            step,
            scale,
        }
    }

    /// What gradients of this global norm are multiplied by, as in `torch.nn.utils.clip_grad_norm_`:
    /// `max / (norm + 1e-6)` when that is below 1.
    pub fn clip(&self, norm: f64) -> f64 {
        self.max_grad_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0))
    }

    /// The share of the rate that a place learns at.
    fn share(&self, place: Place, layers: usize) -> f64 {
        let Some(decay) = self.layer_decay else { return 1.0 };
        let below_top = match place {
            Place::Head => 0,
            Place::Layer(layer) => layers - 1 - layer,
            Place::Embeddings => layers,
        };
        decay.powi(below_top as i32)
    }
}
