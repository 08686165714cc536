//! The same operations on a GPU: kernels in CUDA C++ (`*.cu`), and beside each file what launches them.
//!
//! Work goes into a [`Stream`], in order, over [`Array`]s in its memory. Hidden states, the weights that products read
//! and the gradients between layers are of the stream's precision ([`Real`]); parameters, their gradients, moments and
//! all arithmetic are float32. Dropout masks are those of the CPU, number for number.
//!
//! What works for the stream is its driver: a card, or, in tests, an emulation that runs the same kernels on the CPU.

// Without a driver nobody reads what is meant for one.
#![cfg_attr(not(any(test, feature = "cuda")), allow(dead_code))]

pub mod adam;
mod array;
pub mod attention;
#[cfg(feature = "cuda")]
pub mod card;
pub mod embedding;
#[cfg(test)]
pub(crate) mod emulation;
pub mod layer_norm;
pub mod linear;
mod stream;

use std::sync::OnceLock;

use super::Dropout;
use hone_base::error::{Error, Result};

pub use array::{Array, Pointer, Real};
pub(crate) use stream::Launch;
pub use stream::{Factor, Stream};

/// The environment variable that chooses what computes on a GPU.
pub const VARIABLE: &str = "HONE_CUDA";

/// Whether these kernels are to be used on a GPU, by `HONE_CUDA`: `kernels`, or, by default, `candle`, whose own
/// operations have been in use for longer. Fails when it is something else.
pub fn is_chosen() -> Result<bool> {
    static CHOSEN: OnceLock<Result<bool>> = OnceLock::new();
    CHOSEN.get_or_init(|| is_named(&std::env::var(VARIABLE).unwrap_or_default())).clone()
}

fn is_named(name: &str) -> Result<bool> {
    match name {
        "kernels" => Ok(true),
        "" | "candle" => Ok(false),
        _ => Err(Error::invalid(format!("{VARIABLE} is {name:?}; it must be kernels or candle"))),
    }
}

/// Threads of a block, where a kernel does not say otherwise.
const THREADS: u32 = 256;

/// Threads of a warp.
const WARP: u32 = 32;

/// A dropout as kernels read it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Mask {
    key: [u32; 2],
    site: u32,
    position: [u32; 2],
    threshold: u32,
    scale: f32,
}

impl From<Option<Dropout>> for Mask {
    fn from(dropout: Option<Dropout>) -> Self {
        let Some(dropout) = dropout else { return Self::default() };
        let (stream, threshold, scale) = dropout.parts();
        Self {
            key: stream.key(),
            site: stream.site(),
            position: stream.position(),
            threshold: threshold.into(),
            scale,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_computes_on_a_gpu_is_candle_unless_the_kernels_are_asked_for() {
        assert_eq!([is_named(""), is_named("candle"), is_named("kernels")], [Ok(false), Ok(false), Ok(true)]);
        let error = is_named("kernel").expect_err("an error");
        assert_eq!(error.message(), "HONE_CUDA is \"kernel\"; it must be kernels or candle");
    }
}
