//! When the calls of an open loop begin.

use std::time::Duration;

use clap::ValueEnum;
use hone_base::random::{Purpose, Stream};

/// How the calls of an open loop are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Spacing {
    /// Independent callers: the time between two calls is exponentially distributed.
    Poisson,
    /// The same time between any two calls.
    Even,
}

/// The times at which calls are meant to begin, counted from the start of the loop; without an end.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    rate: f64,
    spacing: Spacing,
    numbers: Stream,
    index: u64,
    at: f64,
}

impl Schedule {
    /// `rate` calls a second, above 0. The same seed gives the same times.
    pub(crate) fn new(rate: f64, spacing: Spacing, seed: u64) -> Self {
        Self { rate, spacing, numbers: Stream::new(seed, Purpose::Shuffle, 0, 0), index: 0, at: 0.0 }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let gap = match self.spacing {
            // The inverse of the distribution function.
            Spacing::Poisson => -(1.0 - self.numbers.uniform(self.index)).ln(),
            Spacing::Even => 1.0,
        };
        self.index += 1;
        self.at += gap / self.rate;
        Duration::try_from_secs_f64(self.at).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(number: usize, spacing: Spacing, seed: u64) -> Vec<f64> {
        Schedule::new(50.0, spacing, seed).take(number).map(|at| at.as_secs_f64()).collect()
    }

    #[test]
    fn even_calls_are_one_period_apart() {
        let times = first(3, Spacing::Even, 1);
        for (time, expected) in times.iter().zip([0.02, 0.04, 0.06]) {
            assert!((time - expected).abs() < 1e-9, "{times:?}");
        }
    }

    #[test]
    fn poisson_calls_keep_the_rate_and_have_the_spread_of_the_distribution() {
        let times = first(20_000, Spacing::Poisson, 7);
        let mean = times.last().unwrap() / 20_000.0;
        assert!((mean * 50.0 - 1.0).abs() < 0.03, "the mean gap is {mean}");
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        let variance = gaps.map(|gap| (gap - mean).powi(2)).sum::<f64>() / 19_999.0;
        // The standard deviation of an exponential distribution is its mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05, "deviation {}", variance.sqrt());
    }

    #[test]
    fn times_never_go_back_and_depend_on_the_seed_alone() {
        let times = first(1_000, Spacing::Poisson, 3);
        assert!(times.is_sorted());
        assert_eq!(times, first(1_000, Spacing::Poisson, 3));
        assert_ne!(times, first(1_000, Spacing::Poisson, 4));
    }
}
