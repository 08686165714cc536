//! Layer norm at the end of a block, and behind the embeddings.

use super::stream::{Argument, launch};
use super::{Array, Mask, Pointer, Real, Stream, WARP};
use crate::kernels::Dropout;
use hone_base::error::Result;

/// H at most: a block of the backward pass has three rows for each warp in shared memory, of which every card gives 48 KiB.
pub const MOST_COLUMNS: usize = 1024;

/// Rows that a block of the forward pass takes, each by a warp.
const ROWS: usize = 4;

/// Warps of a block of the backward pass, and rows that each of them takes.
const WARPS: usize = 4;
const ROWS_OF_WARP: usize = 8;

/// The parameters of a layer norm.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// `[H]`
    pub weight: Pointer<'a, f32>,
    /// `[H]`
    pub bias: Pointer<'a, f32>,
    /// Added to the variance.
    pub eps: f32,
    /// H, even.
    pub width: usize,
}

/// The same as kernels read it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Norm<'a> {
    weight: Pointer<'a, f32>,
    bias: Pointer<'a, f32>,
    eps: f32,
    width: u32,
}

impl Argument for Norm<'_> {}

/// What the backward pass needs of the forward one.
#[derive(Debug)]
pub struct Normal {
    /// The normalised rows, before weight and bias: `[T, H]`.
    pub values: Array<Real>,
    /// One over the deviation of each row: `[T]`.
    pub inverse: Array<f32>,
}

impl Normal {
    /// No rows yet.
    pub fn new(stream: &Stream) -> Self {
        Self { values: Array::new(stream), inverse: Array::new(stream) }
    }

    /// Makes room, and gives the place to write `x` to.
    pub fn reserve(&mut self, rows: usize, width: usize) -> Result<Pointer<'_, Real>> {
        self.inverse.reserve(rows)?;
        self.values.reserve(rows * width)
    }
}

impl LayerNorm<'_> {
    pub(super) fn argument(&self) -> Norm<'_> {
        Norm { weight: self.weight, bias: self.bias, eps: self.eps, width: self.width as u32 }
    }

    /// `out = norm(residual + dropout(x + x_bias))`, `[T, H]`, where `x` is what `normal` holds, replaced by the
    /// normalised rows.
    pub fn forward(
        &self,
        stream: &Stream,
        normal: &mut Normal,
        x_bias: Option<Pointer<'_, f32>>,
        residual: Option<Pointer<'_, Real>>,
        dropout: Option<Dropout>,
        out: Pointer<'_, Real>,
    ) -> Result<()> {
        let rows = normal.inverse.len();
        launch!(
            stream,
            "norm_forward",
            [rows.div_ceil(ROWS), 1],
            ROWS as u32 * WARP,
            ROWS * self.width * size_of::<f32>(),
            normal.values.start(),
            Pointer::from(x_bias),
            Pointer::from(residual),
            self.argument(),
            Mask::from(dropout),
            normal.values.start(),
            normal.inverse.start(),
            out,
            rows as u32,
        )
    }

    /// The gradients of `residual` (in place of `grad`, that of the result) and of `x` (into `grad_x`), and, where it
    /// learns, of the parameters, which are added to what is at `gradients`, weight and bias.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        stream: &Stream,
        normal: &Normal,
        dropout: Option<Dropout>,
        grad: Pointer<'_, Real>,
        grad_x: Option<Pointer<'_, Real>>,
        gradients: Option<[Pointer<'_, f32>; 2]>,
        parts: &mut Array<f32>,
    ) -> Result<()> {
        let (rows, width) = (normal.inverse.len(), self.width);
        let blocks = rows.div_ceil(WARPS * ROWS_OF_WARP);
        let parts = parts.reserve(blocks * 2 * width)?;
        launch!(
            stream,
            "norm_backward",
            [blocks, 1],
            WARPS as u32 * WARP,
            WARPS * 3 * width * size_of::<f32>(),
            normal.values.start(),
            normal.inverse.start(),
            self.weight,
            Mask::from(dropout),
            grad,
            Pointer::from(grad_x),
            parts,
            rows as u32,
            width as u32,
            (WARPS * ROWS_OF_WARP) as u32,
        )?;
        let Some([weight, bias]) = gradients else { return Ok(()) };
        super::linear::add_parts(stream, parts, weight, [blocks, 2 * width], width)?;
        super::linear::add_parts(stream, parts.behind(width), bias, [blocks, 2 * width], width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::emulation::{on_every_device, reals, round, upload};
    use crate::kernels::layer_norm as host;
    use crate::kernels::testing::{assert_close, normal};
    use crate::kernels::{Compute, Isa, Precision};
    use hone_base::random::{Purpose, Stream as Random};

    /// Result, and the gradients of residual, x, weight and bias, by the CPU.
    fn by_the_cpu([x, residual, weight, bias, grad]: [&[f32]; 5], dropout: Option<Dropout>) -> [Vec<f32>; 5] {
        let compute = Compute::new(Isa::PORTABLE, Precision::Fp32);
        let norm = host::LayerNorm { weight, bias, eps: 1e-12 };
        let mut state = host::Normal::default();
        state.reserve(x.len() / weight.len(), weight.len()).copy_from_slice(x);
        let mut out = vec![f32::NAN; x.len()];
        norm.forward(compute, &mut state, Some(residual), dropout, &mut out);
        let (mut grad, mut grad_x) = (grad.to_vec(), vec![f32::NAN; x.len()]);
        let (mut grad_weight, mut grad_bias) = (vec![0.0; weight.len()], vec![0.0; weight.len()]);
        let gradients = host::LayerNormGradients { weight: &mut grad_weight, bias: &mut grad_bias };
        norm.backward(compute, &state, dropout, &mut grad, &mut grad_x, Some(gradients));
        [out, grad, grad_x, grad_weight, grad_bias]
    }

    #[test]
    fn agrees_with_the_cpu() {
        let some = Dropout::new(0.25, Random::new(5, Purpose::Dropout, 3, 1));
        on_every_device(|stream, epsilon| {
            for (rows, width, dropout) in [(1, 4, None), (17, 34, some), (70, 384, some), (3, 1024, None)] {
                let [x, residual, grad] =
                    [1, 2, 3].map(|seed| round(stream, normal(seed + rows as u64, rows * width)));
                let [weight, bias, x_bias] = [4, 5, 6].map(|seed| normal(seed, width));
                let shifted: Vec<f32> =
                    x.iter().zip(x_bias.iter().cycle()).map(|(x, bias)| x + bias).collect();
                let expected = by_the_cpu([&shifted, &residual, &weight, &bias, &grad], dropout);

                let [weight, bias, x_bias] = [weight, bias, x_bias].map(|values| upload(stream, &values));
                let norm = LayerNorm { weight: weight.start(), bias: bias.start(), eps: 1e-12, width };
                let mut state = Normal::new(stream);
                state.reserve(rows, width)?;
                super::super::linear::convert(
                    stream,
                    upload(stream, &x).start(),
                    state.values.start(),
                    x.len(),
                )?;
                let [residual, grad] = [residual, grad].map(|values| reals(stream, &values));
                let [mut out, mut grad_x] = [Array::new(stream), Array::new(stream)];
                out.reserve(rows * width)?;
                grad_x.reserve(rows * width)?;
                norm.forward(
                    stream,
                    &mut state,
                    Some(x_bias.start()),
                    Some(residual.start()),
                    dropout,
                    out.start(),
                )?;
                // What was there is kept.
                let [grad_weight, grad_bias] = [0, 1].map(|_| upload(stream, &vec![1.0; width]));
                norm.backward(
                    stream,
                    &state,
                    dropout,
                    grad.start(),
                    Some(grad_x.start()),
                    Some([grad_weight.start(), grad_bias.start()]),
                    &mut Array::new(stream),
                )?;
                let mut found = [out, grad, grad_x].map(|array| array.values()).to_vec();
                for array in [grad_weight, grad_bias] {
                    let mut values = vec![0.0; width];
                    array.read(&mut values)?;
                    found.push(values.iter().map(|x| x - 1.0).collect());
                }
                for (what, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let what = format!("{:?}, {rows} x {width}: {what}", stream.precision());
                    assert_close(found, expected, 1e-5_f64.max(2.0 * epsilon), &what);
                }
            }
            Ok(())
        });
    }
}
