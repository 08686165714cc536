//! Steps and tokens since some moment.

use std::time::Instant;

/// Steps and tokens since some moment.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    pub(super) started: Instant,
    steps: u64,
    tokens: u64,
}

impl Pace {
    /// Since now.
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), steps: 0, tokens: 0 }
    }

    /// Counts a step.
    pub(super) fn add(&mut self, tokens: u64) {
        self.steps += 1;
        self.tokens += tokens;
    }

    pub(super) fn steps_per_second(&self) -> f64 {
        self.steps as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }

    pub(super) fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }
}
