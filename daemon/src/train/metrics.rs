//! The five metrics of a pass, from the counts of the whole pass: never a mean of per-batch values.

use serde::{Deserialize, Serialize};

use super::event::{LabelMetrics, Metrics};
use super::spec::Metric;
use crate::kernels::cross_entropy::row_loss;

/// What a pass over rows has counted so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    loss: f64,
    rows: u64,
    /// `confusion[right * labels + predicted]`
    confusion: Vec<u64>,
    labels: usize,
}

impl Tally {
    /// An empty count over this many labels.
    pub fn new(labels: usize) -> Self {
        Self { loss: 0.0, rows: 0, confusion: vec![0; labels * labels], labels }
    }

    /// Counts rows of logits and their right classes; returns the sum of their losses.
    pub fn add(&mut self, logits: &[Vec<f32>], classes: &[u32]) -> f64 {
        let mut added = 0.0;
        for (row, &class) in logits.iter().zip(classes) {
            added += f64::from(row_loss(row, class as usize));
            if let Some(count) = self.confusion.get_mut(class as usize * self.labels + arg_max(row)) {
                *count += 1;
            }
        }
        self.loss += added;
        self.rows += logits.len() as u64;
        added
    }

    /// The metrics. With two labels F1, recall and precision are those of `positive`, else their mean over labels.
    pub fn metrics(&self, labels: &[String], positive: usize) -> Metrics {
        let count = |right: usize, predicted: usize| self.confusion[right * self.labels + predicted] as f64;
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let of_label = |(label, name): (usize, &String)| {
            let hits = count(label, label);
            let called: f64 = (0..self.labels).map(|right| count(right, label)).sum();
            let present: f64 = (0..self.labels).map(|predicted| count(label, predicted)).sum();
            LabelMetrics {
                label: name.clone(),
                precision: share(hits, called),
                recall: share(hits, present),
                f1: share(2.0 * hits, called + present),
                rows: present as u64,
            }
        };
        let each: Vec<LabelMetrics> = labels.iter().enumerate().map(of_label).collect();
        let mean = |of: fn(&LabelMetrics) -> f64| match (self.labels, each.get(positive)) {
            (2, Some(label)) => of(label),
            _ => each.iter().map(of).sum::<f64>() / each.len() as f64,
        };
        let hits: f64 = (0..self.labels).map(|label| count(label, label)).sum();
        Metrics {
            loss: share(self.loss, self.rows as f64),
            accuracy: share(hits, self.rows as f64),
            f1: mean(|label| label.f1),
            recall: mean(|label| label.recall),
            precision: mean(|label| label.precision),
            rows: self.rows,
            labels: each,
        }
    }
}

/// Whether `new` is strictly better than `old` by the metric.
pub fn is_better(metric: Metric, new: &Metrics, old: &Metrics) -> bool {
    match metric {
        Metric::Loss => new.loss < old.loss,
        Metric::Accuracy => new.accuracy > old.accuracy,
        Metric::F1 => new.f1 > old.f1,
    }
}

/// The place of the largest value, the first of equals.
pub fn arg_max(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if row.get(best).is_none_or(|largest| value > largest) {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits whose arg max is `predicted`, with the same loss for each wrong and each right answer.
    fn tally(labels: usize, pairs: &[(u32, u32)]) -> Tally {
        let mut tally = Tally::new(labels);
        for &(right, predicted) in pairs {
            let mut row = vec![0.0; labels];
            row[predicted as usize] = 2.0;
            tally.add(&[row], &[right]);
        }
        tally
    }

    fn names(labels: usize) -> Vec<String> {
        (0..labels).map(|label| format!("label {label}")).collect()
    }

    /// scikit-learn 1.9: precision_recall_fscore_support([0,0,0,1,1,1,1,1], [0,1,1,1,1,1,1,0], average="binary").
    #[test]
    fn two_labels_give_the_metrics_of_the_positive_one() {
        let tally = tally(2, &[(0, 0), (0, 1), (0, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 0)]);
        let metrics = tally.metrics(&names(2), 1);
        assert_eq!((metrics.accuracy, metrics.rows), (0.625, 8));
        assert!((metrics.precision - 2.0 / 3.0).abs() < 1e-12);
        assert!((metrics.recall - 0.8).abs() < 1e-12);
        assert!((metrics.f1 - 8.0 / 11.0).abs() < 1e-12);
        let other = tally.metrics(&names(2), 0);
        assert!((other.precision - 0.5).abs() < 1e-12 && (other.recall - 1.0 / 3.0).abs() < 1e-12);
    }

    /// scikit-learn 1.9: the same function with average="macro", zero_division=0.
    #[test]
    fn more_labels_give_the_mean_and_a_label_never_called_counts_as_zero() {
        let tally = tally(3, &[(0, 0), (0, 1), (1, 1), (1, 1), (2, 0), (2, 1)]);
        let metrics = tally.metrics(&names(3), 0);
        assert!((metrics.precision - (0.5 + 0.5 + 0.0) / 3.0).abs() < 1e-12);
        assert!((metrics.recall - (0.5 + 1.0 + 0.0) / 3.0).abs() < 1e-12);
        assert!((metrics.f1 - (0.5 + 2.0 / 3.0 + 0.0) / 3.0).abs() < 1e-12);
        assert_eq!(metrics.labels[1].rows, 2);
    }

    #[test]
    fn the_loss_is_the_mean_over_rows_however_they_were_batched() {
        let (a, b, c) = (vec![0.0, 1.0], vec![3.0, -1.0], vec![0.5, 0.5]);
        let mut one = Tally::new(2);
        one.add(&[a.clone(), b.clone(), c.clone()], &[0, 1, 1]);
        let mut two = Tally::new(2);
        two.add(&[a], &[0]);
        two.add(&[b, c], &[1, 1]);
        assert_eq!(one.metrics(&names(2), 1), two.metrics(&names(2), 1));
    }

    #[test]
    fn better_is_strict_and_goes_the_metric_s_way() {
        let low = tally(2, &[(0, 0), (1, 1)]).metrics(&names(2), 1);
        let high = tally(2, &[(0, 1), (1, 1)]).metrics(&names(2), 1);
        for metric in [Metric::Loss, Metric::Accuracy, Metric::F1] {
            assert!(is_better(metric, &low, &high));
            assert!(!is_better(metric, &high, &low));
            assert!(!is_better(metric, &low, &low));
        }
    }
}
