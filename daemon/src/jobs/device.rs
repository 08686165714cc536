//! Who has the device: a job, or for a few seconds the steps of a dry run. A job waits for its turn; a dry run never
//! does, and gives way to a job that waits.

use std::sync::{Condvar, Mutex, PoisonError};

use hone_base::panic::lock;

/// The device, which one at a time has.
#[derive(Debug, Default)]
pub struct Turns {
    state: Mutex<State>,
    free: Condvar,
}

#[derive(Debug, Default)]
struct State {
    taken: bool,
    waiting: usize,
}

/// The device, until this is dropped.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// Waits for the device.
    pub fn take(&self) -> Turn<'_> {
        let mut state = lock(&self.state);
        state.waiting += 1;
        let mut state =
            self.free.wait_while(state, |state| state.taken).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state.taken = true;
        Turn(self)
    }

    /// Whether nobody has the device or waits for it, at this moment.
    pub fn is_free(&self) -> bool {
        let state = lock(&self.state);
        !state.taken && state.waiting == 0
    }

    /// The device, if nobody has it or waits for it.
    pub fn try_take(&self) -> Option<Turn<'_>> {
        let mut state = lock(&self.state);
        if state.taken || state.waiting > 0 {
            return None;
        }
        state.taken = true;
        Some(Turn(self))
    }
}

impl Turn<'_> {
    /// Whether somebody waits for the device.
    pub fn is_wanted(&self) -> bool {
        lock(&self.0.state).waiting > 0
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).taken = false;
        self.0.free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_does_not_wait_gets_the_device_only_when_it_is_free() {
        let turns = Turns::default();
        let turn = turns.take();
        assert!(turns.try_take().is_none());
        drop(turn);
        assert!(turns.try_take().is_some_and(|turn| !turn.is_wanted()));
        assert!(turns.try_take().is_some());
    }

    #[test]
    fn whoever_has_the_device_learns_that_somebody_waits() {
        let turns = Turns::default();
        std::thread::scope(|scope| {
            let turn = turns.try_take().unwrap();
            let job = scope.spawn(|| turns.take().is_wanted());
            while !turn.is_wanted() {
                std::thread::sleep(Duration::from_millis(1));
            }
            drop(turn);
            assert!(!job.join().unwrap());
        });
    }
}
