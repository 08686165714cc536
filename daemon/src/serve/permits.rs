//! Permits for what only a few threads may do at once.

use std::sync::{Condvar, Mutex, PoisonError};

use hone_base::panic::lock;

/// Some permits; a thread waits for one.
#[derive(Debug)]
pub struct Permits {
    left: Mutex<usize>,
    given_back: Condvar,
}

/// A permit, until it is dropped.
#[derive(Debug)]
pub struct Permit<'a>(&'a Permits);

impl Permits {
    /// So many.
    pub fn new(count: usize) -> Self {
        Self { left: Mutex::new(count), given_back: Condvar::new() }
    }

    /// Waits for a permit. Blocks the thread.
    pub fn take(&self) -> Permit<'_> {
        let none_left = |left: &mut usize| *left == 0;
        let left = self.given_back.wait_while(lock(&self.left), none_left);
        *left.unwrap_or_else(PoisonError::into_inner) -= 1;
        Permit(self)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *lock(&self.0.left) += 1;
        self.0.given_back.notify_one();
    }
}
