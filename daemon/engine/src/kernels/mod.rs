//! The operations of the model on the CPU, forward and backward, over packed sequences: one a file, each with its test
//! against candle's own differentiable operations.
//!
//! An operation reads and writes slices that its caller keeps from step to step, is multi-threaded on the current
//! rayon pool, and is compiled for several instruction sets (`isa`). Work is cut into pieces that depend on the
//! shapes alone, never on the number of threads, so a result is the same to the bit on any number of them.
//!
//! Hidden states are `[T, H]`, row by row: T tokens of all sequences, one behind the other.

#![allow(unsafe_code)]

pub mod adam;
pub mod attention;
pub mod buffer;
pub mod calls;
pub mod cuda;
pub mod dropout;
pub mod embedding;
mod gemm;
pub mod isa;
pub mod lane;
pub mod layer_norm;
pub mod linear;
mod math;
pub mod softmax;

pub use buffer::Buffer;
pub use dropout::Dropout;
pub use gemm::Packed;
pub use isa::Isa;

use gemm::Format;
use isa::Set;

/// Values that one thread goes through sooner than several would begin to.
const FEW: usize = 1 << 14;

/// Rows that one task takes: a constant, so that results do not depend on the number of threads.
const ROWS: usize = 16;

/// What the factors of matrix products are. Sums, and everything else, are float32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// float32
    Fp32,
    /// Factors are rounded to bfloat16.
    Bf16,
    /// Weights are 8-bit integers with a scale for each output, and the activations that they are multiplied by 8-bit
    /// integers with a scale for each token. Other products are float32. For models that only answer.
    Int8,
}

impl Precision {
    /// `fp32`, `bf16` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

/// The longest inner dimension of a product of 8-bit integers.
pub const MOST_INT8_INPUTS: usize = gemm::MOST_INT8_INPUTS;

/// How this process computes: with which instructions, at which precision, and whether with all threads of the current pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compute {
    isa: Isa,
    precision: Precision,
    is_alone: bool,
}

impl Compute {
    /// With these instructions at this precision, with all threads of the current pool.
    pub fn new(isa: Isa, precision: Precision) -> Self {
        Self { isa, precision, is_alone: false }
    }

    /// The same on the calling thread alone, for forward passes: the result is the same to the bit.
    #[must_use]
    pub fn alone(self) -> Self {
        Self { is_alone: true, ..self }
    }

    /// The instruction set.
    pub fn isa(self) -> Isa {
        self.isa
    }

    /// The precision.
    pub fn precision(self) -> Precision {
        self.precision
    }

    /// The same for products without weights, which are not made of 8-bit integers.
    #[must_use]
    pub fn without_weights(self) -> Self {
        let precision = if self.precision == Precision::Int8 { Precision::Fp32 } else { self.precision };
        Self { precision, ..self }
    }

    /// The same with tiles in vector registers alone: for small products, which are done before AMX has begun.
    fn in_vectors(self) -> Self {
        Self { isa: self.isa.without_amx(), ..self }
    }

    /// Whether the calling thread goes through so many values alone.
    fn goes_alone(self, values: usize) -> bool {
        self.is_alone || values <= FEW
    }

    /// Bytes that a value of a product's right factor takes, once it is packed.
    pub fn packed_bytes(self) -> usize {
        match self.format() {
            Format::Float { .. } => size_of::<f32>(),
            #[cfg(target_arch = "x86_64")]
            Format::Pair { planes } => planes * size_of::<u16>(),
            Format::Int8 => size_of::<i8>(),
        }
    }

    fn format(self) -> Format {
        match (self.isa.set(), self.precision) {
            (_, Precision::Int8) => Format::Int8,
            #[cfg(target_arch = "x86_64")]
            (Set::Amx, Precision::Fp32) => Format::Pair { planes: 3 },
            #[cfg(target_arch = "x86_64")]
            (Set::Amx | Set::Avx512Bf16, Precision::Bf16) => Format::Pair { planes: 1 },
            (_, precision) => Format::Float { rounded: precision == Precision::Bf16 },
        }
    }
}

/// The precision at which this processor multiplies fastest: bfloat16 where it has a unit for it that is faster
/// than the one for float32.
pub fn fastest_precision(isa: Isa) -> Precision {
    match isa.set() {
        Set::Amx => Precision::Bf16,
        // Of the processors with AVX-512-BF16 but without AMX, AMD's multiply bfloat16 at twice the rate of float32;
        // Intel's at no higher one.
        Set::Avx512Bf16 if isa::is_amd() => Precision::Bf16,
        _ => Precision::Fp32,
    }
}

#[cfg(test)]
pub(crate) mod testing;
