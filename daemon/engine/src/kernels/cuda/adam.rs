//! The gradient's norm, and Adam and AdamW, over all parameters at once: three launches.

use super::stream::launch;
use super::{Array, Pointer, Real, Stream, THREADS};
use crate::kernels::adam::Coefficients;
use hone_base::error::Result;

/// Values that a block takes.
const PIECE: usize = 4096;

/// Which values of all belong to which parameter, in pieces for blocks.
#[derive(Debug)]
pub struct Pieces {
    pieces: Array<[u32; 4]>,
    sums: Array<f64>,
    norm: Array<f64>,
    coefficients: Array<[f32; 10]>,
}

/// The values of all parameters, in the same order each.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    /// The parameters.
    pub values: Pointer<'a, f32>,
    /// Their gradients.
    pub gradients: Pointer<'a, f32>,
    /// The means of the gradients.
    pub m: Pointer<'a, f32>,
    /// The means of their squares.
    pub v: Pointer<'a, f32>,
    /// The parameters as products read them.
    pub copy: Pointer<'a, Real>,
}

impl Pieces {
    /// Of the parameters in these ranges, each with the place of its coefficients.
    pub fn new(
        stream: &Stream,
        parameters: impl IntoIterator<Item = (std::ops::Range<usize>, usize)>,
    ) -> Result<Self> {
        let piece = |(range, parameter): (std::ops::Range<usize>, usize)| {
            let end = range.end;
            range.step_by(PIECE).map(move |start| {
                let start_bits = start as u64;
                let length = (end - start).min(PIECE) as u32;
                [start_bits as u32, (start_bits >> 32) as u32, length, parameter as u32]
            })
        };
        let list: Vec<[u32; 4]> = parameters.into_iter().flat_map(piece).collect();
        let mut pieces = Array::new(stream);
        pieces.put(&list)?;
        Ok(Self {
            pieces,
            sums: Array::new(stream),
            norm: Array::new(stream),
            coefficients: Array::new(stream),
        })
    }

    /// Moves every parameter once and returns the gradient's global norm before clipping; `coefficients` are those of
    /// each parameter for gradients that are not clipped. Changes nothing when the norm is not finite. Waits for the
    /// work so far.
    pub fn step(
        &mut self,
        stream: &Stream,
        of: Values<'_>,
        coefficients: &[Coefficients],
        max_norm: Option<f64>,
    ) -> Result<f64> {
        let count = self.pieces.len();
        let coefficients: Vec<[f32; 10]> = coefficients.iter().map(Coefficients::numbers).collect();
        let coefficients = self.coefficients.put(&coefficients)?;
        let (sums, norm) = (self.sums.reserve(count)?, self.norm.reserve(2)?);
        launch!(stream, "squares", [count, 1], THREADS, 0, of.gradients, self.pieces.start(), sums)?;
        let most = max_norm.unwrap_or(f64::INFINITY);
        launch!(stream, "clip", [1, 1], THREADS, 0, sums, count as u32, most, norm)?;
        launch!(
            stream,
            "adam",
            [count, 1],
            THREADS,
            0,
            of.values,
            of.gradients,
            of.m,
            of.v,
            self.pieces.start(),
            coefficients,
            norm,
            of.copy,
        )?;
        let mut norm = [0.0; 2];
        self.norm.read(&mut norm)?;
        Ok(norm[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Isa;
    use crate::kernels::adam::{self, State, Update};
    use crate::kernels::cuda::emulation::{on_every_device, reals, round, upload};
    use crate::kernels::testing::{assert_close, normal};

    fn update(step: u64, decay: f64, decoupled: bool, scale: f64) -> Coefficients {
        let (beta1, beta2, epsilon) = (0.9, 0.999, 1e-8);
        Update { rate: 1e-2, beta1, beta2, epsilon, decay, decoupled, step, scale }.coefficients()
    }

    /// Two parameters, one of several pieces, with a gap between them that nothing may touch.
    #[test]
    fn steps_are_those_of_the_cpu_and_the_gradient_is_clipped() {
        let ranges = [0..9001, 9008..9011];
        let decays = [0.01, 0.0];
        on_every_device(|stream, _| {
            for (decoupled, max_norm) in [(true, Some(1.0)), (false, Some(1e3)), (true, None)] {
                let (mut values, mut m, mut v) = (normal(1, 9011), vec![0.0; 9011], vec![0.0; 9011]);
                let [on_device, first, second] = [&values, &m, &v].map(|list| upload(stream, list));
                let copy = reals(stream, &values);
                let mut pieces = Pieces::new(stream, ranges.iter().cloned().zip(0..))?;
                for step in 1..=3 {
                    let gradients = normal(10 + step, 9011);
                    let of_gap: f64 = gradients[9001..9008].iter().map(|x| f64::from(*x).powi(2)).sum();
                    let all: f64 = gradients.iter().map(|x| f64::from(*x).powi(2)).sum();
                    let norm = (all - of_gap).sqrt();
                    let scale = max_norm.map_or(1.0, |max: f64| (max / (norm + 1e-6)).min(1.0));
                    for (range, decay) in ranges.iter().zip(decays) {
                        let state = State {
                            value: &mut values[range.clone()],
                            m: &mut m[range.clone()],
                            v: &mut v[range.clone()],
                        };
                        let by = update(step, decay, decoupled, scale);
                        adam::update(Isa::PORTABLE, state, &gradients[range.clone()], by);
                    }
                    let of_gradients = upload(stream, &gradients);
                    let of = Values {
                        values: on_device.start(),
                        gradients: of_gradients.start(),
                        m: first.start(),
                        v: second.start(),
                        copy: copy.start(),
                    };
                    let by = decays.map(|decay| update(step, decay, decoupled, 1.0));
                    let found = pieces.step(stream, of, &by, max_norm)?;
                    assert!((found / norm - 1.0).abs() < 1e-6, "{found} is not {norm}");
                }
                for (array, expected) in [(&on_device, &values), (&first, &m), (&second, &v)] {
                    let mut found = vec![0.0; expected.len()];
                    array.read(&mut found)?;
                    assert_close(&found, expected, 1e-6, "after three steps");
                    assert_eq!(found[9001..9008], expected[9001..9008]);
                }
                let mut found = vec![0.0; values.len()];
                on_device.read(&mut found)?;
                assert_eq!(copy.values()[..9001], round(stream, found)[..9001]);
            }
            Ok(())
        });
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() {
        on_every_device(|stream, _| {
            let values = normal(1, 40);
            let [on_device, m, v] =
                [&values, &vec![0.0; 40], &vec![0.0; 40]].map(|list| upload(stream, list));
            let mut gradients = normal(2, 40);
            gradients[7] = f32::NAN;
            let (gradients, copy) = (upload(stream, &gradients), reals(stream, &values));
            let of = Values {
                values: on_device.start(),
                gradients: gradients.start(),
                m: m.start(),
                v: v.start(),
                copy: copy.start(),
            };
            let by = [update(1, 0.01, true, 1.0)];
            let norm = Pieces::new(stream, [(0..40, 0)])?.step(stream, of, &by, Some(1.0))?;
            let mut found = vec![0.0; 40];
            on_device.read(&mut found)?;
            assert!(norm.is_nan() && found == values);
            Ok(())
        });
    }
}
