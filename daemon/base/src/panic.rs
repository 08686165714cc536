//! What is left after a panic: an error, its words, and locks that are whole all the same.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Does the work, and turns its panic into an error: one piece of work must not take the rest down.
///
/// # Errors
/// Those of the work, and `Internal` when it panics.
pub fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(Error::internal(format!("internal error: {}; this is a bug in Hone", words(&*panic))))
    })
}

/// Locks a mutex whose state is whole between statements, so that a panic elsewhere does not spread.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a panic said: the payload that `catch_unwind` or a joined thread returns, as text.
pub fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned())
}
