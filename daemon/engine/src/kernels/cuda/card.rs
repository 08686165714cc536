//! A GPU that does a stream's work, through the CUDA driver and cuBLAS.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublas::{result as cublas, sys as cublas_sys};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use super::Stream;
use super::stream::{Driver, Launch, Product, exhausted};
use crate::kernels::Precision;
use hone_base::error::{Error, Result};

/// The kernels for each precision, as `build.rs` compiled them.
const FP32: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels_fp32.fatbin"));
const BF16: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels_bf16.fatbin"));

/// A stream of the GPU with this number.
pub fn open(ordinal: usize, precision: Precision) -> Result<Stream> {
    Ok(Stream::new(Arc::new(Card::new(ordinal, precision)?), precision))
}

/// One stream of a GPU.
struct Card {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    module: sys::CUmodule,
    functions: Mutex<HashMap<&'static str, Function>>,
    products: Mutex<Handle>,
    precision: Precision,
}

/// A kernel's handle, which any thread may use.
#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

/// The handle of cuBLAS, which one thread at a time may use.
struct Handle(cublas_sys::cublasHandle_t);

// SAFETY: a handle of the driver is not bound to a thread.
unsafe impl Send for Function {}
// SAFETY: likewise.
unsafe impl Send for Handle {}
// SAFETY: the context, which every method binds to its thread first, may be used by any thread; the handle of cuBLAS is
// behind a lock; the module is only read.
unsafe impl Send for Card {}
// SAFETY: likewise.
unsafe impl Sync for Card {}

impl fmt::Debug for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{}", self.context.ordinal())
    }
}

/// A failure of the driver, as the job should report it.
fn failed(doing: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| match error.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => exhausted(doing),
        _ => Error::internal(format!("the GPU failed to {doing}: {error:?}")),
    }
}

impl Card {
    fn new(ordinal: usize, precision: Precision) -> Result<Self> {
        let context = CudaContext::new(ordinal).map_err(failed("open its context"))?;
        context.bind_to_thread().map_err(failed("be used by a thread"))?;
        let stream = context.new_stream().map_err(failed("open a stream"))?;
        let image = match precision {
            Precision::Fp32 | Precision::Int8 => FP32,
            Precision::Bf16 => BF16,
        };
        let image = aligned(image);
        // SAFETY: the image is a whole file that nvcc wrote.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
            .map_err(failed("load the kernels"))?;
        let handle = cublas::create_handle().map_err(product_failed)?;
        let card = Self {
            context,
            stream,
            module,
            functions: Mutex::default(),
            products: Mutex::new(Handle(handle)),
            precision,
        };
        // SAFETY: both handles live as long as the card.
        unsafe { cublas::set_stream(handle, card.stream.cu_stream().cast()) }.map_err(product_failed)?;
        Ok(card)
    }

    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(failed("be used by a thread"))
    }

    fn function(&self, name: &'static str) -> Result<Function> {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(name) {
            return Ok(*function);
        }
        let text = CString::new(name).map_err(|error| Error::internal(error.to_string()))?;
        // SAFETY: the module lives as long as the card.
        let function =
            unsafe { result::module::get_function(self.module, text) }.map_err(failed("find a kernel"))?;
        functions.insert(name, Function(function));
        Ok(Function(function))
    }
}

/// The same bytes at an address that the driver can read words from.
fn aligned(bytes: &[u8]) -> Vec<u64> {
    let word = |chunk: &[u8]| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_ne_bytes(word)
    };
    bytes.chunks(8).map(word).collect()
}

fn product_failed(error: cublas::CublasError) -> Error {
    match error.0 {
        cublas_sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED => exhausted("multiply"),
        _ => Error::internal(format!("a matrix product on the GPU failed: {error:?}")),
    }
}

impl Driver for Card {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.bind()?;
        // SAFETY: the stream lives as long as the card; the memory is used by its work alone.
        unsafe { result::malloc_async(self.stream.cu_stream(), bytes) }
            .map_err(failed("hold what the step needs"))
    }

    fn free(&self, address: u64) {
        if self.bind().is_ok() {
            // SAFETY: it was allocated on this stream and is freed once. A failure here is that of earlier work, which
            // the next call reports.
            let _ = unsafe { result::free_async(address, self.stream.cu_stream()) };
        }
    }

    fn clear(&self, address: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's memory on this stream.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }
            .map_err(failed("clear memory"))
    }

    fn upload(&self, from: &[u8], to: u64) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's memory on this stream. Memory that is not pinned is copied before the call returns.
        unsafe { result::memcpy_htod_async(to, from, self.stream.cu_stream()) }
            .map_err(failed("receive values"))
    }

    fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's memory on this stream, which is waited for below.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) }
            .map_err(failed("send values"))?;
        self.stream.synchronize().map_err(failed("do its work"))
    }

    fn launch(&self, launch: Launch, arguments: &mut [*mut c_void]) -> Result<()> {
        self.bind()?;
        let function = self.function(launch.kernel)?;
        let [x, y] = launch.grid;
        // SAFETY: the arguments are those of the kernel, by the caller's promise, and its memory is on this stream.
        unsafe {
            result::launch_kernel(
                function.0,
                (x, y, 1),
                (launch.threads, 1, 1),
                launch.shared,
                self.stream.cu_stream(),
                arguments,
            )
        }
        .map_err(|error| failed("launch a kernel")(error).within(launch.kernel))
    }

    fn product(&self, product: Product<'_>) -> Result<()> {
        use cublas_sys::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        use cublas_sys::cudaDataType_t::{CUDA_R_16BF, CUDA_R_32F};
        self.bind()?;
        let Product { m, n, k, a, b, out, out_is_float, add } = product;
        let real = match self.precision {
            Precision::Fp32 | Precision::Int8 => CUDA_R_32F,
            Precision::Bf16 => CUDA_R_16BF,
        };
        let (one, beta) = (1f32, if add { 1f32 } else { 0f32 });
        let number = |x: usize| i32::try_from(x).map_err(|_| Error::internal("a matrix is too large"));
        let operation = |is_turned| if is_turned { CUBLAS_OP_T } else { CUBLAS_OP_N };
        // cuBLAS counts by columns: what lies row by row is the turned matrix to it, so that it multiplies b by a.
        let (b_lead, a_lead) = (if b.is_turned { k } else { n }, if a.is_turned { m } else { k });
        let handle = self.products.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the caller's matrices have these shapes, and live on this stream.
        unsafe {
            cublas::gemm_ex(
                handle.0,
                operation(b.is_turned),
                operation(a.is_turned),
                number(n)?,
                number(m)?,
                number(k)?,
                std::ptr::from_ref(&one).cast(),
                b.start.address() as *const c_void,
                real,
                number(b_lead)?,
                a.start.address() as *const c_void,
                real,
                number(a_lead)?,
                std::ptr::from_ref(&beta).cast(),
                out as *mut c_void,
                if out_is_float { CUDA_R_32F } else { real },
                number(n)?,
                cublas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                cublas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(product_failed)
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        if self.bind().is_err() {
            return;
        }
        let handle = self.products.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: nothing uses them any more; the stream's work is done before.
        unsafe {
            let _ = self.stream.synchronize();
            let _ = cublas::destroy_handle(handle.0);
            let _ = result::module::unload(self.module);
        }
    }
}
