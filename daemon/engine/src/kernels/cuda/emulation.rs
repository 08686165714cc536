//! A device for tests where no GPU is: the kernels run on the CPU, compiled with a header that stands for CUDA
//! (`emulation.hpp`). Memory starts as NaN, and what is written beyond an allocation is found when it is freed.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use libloading::Library;

use super::stream::{Driver, Launch, Product, exhausted};
use super::{Array, Real, Stream, linear};
use crate::kernels::Precision;
use hone_base::error::{Error, Result};

/// Bytes before and behind each allocation, and what they hold.
const GUARD: usize = 64;
const GUARD_BYTE: u8 = 0xa5;

/// What memory holds at first: NaN, in float32 and in bfloat16.
const POISON: u8 = 0xff;

const PRECISIONS: [Precision; 2] = [Precision::Fp32, Precision::Bf16];

/// Runs a test on every device at every precision, with the distance between two neighbouring values as a share. Where
/// there is no GPU, that is the emulation alone.
pub(crate) fn on_every_device(test: impl Fn(&Stream, f64) -> Result<()>) {
    for precision in PRECISIONS {
        let epsilon = match precision {
            Precision::Fp32 | Precision::Int8 => 0.0,
            Precision::Bf16 => 2f64.powi(-8),
        };
        for stream in streams(precision) {
            test(&stream, epsilon).unwrap_or_else(|error| panic!("{stream:?}: {error}"));
        }
    }
}

/// A stream on an emulated device with so many bytes of memory, and what it counts.
pub(crate) fn emulated(precision: Precision, limit: usize) -> (Stream, Arc<Counts>) {
    let emulation = Emulation::new(precision, limit);
    let counts = emulation.counts.clone();
    (Stream::new(Arc::new(emulation), precision), counts)
}

/// What a device was asked to do so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    allocations: AtomicUsize,
    launches: AtomicUsize,
    products: AtomicUsize,
    downloads: AtomicUsize,
}

impl Counts {
    /// Allocations, kernels and products, and times that the host waited, since the last call.
    pub(crate) fn take(&self) -> [usize; 3] {
        let take = |count: &AtomicUsize| count.swap(0, Ordering::Relaxed);
        [take(&self.allocations), take(&self.launches) + take(&self.products), take(&self.downloads)]
    }
}

/// A stream on every device.
pub(crate) fn streams(precision: Precision) -> Vec<Stream> {
    let streams = vec![emulated(precision, usize::MAX).0];
    #[cfg(feature = "cuda")]
    let streams = {
        let mut streams = streams;
        match super::card::open(0, precision) {
            Ok(stream) => streams.push(stream),
            Err(error) => eprintln!("skipped on a GPU, because none can be used: {error}"),
        }
        streams
    };
    streams
}

/// Values on a device, of the stream's precision.
pub(crate) fn reals(stream: &Stream, values: &[f32]) -> Array<Real> {
    let mut array = Array::new(stream);
    let to = array.reserve(values.len()).expect("memory");
    linear::convert(stream, upload(stream, values).start(), to, values.len()).expect("a conversion");
    array
}

/// Float32 values on a device.
pub(crate) fn upload(stream: &Stream, values: &[f32]) -> Array<f32> {
    let mut array = Array::new(stream);
    array.put(values).expect("memory");
    array
}

/// Numbers on a device.
pub(crate) fn upload_words(stream: &Stream, values: &[u32]) -> Array<u32> {
    let mut array = Array::new(stream);
    array.put(values).expect("memory");
    array
}

/// Values as the stream's precision has them.
pub(crate) fn round(stream: &Stream, values: Vec<f32>) -> Vec<f32> {
    let nearest = |x: f32| {
        let bits = x.to_bits();
        f32::from_bits((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
    };
    match stream.precision() {
        Precision::Fp32 | Precision::Int8 => values,
        Precision::Bf16 => values.into_iter().map(nearest).collect(),
    }
}

impl Array<Real> {
    /// What it holds.
    pub(crate) fn values(&self) -> Vec<f32> {
        let stream = self.stream();
        let mut values = vec![0.0; self.len()];
        let mut bits = vec![0u8; self.len() * self.bytes_of_one()];
        stream.driver().download(self.start().address(), &mut bits).expect("a download");
        match stream.precision() {
            Precision::Fp32 | Precision::Int8 => {
                for (value, bits) in values.iter_mut().zip(bits.chunks_exact(4)) {
                    *value = f32::from_le_bytes(bits.try_into().expect("four bytes"));
                }
            }
            Precision::Bf16 => {
                for (value, bits) in values.iter_mut().zip(bits.chunks_exact(2)) {
                    *value = f32::from_le_bytes([0, 0, bits[0], bits[1]]);
                }
            }
        }
        values
    }
}

/// The emulated device.
struct Emulation {
    precision: Precision,
    library: &'static Library,
    /// Bytes of memory that it has.
    limit: usize,
    counts: Arc<Counts>,
    allocations: Mutex<HashMap<u64, Allocation>>,
}

/// Memory with guards around the bytes that were asked for.
struct Allocation {
    memory: Box<[u8]>,
    bytes: usize,
}

impl fmt::Debug for Emulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an emulated GPU")
    }
}

type Kernel = unsafe extern "C" fn(*const u32, u32, u32, *mut *mut c_void);

impl Emulation {
    fn new(precision: Precision, limit: usize) -> Self {
        Self {
            precision,
            library: library(precision),
            limit,
            counts: Arc::default(),
            allocations: Mutex::default(),
        }
    }

    /// The value at a place of a matrix of the stream's precision.
    ///
    /// # Safety
    /// The address must be that of values that live.
    unsafe fn value(&self, address: u64, index: usize, is_float: bool) -> f32 {
        match self.precision {
            // SAFETY: by the caller's promise.
            Precision::Bf16 if !is_float => unsafe {
                f32::from_bits(u32::from(*(address as *const u16).add(index)) << 16)
            },
            // SAFETY: likewise.
            _ => unsafe { *(address as *const f32).add(index) },
        }
    }
}

impl Driver for Emulation {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.counts.allocations.fetch_add(1, Ordering::Relaxed);
        let mut allocations = self.allocations.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: usize = allocations.values().map(|allocation| allocation.bytes).sum();
        if bytes > self.limit.saturating_sub(taken) {
            return Err(exhausted("hold what the step needs"));
        }
        let padded = bytes.next_multiple_of(16);
        let mut memory = vec![GUARD_BYTE; padded + 3 * GUARD].into_boxed_slice();
        // What a card gives is aligned too.
        let start = memory.as_ptr().align_offset(GUARD) + GUARD;
        memory[start..start + bytes].fill(POISON);
        let address = memory[start..].as_ptr() as u64;
        allocations.insert(address, Allocation { memory, bytes });
        Ok(address)
    }

    fn free(&self, address: u64) {
        let memory = self.allocations.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
        let Allocation { memory, bytes } = memory.expect("memory that is freed was allocated");
        let start = address as usize - memory.as_ptr() as usize;
        let is_whole = |guard: &[u8]| guard.iter().all(|byte| *byte == GUARD_BYTE);
        assert!(is_whole(&memory[..start]), "a kernel wrote before its memory");
        assert!(is_whole(&memory[start + bytes..]), "a kernel wrote behind its memory");
    }

    fn clear(&self, address: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's memory, which lives.
        unsafe { std::ptr::write_bytes(address as *mut u8, 0, bytes) };
        Ok(())
    }

    fn upload(&self, from: &[u8], to: u64) -> Result<()> {
        // SAFETY: likewise.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.counts.downloads.fetch_add(1, Ordering::Relaxed);
        // SAFETY: likewise.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn launch(&self, launch: Launch, arguments: &mut [*mut c_void]) -> Result<()> {
        self.counts.launches.fetch_add(1, Ordering::Relaxed);
        let name = format!("emulate_{}", launch.kernel);
        // SAFETY: the library was made from the kernels, each with an entry of this type.
        let kernel = unsafe { self.library.get::<Kernel>(name.as_bytes()) }
            .map_err(|error| Error::internal(format!("{}: {error}", launch.kernel)))?;
        // SAFETY: the arguments are those of the kernel, by the caller's promise.
        unsafe { kernel(launch.grid.as_ptr(), launch.threads, launch.shared, arguments.as_mut_ptr()) };
        Ok(())
    }

    fn product(&self, product: Product<'_>) -> Result<()> {
        self.counts.products.fetch_add(1, Ordering::Relaxed);
        let Product { m, n, k, a, b, out, out_is_float, add } = product;
        for row in 0..m {
            for column in 0..n {
                let index = row * n + column;
                // SAFETY: the caller's matrices have these shapes.
                let sum: f32 = (0..k)
                    .map(|i| unsafe {
                        let a_at = if a.is_turned { i * m + row } else { row * k + i };
                        let b_at = if b.is_turned { column * k + i } else { i * n + column };
                        self.value(a.start.address(), a_at, false)
                            * self.value(b.start.address(), b_at, false)
                    })
                    .sum();
                // SAFETY: likewise.
                let sum = if add { sum + unsafe { self.value(out, index, out_is_float) } } else { sum };
                if out_is_float || self.precision == Precision::Fp32 {
                    // SAFETY: likewise.
                    unsafe { *(out as *mut f32).add(index) = sum };
                } else {
                    let bits = sum.to_bits();
                    let rounded = ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16;
                    // SAFETY: likewise.
                    unsafe { *(out as *mut u16).add(index) = rounded };
                }
            }
        }
        Ok(())
    }
}

/// The kernels, compiled for the CPU once in a process.
fn library(precision: Precision) -> &'static Library {
    static LIBRARIES: [OnceLock<Library>; 2] = [OnceLock::new(), OnceLock::new()];
    LIBRARIES[precision as usize].get_or_init(|| compile(precision))
}

fn compile(precision: Precision) -> Library {
    let sources = package().join("src/kernels/cuda");
    let folder = tempfile::tempdir().expect("a folder");
    let mut source = String::from("#include \"kernels.cu\"\n");
    for kernel in kernels(&sources, precision) {
        writeln!(source, "EMULATE({kernel})").expect("a line");
    }
    let (from, to) = (folder.path().join("kernels.cpp"), folder.path().join("kernels.so"));
    std::fs::write(&from, source).expect("a file");
    let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()));
    compiler.args([
        "-std=c++17",
        "-O2",
        "-shared",
        "-fPIC",
        "-Wno-unknown-pragmas",
        "-U_FORTIFY_SOURCE",
        "-DEMULATED",
    ]);
    if precision == Precision::Bf16 {
        compiler.arg("-DREAL_IS_BF16");
    }
    let output = compiler.arg("-I").arg(&sources).arg("-o").arg(&to).arg(&from).output();
    let output = output.expect("a C++ compiler: c++, or what CXX names");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // SAFETY: the library runs nothing when it is loaded.
    unsafe { Library::new(&to) }.expect("a library")
}

/// The folder of this package, which is another one where a test program was carried to a machine with a GPU.
pub(crate) fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).into()
}

/// The names of all kernels at a precision.
fn kernels(sources: &Path, precision: Precision) -> Vec<String> {
    let all = std::fs::read_to_string(sources.join("kernels.cu")).expect("the list of files");
    let files = all.lines().filter_map(|line| line.strip_prefix("#include \"")?.strip_suffix('"'));
    let paths: Vec<PathBuf> = files.map(|file| sources.join(file)).collect();
    let mut names = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(path).expect("a file of kernels");
        if precision == Precision::Fp32 && text.contains("#ifdef REAL_IS_BF16") {
            continue;
        }
        let name = |line: &str| Some(line.strip_prefix("KERNEL ")?.split('(').next()?.to_owned());
        names.extend(text.lines().filter_map(name));
    }
    names
}

#[test]
fn products_of_turned_and_unturned_factors_are_what_they_should_be() {
    use crate::kernels::testing::{assert_close, normal};
    on_every_device(|stream, epsilon| {
        let (m, k, n) = (5, 7, 6);
        let [a, b, old] =
            [(1, m * k), (2, k * n), (3, m * n)].map(|(seed, count)| round(stream, normal(seed, count)));
        for (a_turned, b_turned, add) in [(false, false, true), (false, true, false), (true, false, true)] {
            let a_at = |row: usize, i: usize| if a_turned { i * m + row } else { row * k + i };
            let b_at = |i: usize, column: usize| if b_turned { column * k + i } else { i * n + column };
            let exact = |index: usize| {
                let (row, column) = (index / n, index % n);
                let products = (0..k).map(|i| f64::from(a[a_at(row, i)]) * f64::from(b[b_at(i, column)]));
                (products.sum::<f64>() + if add { f64::from(old[index]) } else { 0.0 }) as f32
            };
            let expected: Vec<f32> = (0..m * n).map(exact).collect();
            let [x, y, out] = [&a, &b, &old].map(|values| reals(stream, values));
            let [a_factor, b_factor] = [(x.start(), a_turned), (y.start(), b_turned)]
                .map(|(at, turned)| if turned { at.turned() } else { at.as_it_is() });
            stream.product([m, k, n], a_factor, b_factor, out.start(), add)?;
            assert_close(&out.values(), &expected, 1e-6_f64.max(epsilon), "a product");
            let out = upload(stream, &old);
            stream.float_product([m, k, n], a_factor, b_factor, out.start(), add)?;
            let mut found = vec![0.0; m * n];
            out.read(&mut found)?;
            assert_close(&found, &expected, 1e-6, "a product in float32");
        }
        Ok(())
    });
}
