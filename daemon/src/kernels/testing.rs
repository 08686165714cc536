//! What the operations' tests share: random tensors, comparison with a reference, finite differences.

use candle_core::{Device, Result, Shape, Tensor, Var};

use crate::random::{Purpose, Stream};

/// Runs `work` on a pool with this many threads.
pub(crate) fn in_pool<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(work)
}

/// Values of the standard normal distribution.
pub(crate) fn normal(seed: u64, length: usize) -> Vec<f32> {
    let stream = Stream::new(seed, Purpose::Initialisation, 0, 0);
    (0..length as u64).map(|index| stream.normal(index) as f32).collect()
}

/// A variable with such values.
pub(crate) fn variable(seed: u64, shape: impl Into<Shape>) -> Var {
    let shape = shape.into();
    let values = normal(seed, shape.elem_count());
    Var::from_vec(values, shape, &Device::Cpu).expect("a variable")
}

type Operation<'a> = &'a dyn Fn(&[&Tensor]) -> Result<Tensor>;

/// The result of `operation`, and the gradients of its sum weighted with fixed random numbers.
fn run(inputs: &[&Var], operation: Operation<'_>) -> Result<(Tensor, Vec<Tensor>)> {
    let tensors: Vec<&Tensor> = inputs.iter().map(|input| input.as_tensor()).collect();
    let result = operation(&tensors)?;
    let weights = Tensor::from_vec(normal(99, result.elem_count()), result.shape(), &Device::Cpu)?;
    let gradients = (&result * weights)?.sum_all()?.backward()?;
    let gradient =
        |input: &&Var| gradients.get(input).cloned().ok_or_else(|| candle_core::Error::msg("no gradient"));
    Ok((result, inputs.iter().map(gradient).collect::<Result<_>>()?))
}

fn distance(a: &Tensor, b: &Tensor) -> Result<f64> {
    let (a, b) = (a.flatten_all()?.to_vec1::<f32>()?, b.flatten_all()?.to_vec1::<f32>()?);
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(&b).map(|(x, y)| f64::from(*x) - f64::from(*y)));
    Ok(difference / norm(&mut b.iter().map(|x| f64::from(*x))).max(1e-6))
}

/// Asserts that an operation and its reference have the same result and the same gradients, up to rounding, and
/// that the operation gives the same bits on one thread and on three.
pub(crate) fn assert_same(inputs: &[&Var], operation: Operation<'_>, reference: Operation<'_>) -> Result<()> {
    let (expected, expected_gradients) = run(inputs, reference)?;
    let (result, gradients) = run(inputs, operation)?;
    assert_eq!(result.dims(), expected.dims());
    let far = distance(&result, &expected)?;
    assert!(far < 2e-6, "the result is {far} away from the reference");
    for (index, (gradient, expected)) in gradients.iter().zip(&expected_gradients).enumerate() {
        let far = distance(gradient, expected)?;
        assert!(far < 1e-5, "gradient {index} is {far} away from the reference");
    }
    Ok(())
}

/// Asserts that the gradients agree with central differences.
pub(crate) fn assert_gradients(inputs: &[&Var], operation: Operation<'_>) -> Result<()> {
    let (_, gradients) = run(inputs, operation)?;
    let weighted_sum = || -> Result<f64> {
        let tensors: Vec<&Tensor> = inputs.iter().map(|input| input.as_tensor()).collect();
        let result = operation(&tensors)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(result.iter().zip(normal(99, result.len())).map(|(x, w)| f64::from(*x) * f64::from(w)).sum())
    };
    let step = 1e-2f32;
    for (input, gradient) in inputs.iter().zip(&gradients) {
        let values = input.flatten_all()?.to_vec1::<f32>()?;
        let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
        for index in 0..values.len() {
            let moved = |by: f32| -> Result<f64> {
                let mut moved = values.clone();
                moved[index] += by;
                input.set(&Tensor::from_vec(moved, input.shape(), &Device::Cpu)?)?;
                weighted_sum()
            };
            let numeric = (moved(step)? - moved(-step)?) / f64::from(2.0 * step);
            let analytic = f64::from(gradient[index]);
            let tolerance = 5e-3 * (1.0 + numeric.abs());
            assert!((numeric - analytic).abs() < tolerance, "value {index}: {analytic} is not {numeric}");
        }
        input.set(&Tensor::from_vec(values, input.shape(), &Device::Cpu)?)?;
    }
    Ok(())
}
