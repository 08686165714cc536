//! Parameters on a device, with what belongs to them: their gradients, their moments, and the copy that products read.

use std::sync::Arc;

use super::super::gradients::Gradients;
use super::super::parameters::{Parameter, Parameters};
use crate::kernels::adam::Coefficients;
use crate::kernels::cuda::adam::{Pieces, Values};
use crate::kernels::cuda::layer_norm::LayerNorm;
use crate::kernels::cuda::linear::{add_columns, convert};
use crate::kernels::cuda::{Array, Pointer, Real, Stream};
use hone_base::error::Result;

/// All parameters, in the host's order and places.
#[derive(Debug)]
pub(super) struct Weights {
    list: Arc<[Parameter]>,
    values: Array<f32>,
    copy: Array<Real>,
    gradients: Array<f32>,
    m: Array<f32>,
    v: Array<f32>,
    /// Which parameters learn; empty before the first way back.
    trainable: Vec<bool>,
    pieces: Option<Pieces>,
}

/// A linear layer: its weight `[N, K]` and its bias, and where their gradients go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear {
    pub(super) weight: Pointer<Real>,
    pub(super) bias: Pointer<f32>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    gradients: Option<[Pointer<f32>; 2]>,
}

impl Weights {
    pub(super) fn new(stream: &Stream, list: &Arc<[Parameter]>) -> Self {
        Self {
            list: list.clone(),
            values: Array::new(stream),
            copy: Array::new(stream),
            gradients: Array::new(stream),
            m: Array::new(stream),
            v: Array::new(stream),
            trainable: Vec::new(),
            pieces: None,
        }
    }

    /// Takes the host's parameters.
    pub(super) fn put(&mut self, stream: &Stream, parameters: &Parameters) -> Result<()> {
        let values = parameters.values();
        let from = self.values.put(values)?;
        let to = self.copy.reserve(values.len())?;
        convert(stream, from, to, values.len())
    }

    fn is_trainable(&self, index: usize) -> bool {
        self.trainable.get(index).copied().unwrap_or(false)
    }

    /// Whether something among the first so many parameters learns.
    pub(super) fn any_before(&self, end: usize) -> bool {
        (0..end).any(|index| self.is_trainable(index))
    }

    /// Starts a sum of gradients anew (`add` is false), or goes on with it.
    pub(super) fn begin(&mut self, stream: &Stream, of: &Gradients, add: bool) -> Result<()> {
        if self.pieces.is_none() {
            self.trainable = (0..self.list.len()).map(|index| of.is_trainable(index)).collect();
            let learning = self.list.iter().enumerate().filter(|(index, _)| of.is_trainable(*index));
            let ranges = learning.map(|(index, parameter)| (parameter.range.clone(), index));
            self.pieces = Some(Pieces::new(stream, ranges)?);
            self.gradients.reserve(self.values.len())?;
        }
        if add { Ok(()) } else { self.gradients.clear() }
    }

    /// The values of a parameter.
    pub(super) fn table(&self, index: usize) -> Pointer<f32> {
        self.list.get(index).map_or_else(
            || self.values.start(),
            |parameter| self.values.part(parameter.range.start, parameter.range.len()),
        )
    }

    /// Where the gradient of a parameter goes, if it learns.
    pub(super) fn gradient(&self, index: usize) -> Option<Pointer<f32>> {
        let range = &self.list.get(index).filter(|_| self.is_trainable(index))?.range;
        Some(self.gradients.part(range.start, range.len()))
    }

    fn pair(&self, index: usize) -> Option<[Pointer<f32>; 2]> {
        Some([self.gradient(index)?, self.gradient(index + 1)?])
    }

    /// The layer norm at a place of the list, and where its gradients go.
    pub(super) fn norm(
        &self,
        index: usize,
        eps: f64,
        width: usize,
    ) -> (LayerNorm, Option<[Pointer<f32>; 2]>) {
        let (weight, bias) = (self.table(index), self.table(index + 1));
        (LayerNorm { weight, bias, eps: eps as f32, width }, self.pair(index))
    }

    /// The linear layer at a place of the list.
    pub(super) fn linear(&self, index: usize) -> Linear {
        let outputs = self.list.get(index).and_then(|parameter| parameter.shape.first()).copied();
        self.part(index, 0, outputs.unwrap_or_default())
    }

    /// Some outputs of a linear layer: from output `first` on, so many.
    pub(super) fn part(&self, index: usize, first: usize, outputs: usize) -> Linear {
        let start = |index: usize| self.list.get(index).map_or(0, |parameter| parameter.range.start);
        let inputs = self.list.get(index).and_then(|parameter| parameter.shape.get(1)).copied();
        let inputs = inputs.unwrap_or_default();
        let (weight, bias) = (start(index) + first * inputs, start(index + 1) + first);
        let gradients = self
            .is_trainable(index)
            .then(|| [self.gradients.part(weight, outputs * inputs), self.gradients.part(bias, outputs)]);
        Linear {
            weight: self.copy.part(weight, outputs * inputs),
            bias: self.values.part(bias, outputs),
            inputs,
            outputs,
            gradients,
        }
    }

    pub(super) fn step(
        &mut self,
        stream: &Stream,
        coefficients: &[Coefficients],
        max_norm: Option<f64>,
    ) -> Result<f64> {
        if !self.has_moments() {
            let count = self.values.len();
            for moments in [&mut self.m, &mut self.v] {
                moments.reserve(count)?;
                moments.clear()?;
            }
        }
        let of = Values {
            values: self.values.start(),
            gradients: self.gradients.start(),
            m: self.m.start(),
            v: self.v.start(),
            copy: self.copy.start(),
        };
        match &mut self.pieces {
            Some(pieces) => pieces.step(stream, of, coefficients, max_norm),
            None => Ok(0.0),
        }
    }

    /// Whether there are both: the second is made last.
    pub(super) fn has_moments(&self) -> bool {
        !self.v.is_empty()
    }

    pub(super) fn put_moments(&mut self, m: &[f32], v: &[f32]) -> Result<()> {
        self.m.put(m)?;
        self.v.put(v)?;
        Ok(())
    }

    pub(super) fn read(&self, values: &mut [f32], m: &mut [f32], v: &mut [f32]) -> Result<()> {
        self.values.read(values)?;
        if self.has_moments() {
            self.m.read(m)?;
            self.v.read(v)?;
        }
        Ok(())
    }

    pub(super) fn read_gradients(&self, gradients: &mut Gradients) -> Result<()> {
        let mut all = vec![0.0; self.gradients.len()];
        self.gradients.read(&mut all)?;
        gradients.begin(false);
        gradients.clear_stored();
        for (index, parameter) in self.list.iter().enumerate() {
            let grad = all.get(parameter.range.clone()).unwrap_or_default();
            if !self.is_trainable(index) {
                continue;
            }
            if index == 0 {
                let width = parameter.shape.get(1).copied().unwrap_or(1);
                let rows = grad.chunks(width).zip(0..).filter(|(row, _)| row.iter().any(|x| *x != 0.0));
                let touched: Vec<u32> = rows.map(|(_, row)| row).collect();
                gradients.add_words(&touched, grad);
            } else {
                gradients.add_to(index, grad);
            }
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> usize {
        let floats = [&self.values, &self.gradients, &self.m, &self.v];
        floats.iter().map(|array| array.bytes()).sum::<usize>() + self.copy.bytes()
    }
}

impl Linear {
    /// `out = x W^T`, `[T, N]`: without the bias, which whatever reads the result adds.
    pub(super) fn apply(
        &self,
        stream: &Stream,
        x: Pointer<Real>,
        out: Pointer<Real>,
        rows: usize,
    ) -> Result<()> {
        let shape = [rows, self.inputs, self.outputs];
        stream.product(shape, x.as_it_is(), self.weight.turned(), out, false)
    }

    /// The gradient of the input, `[T, K]`, from that of the output: `grad W`, or that added to what is there.
    pub(super) fn pull(
        &self,
        stream: &Stream,
        grad: Pointer<Real>,
        out: Pointer<Real>,
        rows: usize,
        add: bool,
    ) -> Result<()> {
        let shape = [rows, self.outputs, self.inputs];
        stream.product(shape, grad.as_it_is(), self.weight.as_it_is(), out, add)
    }

    /// Adds the gradients of weight and bias, where they learn: `grad^T x` and the sums of the columns of `grad`.
    pub(super) fn push(
        &self,
        stream: &Stream,
        grad: Pointer<Real>,
        x: Pointer<Real>,
        rows: usize,
        parts: &mut Array<f32>,
    ) -> Result<()> {
        let Some([weight, bias]) = self.gradients else { return Ok(()) };
        let shape = [self.outputs, rows, self.inputs];
        stream.float_product(shape, grad.turned(), x.as_it_is(), weight, true)?;
        add_columns(stream, grad, bias, rows, self.outputs, parts)
    }
}
