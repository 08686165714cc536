//! The metrics of a pass, from the counts of the whole pass: never a mean of per-batch values.

use serde::{Deserialize, Serialize};

use super::event::{Average, LabelMetrics, Metrics};
use super::spec::Metric;
use super::thresholds::MIDDLE;
use hone_engine::model::objective::{Kind, binary_cross_entropy, cross_entropy, sigmoid};
use hone_engine::targets::Targets;

/// What a pass over rows has counted so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Tally {
    /// Of rows with one label.
    Classes(ClassTally),
    /// Of rows with any number of labels.
    Sets(SetTally),
}

/// What was counted of rows with one label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassTally {
    loss: f64,
    rows: u64,
    /// `confusion[right * labels + predicted]`
    confusion: Vec<u64>,
    labels: usize,
}

/// What was counted of rows with any number of labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetTally {
    loss: f64,
    rows: u64,
    /// Rows whose labels are exactly those that were called.
    exact: u64,
    /// In class order.
    labels: Vec<LabelCounts>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct LabelCounts {
    /// The score from which on the label is called.
    threshold: f32,
    hits: u64,
    called: u64,
    present: u64,
}

impl Tally {
    /// An empty count over this many labels. Where rows have several, each is called from a score of 0.5 on.
    pub fn new(kind: Kind, labels: usize) -> Self {
        match kind {
            Kind::SingleLabel => {
                Self::Classes(ClassTally { loss: 0.0, rows: 0, confusion: vec![0; labels * labels], labels })
            }
            Kind::MultiLabel => Self::with_thresholds(&vec![MIDDLE; labels]),
        }
    }

    /// An empty count over rows with several labels, each called from its own score on.
    pub fn with_thresholds(thresholds: &[f32]) -> Self {
        let label = |&threshold: &f32| LabelCounts { threshold, hits: 0, called: 0, present: 0 };
        Self::Sets(SetTally { loss: 0.0, rows: 0, exact: 0, labels: thresholds.iter().map(label).collect() })
    }

    /// Counts rows of logits and what is right; returns the sum of their plain losses.
    pub fn add(&mut self, logits: &[Vec<f32>], targets: &Targets) -> f64 {
        match (self, targets) {
            (Self::Classes(tally), Targets::Classes(classes)) => tally.add(logits, classes),
            (Self::Sets(tally), Targets::Sets(sets)) => tally.add(logits, sets),
            _ => f64::NAN,
        }
    }

    /// How often each label was called.
    pub fn called(&self) -> Vec<u64> {
        match self {
            Self::Classes(tally) => (0..tally.labels)
                .map(|label| tally.confusion.iter().skip(label).step_by(tally.labels.max(1)).sum())
                .collect(),
            Self::Sets(tally) => tally.labels.iter().map(|label| label.called).collect(),
        }
    }

    /// The metrics. With two labels, of which a row has one, F1, recall and precision are those of `positive`, else
    /// their mean over labels.
    pub fn metrics(&self, labels: &[String], positive: usize) -> Metrics {
        match self {
            Self::Classes(tally) => tally.metrics(labels, positive),
            Self::Sets(tally) => tally.metrics(labels),
        }
    }
}

impl ClassTally {
    fn add(&mut self, logits: &[Vec<f32>], classes: &[u32]) -> f64 {
        let mut added = 0.0;
        for (row, &class) in logits.iter().zip(classes) {
            added += cross_entropy(row, class as usize);
            if let Some(count) = self.confusion.get_mut(class as usize * self.labels + arg_max(row)) {
                *count += 1;
            }
            self.rows += 1;
        }
        self.loss += added;
        added
    }

    fn metrics(&self, labels: &[String], positive: usize) -> Metrics {
        let count = |right: usize, predicted: usize| self.confusion[right * self.labels + predicted];
        let of_label = |(label, name): (usize, &String)| {
            let called = (0..self.labels).map(|right| count(right, label)).sum();
            let present = (0..self.labels).map(|predicted| count(label, predicted)).sum();
            of_label(name, count(label, label), called, present, None)
        };
        let each: Vec<LabelMetrics> = labels.iter().enumerate().map(of_label).collect();
        let mean = |of: fn(&LabelMetrics) -> f64| match (self.labels, each.get(positive)) {
            (2, Some(label)) => of(label),
            _ => mean(&each, of),
        };
        let hits = (0..self.labels).map(|label| count(label, label)).sum::<u64>();
        Metrics {
            loss: share(self.loss, self.rows as f64),
            accuracy: share(hits as f64, self.rows as f64),
            f1: mean(|label| label.f1),
            recall: mean(|label| label.recall),
            precision: mean(|label| label.precision),
            rows: self.rows,
            labels: each,
            micro: None,
        }
    }
}

impl SetTally {
    fn add(&mut self, logits: &[Vec<f32>], sets: &[Vec<u32>]) -> f64 {
        let mut added = 0.0;
        for (row, set) in logits.iter().zip(sets) {
            added += binary_cross_entropy(row, set);
            let mut is_exact = true;
            for (label, (&x, counts)) in row.iter().zip(&mut self.labels).enumerate() {
                let is_present = set.iter().any(|&class| class as usize == label);
                let is_called = sigmoid(x) >= counts.threshold;
                counts.present += u64::from(is_present);
                counts.called += u64::from(is_called);
                counts.hits += u64::from(is_present && is_called);
                is_exact &= is_present == is_called;
            }
            self.exact += u64::from(is_exact);
            self.rows += 1;
        }
        self.loss += added;
        added
    }

    fn metrics(&self, labels: &[String]) -> Metrics {
        let of_label = |(name, counts): (&String, &LabelCounts)| {
            of_label(name, counts.hits, counts.called, counts.present, Some(counts.threshold))
        };
        let each: Vec<LabelMetrics> = labels.iter().zip(&self.labels).map(of_label).collect();
        let total = |of: fn(&LabelCounts) -> u64| self.labels.iter().map(of).sum();
        let (hits, called) = (total(|label| label.hits), total(|label| label.called));
        let micro = rates(hits, called, total(|label| label.present));
        Metrics {
            loss: share(self.loss, self.rows as f64),
            accuracy: share(self.exact as f64, self.rows as f64),
            f1: mean(&each, |label| label.f1),
            recall: mean(&each, |label| label.recall),
            precision: mean(&each, |label| label.precision),
            rows: self.rows,
            labels: each,
            micro: Some(micro),
        }
    }
}

fn of_label(name: &str, hits: u64, called: u64, present: u64, threshold: Option<f32>) -> LabelMetrics {
    let Average { precision, recall, f1 } = rates(hits, called, present);
    LabelMetrics { label: name.to_owned(), precision, recall, f1, rows: present, threshold }
}

fn rates(hits: u64, called: u64, present: u64) -> Average {
    let (hits, called, present) = (hits as f64, called as f64, present as f64);
    Average {
        precision: share(hits, called),
        recall: share(hits, present),
        f1: share(2.0 * hits, called + present),
    }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

fn mean(labels: &[LabelMetrics], of: impl Fn(&LabelMetrics) -> f64) -> f64 {
    share(labels.iter().map(of).sum::<f64>(), labels.len() as f64)
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
        let mut tally = Tally::new(Kind::SingleLabel, labels);
        for &(right, predicted) in pairs {
            let mut row = vec![0.0; labels];
            row[predicted as usize] = 2.0;
            tally.add(&[row], &Targets::Classes(vec![right]));
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
        assert_eq!(tally.called(), [2, 6]);
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
        let mut one = Tally::new(Kind::SingleLabel, 2);
        one.add(&[a.clone(), b.clone(), c.clone()], &Targets::Classes(vec![0, 1, 1]));
        let mut two = Tally::new(Kind::SingleLabel, 2);
        two.add(&[a], &Targets::Classes(vec![0]));
        two.add(&[b, c], &Targets::Classes(vec![1, 1]));
        assert_eq!(one.metrics(&names(2), 1), two.metrics(&names(2), 1));
    }

    /// scikit-learn 1.9: precision_recall_fscore_support with average="macro" and "micro", zero_division=0, and
    /// accuracy_score, of y = [[1,0,0],[1,1,0],[0,0,0],[0,1,0]] and calls = [[1,0,0],[1,0,1],[0,0,0],[1,1,0]].
    #[test]
    fn several_labels_give_both_means_and_the_share_of_exact_rows() {
        let sets = vec![vec![0], vec![0, 1], vec![], vec![1]];
        let calls = [[1.0, -1.0, -1.0], [1.0, -1.0, 1.0], [-1.0, -1.0, -1.0], [1.0, 1.0, -1.0]];
        let mut tally = Tally::new(Kind::MultiLabel, 3);
        tally.add(&calls.map(Vec::from), &Targets::Sets(sets));
        let metrics = tally.metrics(&names(3), 1);
        assert_eq!((metrics.accuracy, metrics.rows), (0.5, 4));
        assert!((metrics.precision - (2.0 / 3.0 + 1.0 + 0.0) / 3.0).abs() < 1e-12);
        assert!((metrics.recall - (1.0 + 0.5 + 0.0) / 3.0).abs() < 1e-12);
        assert!((metrics.f1 - (0.8 + 2.0 / 3.0 + 0.0) / 3.0).abs() < 1e-12);
        let micro = metrics.micro.unwrap();
        assert!((micro.precision - 0.6).abs() < 1e-12 && (micro.recall - 0.75).abs() < 1e-12);
        assert!((micro.f1 - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(metrics.labels[1].threshold, Some(0.5));
    }

    #[test]
    fn a_label_is_called_from_its_threshold_on() {
        let mut tally = Tally::with_thresholds(&[0.5, 0.2]);
        tally.add(&[vec![0.0, -1.0]], &Targets::Sets(vec![vec![0, 1]]));
        assert_eq!(tally.metrics(&names(2), 1).accuracy, 1.0);
    }

    #[test]
    fn a_count_comes_back_from_json_as_it_was() {
        for kind in [Kind::SingleLabel, Kind::MultiLabel] {
            let tally = Tally::new(kind, 3);
            let json = serde_json::to_string(&tally).unwrap();
            assert_eq!(serde_json::from_str::<Tally>(&json).unwrap(), tally);
        }
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
