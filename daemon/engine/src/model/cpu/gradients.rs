//! The gradients of a classifier's parameters.

use std::ops::Range;
use std::sync::Arc;

use super::super::backend::Learning;
use super::super::declaration::{Declaration, Linear, Norm, ParameterId};
use super::super::parameters::Parameter;
use crate::kernels::Buffer;
use crate::kernels::embedding::RowGradients;
use crate::kernels::layer_norm::LayerNormGradients;
use crate::kernels::linear::LinearGradients;

/// The gradient of every parameter: that of the token embeddings by row, the others in one piece of memory, which begins
/// with the first that is trainable.
#[derive(Debug)]
pub(super) struct Gradients {
    list: Arc<[Parameter]>,
    learning: Learning,
    tokens_id: ParameterId,
    tokens: RowGradients,
    rest: Buffer,
    /// Where the values of the first parameter in `rest` start.
    start: usize,
    /// For each parameter: whether its gradient is stored the first time and added to later, as that of a linear layer;
    /// the others are cleared and always added to.
    stores: Vec<bool>,
    /// For each parameter that stores: whether it has, in the present sum.
    has_stored: Vec<bool>,
}

impl Gradients {
    /// No gradients yet. Parameters that are not trainable never have one.
    pub(super) fn new(declaration: &Declaration, list: &Arc<[Parameter]>, learning: Learning) -> Self {
        let tokens_id = declaration.embeddings.tokens;
        let end = list.last().map_or(0, |last| last.range.end);
        let learns =
            |parameter: &&Parameter| parameter.id != tokens_id && learning.is_trainable(parameter.id);
        let start = list.iter().find(learns).map_or(end, |first| first.range.start);
        let architecture = &declaration.architecture;
        let tokens = match learning.is_trainable(tokens_id) {
            true => RowGradients::new(architecture.vocab_size, architecture.embedding_size),
            false => RowGradients::new(0, 0),
        };
        let mut stores = vec![false; list.len()];
        let of_layers = declaration
            .layers
            .iter()
            .flat_map(|layer| [layer.qkv, layer.attention_output, layer.intermediate, layer.output]);
        let linear = of_layers
            .chain([declaration.head.dense, declaration.head.output])
            .chain(declaration.embeddings.projection);
        for id in linear.flat_map(|Linear { weight, bias }| std::iter::once(weight).chain(bias)) {
            stores[id.index()] = true;
        }
        Self {
            tokens_id,
            tokens,
            rest: Buffer::zeros(end.saturating_sub(start)).taken(),
            list: list.clone(),
            learning,
            start,
            has_stored: vec![false; stores.len()],
            stores,
        }
    }

    /// Starts a sum of gradients anew (`add` is false), or goes on with it.
    pub(super) fn begin(&mut self, add: bool) {
        if add {
            return;
        }
        self.tokens.clear();
        self.has_stored.fill(false);
        let list = self.list.clone();
        for (parameter, stores) in list.iter().zip(self.stores.clone()) {
            if !stores {
                self.of_mut(parameter.id).fill(0.0);
            }
        }
    }

    /// Whether the optimizer moves a parameter.
    pub(super) fn is_trainable(&self, id: ParameterId) -> bool {
        self.learning.is_trainable(id)
    }

    /// The gradient of the token embeddings.
    pub(super) fn tokens(&self) -> &RowGradients {
        &self.tokens
    }

    pub(super) fn tokens_mut(&mut self) -> &mut RowGradients {
        &mut self.tokens
    }

    /// The gradient of another parameter than the token embeddings; nothing, when neither it nor one before it is
    /// trainable.
    pub(super) fn of(&self, id: ParameterId) -> &[f32] {
        self.place(id).map_or(&[], |place| &self.rest[place])
    }

    pub(super) fn of_mut(&mut self, id: ParameterId) -> &mut [f32] {
        match self.place(id) {
            Some(place) => &mut self.rest[place],
            None => &mut [],
        }
    }

    fn place(&self, id: ParameterId) -> Option<Range<usize>> {
        let range = &self.list.get(id.index()).filter(|_| id != self.tokens_id)?.range;
        Some(range.start.checked_sub(self.start)?..range.end - self.start)
    }

    /// The gradients of a weight and of its bias, which stands behind it.
    fn pair(&mut self, weight: ParameterId, bias: Option<ParameterId>) -> Option<(&mut [f32], &mut [f32])> {
        if !self.is_trainable(weight) {
            return None;
        }
        let (weight, bias) = (self.place(weight)?, self.place(bias?)?);
        let (low, high) = self.rest.split_at_mut(bias.start);
        Some((&mut low[weight], &mut high[..bias.len()]))
    }

    /// Those of a layer norm.
    pub(super) fn norm(&mut self, of: Norm) -> Option<LayerNormGradients<'_>> {
        self.pair(of.weight, of.bias).map(|(weight, bias)| LayerNormGradients { weight, bias })
    }

    /// Those of a linear layer, to be stored or added by this call's taker: for each pass through the layer there is one
    /// call.
    pub(super) fn linear(&mut self, of: Linear) -> Option<LinearGradients<'_>> {
        let add = self.stores_now(of);
        self.pair(of.weight, of.bias).map(|(weight, bias)| LinearGradients { weight, bias, add })
    }

    /// The same for a linear layer of two parts: its first so many outputs, and the others.
    pub(super) fn parts(&mut self, of: Linear, first: usize) -> Option<[LinearGradients<'_>; 2]> {
        let add = self.stores_now(of);
        self.pair(of.weight, of.bias).map(|(weight, bias)| {
            let inputs = weight.len() / bias.len();
            let (low, high) = weight.split_at_mut(first * inputs);
            let (low_bias, high_bias) = bias.split_at_mut(first);
            [
                LinearGradients { weight: low, bias: low_bias, add },
                LinearGradients { weight: high, bias: high_bias, add },
            ]
        })
    }

    /// Whether a layer's gradients are added to what is there, or stored, as now for the first time in this sum.
    fn stores_now(&mut self, of: Linear) -> bool {
        std::mem::replace(&mut self.has_stored[of.weight.index()], true)
    }

    /// All of them, in the places of the parameters' values.
    pub(super) fn dense(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.list.last().map_or(0, |last| last.range.end)];
        for parameter in self.list.iter().filter(|parameter| self.is_trainable(parameter.id)) {
            let out = &mut all[parameter.range.clone()];
            if parameter.id == self.tokens_id {
                let width = parameter.shape.get(1).copied().unwrap_or(1);
                for (&row, values) in self.tokens.rows().iter().zip(self.tokens.values().chunks(width)) {
                    out[row as usize * width..][..width].copy_from_slice(values);
                }
            } else {
                out.copy_from_slice(self.of(parameter.id));
            }
        }
        all
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.tokens.bytes() + self.rest.bytes()
    }
}
