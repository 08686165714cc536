//! Memory that is kept and used again, aligned to cache lines, and memory that several tasks write at once.

use std::cell::RefCell;
use std::marker::PhantomData;

use rayon::prelude::*;

/// Values of a cache line.
const LINE: usize = 16;

/// Values whose memory one task takes.
const TAKEN: usize = 1 << 14;

/// Float32 values aligned to a cache line. It grows when it must and never shrinks.
#[derive(Default)]
pub struct Buffer {
    values: Vec<f32>,
    /// The first value that lies at a line's begin.
    first: usize,
    /// Values that it ever held at once: whole lines.
    held: usize,
    length: usize,
}

impl Buffer {
    /// Zeros, which take memory only when they are written.
    pub fn zeros(length: usize) -> Self {
        let mut buffer = Self::default();
        buffer.reserve(length);
        buffer
    }

    /// The same zeros, whose memory the threads of the current rayon pool take now, together, and no step later.
    #[must_use]
    pub fn taken(mut self) -> Self {
        self.par_chunks_mut(TAKEN).for_each(|values| values.fill(0.0));
        self
    }

    /// Makes it hold `length` values. The places that it had before hold what was written there last, new ones 0.
    pub fn reserve(&mut self, length: usize) -> &mut [f32] {
        let lines = length.next_multiple_of(LINE);
        if self.first + lines > self.values.len() {
            self.grow(lines);
        }
        self.held = self.held.max(lines);
        self.length = length;
        self
    }

    fn grow(&mut self, lines: usize) {
        // Twice as many, so that growing row by row copies little. The system gives zeros, which take no memory before they
        // are written.
        let room = lines.max(2 * self.held) + LINE - 1;
        let mut values = vec![0.0; room];
        let first = values.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE - 1);
        values[first..][..self.held].copy_from_slice(&self.values[self.first..][..self.held]);
        (self.values, self.first) = (values, first);
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.held * size_of::<f32>()
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::default();
        copy.reserve(self.length).copy_from_slice(self);
        copy
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} values)", self.length)
    }
}

impl std::ops::Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[self.first..][..self.length]
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.first..][..self.length]
    }
}

/// Runs `work` with this thread's `N` buffers, which keep their memory from call to call.
pub(super) fn with_scratch<const N: usize, R>(work: impl FnOnce(&mut [Buffer; N]) -> R) -> R {
    thread_local! {
        static SCRATCH: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
    }
    let mut taken: [Buffer; N] = SCRATCH.with_borrow_mut(|kept| {
        // The last one that was put back comes first, so that a buffer serves one purpose and grows once.
        std::array::from_fn(|_| kept.pop().unwrap_or_default())
    });
    let result = work(&mut taken);
    SCRATCH.with_borrow_mut(|kept| kept.extend(taken.into_iter().rev()));
    result
}

/// Memory that is written by several tasks, each at places of its own. It holds the slice that it is made of borrowed.
#[derive(Debug)]
pub(super) struct Shared<'a> {
    values: *mut f32,
    length: usize,
    of: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a slice of values that may be sent.
unsafe impl Send for Shared<'_> {}
// SAFETY: whoever takes a slice of it promises that no other task uses those places.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    /// All of a slice, which nothing else uses meanwhile.
    pub(super) fn new(values: &'a mut [f32]) -> Self {
        Self { values: values.as_mut_ptr(), length: values.len(), of: PhantomData }
    }

    /// The same memory once more, for whoever keeps its places apart from those of the first.
    ///
    /// # Safety
    /// Tasks of both must use places of their own, as for [`Shared::slice`].
    pub(super) unsafe fn again(&self) -> Self {
        Self { ..*self }
    }

    /// Where a part of it starts.
    ///
    /// # Panics
    /// When the part reaches beyond the slice.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn pointer(&self, start: usize, length: usize) -> *mut f32 {
        assert!(start <= self.length && length <= self.length - start, "a task reaches beyond its memory");
        self.values.wrapping_add(start)
    }

    /// A part of it.
    ///
    /// # Safety
    /// While the part is used, nobody else may use its places: no other task, and no other part of this task.
    ///
    /// # Panics
    /// When the part reaches beyond the slice.
    // It is a `&mut` of places that the caller has alone, not of the whole.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub(super) unsafe fn slice(&self, start: usize, length: usize) -> &'a mut [f32] {
        assert!(start <= self.length && length <= self.length - start, "a task reaches beyond its memory");
        // SAFETY: inside the slice by the assertion; not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.values.add(start), length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_of_any_length_lies_at_a_cache_line_and_so_does_its_copy() {
        let mut buffer = Buffer::default();
        for length in [1, 15, 16, 17, 1000, 999, 100_000] {
            let values = buffer.reserve(length);
            assert_eq!((values.len(), values.as_ptr().addr() % 64), (length, 0));
            values.fill(length as f32);
            let copy = buffer.clone();
            assert_eq!((copy.as_ptr().addr() % 64, &*copy), (0, &*buffer));
        }
        assert!(Buffer::zeros(1 << 20).iter().all(|&value| value == 0.0));
    }

    #[test]
    fn what_was_written_stays_when_a_buffer_grows_and_new_places_hold_zeros() {
        let mut buffer = Buffer::default();
        for length in 1..200 {
            buffer.reserve(length)[length - 1] = length as f32;
            assert!(buffer.iter().zip(1..).all(|(&value, place)| value == place as f32));
        }
        buffer.reserve(3);
        assert_eq!((buffer.reserve(300)[198], buffer[199], buffer[299]), (199.0, 0.0, 0.0));
        assert_eq!(buffer.bytes(), 304 * size_of::<f32>());
    }
}
