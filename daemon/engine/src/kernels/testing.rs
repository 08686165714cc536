//! What the operations' tests share: random numbers, comparison with a reference, every way of computing.

use candle_core::{Device, Shape, Tensor, Var};

use super::{Compute, Isa, Precision};
use hone_base::random::{Purpose, Stream};

/// Every instruction set that this processor has.
pub(crate) fn isas() -> impl Iterator<Item = Isa> {
    Isa::available()
}

/// Every way of computing that this processor has.
pub(crate) fn computes() -> impl Iterator<Item = Compute> {
    isas().flat_map(|isa| [Precision::Fp32, Precision::Bf16].map(|precision| Compute::new(isa, precision)))
}

impl Compute {
    /// How far a factor may be from the number that it stands for.
    pub(crate) fn epsilon(self) -> f64 {
        match self.precision() {
            Precision::Fp32 => 2f64.powi(-23),
            Precision::Bf16 => 2f64.powi(-8),
            Precision::Int8 => 2f64.powi(-7),
        }
    }
}

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

/// A tensor's values, row by row.
pub(crate) fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|tensor| tensor.to_vec1()).expect("values")
}

/// Asserts that the distance to the expected values is at most this share of their norm.
pub(crate) fn assert_close(found: &[f32], expected: &[f32], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(x, y)| f64::from(*x) - f64::from(*y)));
    let far = difference / norm(&mut expected.iter().map(|x| f64::from(*x))).max(1e-6);
    assert!(far <= tolerance, "{what}: {far} away from the reference");
}
