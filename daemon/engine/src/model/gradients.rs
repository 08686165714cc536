//! The gradients of a classifier's parameters.

use std::ops::Range;
use std::sync::Arc;

use super::parameters::Parameter;
use crate::kernels::Buffer;
use crate::kernels::embedding::RowGradients;
use crate::kernels::layer_norm::LayerNormGradients;
use crate::kernels::linear::LinearGradients;

/// The gradient of every parameter: that of the words (the first parameter) by row, the others in one piece of memory,
/// which begins with the first that is trainable.
#[derive(Debug)]
pub struct Gradients {
    list: Arc<[Parameter]>,
    trainable: Vec<bool>,
    words: RowGradients,
    rest: Buffer,
    /// Where the values of the first parameter in `rest` start.
    start: usize,
    /// Whether what comes is added to what is there.
    add: bool,
}

impl Gradients {
    /// No gradients yet. Parameters that are not `trainable` never have one.
    pub fn new(list: &Arc<[Parameter]>, trainable: Vec<bool>) -> Self {
        let end = list.last().map_or(0, |last| last.range.end);
        let learning = list.iter().zip(&trainable).skip(1).find(|(_, trainable)| **trainable);
        let start = learning.map_or(end, |(first, _)| first.range.start);
        let (rows, width) = match list.first().map(|words| words.shape.as_slice()) {
            Some(&[rows, width]) if trainable.first() == Some(&true) => (rows, width),
            _ => (0, 0),
        };
        Self {
            words: RowGradients::new(rows, width),
            rest: Buffer::zeros(end.saturating_sub(start)),
            list: list.clone(),
            trainable,
            start,
            add: false,
        }
    }

    /// Starts a sum of gradients anew (`add` is false), or goes on with it.
    pub(super) fn begin(&mut self, add: bool) {
        self.add = add;
        if !add {
            self.words.clear();
            self.clear(false);
        }
    }

    /// Clears the gradients of the weights and biases of linear layers, which otherwise are stored, not added, the
    /// first time.
    pub(super) fn clear_stored(&mut self) {
        if !self.add {
            self.clear(true);
        }
    }

    fn clear(&mut self, stored: bool) {
        let list = self.list.clone();
        // A linear layer's weight has two dimensions and stands behind the first layer norm; its bias follows.
        let first_norm = list.iter().position(|parameter| parameter.shape.len() == 1).unwrap_or(list.len());
        let is_weight = |index: usize| index > first_norm && list[index].shape.len() == 2;
        for index in 1..list.len() {
            if (is_weight(index) || is_weight(index - 1)) == stored {
                self.of_mut(index).fill(0.0);
            }
        }
    }

    /// Whether the optimizer moves the parameter at a place of the list.
    pub fn is_trainable(&self, index: usize) -> bool {
        self.trainable.get(index).copied().unwrap_or(false)
    }

    /// The gradient of the words, the first parameter.
    pub fn words(&self) -> &RowGradients {
        &self.words
    }

    pub(super) fn words_mut(&mut self) -> &mut RowGradients {
        &mut self.words
    }

    /// The gradient of another parameter; nothing, when neither it nor one before it is trainable.
    pub fn of(&self, index: usize) -> &[f32] {
        self.place(index).map_or(&[], |place| &self.rest[place])
    }

    pub(super) fn of_mut(&mut self, index: usize) -> &mut [f32] {
        match self.place(index) {
            Some(place) => &mut self.rest[place],
            None => &mut [],
        }
    }

    /// Where the gradient of a parameter other than the words lies.
    fn place(&self, index: usize) -> Option<Range<usize>> {
        let range = &self.list.get(index).filter(|_| index > 0)?.range;
        Some(range.start.checked_sub(self.start)?..range.end - self.start)
    }

    /// Adds to the gradient of a parameter other than the words.
    pub(super) fn add_to(&mut self, index: usize, grad: &[f32]) {
        self.of_mut(index).iter_mut().zip(grad).for_each(|(sum, x)| *sum += x);
    }

    /// Adds to the gradient of the words: `grad` is that of the whole table, of which `words` were touched.
    pub(super) fn add_words(&mut self, words: &[u32], grad: &[f32]) {
        self.words.add_from_table(words, grad);
    }

    /// The gradients of a weight and of the bias behind it.
    fn pair(&mut self, index: usize) -> Option<(&mut [f32], &mut [f32])> {
        if !self.is_trainable(index) {
            return None;
        }
        let (weight, bias) = (self.list.get(index)?.range.clone(), self.list.get(index + 1)?.range.clone());
        let (low, high) = self.rest.split_at_mut(bias.start - self.start);
        Some((&mut low[weight.start - self.start..weight.end - self.start], &mut high[..bias.len()]))
    }

    /// Those of the layer norm at a place of the list.
    pub(super) fn norm(&mut self, index: usize) -> Option<LayerNormGradients<'_>> {
        self.pair(index).map(|(weight, bias)| LayerNormGradients { weight, bias })
    }

    /// Those of the linear layer at a place of the list.
    pub(super) fn linear(&mut self, index: usize) -> Option<LinearGradients<'_>> {
        let add = self.add;
        self.pair(index).map(|(weight, bias)| LinearGradients { weight, bias, add })
    }

    /// Those of some outputs of a linear layer: from output `first` on, so many.
    pub(super) fn part(&mut self, index: usize, first: usize, count: usize) -> Option<LinearGradients<'_>> {
        let add = self.add;
        self.pair(index).map(|(weight, bias)| {
            let inputs = weight.len() / bias.len();
            LinearGradients {
                weight: &mut weight[first * inputs..(first + count) * inputs],
                bias: &mut bias[first..first + count],
                add,
            }
        })
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.words.bytes() + self.rest.bytes()
    }
}
