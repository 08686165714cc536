//! Adam and AdamW over all parameters at once, with moments in float32 that can be saved.
//!
//! The words of the encoder are most of a small model's parameters, and a batch touches few of them. The others have
//! no gradient, but they still move, by their moments and by weight decay. These updates wait until their row is read
//! again, and are then done one after the other: the same to the bit as if each had been done in its turn.
//!
//! On a GPU parameters and moments live there, all words move with each step, and the host has them when the model is
//! settled.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;

use super::classifier::Trainable;
use super::declaration::Place;
use super::gradients::Gradients;
use super::parameters::{Parameter, Parameters};
use crate::kernels::adam::{self, Coefficients, State, Update};
use crate::kernels::{Buffer, Isa};
use hone_base::error::{Error, Result};

/// Updates that a row of the words may lag behind.
const MOST_BEHIND: usize = 1024;

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

/// The moments of every parameter, and how to use them.
///
/// Parameters are in two groups: those that weight decay applies to, and biases and layer-norm parameters.
pub struct Optimizer {
    settings: Settings,
    list: Arc<[Parameter]>,
    layers: usize,
    m: Buffer,
    v: Buffer,
    step: u64,
    words: Lag,
}

/// How far each row of the words is.
struct Lag {
    /// The updates from `start` on, as the words need them.
    updates: Vec<Coefficients>,
    start: u64,
    /// Updates that each row has seen.
    seen: Vec<u64>,
    width: usize,
}

impl Lag {
    /// The updates that a row lacks.
    fn missing(&self, row: usize) -> &[Coefficients] {
        let seen = self.seen.get(row).copied().unwrap_or_default();
        self.updates.get((seen.saturating_sub(self.start)) as usize..).unwrap_or_default()
    }
}

impl Optimizer {
    /// Before the first step: all moments are 0.
    pub fn new(settings: &Settings, parameters: &Parameters) -> Self {
        let list = parameters.list().clone();
        let (rows, width) = match list.first().map(|words| words.shape.as_slice()) {
            Some(&[rows, width]) => (rows, width),
            _ => (0, 1),
        };
        let layer = |parameter: &Parameter| match parameter.place {
            Place::Layer(layer) => layer + 1,
            _ => 0,
        };
        Self {
            settings: *settings,
            layers: list.iter().map(layer).max().unwrap_or(0),
            m: Buffer::zeros(parameters.values().len()),
            v: Buffer::zeros(parameters.values().len()),
            step: 0,
            words: Lag { updates: Vec::new(), start: 0, seen: vec![0; rows], width },
            list,
        }
    }

    /// Brings the words of a batch up to date, before they are read.
    pub fn refresh(&mut self, model: &mut Trainable, words: &[u32]) -> Result<()> {
        if model.gpu().is_some() {
            return Ok(());
        }
        model.refresh(|parameters| self.refresh_words(parameters, words))
    }

    fn refresh_words(&mut self, parameters: &mut Parameters, words: &[u32]) -> Result<()> {
        let mut rows = words.to_vec();
        rows.sort_unstable();
        rows.dedup();
        rows.retain(|&row| !self.words.missing(row as usize).is_empty());
        self.catch_up(parameters, &rows)
    }

    /// Brings all parameters of the host, and both moments, up to date.
    pub fn settle(&mut self, model: &mut Trainable) -> Result<()> {
        match model.gpu() {
            Some((network, parameters)) if network.is_ahead() => {
                network.read(parameters.values_mut(), &mut self.m, &mut self.v)
            }
            Some(_) => Ok(()),
            None => model.refresh(|parameters| self.settle_words(parameters)),
        }
    }

    fn settle_words(&mut self, parameters: &mut Parameters) -> Result<()> {
        let rows: Vec<u32> = (0..self.words.seen.len() as u32)
            .filter(|&row| !self.words.missing(row as usize).is_empty())
            .collect();
        self.catch_up(parameters, &rows)?;
        self.words.updates.clear();
        self.words.start = self.step;
        Ok(())
    }

    /// Does what some rows lack. `rows` are sorted and each stands there once.
    fn catch_up(&mut self, parameters: &mut Parameters, rows: &[u32]) -> Result<()> {
        let (isa, width, step) = (Isa::chosen()?, self.words.width, self.step);
        let Some(words) = self.list.first() else { return Ok(()) };
        let range = words.range.clone();
        let values = rows_of(&mut parameters.values_mut()[range.clone()], rows, width);
        let m = rows_of(&mut self.m[range.clone()], rows, width);
        let v = rows_of(&mut self.v[range], rows, width);
        let lag = &self.words;
        rows.par_iter().zip(values).zip(m).zip(v).with_min_len(8).for_each(|(((&row, value), m), v)| {
            adam::coast(isa, State { value, m, v }, lag.missing(row as usize));
        });
        for &row in rows {
            if let Some(seen) = self.words.seen.get_mut(row as usize) {
                *seen = step;
            }
        }
        Ok(())
    }

    /// Moves every trainable parameter once and returns the gradient's global norm before clipping. The words that have a
    /// gradient must be up to date.
    ///
    /// The norm is clipped as in `torch.nn.utils.clip_grad_norm_`: times `max / (norm + 1e-6)` when that is below 1.
    /// Changes nothing when the norm is not finite. The gradients are used up.
    pub fn step(&mut self, model: &mut Trainable, rate: f64) -> Result<f64> {
        if model.gpu().is_none() {
            return model.change(true, |parameters, gradients| self.step_here(parameters, gradients, rate));
        }
        let norm = self.step_on_gpu(model, rate)?;
        model.forget_gradients();
        Ok(norm)
    }

    fn step_on_gpu(&mut self, model: &mut Trainable, rate: f64) -> Result<f64> {
        let Some((network, _)) = model.gpu() else { return Ok(0.0) };
        if self.step > 0 && !network.has_moments() {
            network.put_moments(&self.m, &self.v)?;
        }
        self.step += 1;
        let by: Vec<Coefficients> =
            self.list.iter().map(|parameter| self.update(parameter, rate, 1.0).coefficients()).collect();
        let norm = network.step(&by, self.settings.max_grad_norm)?;
        if !norm.is_finite() {
            self.step -= 1;
        }
        Ok(norm)
    }

    fn step_here(&mut self, parameters: &mut Parameters, gradients: &Gradients, rate: f64) -> Result<f64> {
        let isa = Isa::chosen()?;
        let norm = norm(isa, gradients, self.list.len());
        if !norm.is_finite() {
            return Ok(norm);
        }
        if self.words.updates.len() >= MOST_BEHIND {
            self.settle_words(parameters)?;
        }
        self.step += 1;
        let clip = self.settings.max_grad_norm;
        let scale = clip.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        let list = self.list.clone();
        for (index, parameter) in list.iter().enumerate().filter(|(index, _)| gradients.is_trainable(*index))
        {
            let by = self.update(parameter, rate, scale).coefficients();
            if index == 0 {
                self.step_words(isa, parameters, gradients, parameter, by);
                continue;
            }
            let range = parameter.range.clone();
            let state = State {
                value: &mut parameters.values_mut()[range.clone()],
                m: &mut self.m[range.clone()],
                v: &mut self.v[range],
            };
            adam::update(isa, state, gradients.of(index), by);
        }
        Ok(norm)
    }

    /// Moves the touched rows of the words, and remembers the update for the others.
    fn step_words(
        &mut self,
        isa: Isa,
        parameters: &mut Parameters,
        gradients: &Gradients,
        parameter: &Parameter,
        by: Coefficients,
    ) {
        let (width, range) = (self.words.width, parameter.range.clone());
        let mut touched: Vec<(u32, &[f32])> = {
            let rows = gradients.words().rows().iter().copied();
            rows.zip(gradients.words().values().chunks(width)).collect()
        };
        touched.sort_unstable_by_key(|(row, _)| *row);
        let rows: Vec<u32> = touched.iter().map(|(row, _)| *row).collect();
        let values = rows_of(&mut parameters.values_mut()[range.clone()], &rows, width);
        let m = rows_of(&mut self.m[range.clone()], &rows, width);
        let v = rows_of(&mut self.v[range], &rows, width);
        touched.par_iter().zip(values).zip(m).zip(v).with_min_len(8).for_each(
            |((((_, gradient), value), m), v)| {
                adam::update_here(isa, State { value, m, v }, gradient, by);
            },
        );
        self.words.updates.push(by);
        for row in rows {
            if let Some(seen) = self.words.seen.get_mut(row as usize) {
                *seen = self.step;
            }
        }
    }

    fn update(&self, parameter: &Parameter, rate: f64, scale: f64) -> Update {
        let of = &self.settings;
        Update {
            rate: rate * self.share(parameter.place),
            beta1: of.beta1,
            beta2: of.beta2,
            epsilon: of.epsilon,
            decay: if parameter.decays { of.weight_decay } else { 0.0 },
            decoupled: of.rule == Rule::AdamW,
            step: self.step,
            scale,
        }
    }

    /// The share of the rate that a place learns at: layer-wise decay (Sun et al. 2019).
    fn share(&self, place: Place) -> f64 {
        let Some(decay) = self.settings.layer_decay else { return 1.0 };
        let below_top = match place {
            Place::Head => 0,
            Place::Layer(layer) => self.layers - 1 - layer,
            Place::Embeddings => self.layers,
        };
        decay.powi(below_top as i32)
    }

    /// Updates done.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Bytes of both moments.
    pub fn bytes(&self) -> usize {
        self.m.bytes() + self.v.bytes()
    }

    /// The first and the second moments, each in the places of the parameters' values. They must be settled.
    pub fn moments(&self) -> [&[f32]; 2] {
        [&self.m, &self.v]
    }

    /// Both moments of every parameter, named `m.` and `v.` before the parameter's names in a checkpoint. They must be
    /// settled.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        let mut state = Vec::new();
        for parameter in self.list.iter() {
            for (prefix, values) in [("m", &self.m), ("v", &self.v)] {
                let parts = parameter.split(&values[parameter.range.clone()])?;
                state.extend(parts.into_iter().map(|(name, part)| (format!("{prefix}.{name}"), part)));
            }
        }
        Ok(state)
    }

    /// The optimizer that `state` was taken from.
    pub fn restore(
        settings: &Settings,
        parameters: &Parameters,
        step: u64,
        state: &HashMap<String, Tensor>,
    ) -> Result<Self> {
        let mut restored = Self { step, ..Self::new(settings, parameters) };
        restored.words.start = step;
        restored.words.seen.fill(step);
        let list = restored.list.clone();
        for parameter in list.iter() {
            for (prefix, values) in [("m", &mut restored.m), ("v", &mut restored.v)] {
                let mut start = parameter.range.start;
                for name in &parameter.parts {
                    let name = format!("{prefix}.{name}");
                    let part =
                        state.get(&name).filter(|part| part.dims() == parameter.part_shape()).ok_or_else(
                            || Error::corrupt(format!("the saved optimizer has no {name} that fits")),
                        )?;
                    let part = part.flatten_all()?.to_vec1::<f32>()?;
                    values[start..start + part.len()].copy_from_slice(&part);
                    start += part.len();
                }
            }
        }
        Ok(restored)
    }
}

/// The global norm of all gradients, summed in a fixed order.
fn norm(isa: Isa, gradients: &Gradients, count: usize) -> f64 {
    let dense = (1..count).filter(|&index| gradients.is_trainable(index)).map(|index| gradients.of(index));
    let words = gradients.is_trainable(0).then(|| gradients.words().values());
    words.into_iter().chain(dense).map(|values| adam::sum_of_squares(isa, values)).sum::<f64>().sqrt()
}

/// Some rows of a table, each for itself. `rows` are sorted and each stands there once.
fn rows_of<'a>(table: &'a mut [f32], rows: &[u32], width: usize) -> Vec<&'a mut [f32]> {
    let (mut rest, mut start) = (table, 0);
    let mut found = Vec::with_capacity(rows.len());
    for &row in rows {
        let row = row as usize;
        let (_, from) = rest.split_at_mut((row - start) * width);
        let (values, after) = from.split_at_mut(width);
        found.push(values);
        (rest, start) = (after, row + 1);
    }
    found
}
