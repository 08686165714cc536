//! What stands around matrix products: biases and their gradients, activations, dropout.

use super::stream::launch;
use super::{Array, Mask, Pointer, Real, Stream, THREADS};
use crate::kernels::Dropout;
use crate::kernels::linear::Gelu;
use hone_base::error::Result;

/// Rows that a block sums the columns of.
const ROWS: usize = 64;

/// Blocks for so many threads.
fn blocks(threads: usize) -> usize {
    threads.div_ceil(THREADS as usize)
}

/// `x += bias`, `[T, N]`, N even.
pub fn add_bias(
    stream: &Stream,
    x: Pointer<'_, Real>,
    bias: Pointer<'_, f32>,
    rows: usize,
    width: usize,
) -> Result<()> {
    let pairs = rows * width / 2;
    launch!(stream, "add_bias", [blocks(pairs), 1], THREADS, 0, x, bias, pairs as u64, width as u32)
}

/// The same for logits, `[B, labels]`.
pub fn add_bias_to_logits(
    stream: &Stream,
    logits: Pointer<'_, f32>,
    bias: Pointer<'_, f32>,
    rows: usize,
    labels: usize,
) -> Result<()> {
    let count = rows * labels;
    launch!(
        stream,
        "add_bias_to_logits",
        [blocks(count), 1],
        THREADS,
        0,
        logits,
        bias,
        count as u64,
        labels as u32
    )
}

/// `inner += bias; active = gelu(inner)`, `[T, N]`, N even.
pub fn gelu_forward(
    stream: &Stream,
    inner: Pointer<'_, Real>,
    bias: Pointer<'_, f32>,
    active: Pointer<'_, Real>,
    rows: usize,
    width: usize,
    gelu: Gelu,
) -> Result<()> {
    let pairs = rows * width / 2;
    launch!(
        stream,
        "gelu_forward",
        [blocks(pairs), 1],
        THREADS,
        0,
        inner,
        bias,
        active,
        pairs as u64,
        width as u32,
        u32::from(gelu == Gelu::Tanh)
    )
}

/// In place of the gradient of `gelu(inner)`, that of `inner`.
pub fn gelu_backward(
    stream: &Stream,
    grad: Pointer<'_, Real>,
    inner: Pointer<'_, Real>,
    count: usize,
    gelu: Gelu,
) -> Result<()> {
    let pairs = count / 2;
    let is_tanh = u32::from(gelu == Gelu::Tanh);
    launch!(stream, "gelu_backward", [blocks(pairs), 1], THREADS, 0, grad, inner, pairs as u64, is_tanh)
}

/// `x` times the dropout's factors: `count` values, an even number.
pub fn drop_out(stream: &Stream, x: Pointer<'_, Real>, dropout: Option<Dropout>, count: usize) -> Result<()> {
    let Some(dropout) = dropout else { return Ok(()) };
    let pairs = count / 2;
    launch!(stream, "drop_out", [blocks(pairs), 1], THREADS, 0, x, Mask::from(Some(dropout)), pairs as u64)
}

/// What the head's first layer ends with.
#[derive(Clone, Copy, Debug)]
pub struct HeadEnd {
    /// ReLU instead of tanh.
    pub is_relu: bool,
    /// Behind it.
    pub dropout: Option<Dropout>,
}

impl HeadEnd {
    /// `active = activation(active + bias); dropped = dropout(active)`, `[B, H]`.
    pub fn forward(
        self,
        stream: &Stream,
        active: Pointer<'_, Real>,
        bias: Pointer<'_, f32>,
        dropped: Pointer<'_, Real>,
        rows: usize,
        width: usize,
    ) -> Result<()> {
        let count = rows * width;
        launch!(
            stream,
            "head_forward",
            [blocks(count), 1],
            THREADS,
            0,
            active,
            bias,
            u32::from(self.is_relu),
            Mask::from(self.dropout),
            dropped,
            count as u64,
            width as u32,
        )
    }

    /// In place of the gradient of `dropped`, that of the activation's input.
    pub fn backward(
        self,
        stream: &Stream,
        grad: Pointer<'_, Real>,
        active: Pointer<'_, Real>,
        count: usize,
    ) -> Result<()> {
        launch!(
            stream,
            "head_backward",
            [blocks(count), 1],
            THREADS,
            0,
            grad,
            active,
            u32::from(self.is_relu),
            Mask::from(self.dropout),
            count as u64,
        )
    }
}

/// Values as products read them.
pub fn convert(stream: &Stream, from: Pointer<'_, f32>, to: Pointer<'_, Real>, count: usize) -> Result<()> {
    launch!(stream, "convert", [blocks(count), 1], THREADS, 0, from, to, count as u64)
}

/// Adds the sums of the columns of `x`, `[T, N]`, to `out`: the gradient of a bias.
pub fn add_columns(
    stream: &Stream,
    x: Pointer<'_, Real>,
    out: Pointer<'_, f32>,
    rows: usize,
    width: usize,
    parts: &mut Array<f32>,
) -> Result<()> {
    let pieces = rows.div_ceil(ROWS);
    let parts = parts.reserve(pieces * width)?;
    launch!(
        stream,
        "column_parts",
        [blocks(width), pieces],
        THREADS,
        0,
        x,
        parts,
        rows as u32,
        width as u32,
        ROWS as u32,
    )?;
    add_parts(stream, parts, out, [pieces, width], width)
}

/// Adds the sum of some parts, `[count, stride]`, to `out`, `[width]`.
pub(super) fn add_parts(
    stream: &Stream,
    parts: Pointer<'_, f32>,
    out: Pointer<'_, f32>,
    [count, stride]: [usize; 2],
    width: usize,
) -> Result<()> {
    launch!(
        stream,
        "add_parts",
        [blocks(width), 1],
        THREADS,
        0,
        parts,
        out,
        count as u32,
        stride as u32,
        width as u32,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cuda::emulation::{on_every_device, reals, round, upload};
    use crate::kernels::testing::{assert_close, normal};
    use crate::kernels::{Compute, Isa, Precision};
    use hone_base::random::{Purpose, Stream as Random};

    const WIDTH: usize = 70;

    fn some_dropout() -> Option<Dropout> {
        Dropout::new(0.25, Random::new(5, Purpose::Dropout, 3, 1))
    }

    fn check(stream: &Stream, found: &[f32], expected: &[f64], epsilon: f64, what: &str) {
        let expected: Vec<f32> = expected.iter().map(|x| *x as f32).collect();
        assert_close(found, &expected, 2e-6_f64.max(epsilon), &format!("{:?}: {what}", stream.precision()));
    }

    /// The distribution function of the normal distribution in float64, by its series.
    fn cdf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for k in 1..200 {
            term *= -x * x / (2.0 * f64::from(k));
            sum += term / (2.0 * f64::from(k) + 1.0);
        }
        0.5 + sum / (2.0 * std::f64::consts::PI).sqrt()
    }

    /// What takes the place of `cdf` in the approximation by tanh, and the derivative of the whole.
    fn by_tanh(x: f64) -> (f64, f64) {
        let root = (2.0 / std::f64::consts::PI).sqrt();
        let s = 0.5 * (1.0 + (root * (x + 0.044715 * x.powi(3))).tanh());
        (s, s + x * s * (1.0 - s) * 2.0 * root * (1.0 + 3.0 * 0.044715 * x * x))
    }

    fn exactly(x: f64) -> (f64, f64) {
        (cdf(x), cdf(x) + x * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt())
    }

    #[test]
    fn gelu_and_its_slope_are_those_of_the_formulas() {
        type Formula = fn(f64) -> (f64, f64);
        let forms: [(Gelu, Formula); 2] = [(Gelu::Exact, exactly), (Gelu::Tanh, by_tanh)];
        on_every_device(|stream, epsilon| {
            for (rows, (gelu, formula)) in [1, 9].into_iter().flat_map(|rows| forms.map(|form| (rows, form)))
            {
                let [x, grad] = [1, 2].map(|seed| round(stream, normal(seed, rows * WIDTH)));
                let bias = normal(3, WIDTH);
                // The slope is that of the sum as it is stored.
                let sum: Vec<f32> = x.iter().zip(bias.iter().cycle()).map(|(x, bias)| x + bias).collect();
                let [inner, of_active] = [&x, &grad].map(|values| reals(stream, values));
                let active = reals(stream, &vec![f32::NAN; x.len()]);
                let bias = upload(stream, &bias);
                gelu_forward(stream, inner.start(), bias.start(), active.start(), rows, WIDTH, gelu)?;
                let stored = inner.values();
                check(
                    stream,
                    &stored,
                    &sum.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(),
                    epsilon,
                    "sum",
                );
                let exact: Vec<f64> = sum.iter().map(|x| f64::from(*x) * formula(f64::from(*x)).0).collect();
                check(stream, &active.values(), &exact, epsilon, "gelu");
                gelu_backward(stream, of_active.start(), inner.start(), x.len(), gelu)?;
                let slope = |x: f64| formula(x).1;
                let exact: Vec<f64> =
                    stored.iter().zip(&grad).map(|(x, g)| f64::from(*g) * slope(f64::from(*x))).collect();
                check(stream, &of_active.values(), &exact, epsilon, "its slope");
            }
            Ok(())
        });
    }

    #[test]
    fn biases_are_added_to_rows_and_their_gradients_are_sums_of_columns() {
        on_every_device(|stream, epsilon| {
            // An odd width: that of logits.
            for (rows, width) in [(1, 3), (65, 70), (300, 514)] {
                let values = round(stream, normal(rows as u64, rows * width));
                let x = reals(stream, &values);
                let out = upload(stream, &vec![1.0; width]);
                add_columns(stream, x.start(), out.start(), rows, width, &mut Array::new(stream))?;
                let mut found = vec![0.0; width];
                out.read(&mut found)?;
                let sum = |c: usize| values[c..].iter().step_by(width).map(|x| f64::from(*x)).sum::<f64>();
                let exact: Vec<f64> = (0..width).map(|c| 1.0 + sum(c)).collect();
                check(stream, &found, &exact, 0.0, "columns");

                let bias = normal(2, width);
                let exact: Vec<f64> = values
                    .iter()
                    .zip(bias.iter().cycle())
                    .map(|(x, bias)| f64::from(*x) + f64::from(*bias))
                    .collect();
                let [bias, logits] = [&bias, &values].map(|values| upload(stream, values));
                add_bias_to_logits(stream, logits.start(), bias.start(), rows, width)?;
                let mut found = vec![0.0; values.len()];
                logits.read(&mut found)?;
                check(stream, &found, &exact, 0.0, "logits");
                if width % 2 == 0 {
                    add_bias(stream, x.start(), bias.start(), rows, width)?;
                    check(stream, &x.values(), &exact, epsilon, "sums");
                }
            }
            Ok(())
        });
    }

    #[test]
    fn masks_are_those_of_the_cpu() {
        on_every_device(|stream, _| {
            for count in [2, 1000, 5000] {
                let x = reals(stream, &vec![1.0; count]);
                drop_out(stream, x.start(), some_dropout(), count)?;
                let mut expected = vec![1.0; count];
                let compute = Compute::new(Isa::PORTABLE, Precision::Fp32);
                some_dropout().expect("a dropout").apply(compute, &mut expected);
                assert_eq!(x.values(), round(stream, expected));
            }
            Ok(())
        });
    }

    #[test]
    fn the_head_ends_with_its_activation_and_its_dropout() {
        on_every_device(|stream, epsilon| {
            let (rows, width) = (5, 31);
            let dropout = some_dropout().expect("a dropout");
            let [x, grad] = [1, 2].map(|seed| round(stream, normal(seed, rows * width)));
            let bias = normal(3, width);
            for is_relu in [false, true] {
                let end = HeadEnd { is_relu, dropout: Some(dropout) };
                let [active, of_dropped] = [&x, &grad].map(|values| reals(stream, values));
                let dropped = reals(stream, &vec![f32::NAN; x.len()]);
                let of_bias = upload(stream, &bias);
                end.forward(stream, active.start(), of_bias.start(), dropped.start(), rows, width)?;
                let y: Vec<f64> = x
                    .iter()
                    .zip(bias.iter().cycle())
                    .map(|(x, bias)| f64::from(*x) + f64::from(*bias))
                    .map(|x| if is_relu { x.max(0.0) } else { x.tanh() })
                    .collect();
                let factor = |index: usize| f64::from(dropout.factor(index as u64));
                let exact: Vec<f64> = y.iter().enumerate().map(|(i, y)| y * factor(i)).collect();
                check(stream, &dropped.values(), &exact, epsilon, "dropped");
                end.backward(stream, of_dropped.start(), active.start(), x.len())?;
                let stored = active.values();
                let slope = |y: f32| match is_relu {
                    true => f64::from(u8::from(y > 0.0)),
                    false => 1.0 - f64::from(y).powi(2),
                };
                let exact: Vec<f64> =
                    (0..x.len()).map(|i| f64::from(grad[i]) * factor(i) * slope(stored[i])).collect();
                check(stream, &of_dropped.values(), &exact, epsilon, "the gradient");
            }
            Ok(())
        });
    }
}
