//! Parameters on a device, with what belongs to them: their gradients, their moments, and the copy that products read.

use std::sync::Arc;

use super::super::backend::Learning;
use super::super::declaration::{self, Norm, ParameterId};
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
    learning: Option<Learning>,
    pieces: Option<Pieces>,
}

/// A linear layer: its weight `[N, K]` and its bias, and where their gradients go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear<'a> {
    pub(super) weight: Pointer<'a, Real>,
    pub(super) bias: Pointer<'a, f32>,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    gradients: Option<[Pointer<'a, f32>; 2]>,
}

impl Weights {
    pub(super) fn new(stream: &Stream, list: &Arc<[Parameter]>, learning: Option<Learning>) -> Self {
        Self {
            list: list.clone(),
            values: Array::new(stream),
            copy: Array::new(stream),
            gradients: Array::new(stream),
            m: Array::new(stream),
            v: Array::new(stream),
            learning,
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

    /// Whether a parameter moves.
    pub(super) fn is_trainable(&self, id: ParameterId) -> bool {
        self.learning.as_ref().is_some_and(|learning| learning.is_trainable(id))
    }

    /// Starts a sum of gradients anew (`add` is false), or goes on with it.
    pub(super) fn begin(&mut self, stream: &Stream, add: bool) -> Result<()> {
        if self.pieces.is_none() {
            let learning = self.list.iter().filter(|parameter| self.is_trainable(parameter.id));
            let ranges = learning.map(|parameter| (parameter.range.clone(), parameter.id.index()));
            let pieces = Pieces::new(stream, ranges)?;
            // First the memory: whoever finds the pieces takes places in it.
            self.gradients.reserve(self.values.len())?;
            self.pieces = Some(pieces);
        }
        if add { Ok(()) } else { self.gradients.clear() }
    }

    /// Whether there is a place for a parameter's gradient: not before the first backward pass.
    fn has_gradient(&self, id: ParameterId) -> bool {
        self.pieces.is_some() && self.is_trainable(id)
    }

    /// The values of a parameter.
    pub(super) fn table(&self, id: ParameterId) -> Pointer<'_, f32> {
        self.list.get(id.index()).map_or_else(
            || self.values.start(),
            |parameter| self.values.part(parameter.range.start, parameter.range.len()),
        )
    }

    /// Where the gradient of a parameter goes, if it learns and a backward pass has begun.
    pub(super) fn gradient(&self, id: ParameterId) -> Option<Pointer<'_, f32>> {
        let range = &self.list.get(id.index()).filter(|_| self.has_gradient(id))?.range;
        Some(self.gradients.part(range.start, range.len()))
    }

    /// A layer norm, and where its gradients go. One without a bias is none that the kernels compute.
    pub(super) fn norm(
        &self,
        of: Norm,
        eps: f64,
        width: usize,
    ) -> (LayerNorm<'_>, Option<[Pointer<'_, f32>; 2]>) {
        let bias = of.bias.unwrap_or(of.weight);
        let gradients = || Some([self.gradient(of.weight)?, self.gradient(bias)?]);
        let (weight, bias) = (self.table(of.weight), self.table(bias));
        (LayerNorm { weight, bias, eps: eps as f32, width }, gradients())
    }

    /// A linear layer. One without a bias is none that the kernels compute.
    pub(super) fn linear(&self, of: declaration::Linear) -> Linear<'_> {
        let outputs = self.list.get(of.weight.index()).and_then(|parameter| parameter.shape.first());
        self.part(of, 0, outputs.copied().unwrap_or_default())
    }

    /// Some outputs of a linear layer: from output `first` on, so many.
    pub(super) fn part(&self, of: declaration::Linear, first: usize, outputs: usize) -> Linear<'_> {
        let place = |id: ParameterId| self.list.get(id.index());
        let start = |id: ParameterId| place(id).map_or(0, |parameter| parameter.range.start);
        let inputs = place(of.weight).and_then(|parameter| parameter.shape.get(1)).copied();
        let inputs = inputs.unwrap_or_default();
        let bias = start(of.bias.unwrap_or(of.weight)) + first;
        let weight = start(of.weight) + first * inputs;
        let gradients = self
            .has_gradient(of.weight)
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

    /// Reads the parameters.
    pub(super) fn read(&self, values: &mut [f32]) -> Result<()> {
        self.values.read(values)
    }

    /// Reads both moments; 0 before the first step.
    pub(super) fn read_moments(&self, m: &mut [f32], v: &mut [f32]) -> Result<()> {
        if !self.has_moments() {
            m.fill(0.0);
            v.fill(0.0);
            return Ok(());
        }
        self.m.read(m)?;
        self.v.read(v)
    }

    /// The gradients, in the places of the parameters' values.
    pub(super) fn read_gradients(&self) -> Result<Vec<f32>> {
        let mut all = vec![0.0; self.gradients.len()];
        self.gradients.read(&mut all)?;
        Ok(all)
    }

    /// Bytes of the parameters with their copy, the gradients and the moments.
    pub(super) fn bytes(&self) -> [usize; 3] {
        [self.values.bytes() + self.copy.bytes(), self.gradients.bytes(), self.m.bytes() + self.v.bytes()]
    }
}

impl Linear<'_> {
    /// `out = x W^T`, `[T, N]`: without the bias, which whatever reads the result adds.
    pub(super) fn apply(
        &self,
        stream: &Stream,
        x: Pointer<'_, Real>,
        out: Pointer<'_, Real>,
        rows: usize,
    ) -> Result<()> {
        let shape = [rows, self.inputs, self.outputs];
        stream.product(shape, x.as_it_is(), self.weight.turned(), out, false)
    }

    /// The gradient of the input, `[T, K]`, from that of the output: `grad W`, or that added to what is there.
    pub(super) fn pull(
        &self,
        stream: &Stream,
        grad: Pointer<'_, Real>,
        out: Pointer<'_, Real>,
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
        grad: Pointer<'_, Real>,
        x: Pointer<'_, Real>,
        rows: usize,
        parts: &mut Array<f32>,
    ) -> Result<()> {
        let Some([weight, bias]) = self.gradients else { return Ok(()) };
        let shape = [self.outputs, rows, self.inputs];
        stream.float_product(shape, grad.turned(), x.as_it_is(), weight, true)?;
        add_columns(stream, grad, bias, rows, self.outputs, parts)
    }
}
