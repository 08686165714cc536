//! Dropout whose mask is a function of the position in training, and is never stored.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::values;
use crate::random::Stream;

/// Values that one task takes.
const PIECE: usize = 1 << 14;

/// A dropout at one place of the model at one position in training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    threshold: u32,
    scale: f32,
    stream: Stream,
}

impl Dropout {
    /// Drops each value with `probability`, at least 0 and less than 1, and scales the others by
    /// `1 / (1 - probability)`. `None` when nothing would be dropped.
    pub fn new(probability: f64, stream: Stream) -> Option<Self> {
        let threshold = (probability * 4_294_967_296.0) as u32;
        (threshold > 0).then(|| Self { threshold, scale: (1.0 / (1.0 - probability)) as f32, stream })
    }

    /// What the value at `index` is multiplied by.
    #[inline]
    pub fn factor(&self, index: u64) -> f32 {
        self.keep(self.stream.word(index))
    }

    /// Multiplies `values`, the first of which has the index `start`, by their factors.
    #[inline]
    pub fn apply(&self, values: &mut [f32], start: u64) {
        let mut index = start;
        let (head, rest) = values.split_at_mut(values.len().min((4 - start as usize % 4) % 4));
        for value in head {
            *value *= self.factor(index);
            index += 1;
        }
        for four in rest.chunks_mut(4) {
            let words = self.stream.block((index / 4) as u32);
            for (value, word) in four.iter_mut().zip(words) {
                *value *= self.keep(word);
            }
            index += 4;
        }
    }

    #[inline]
    fn keep(&self, word: u32) -> f32 {
        if word < self.threshold { 0.0 } else { self.scale }
    }

    /// The factors of a whole tensor.
    pub(super) fn mask(&self, shape: &Shape, device: &Device) -> Result<Tensor> {
        let mut factors = vec![1f32; shape.elem_count()];
        self.apply(&mut factors, 0);
        Tensor::from_vec(factors, shape, device)
    }

    fn apply_all(&self, values: &mut [f32]) {
        values
            .par_chunks_mut(PIECE)
            .enumerate()
            .for_each(|(piece, values)| self.apply(values, (piece * PIECE) as u64));
    }
}

/// `x` with some of its values dropped; `None` leaves it as it is.
pub fn dropout(x: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
    let Some(dropout) = dropout else { return Ok(x.clone()) };
    if !x.device().is_cpu() {
        return reference(x, dropout);
    }
    x.contiguous()?.apply_op1(dropout)
}

fn reference(x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    x * dropout.mask(x.shape(), x.device())?
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = values::of_storage(x, x_at)?.to_vec();
        self.apply_all(&mut y);
        Ok((CpuStorage::F32(y), x_at.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut grad_x = values::of(&grad.contiguous()?)?.to_vec();
        self.apply_all(&mut grad_x);
        Ok(Some(Tensor::from_vec(grad_x, x.shape(), x.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{assert_same, variable};
    use crate::random::Purpose;

    fn at(probability: f64, site: u32) -> Option<Dropout> {
        Dropout::new(probability, Stream::new(5, Purpose::Dropout, 3, site))
    }

    #[test]
    fn agrees_with_the_reference() -> Result<()> {
        let x = variable(1, (70, 333));
        let some = at(0.3, 1).ok_or_else(|| candle_core::Error::msg("no dropout"))?;
        assert_same(&[&x], &|v| dropout(v[0], Some(some)), &|v| reference(v[0], some))
    }

    #[test]
    fn drops_the_given_share_and_keeps_the_mean() {
        let mut values = vec![1f32; 100_000];
        at(0.3, 1).expect("a dropout").apply(&mut values, 0);
        let dropped = values.iter().filter(|x| **x == 0.0).count() as f64 / 100_000.0;
        let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / 100_000.0;
        assert!((dropped - 0.3).abs() < 0.01, "{dropped}");
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
    }

    #[test]
    fn a_mask_does_not_depend_on_how_it_is_cut() {
        let dropout = at(0.5, 9).expect("a dropout");
        let mut whole = vec![1f32; 103];
        dropout.apply(&mut whole, 0);
        for start in 0..20 {
            let mut part = vec![1f32; 103 - start];
            dropout.apply(&mut part, start as u64);
            assert_eq!(part, whole[start..]);
        }
        let each: Vec<f32> = (0..103).map(|index| dropout.factor(index)).collect();
        assert_eq!(each, whole);
    }

    #[test]
    fn two_sites_have_different_masks_and_zero_drops_nothing() {
        let masked = |dropout: Dropout| {
            let mut values = vec![1f32; 256];
            dropout.apply(&mut values, 0);
            values
        };
        assert_ne!(at(0.5, 1).map(masked), at(0.5, 2).map(masked));
        assert_eq!(at(0.0, 1), None);
    }
}
