//! The learning rate of each optimizer step.

use super::spec::{Hyperparameters, Scheduler, Warmup};

/// The rate as a function of the step. The formulas are those of `transformers.get_scheduler`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    scheduler: Scheduler,
    peak: f64,
    warmup: u64,
    total: u64,
}

impl Schedule {
    /// A schedule over `total` optimizer steps, `per_epoch` in each epoch.
    pub fn new(hyperparameters: &Hyperparameters, total: u64, per_epoch: u64) -> Self {
        let part = |share: f64, of: u64| (share * of as f64).ceil() as u64;
        let warmup = match hyperparameters.warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Ratio(ratio) => part(ratio, total),
            Warmup::Epochs(epochs) => part(epochs, per_epoch),
        };
        Self {
            scheduler: hyperparameters.scheduler,
            peak: hyperparameters.learning_rate,
            warmup: warmup.min(total),
            total,
        }
    }

    /// Steps over which the rate rises.
    pub fn warmup_steps(&self) -> u64 {
        self.warmup
    }

    /// The rate of step `k`, counted from 0. With a warm-up the first step has rate 0.
    pub fn rate(&self, k: u64) -> f64 {
        if k < self.warmup {
            return self.peak * k as f64 / self.warmup as f64;
        }
        let left = self.total.saturating_sub(k) as f64 / (self.total - self.warmup).max(1) as f64;
        self.peak
            * match self.scheduler {
                Scheduler::Constant => 1.0,
                Scheduler::Linear => left,
                Scheduler::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * (1.0 - left)).cos()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(scheduler: Scheduler, warmup: Warmup) -> Schedule {
        let hyperparameters =
            Hyperparameters { scheduler, warmup, learning_rate: 2.0, ..Hyperparameters::default() };
        Schedule::new(&hyperparameters, 10, 5)
    }

    fn rates(schedule: Schedule) -> Vec<f64> {
        (0..=10).map(|k| (schedule.rate(k) * 1e6).round() / 1e6).collect()
    }

    #[test]
    fn linear_rises_from_zero_and_falls_to_zero() {
        let linear = schedule(Scheduler::Linear, Warmup::Steps(2));
        assert_eq!(rates(linear), [0.0, 1.0, 2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25, 0.0]);
    }

    #[test]
    fn constant_stays_at_the_peak() {
        assert_eq!(rates(schedule(Scheduler::Constant, Warmup::Steps(0))), [2.0; 11]);
    }

    #[test]
    fn cosine_falls_along_half_a_wave() {
        let cosine = rates(schedule(Scheduler::Cosine, Warmup::Steps(0)));
        assert_eq!((cosine[0], cosine[5], cosine[10]), (2.0, 1.0, 0.0));
        assert_eq!(cosine[2], 1.809_017);
    }

    #[test]
    fn a_warm_up_is_given_in_steps_or_as_a_share_of_all_steps_or_in_epochs() {
        let steps = |warmup| schedule(Scheduler::Linear, warmup).warmup_steps();
        assert_eq!(steps(Warmup::Steps(3)), 3);
        assert_eq!(steps(Warmup::Ratio(0.11)), 2);
        assert_eq!(steps(Warmup::Epochs(0.2)), 1);
        assert_eq!(steps(Warmup::Epochs(1.5)), 8);
        assert_eq!(steps(Warmup::Steps(99)), 10);
    }
}
