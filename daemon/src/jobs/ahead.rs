//! The files of the job that was checked last, read once: if nobody has the device, the job begins at once, and takes
//! them as the check has read them. Files of a job that must wait are read again when its turn comes, so that a queue
//! holds no texts.

use std::sync::Mutex;

use hone_base::panic::lock;
use hone_train::Plan;
use hone_train::spec::Spec;

/// A plan at most, between the check of a job and its beginning.
#[derive(Debug, Default)]
pub struct Ahead(Mutex<State>);

#[derive(Debug, Default)]
enum State {
    #[default]
    Empty,
    Reading,
    Ready(Box<Plan>),
}

/// The permission to keep the texts of one job; whoever has it reads.
#[derive(Debug)]
pub struct Reading<'a> {
    ahead: &'a Ahead,
    kept: Option<Box<Plan>>,
}

impl Ahead {
    /// Makes room for the next job's plan; `None` while another is being read.
    pub fn begin(&self) -> Option<Reading<'_>> {
        let mut state = lock(&self.0);
        if matches!(*state, State::Reading) {
            return None;
        }
        *state = State::Reading;
        Some(Reading { ahead: self, kept: None })
    }

    /// The plan of a job that begins, if it is there. Nobody else's stays.
    pub fn take(&self, spec: &Spec) -> Option<Plan> {
        let mut state = lock(&self.0);
        match std::mem::take(&mut *state) {
            State::Ready(plan) => Some(*plan).filter(|plan| plan.spec == *spec),
            other => {
                *state = other;
                None
            }
        }
    }
}

impl Reading<'_> {
    /// Keeps what was read.
    pub fn keep(mut self, plan: Plan) {
        self.kept = Some(Box::new(plan));
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        *lock(&self.ahead.0) = self.kept.take().map_or(State::Empty, State::Ready);
    }
}
