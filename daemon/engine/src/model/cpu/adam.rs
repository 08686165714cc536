//! Adam and AdamW over all parameters at once.
//!
//! The token embeddings are most of a small model's parameters, and a batch touches few of their rows. The others have
//! no gradient, but they still move, by their moments and by weight decay. These updates wait until their row is read
//! again, and are then done one after the other: the same to the bit as if each had been done in its turn.

use std::sync::Arc;

use rayon::prelude::*;

use super::super::declaration::{Declaration, ParameterId};
use super::super::optimizer::Settings;
use super::super::parameters::{Parameter, Parameters};
use super::gradients::Gradients;
use crate::kernels::adam::{self, Coefficients, State};
use crate::kernels::{Buffer, Isa};
use hone_base::error::Result;

/// Updates that a row of the token embeddings may lag behind.
const MOST_BEHIND: usize = 1024;

/// The moments of every parameter, and how to use them.
pub(super) struct Adam {
    settings: Settings,
    list: Arc<[Parameter]>,
    tokens: ParameterId,
    /// Sets of layers' parameters.
    layers: usize,
    m: Buffer,
    v: Buffer,
    step: u64,
    lag: Lag,
}

/// How far each row of the token embeddings is.
struct Lag {
    /// The updates from `start` on, as the rows need them.
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

impl Adam {
    /// Before the first step: all moments are 0.
    pub(super) fn new(settings: &Settings, declaration: &Declaration, parameters: &Parameters) -> Self {
        let tokens = declaration.embeddings.tokens;
        let (rows, width) = (declaration.architecture.vocab_size, declaration.architecture.embedding_size);
        Self {
            settings: *settings,
            list: parameters.list().clone(),
            tokens,
            layers: declaration.architecture.own_layers(),
            m: Buffer::zeros(parameters.values().len()).taken(),
            v: Buffer::zeros(parameters.values().len()).taken(),
            step: 0,
            lag: Lag { updates: Vec::new(), start: 0, seen: vec![0; rows], width },
        }
    }

    /// Brings the rows of some tokens up to date, before they are read.
    pub(super) fn refresh(&mut self, parameters: &mut Parameters, ids: &[u32]) -> Result<()> {
        let mut rows = ids.to_vec();
        rows.sort_unstable();
        rows.dedup();
        rows.retain(|&row| !self.lag.missing(row as usize).is_empty());
        self.catch_up(parameters, &rows)
    }

    /// Brings all rows, and both moments, up to date.
    pub(super) fn settle(&mut self, parameters: &mut Parameters) -> Result<()> {
        let rows: Vec<u32> = (0..self.lag.seen.len() as u32)
            .filter(|&row| !self.lag.missing(row as usize).is_empty())
            .collect();
        self.catch_up(parameters, &rows)?;
        self.lag.updates.clear();
        self.lag.start = self.step;
        Ok(())
    }

    /// Does what some rows lack. `rows` are sorted and each stands there once.
    fn catch_up(&mut self, parameters: &mut Parameters, rows: &[u32]) -> Result<()> {
        let (isa, width, step) = (Isa::chosen()?, self.lag.width, self.step);
        let Some(table) = self.list.get(self.tokens.index()) else { return Ok(()) };
        let range = table.range.clone();
        let values = rows_of(&mut parameters.values_mut()[range.clone()], rows, width);
        let m = rows_of(&mut self.m[range.clone()], rows, width);
        let v = rows_of(&mut self.v[range], rows, width);
        let lag = &self.lag;
        rows.par_iter().zip(values).zip(m).zip(v).with_min_len(8).for_each(|(((&row, value), m), v)| {
            adam::coast(isa, State { value, m, v }, lag.missing(row as usize));
        });
        for &row in rows {
            if let Some(seen) = self.lag.seen.get_mut(row as usize) {
                *seen = step;
            }
        }
        Ok(())
    }

    /// Moves every trainable parameter once and returns the gradient's global norm before clipping. The rows that have a
    /// gradient must be up to date. Changes nothing when the norm is not finite.
    pub(super) fn step(
        &mut self,
        parameters: &mut Parameters,
        gradients: &Gradients,
        rate: f64,
    ) -> Result<f64> {
        let isa = Isa::chosen()?;
        let norm = norm(isa, gradients, &self.list);
        if !norm.is_finite() {
            return Ok(norm);
        }
        if self.lag.updates.len() >= MOST_BEHIND {
            self.settle(parameters)?;
        }
        self.step += 1;
        let scale = self.settings.clip(norm);
        let list = self.list.clone();
        for parameter in list.iter().filter(|parameter| gradients.is_trainable(parameter.id)) {
            let by = self.settings.update(parameter, self.layers, rate, self.step, scale).coefficients();
            if parameter.id == self.tokens {
                self.step_tokens(isa, parameters, gradients, parameter, by);
                continue;
            }
            let range = parameter.range.clone();
            let state = State {
                value: &mut parameters.values_mut()[range.clone()],
                m: &mut self.m[range.clone()],
                v: &mut self.v[range],
            };
            adam::update(isa, state, gradients.of(parameter.id), by);
        }
        Ok(norm)
    }

    /// Moves the touched rows of the token embeddings, and remembers the update for the others.
    fn step_tokens(
        &mut self,
        isa: Isa,
        parameters: &mut Parameters,
        gradients: &Gradients,
        parameter: &Parameter,
        by: Coefficients,
    ) {
        let (width, range) = (self.lag.width, parameter.range.clone());
        let mut touched: Vec<(u32, &[f32])> = {
            let rows = gradients.tokens().rows().iter().copied();
            rows.zip(gradients.tokens().values().chunks(width)).collect()
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
        self.lag.updates.push(by);
        for row in rows {
            if let Some(seen) = self.lag.seen.get_mut(row as usize) {
                *seen = self.step;
            }
        }
    }

    /// Updates done.
    pub(super) fn steps(&self) -> u64 {
        self.step
    }

    /// The first and the second moments of every parameter; they must be settled.
    pub(super) fn moments(&self) -> [&[f32]; 2] {
        [&self.m, &self.v]
    }

    /// Goes on after so many updates.
    pub(super) fn restore(&mut self, step: u64, [m, v]: [Buffer; 2]) {
        (self.step, self.m, self.v) = (step, m, v);
        self.lag.updates.clear();
        self.lag.start = step;
        self.lag.seen.fill(step);
    }

    /// Bytes of both moments.
    pub(super) fn bytes(&self) -> usize {
        self.m.bytes() + self.v.bytes()
    }
}

impl std::fmt::Debug for Adam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adam")
            .field("settings", &self.settings)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}

/// The global norm of all gradients, summed in a fixed order: the token embeddings first.
fn norm(isa: Isa, gradients: &Gradients, list: &[Parameter]) -> f64 {
    let learns = |parameter: &&Parameter| gradients.is_trainable(parameter.id);
    let dense = list.iter().filter(learns).map(|parameter| gradients.of(parameter.id));
    let dense = dense.filter(|values| !values.is_empty());
    std::iter::once(gradients.tokens().values())
        .chain(dense)
        .map(|values| adam::sum_of_squares(isa, values))
        .sum::<f64>()
        .sqrt()
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
