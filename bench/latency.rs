//! Latencies: percentiles and a histogram.

use std::time::Duration;

use serde_json::{Value, json};

/// Latencies of calls. Each one is kept, so percentiles are exact.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies {
    microseconds: Vec<u32>,
}

impl Latencies {
    /// Adds one; above 71 minutes it counts as that.
    pub(crate) fn push(&mut self, latency: Duration) {
        self.microseconds.push(latency.as_micros().try_into().unwrap_or(u32::MAX));
    }

    /// Milliseconds that the share of all calls does not exceed (nearest rank); none without a call.
    pub(crate) fn percentile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.microseconds.clone();
        sorted.sort_unstable();
        at(&sorted, share)
    }

    /// Percentiles in milliseconds.
    pub(crate) fn summary(&self) -> Value {
        let mut sorted = self.microseconds.clone();
        sorted.sort_unstable();
        json!({
            "p50": at(&sorted, 0.5), "p90": at(&sorted, 0.9), "p99": at(&sorted, 0.99),
            "p999": at(&sorted, 0.999), "max": at(&sorted, 1.0),
        })
    }

    /// How many calls took up to so many milliseconds and more than the bound before: `[milliseconds, calls]`. Bounds
    /// grow by a quarter of a power of two; those without a call are left out.
    pub(crate) fn histogram(&self) -> Vec<(f64, usize)> {
        let mut buckets = std::collections::BTreeMap::<i32, usize>::new();
        for &one in &self.microseconds {
            let bucket = (f64::from(one.max(1)).log2() * 4.0).ceil() as i32;
            *buckets.entry(bucket).or_default() += 1;
        }
        buckets.into_iter().map(|(bucket, calls)| (upper(bucket), calls)).collect()
    }
}

/// The upper bound of a bucket in milliseconds, to the microsecond.
fn upper(bucket: i32) -> f64 {
    (f64::from(bucket) / 4.0).exp2().floor() / 1e3
}

fn at(sorted: &[u32], share: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).map(|&one| f64::from(one) / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(milliseconds: impl IntoIterator<Item = u64>) -> Latencies {
        let mut all = Latencies::default();
        milliseconds.into_iter().for_each(|one| all.push(Duration::from_millis(one)));
        all
    }

    #[test]
    fn percentiles_are_nearest_ranks() {
        let all = of((1..=1_000).rev());
        let expected = json!({ "p50": 500.0, "p90": 900.0, "p99": 990.0, "p999": 999.0, "max": 1_000.0 });
        assert_eq!(all.summary(), expected);
        assert_eq!(of([7]).percentile(0.5), Some(7.0));
        assert_eq!(of([1, 9]).percentile(0.5), Some(1.0));
    }

    #[test]
    fn without_a_call_there_is_no_percentile() {
        assert_eq!(of([]).percentile(0.99), None);
        assert_eq!(of([]).summary()["p50"], Value::Null);
        assert!(of([]).histogram().is_empty());
    }

    #[test]
    fn a_histogram_counts_each_call_once_below_its_bound() {
        let all = of([1, 2, 2, 3, 100, 5_000]);
        let buckets = all.histogram();
        assert_eq!(buckets.iter().map(|(_, calls)| calls).sum::<usize>(), 6);
        let up_to = |bound: f64| {
            buckets.iter().filter(|(upper, _)| *upper <= bound).map(|(_, calls)| calls).sum::<usize>()
        };
        // 2.435 and 3.443 ms are bounds.
        assert_eq!((up_to(2.5), up_to(3.5), up_to(200.0)), (3, 4, 5));
    }
}
