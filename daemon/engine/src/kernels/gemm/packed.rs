//! The right factor of a product, packed.

use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::pair;
use super::{Format, Matrix, float, int8};
use crate::kernels::Compute;
use crate::kernels::buffer::Buffer;

/// A right factor, `[inner, columns]`, in panels.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    pub(super) buffer: Buffer,
    pub(super) inner: usize,
    pub(super) columns: usize,
}

impl Packed {
    /// Packs a factor on all threads of the current pool, into the memory of the one before.
    pub(in super::super) fn pack(&mut self, compute: Compute, factor: Matrix<'_>) {
        let width = compute.panel_width();
        let stride = compute.panel_values(factor.rows);
        (self.inner, self.columns) = (factor.rows, factor.columns);
        let panels = factor.columns.div_ceil(width);
        let buffer = self.buffer.reserve(panels * stride);
        if stride > 0 {
            // A task takes some panels, so that it reads stretches of memory and not single places of many pages.
            let group = panels.div_ceil(8).min(GROUP);
            buffer.par_chunks_mut(group * stride).enumerate().for_each(|(index, panels)| {
                pack_panels(compute, factor, index * group * width, panels);
            });
        }
    }

    /// The same on this thread alone.
    pub(in super::super) fn pack_here(&mut self, compute: Compute, factor: Matrix<'_>) {
        let width = compute.panel_width();
        let stride = compute.panel_values(factor.rows);
        (self.inner, self.columns) = (factor.rows, factor.columns);
        let buffer = self.buffer.reserve(factor.columns.div_ceil(width) * stride);
        if stride > 0 {
            pack_panels(compute, factor, 0, buffer);
        }
    }

    /// The same, and the product gets as many columns as there are in whole panels: those beyond the factor's are 0.
    pub(in super::super) fn pack_wide(&mut self, compute: Compute, factor: Matrix<'_>) {
        self.pack_here(compute, factor);
        self.columns = self.columns.next_multiple_of(compute.panel_width());
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.buffer.bytes()
    }
}

/// Panels of a right factor that a task packs at most.
const GROUP: usize = 8;

/// Packs as many panels as there is room for, the first of which starts at column `first`.
fn pack_panels(compute: Compute, factor: Matrix<'_>, first: usize, out: &mut [f32]) {
    match compute.format() {
        Format::Float { rounded } => {
            let width = float::shape(compute.isa()).1;
            for (panel, out) in out.chunks_mut(width * factor.rows).enumerate() {
                float::pack(compute.isa(), factor.t(), first + panel * width, width, rounded, out);
            }
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: this format is only chosen when the processor has AVX-512 and its bfloat16 part.
        Format::Pair { planes } => unsafe { pair::pack_right(factor, first, planes, out) },
        Format::Int8 => int8::pack_right(compute.isa(), factor, first, out),
    }
}
