//! The learning rate of each optimizer step.

use super::spec::{Hyperparameters, Scheduler, Warmup};

/// The rate as a function of the step. The formulas are those of `transformers.get_scheduler`; but a warm-up that is
/// given as a share of the run leaves its steps to a short run.
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
            // A warm-up of one step is a step of rate 0 and nothing else; one of all steps never reaches the peak.
            Warmup::Ratio(ratio) => match part(ratio, total) {
                1 => 0,
                steps => steps.min(total.saturating_sub(1)),
            },
            Warmup::Epochs(epochs) => part(epochs, per_epoch),
        };
        Self { scheduler: hyperparameters.scheduler, peak: hyperparameters.learning_rate, warmup, total }
    }

    /// Steps over which the rate rises.
    pub fn warmup_steps(&self) -> u64 {
        self.warmup
    }

    /// Optimizer steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.total
    }

    /// The rate at the end of the warm-up.
    pub fn peak(&self) -> f64 {
        self.peak
    }

    /// Whether any step has a rate.
    pub fn has_rate(&self) -> bool {
        (0..self.total).any(|k| self.rate(k) > 0.0)
    }

    /// The rate of step `k`, counted from 0. With a warm-up the first step has rate 0.
    pub fn rate(&self, k: u64) -> f64 {
        if k < self.warmup {
            return self.peak * k as f64 / self.warmup as f64;
        }
        let left = self.total.saturating_sub(k) as f64 / self.total.saturating_sub(self.warmup).max(1) as f64;
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
        assert_eq!(steps(Warmup::Steps(99)), 99);
    }

    #[test]
    fn a_share_as_warm_up_leaves_a_rate_to_the_first_step_of_a_short_run_and_the_peak_to_any_run() {
        let run = |ratio, total| {
            let warmup = Warmup::Ratio(ratio);
            Schedule::new(&Hyperparameters { warmup, ..Hyperparameters::default() }, total, total)
        };
        for total in 1..=10 {
            assert_eq!(run(0.1, total).rate(0), 2e-5, "{total} steps");
        }
        assert_eq!(run(0.1, 11).warmup_steps(), 2);
        assert_eq!(run(1.0, 9).warmup_steps(), 8);
        assert_eq!(run(1.0, 9).rate(8), 2e-5);
    }

    #[test]
    fn a_warm_up_in_steps_is_longer_than_the_run_where_it_is_said_to_be() {
        let long = schedule(Scheduler::Linear, Warmup::Steps(500));
        assert_eq!((long.rate(0), long.rate(9)), (0.0, 2.0 * 9.0 / 500.0));
        assert!(long.has_rate());
        let only = Hyperparameters { warmup: Warmup::Steps(5), ..Hyperparameters::default() };
        assert!(!Schedule::new(&only, 1, 1).has_rate());
        assert!(Schedule::new(&only, 2, 1).has_rate());
    }
}
