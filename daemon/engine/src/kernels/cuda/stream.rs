//! Work for a device, in order.

use std::ffi::c_void;
use std::fmt;
use std::sync::Arc;

use super::array::{Pointer, Real};
use crate::kernels::Precision;
use hone_base::error::{Error, Kind, Result};

/// What does a stream's work. Addresses are those of the device; memory is given back in the order of the work.
pub(crate) trait Driver: fmt::Debug + Send + Sync {
    /// Fails with [`hone_base::error::Kind::Exhausted`] when no memory is left.
    fn allocate(&self, bytes: usize) -> Result<u64>;
    fn free(&self, address: u64);
    fn clear(&self, address: u64, bytes: usize) -> Result<()>;
    fn upload(&self, from: &[u8], to: u64) -> Result<()>;
    /// Waits for the work so far.
    fn download(&self, from: u64, to: &mut [u8]) -> Result<()>;
    /// The arguments must be those of the kernel, in order.
    fn launch(&self, launch: Launch, arguments: &mut [*mut c_void]) -> Result<()>;
    fn product(&self, product: Product<'_>) -> Result<()>;
}

/// What a driver says when no memory is left.
pub(crate) fn exhausted(doing: &str) -> Error {
    Error::new(
        Kind::Exhausted,
        format!(
            "the GPU has no memory left to {doing}: lower `batch_size` or `max_length`, or use \
             `gradient_checkpointing = true`"
        ),
    )
}

/// A kernel and its grid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch {
    pub(crate) kernel: &'static str,
    pub(crate) grid: [u32; 2],
    /// Threads of a block.
    pub(crate) threads: u32,
    /// Bytes of shared memory that a block takes beside what the kernel declares.
    pub(crate) shared: u32,
}

/// `out = a b`, or, with `add`, `out += a b`; all row by row: `a` is `[m, k]`, `b` is `[k, n]`, `out` is `[m, n]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product<'a> {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: Factor<'a>,
    pub(crate) b: Factor<'a>,
    pub(crate) out: u64,
    /// Whether the result is float32, whatever the precision of the factors.
    pub(crate) out_is_float: bool,
    pub(crate) add: bool,
}

/// A factor of a product.
#[derive(Clone, Copy, Debug)]
pub struct Factor<'a> {
    pub(crate) start: Pointer<'a, Real>,
    /// Whether its memory holds it turned: `b` as `[n, k]`.
    pub(crate) is_turned: bool,
}

impl<'a> Pointer<'a, Real> {
    /// As it lies in memory.
    pub fn as_it_is(self) -> Factor<'a> {
        Factor { start: self, is_turned: false }
    }

    /// Turned.
    pub fn turned(self) -> Factor<'a> {
        Factor { start: self, is_turned: true }
    }
}

/// Work for a device, in order; cheap to clone.
#[derive(Clone)]
pub struct Stream {
    driver: Arc<dyn Driver>,
    precision: Precision,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} in {:?}", self.driver, self.precision)
    }
}

impl Stream {
    pub(crate) fn new(driver: Arc<dyn Driver>, precision: Precision) -> Self {
        Self { driver, precision }
    }

    /// That of [`Real`] values.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    pub(super) fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// `out = a b`, of shape `[m, k] [k, n]`, or `out += a b`.
    pub fn product(
        &self,
        [m, k, n]: [usize; 3],
        a: Factor<'_>,
        b: Factor<'_>,
        out: Pointer<'_, Real>,
        add: bool,
    ) -> Result<()> {
        self.multiply(Product { m, n, k, a, b, out: out.address(), out_is_float: false, add })
    }

    /// The same with a result in float32.
    pub fn float_product(
        &self,
        [m, k, n]: [usize; 3],
        a: Factor<'_>,
        b: Factor<'_>,
        out: Pointer<'_, f32>,
        add: bool,
    ) -> Result<()> {
        self.multiply(Product { m, n, k, a, b, out: out.address(), out_is_float: true, add })
    }

    fn multiply(&self, product: Product<'_>) -> Result<()> {
        if product.m == 0 || product.n == 0 {
            return Ok(());
        }
        self.driver.product(product)
    }

    /// Launches a kernel; `launch!` makes the arguments.
    pub(super) fn launch(&self, launch: Launch, arguments: &mut [*mut c_void]) -> Result<()> {
        if launch.grid.contains(&0) {
            return Ok(());
        }
        self.driver.launch(launch, arguments)
    }
}

/// What a kernel takes as an argument: laid out as in C++.
pub(super) trait Argument: Copy {}

impl<T> Argument for Pointer<'_, T> {}
impl Argument for u32 {}
impl Argument for u64 {}
impl Argument for f32 {}
impl Argument for f64 {}
impl Argument for super::Mask {}

/// Where an argument lies.
pub(super) fn address<T: Argument>(argument: &T) -> *mut c_void {
    std::ptr::from_ref(argument).cast_mut().cast()
}

/// Launches a kernel: its stream, its name, the grid, threads of a block and bytes of shared memory, its arguments.
macro_rules! launch {
    ($stream:expr, $kernel:expr, [$x:expr, $y:expr], $threads:expr, $shared:expr, $($argument:expr),+ $(,)?) => {
        $stream.launch(
            $crate::kernels::cuda::Launch {
                kernel: $kernel,
                grid: [u32::try_from($x).unwrap_or(u32::MAX), u32::try_from($y).unwrap_or(u32::MAX)],
                threads: $threads,
                shared: u32::try_from($shared).unwrap_or(u32::MAX),
            },
            &mut [$($crate::kernels::cuda::stream::address(&$argument)),+],
        )
    };
}

pub(super) use launch;
