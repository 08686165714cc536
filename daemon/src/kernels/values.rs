//! Reading the values of candle tensors on the CPU as slices.

use std::ops::Deref;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};

/// The values of a contiguous float32 tensor on the CPU, for as long as this lives.
struct Values<G> {
    guard: G,
    start: usize,
    end: usize,
}

impl<G: Deref<Target = Storage>> Deref for Values<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.guard {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.start..self.end],
            _ => &[],
        }
    }
}

/// The values of `tensor`, which must be contiguous, float32 and on the CPU.
pub(super) fn of(tensor: &Tensor) -> Result<impl Deref<Target = [f32]> + '_> {
    let (guard, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("the tensor is not contiguous") };
    if !matches!(&*guard, Storage::Cpu(CpuStorage::F32(_))) {
        bail!("expected float32 values on the CPU");
    }
    Ok(Values { guard, start, end })
}

/// The values of a contiguous float32 storage.
pub(super) fn of_storage<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("the tensor is not contiguous") };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// The same for a storage that is written in place.
pub(super) fn of_storage_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("the tensor is not contiguous") };
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[start..end]),
        _ => bail!("expected float32 values"),
    }
}
