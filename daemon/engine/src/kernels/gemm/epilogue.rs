//! What becomes of the finished parts of a product, and where they are written.

use crate::kernels::buffer::Shared;

/// What becomes of a finished part of a product.
pub(in super::super) trait Epilogue: Sync {
    /// The longest row that it takes. Longer ones would write to one another's places.
    fn width(&self) -> usize;

    /// Takes the values of a row from `column` on. It must be inlined.
    ///
    /// # Safety
    /// The row ends within [`Epilogue::width`], and no other task stores these values.
    unsafe fn store<const FMA: bool>(&self, row: usize, column: usize, values: &[f32]);

    /// The place of the product itself, when nothing else becomes of it: whole tiles are then written there at once.
    #[inline(always)]
    fn place(&self) -> Option<&Rows<'_>> {
        None
    }
}

/// Rows of up to `stride` values, `stride` apart, that are written by several tasks.
pub(in super::super) struct Rows<'a> {
    values: Shared<'a>,
    start: usize,
    stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows inside a slice, the first at `start`.
    pub(in super::super) fn new(values: &'a mut [f32], start: usize, stride: usize) -> Self {
        Self { values: Shared::new(values), start, stride }
    }

    /// Bytes from one row to the next.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn stride_bytes(&self) -> usize {
        self.stride * size_of::<f32>()
    }

    /// Where `rows` rows of `width` values start, all of which are there.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn pointer(&self, row: usize, rows: usize, column: usize, width: usize) -> *mut f32 {
        let start = self.start + row * self.stride + column;
        self.values.pointer(start, (rows - 1) * self.stride + width)
    }

    /// Rows inside memory that several tasks write, the first at `start`.
    ///
    /// # Safety
    /// No other task may use the places of these rows meanwhile.
    pub(in super::super) unsafe fn within(values: &Shared<'a>, start: usize, stride: usize) -> Self {
        // SAFETY: promised by the caller.
        Self { values: unsafe { values.again() }, start, stride }
    }

    /// Values from one row to the next: rows that are no longer do not overlap.
    pub(in super::super) fn stride(&self) -> usize {
        self.stride
    }

    /// `count` values of a row from `column` on.
    ///
    /// # Safety
    /// As for [`Shared::slice`].
    #[inline(always)]
    // As in `Shared::slice`.
    #[allow(clippy::mut_from_ref)]
    pub(in super::super) unsafe fn at(&self, row: usize, column: usize, count: usize) -> &'a mut [f32] {
        // SAFETY: promised by the caller.
        unsafe { self.values.slice(self.start + row * self.stride + column, count) }
    }
}

/// Stores `scale * product`.
pub(in super::super) struct Scaled<'a> {
    pub(in super::super) out: Rows<'a>,
    pub(in super::super) scale: f32,
}

impl Epilogue for Scaled<'_> {
    fn width(&self) -> usize {
        self.out.stride()
    }

    #[inline(always)]
    unsafe fn store<const FMA: bool>(&self, row: usize, column: usize, values: &[f32]) {
        // SAFETY: promised by the caller.
        let out = unsafe { self.out.at(row, column, values.len()) };
        out.iter_mut().zip(values).for_each(|(out, x)| *out = x * self.scale);
    }

    #[inline(always)]
    fn place(&self) -> Option<&Rows<'_>> {
        (self.scale == 1.0).then_some(&self.out)
    }
}

/// Stores `scales[row] * product`.
pub(in super::super) struct RowScaled<'a> {
    pub(in super::super) out: Rows<'a>,
    pub(in super::super) scales: &'a [f32],
}

impl Epilogue for RowScaled<'_> {
    fn width(&self) -> usize {
        self.out.stride()
    }

    #[inline(always)]
    unsafe fn store<const FMA: bool>(&self, row: usize, column: usize, values: &[f32]) {
        // SAFETY: promised by the caller.
        let out = unsafe { self.out.at(row, column, values.len()) };
        let scale = self.scales[row];
        out.iter_mut().zip(values).for_each(|(out, x)| *out = x * scale);
    }
}

/// Adds the product to what is there.
pub(in super::super) struct Added<'a> {
    pub(in super::super) out: Rows<'a>,
}

impl Epilogue for Added<'_> {
    fn width(&self) -> usize {
        self.out.stride()
    }

    #[inline(always)]
    unsafe fn store<const FMA: bool>(&self, row: usize, column: usize, values: &[f32]) {
        // SAFETY: promised by the caller.
        let out = unsafe { self.out.at(row, column, values.len()) };
        out.iter_mut().zip(values).for_each(|(out, x)| *out += x);
    }
}
