//! Steps and tokens since some moment.

use std::time::Instant;

use serde::{Deserialize, Serialize};

/// What steps took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Spent {
    pub(super) seconds: f64,
    steps: u64,
    tokens: u64,
}

impl Spent {
    pub(super) fn steps_per_second(&self) -> f64 {
        self.steps as f64 / self.seconds.max(1e-9)
    }

    pub(super) fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.seconds.max(1e-9)
    }
}

/// Steps and tokens since some moment, and what was spent before it.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    pub(super) started: Instant,
    before: Spent,
    steps: u64,
    tokens: u64,
}

impl Pace {
    /// Since now.
    pub(super) fn new() -> Self {
        Self::after(Spent::default())
    }

    /// Since now, after what was spent in an earlier attempt.
    pub(super) fn after(before: Spent) -> Self {
        Self { started: Instant::now(), before, steps: 0, tokens: 0 }
    }

    /// Counts a step.
    pub(super) fn add(&mut self, tokens: u64) {
        self.steps += 1;
        self.tokens += tokens;
    }

    /// What was spent in all.
    pub(super) fn spent(&self) -> Spent {
        Spent {
            seconds: self.before.seconds + self.started.elapsed().as_secs_f64(),
            steps: self.before.steps + self.steps,
            tokens: self.before.tokens + self.tokens,
        }
    }
}
