//! Values in the memory of a device.

use std::fmt;
use std::marker::PhantomData;

use super::Stream;
use crate::kernels::Precision;
use hone_base::error::{Error, Result};

/// A value of the stream's precision: float32 or bfloat16.
#[derive(Clone, Copy, Debug)]
pub enum Real {}

/// What arrays are made of.
pub trait Element: Copy {
    /// Bytes that one takes.
    fn size(precision: Precision) -> usize;
}

/// An element that the host has too.
pub trait Plain: Element {}

impl Element for Real {
    fn size(precision: Precision) -> usize {
        match precision {
            Precision::Fp32 | Precision::Int8 => size_of::<f32>(),
            Precision::Bf16 => size_of::<u16>(),
        }
    }
}

macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Element for $type {
            fn size(_: Precision) -> usize {
                size_of::<Self>()
            }
        }

        impl Plain for $type {}
    )*};
}

plain!(f32, f64, u32, u64, [u32; 2], [u32; 4], [f32; 10]);

/// Where values of a device start. Null for what a kernel may lack.
///
/// It borrows its [`Array`], which therefore neither gives its memory back nor grows before the last launch with the
/// pointer. A launch only enqueues work, which may run after the borrow has ended. That work still finds its memory: an
/// array gives memory back through its stream, behind all that was enqueued before. This holds for work of the array's
/// own stream, which is the one to launch with.
///
/// Kernels write through it even where the array is borrowed as shared. As in a [`Cell`](std::cell::Cell), no reference
/// to the values exists that a write could break: they are on the device, and the host takes copies of them, by
/// [`Array::read`]. Nor do writes race: a stream does its work in order, one piece after another.
#[repr(transparent)]
pub struct Pointer<'a, T> {
    address: u64,
    of: PhantomData<&'a T>,
}

impl<T> Clone for Pointer<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Pointer<'_, T> {}

impl<T> fmt::Debug for Pointer<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.address)
    }
}

impl<T> Pointer<'_, T> {
    pub(super) fn null() -> Self {
        Self::new(0)
    }

    fn new(address: u64) -> Self {
        Self { address, of: PhantomData }
    }

    pub(super) fn address(self) -> u64 {
        self.address
    }
}

impl Pointer<'_, f32> {
    /// Where the values so many places behind it start.
    pub(super) fn behind(self, values: usize) -> Self {
        Self::new(self.address + (values * size_of::<f32>()) as u64)
    }
}

impl<'a, T> From<Option<Pointer<'a, T>>> for Pointer<'a, T> {
    fn from(pointer: Option<Self>) -> Self {
        pointer.unwrap_or_else(Self::null)
    }
}

/// Values in the memory of a stream's device. It grows when it must and never shrinks; growing forgets the values.
#[derive(Debug)]
pub struct Array<T> {
    stream: Stream,
    address: u64,
    capacity: usize,
    length: usize,
    of: PhantomData<T>,
}

impl<T: Element> Array<T> {
    /// No values yet.
    pub fn new(stream: &Stream) -> Self {
        Self { stream: stream.clone(), address: 0, capacity: 0, length: 0, of: PhantomData }
    }

    /// Zeros.
    pub fn zeros(stream: &Stream, length: usize) -> Result<Self> {
        let mut array = Self::new(stream);
        array.reserve(length)?;
        array.clear()?;
        Ok(array)
    }

    fn size(&self) -> usize {
        T::size(self.stream.precision())
    }

    #[cfg(test)]
    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    #[cfg(test)]
    pub(super) fn bytes_of_one(&self) -> usize {
        self.size()
    }

    /// Makes it hold `length` values. What they are is not said. Fails when the device has no memory left.
    ///
    /// The pointer borrows the array exclusively; [`start`](Self::start) gives one that shares it.
    pub fn reserve(&mut self, length: usize) -> Result<Pointer<'_, T>> {
        if length > self.capacity {
            self.free();
            self.address = self.stream.driver().allocate(length * self.size())?;
            self.capacity = length;
        }
        self.length = length;
        Ok(self.start())
    }

    /// Sets all values to 0.
    pub fn clear(&mut self) -> Result<()> {
        if self.length == 0 {
            return Ok(());
        }
        self.stream.driver().clear(self.address, self.length * self.size())
    }

    /// Values.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.capacity * self.size()
    }

    /// Where it starts.
    pub fn start(&self) -> Pointer<'_, T> {
        Pointer::new(self.address)
    }

    /// Where the values from `first` on start, of which there are so many at least.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn part(&self, first: usize, count: usize) -> Pointer<'_, T> {
        assert!(
            first <= self.length && count <= self.length - first,
            "a kernel would reach beyond its memory"
        );
        Pointer::new(self.address + (first * self.size()) as u64)
    }

    fn free(&mut self) {
        if self.address != 0 {
            self.stream.driver().free(self.address);
        }
        (self.address, self.capacity, self.length) = (0, 0, 0);
    }
}

impl<T: Plain> Array<T> {
    /// Puts these values in the place of the old ones.
    pub fn put(&mut self, values: &[T]) -> Result<Pointer<'_, T>> {
        self.reserve(values.len())?;
        if !values.is_empty() {
            // SAFETY: plain values without padding can be read as bytes.
            let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
            self.stream.driver().upload(bytes, self.address)?;
        }
        Ok(self.start())
    }

    /// Waits for the work so far and reads the values.
    pub fn read(&self, values: &mut [T]) -> Result<()> {
        if values.len() != self.length {
            return Err(Error::internal(format!(
                "{} values of {} were asked for",
                values.len(),
                self.length
            )));
        }
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: every pattern of bits is a plain value.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) };
        self.stream.driver().download(self.address, bytes)
    }
}

impl<T> Drop for Array<T> {
    fn drop(&mut self) {
        if self.address != 0 {
            self.stream.driver().free(self.address);
        }
    }
}
