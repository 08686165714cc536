//! An exponential moving average of the weights (Polyak and Juditsky 1992; the form of
//! `torch.optim.swa_utils.get_ema_multi_avg_fn`): after each step `average = decay * average + (1 - decay) * weights`.

use rayon::prelude::*;

use super::parameters::Parameters;
use crate::kernels::{Buffer, Isa, adam};
use hone_base::error::Result;

/// Values that one task takes.
const PIECE: usize = 1 << 14;

/// The average of all parameters.
#[derive(Debug)]
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

    /// All averaged values, in the places of [`Parameters::values`].
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The same, to be exchanged with the weights.
    pub fn values_mut(&mut self) -> &mut Buffer {
        &mut self.values
    }

    /// The average that stood at these values.
    pub fn restore(decay: f64, values: Buffer) -> Self {
        Self { decay: decay as f32, values }
    }
}
