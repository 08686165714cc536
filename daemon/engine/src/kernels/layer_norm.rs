//! Layer norm (Ba, Kiros and Hinton 2016) at the end of a block: `norm(residual + dropout(x))`.

use rayon::prelude::*;

use super::buffer::with_scratch;
use super::isa::vectorised;
use super::math::{dot, mul_add, sum, sum_by};
use super::{Buffer, Compute, Dropout, ROWS};

/// The parameters of a layer norm.
#[derive(Clone, Copy)]
pub struct LayerNorm<'a> {
    /// `[H]`
    pub weight: &'a [f32],
    /// `[H]`
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

/// What the backward pass needs of the forward one.
#[derive(Clone, Debug, Default)]
pub struct Normal {
    /// The normalised rows, before weight and bias: `[T, H]`.
    pub(super) values: Buffer,
    /// One over the deviation of each row: `[T]`.
    pub(super) inverse: Buffer,
}

impl Normal {
    /// Makes room, and gives the rows to write `x` into.
    pub fn reserve(&mut self, rows: usize, width: usize) -> &mut [f32] {
        self.inverse.reserve(rows);
        self.values.reserve(rows * width)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.values.bytes() + self.inverse.bytes()
    }
}

/// Gradients of a layer norm's parameters, `[H]` each, which are added to.
pub struct LayerNormGradients<'a> {
    /// Of the weight.
    pub weight: &'a mut [f32],
    /// Of the bias.
    pub bias: &'a mut [f32],
}

/// The number of some rows, and these: of x, their deviations, and their places in the result.
type Piece<'a> = (usize, ((&'a mut [f32], &'a mut [f32]), &'a mut [f32]));

impl LayerNorm<'_> {
    /// `out = norm(residual + dropout(x))`, `[T, H]`, where `x` is what `normal` holds, replaced by the normalised rows.
    ///
    /// # Panics
    /// When the weight is empty, or `residual` or `out` has fewer values than `normal`.
    pub fn forward(
        &self,
        compute: Compute,
        normal: &mut Normal,
        residual: Option<&[f32]>,
        dropout: Option<Dropout>,
        out: &mut [f32],
    ) {
        let (width, isa) = (self.weight.len(), compute.isa());
        let piece = width * ROWS;
        let each = |(index, ((x, inverse), out)): Piece<'_>| {
            let start = index * piece;
            with_scratch(|[factors]| {
                let factors = match dropout {
                    Some(dropout) => {
                        let factors = factors.reserve(x.len());
                        dropout.factors(isa, start as u64, factors);
                        &*factors
                    }
                    None => &[],
                };
                let residual = residual.map_or(&[][..], |residual| &residual[start..start + x.len()]);
                forward_rows(isa, self.weight, self.bias, self.eps, x, residual, factors, inverse, out);
            });
        };
        if compute.goes_alone(out.len()) {
            let rows = normal.values.chunks_mut(piece).zip(normal.inverse.chunks_mut(ROWS));
            rows.zip(out.chunks_mut(piece)).enumerate().for_each(each);
        } else {
            let rows = normal.values.par_chunks_mut(piece).zip(normal.inverse.par_chunks_mut(ROWS));
            rows.zip(out.par_chunks_mut(piece)).enumerate().for_each(each);
        }
    }

    /// `out = norm(residual + x)`, `[T, H]`, for passes that have no backward pass, on this thread alone; `x` is used up.
    ///
    /// # Panics
    /// When the weight is empty, or `residual` or `out` has fewer values than `x`.
    pub fn answer(&self, compute: Compute, x: &mut [f32], residual: &[f32], out: &mut [f32]) {
        answer_rows(compute.isa(), self.weight, self.bias, self.eps, x, residual, out);
    }

    /// The gradients of `residual` (in place of `grad`, that of the result) and of `x` (into `grad_x`; the same when
    /// there is no dropout), and of the parameters, which are added to what is in `gradients`.
    ///
    /// # Panics
    /// When the weight is empty.
    pub fn backward(
        &self,
        compute: Compute,
        normal: &Normal,
        dropout: Option<Dropout>,
        grad: &mut [f32],
        grad_x: &mut [f32],
        gradients: Option<LayerNormGradients<'_>>,
    ) {
        let (width, isa) = (self.weight.len(), compute.isa());
        let piece = width * ROWS;
        let pieces = normal.inverse.len().div_ceil(ROWS);
        with_scratch(|[parts]| {
            let parts = parts.reserve(pieces * 2 * width);
            let rows = normal.values.par_chunks(piece).zip(normal.inverse.par_chunks(ROWS));
            let grads = grad.par_chunks_mut(piece).zip(grad_x.par_chunks_mut(piece));
            parts.par_chunks_mut(2 * width).zip(rows).zip(grads).enumerate().for_each(
                |(index, ((part, (normal, inverse)), (grad, grad_x)))| {
                    match dropout {
                        Some(dropout) => dropout.factors(isa, (index * piece) as u64, grad_x),
                        None => grad_x.fill(1.0),
                    }
                    let (part_weight, part_bias) = part.split_at_mut(width);
                    backward_rows(isa, self.weight, normal, inverse, grad, grad_x, part_weight, part_bias);
                },
            );
            if let Some(gradients) = gradients {
                for part in parts.chunks(2 * width) {
                    add(isa, gradients.weight, &part[..width]);
                    add(isa, gradients.bias, &part[width..]);
                }
            }
        });
    }
}

vectorised! {
    /// `sum += part`.
    pub(super) fn add<FMA>(sum: &mut [f32], part: &[f32]) {
        let _ = FMA;
        sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
}

vectorised! {
    fn forward_rows<FMA>(
        weight: &[f32],
        bias: &[f32],
        eps: f32,
        x: &mut [f32],
        residual: &[f32],
        factors: &[f32],
        inverse: &mut [f32],
        out: &mut [f32],
    ) {
        let width = weight.len();
        for (row, x) in x.chunks_mut(width).enumerate() {
            let at = row * width..(row + 1) * width;
            if let Some(factors) = factors.get(at.clone()) {
                x.iter_mut().zip(factors).for_each(|(x, f)| *x *= f);
            }
            if let Some(residual) = residual.get(at.clone()) {
                x.iter_mut().zip(residual).for_each(|(x, r)| *x += r);
            }
            inverse[row] = normalise::<FMA>(x, eps);
            let out = &mut out[at];
            for (((out, x), w), b) in out.iter_mut().zip(&*x).zip(weight).zip(bias) {
                *out = mul_add::<FMA>(*x, *w, *b);
            }
        }
    }
}

vectorised! {
    /// The same without dropout, to the bit; the normalised rows are not written.
    fn answer_rows<FMA>(
        weight: &[f32],
        bias: &[f32],
        eps: f32,
        x: &mut [f32],
        residual: &[f32],
        out: &mut [f32],
    ) {
        let width = weight.len();
        let rows = x.chunks_mut(width).zip(residual.chunks(width)).zip(out.chunks_mut(width));
        for ((x, residual), out) in rows {
            x.iter_mut().zip(residual).for_each(|(x, r)| *x += r);
            let mean = sum(x) / width as f32;
            let squares = sum_by(x, x, |x, _, sum| mul_add::<FMA>(x - mean, x - mean, sum));
            let inverse = 1.0 / (squares / width as f32 + eps).sqrt();
            for (((out, x), w), b) in out.iter_mut().zip(&*x).zip(weight).zip(bias) {
                *out = mul_add::<FMA>((x - mean) * inverse, *w, *b);
            }
        }
    }
}

/// Turns a row into `(row - mean) / deviation` and returns `1 / deviation`.
#[inline(always)]
fn normalise<const FMA: bool>(row: &mut [f32], eps: f32) -> f32 {
    let width = row.len() as f32;
    let mean = sum(row) / width;
    row.iter_mut().for_each(|x| *x -= mean);
    let inverse = 1.0 / (dot::<FMA>(row, row) / width + eps).sqrt();
    row.iter_mut().for_each(|x| *x *= inverse);
    inverse
}

vectorised! {
    /// `grad_x` holds the dropout's factors first.
    fn backward_rows<FMA>(
        weight: &[f32],
        normal: &[f32],
        inverse: &[f32],
        grad: &mut [f32],
        grad_x: &mut [f32],
        part_weight: &mut [f32],
        part_bias: &mut [f32],
    ) {
        let width = weight.len();
        part_weight.fill(0.0);
        part_bias.fill(0.0);
        let rows = normal.chunks(width).zip(inverse);
        for ((normal, inverse), (grad, grad_x)) in rows.zip(grad.chunks_mut(width).zip(grad_x.chunks_mut(width))) {
            for ((part, g), n) in part_weight.iter_mut().zip(&*grad).zip(normal) {
                *part = mul_add::<FMA>(*g, *n, *part);
            }
            for ((part, g), w) in part_bias.iter_mut().zip(&mut *grad).zip(weight) {
                *part += *g;
                *g *= w;
            }
            let mean = sum(grad) / width as f32;
            let along = dot::<FMA>(grad, normal) / width as f32;
            for ((g, grad_x), n) in grad.iter_mut().zip(grad_x).zip(normal) {
                *g = inverse * (mul_add::<FMA>(-along, *n, *g) - mean);
                *grad_x *= *g;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Tensor, Var};

    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::testing::{assert_close, computes, in_pool, normal, values, variable};
    use hone_base::random::{Purpose, Stream};

    fn some_dropout() -> Option<Dropout> {
        Dropout::new(0.25, Stream::new(5, Purpose::Dropout, 3, 1))
    }

    /// Result, and the gradients of residual, x, weight and bias, for the gradient `grad` of the result.
    fn run(
        compute: Compute,
        [x, residual, weight, bias]: [&[f32]; 4],
        grad: &[f32],
        dropout: Option<Dropout>,
    ) -> [Vec<f32>; 5] {
        let norm = LayerNorm { weight, bias, eps: 1e-12 };
        let width = weight.len();
        let mut state = Normal::default();
        state.reserve(x.len() / width, width).copy_from_slice(x);
        let mut out = vec![f32::NAN; x.len()];
        norm.forward(compute, &mut state, Some(residual), dropout, &mut out);
        let (mut grad, mut grad_x) = (grad.to_vec(), vec![f32::NAN; x.len()]);
        let (mut grad_weight, mut grad_bias) = (vec![1.0; width], vec![1.0; width]);
        let gradients = LayerNormGradients { weight: &mut grad_weight, bias: &mut grad_bias };
        norm.backward(compute, &state, dropout, &mut grad, &mut grad_x, Some(gradients));
        // What was there is kept.
        grad_weight.iter_mut().chain(&mut grad_bias).for_each(|x| *x -= 1.0);
        [out, grad, grad_x, grad_weight, grad_bias]
    }

    #[test]
    fn agrees_with_candle_s_own_operations() -> candle_core::Result<()> {
        for (rows, width) in [(1, 4), (17, 33), (100, 384)] {
            for dropout in [None, some_dropout()] {
                let inputs: Vec<Var> = vec![
                    variable(3, (rows, width)),
                    variable(4, (rows, width)),
                    variable(1, width),
                    variable(2, width),
                ];
                let mut factors = vec![1.0; rows * width];
                if let Some(dropout) = dropout {
                    dropout.factors(Isa::PORTABLE, 0, &mut factors);
                }
                let mask = Tensor::from_vec(factors, (rows, width), inputs[0].device())?;
                let sum = ((inputs[0].as_tensor() * mask)? + inputs[1].as_tensor())?;
                let centred = sum.broadcast_sub(&sum.mean_keepdim(D::Minus1)?)?;
                let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + 1e-12)?.sqrt()?;
                let result = centred
                    .broadcast_div(&deviation)?
                    .broadcast_mul(&inputs[2])?
                    .broadcast_add(&inputs[3])?;
                let grad = normal(9, rows * width);
                let seed = Tensor::from_vec(grad.clone(), (rows, width), result.device())?;
                let gradients = (&result * seed)?.sum_all()?.backward()?;
                let of = |input: &Var| gradients.get(input.as_tensor()).map(values).expect("a gradient");
                let expected =
                    [values(&result), of(&inputs[1]), of(&inputs[0]), of(&inputs[2]), of(&inputs[3])];
                let plain: Vec<Vec<f32>> = inputs.iter().map(|input| values(input)).collect();
                for compute in computes() {
                    let found = run(compute, [&plain[0], &plain[1], &plain[2], &plain[3]], &grad, dropout);
                    for (what, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        assert_close(found, expected, 1e-5, &format!("{compute:?} {rows} x {width}: {what}"));
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn an_answer_is_that_of_the_forward_pass_to_the_bit() {
        let (weight, bias) = (normal(1, 37), normal(2, 37));
        let norm = LayerNorm { weight: &weight, bias: &bias, eps: 1e-5 };
        let (x, residual) = (normal(3, 20 * 37), normal(4, 20 * 37));
        for compute in computes() {
            let (mut state, mut expected, mut found) = (Normal::default(), x.clone(), x.clone());
            state.reserve(20, 37).copy_from_slice(&x);
            norm.forward(compute, &mut state, Some(&residual), None, &mut expected);
            norm.answer(compute, &mut x.clone(), &residual, &mut found);
            assert_eq!(found, expected, "{compute:?}");
        }
    }

    #[test]
    fn is_the_same_to_the_bit_on_any_number_of_threads() {
        let (x, residual, grad) = (normal(1, 100 * 65), normal(2, 100 * 65), normal(5, 100 * 65));
        let (weight, bias) = (normal(3, 65), normal(4, 65));
        for compute in computes() {
            let on = |threads| {
                in_pool(threads, || run(compute, [&x, &residual, &weight, &bias], &grad, some_dropout()))
            };
            assert_eq!(on(1), on(3));
        }
    }
}
