//! An exponential moving average of the weights (Polyak and Juditsky 1992; the form of
//! `torch.optim.swa_utils.get_ema_multi_avg_fn`): after each step `average = decay * average + (1 - decay) * weights`.

use std::collections::HashMap;

use candle_core::Tensor;
use rayon::prelude::*;

use super::parameters::Parameters;
use crate::kernels::{Buffer, Isa, adam};
use hone_base::error::{Error, Result};

/// Values that one task takes.
const PIECE: usize = 1 << 14;

/// What the names of the average's tensors start with in a saved position.
const PREFIX: &str = "average.";

/// The average of all parameters.
pub struct Average {
    decay: f32,
    values: Buffer,
}

impl Average {
    /// Before the first step: the weights themselves.
    pub fn new(decay: f64, parameters: &Parameters) -> Self {
        Self { decay: decay as f32, values: parameters.values().clone() }
    }

    /// Takes the weights of a step in. They must be up to date, those of all words too.
    pub fn add(&mut self, parameters: &Parameters) -> Result<()> {
        let isa = Isa::chosen()?;
        let values = parameters.values().par_chunks(PIECE);
        self.values.par_chunks_mut(PIECE).zip(values).for_each(|(average, values)| {
            adam::average(isa, average, values, self.decay);
        });
        Ok(())
    }

    /// Puts the average in the place of the weights, and the weights in its place; a second time puts both back.
    pub fn swap(&mut self, parameters: &mut Parameters) {
        std::mem::swap(&mut self.values, parameters.values_mut());
    }

    /// The average of each value, in the places of the parameters' values.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The average that was saved: `state` has its tensors under the parameters' names behind `average.`.
    pub fn restore(decay: f64, parameters: &Parameters, state: &HashMap<String, Tensor>) -> Result<Self> {
        let mut averaged = parameters.clone();
        for parameter in parameters.iter() {
            let part = |name: &String| {
                let name = format!("{PREFIX}{name}");
                let found = state.get(&name).cloned();
                found.ok_or_else(|| Error::corrupt(format!("the saved position has no {name}")))
            };
            let parts: Vec<Tensor> = parameter.parts.iter().map(part).collect::<Result<_>>()?;
            averaged.put(parameter, &parts)?;
        }
        Ok(Self::new(decay, &averaged))
    }
}
