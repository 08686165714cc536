//! What numbers say about a run that goes wrong without failing: too few steps to learn from, rates that never rise,
//! answers that are all the same, a loss above that of guessing. Nothing here decides; it only tells.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::event::{EpochMetrics, Metrics};
use super::schedule::Schedule;
use super::spec::Hyperparameters;
use hone_engine::targets::Targets;

/// Fewer optimizer steps than this seldom train an encoder.
const FEW_STEPS: u64 = 100;

/// Steps before a loss that has not moved says something.
const ENOUGH_STEPS: u64 = 50;

/// Names in a sentence at most.
const NAMES: usize = 5;

/// What is told of a run before its first step.
pub(super) fn before(of: &Hyperparameters, schedule: &Schedule) -> Vec<String> {
    let (total, warmup, peak) = (schedule.total_steps(), schedule.warmup_steps(), schedule.peak());
    let mut told = Vec::new();
    if total < FEW_STEPS {
        told.push(format!(
            "the whole job has only {}, which is seldom enough to learn from: raise `epochs` (now {}), or lower \
             `batch_size` (now {}){}",
            plural(total, "optimizer step", "optimizer steps"),
            of.epochs,
            of.batch_size,
            match of.gradient_accumulation.get() {
                1 => String::new(),
                steps => format!(" or `gradient_accumulation` (now {steps})"),
            }
        ));
    }
    if warmup >= total && total > 0 {
        told.push(format!(
            "the warm-up has {warmup} steps and the job {total}: the rate never reaches {peak}; it ends at {}; shorten \
             the warm-up (`warmup_steps`, `warmup_ratio` or `warmup_epochs`), or raise `epochs`",
            short(schedule.rate(total - 1))
        ));
    }
    told
}

/// Why a run cannot learn anything at all, if so.
pub(super) fn no_rate(schedule: &Schedule) -> Option<String> {
    let (total, warmup) = (schedule.total_steps(), schedule.warmup_steps());
    (total > 0 && !schedule.has_rate()).then(|| {
        format!(
            "the warm-up of {} takes the whole job of {}, and its first step has the learning rate 0, so nothing would \
             be learned: use `warmup_steps = 0`, or raise `epochs`",
            plural(warmup, "step", "steps"),
            plural(total, "step", "steps"),
        )
    })
}

/// What an epoch is judged by.
pub(super) struct Evidence<'a> {
    /// How the job trains.
    pub(super) of: &'a Hyperparameters,
    /// Every epoch so far; the last one is judged.
    pub(super) epochs: &'a [EpochMetrics],
    /// How often each label was called in the validation rows.
    pub(super) called: &'a [u64],
    /// The loss of guessing by the label frequencies of training, over the training rows.
    pub(super) train_guess: f64,
    /// The same, over the validation rows.
    pub(super) validation_guess: f64,
    /// Typical gradient norms at the job's begin and at this epoch's end.
    pub(super) norms: Option<(f64, f64)>,
    /// Whether a row has one label.
    pub(super) one_label: bool,
}

/// What was told of the epoch before, which is not told again of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Finding {
    OneAnswer,
    NeverCalled,
    WorseThanGuessing,
    NothingLearned,
    Norms,
}

/// What is told of an epoch: each finding where it begins, and in the last epoch what holds then.
pub(super) fn after(evidence: &Evidence<'_>, told: &mut BTreeSet<Finding>) -> Vec<String> {
    let Some(epoch) = evidence.epochs.last() else { return Vec::new() };
    let found: Vec<(Finding, String)> =
        [answers(evidence), guessing(evidence), nothing_learned(evidence), norms(evidence)]
            .into_iter()
            .flatten()
            .collect();
    let before = std::mem::replace(told, found.iter().map(|(finding, _)| *finding).collect());
    let is_last = epoch.epoch == epoch.epochs;
    let new = found.into_iter().filter(|(finding, _)| is_last || !before.contains(finding));
    new.map(|(_, words)| format!("epoch {}: {words}", epoch.epoch)).collect()
}

fn answers(evidence: &Evidence<'_>) -> Option<(Finding, String)> {
    let epoch = evidence.epochs.last()?;
    let labels = &epoch.validation.labels;
    let rows = epoch.validation.rows;
    let missed: Vec<(&str, u64)> = labels
        .iter()
        .zip(evidence.called)
        .filter(|(label, called)| **called == 0 && label.rows > 0)
        .map(|(label, _)| (label.label.as_str(), label.rows))
        .collect();
    if missed.is_empty() {
        return None;
    }
    let most = labels.iter().max_by_key(|label| label.rows)?;
    let share = format!(
        "{} has {:.0}% of the validation rows, so an accuracy near that says nothing",
        quoted(&most.label),
        100.0 * most.rows as f64 / rows.max(1) as f64
    );
    let mut called = labels.iter().zip(evidence.called).filter(|(_, called)| **called > 0);
    let only = called.next().filter(|_| called.next().is_none() && evidence.one_label);
    let Some((only, _)) = only else {
        let never = match evidence.one_label {
            true => format!("never predicted: {} ({share})", named(&missed)),
            false => format!("never set in the validation rows: {}", named(&missed)),
        };
        let way = "`class_weights = balanced`, `metric = f1` and more `epochs` help";
        return Some((Finding::NeverCalled, format!("{never}; {way}")));
    };
    let rate = evidence.of.learning_rate;
    let told_apart = evidence.epochs.iter().rev().skip(1).find(|epoch| hits(&epoch.validation) > 1);
    let why = match told_apart {
        Some(earlier) => format!(
            "epoch {} still told labels apart, so training has collapsed: lower `learning_rate` (now {rate}){}",
            earlier.epoch,
            if evidence.of.max_grad_norm.is_none() { " and clip with `max_grad_norm = 1`" } else { "" }
        ),
        None => format!(
            "never predicted: {} ({share}); train longer (`epochs`), use `class_weights = balanced`, or {}",
            named(&missed),
            lower(rate).unwrap_or_else(|| format!("change `learning_rate` (now {rate})"))
        ),
    };
    Some((
        Finding::OneAnswer,
        format!("the model answers {} for all {rows} validation rows; {why}", quoted(&only.label)),
    ))
}

/// What helps where a rate is above the usual.
fn lower(rate: f64) -> Option<String> {
    (rate > 1e-4).then(|| format!("lower `learning_rate` (now {rate}, usual is 1e-5 to 5e-5)"))
}

/// Labels of which some rows were found.
fn hits(metrics: &Metrics) -> usize {
    metrics.labels.iter().filter(|label| label.recall > 0.0).count()
}

fn guessing(evidence: &Evidence<'_>) -> Option<(Finding, String)> {
    let (loss, guess) = (evidence.epochs.last()?.validation.loss, evidence.validation_guess);
    // Twice, because an overfitted model that is right most of the time may be somewhat above.
    (guess > 0.0 && loss > 2.0 * guess && loss > guess + 0.5).then(|| {
        (
            Finding::WorseThanGuessing,
            format!(
                "the validation loss {} is far above {}, that of guessing by how frequent each label is: training \
                 diverges or overfits; lower `learning_rate` (now {}) or `epochs`",
                short(loss),
                short(guess),
                evidence.of.learning_rate
            ),
        )
    })
}

fn nothing_learned(evidence: &Evidence<'_>) -> Option<(Finding, String)> {
    let epoch = evidence.epochs.last()?;
    let (train, validation) = (epoch.train.loss, epoch.validation.loss);
    let near = |loss: f64, guess: f64| guess > 0.0 && (0.95 * guess..1.1 * guess).contains(&loss);
    let is_flat = epoch.step >= ENOUGH_STEPS
        && near(train, evidence.train_guess)
        && near(validation, evidence.validation_guess);
    let rate = evidence.of.learning_rate;
    let way = lower(rate).unwrap_or_else(|| format!("raise `epochs` or `learning_rate` (now {rate})"));
    let classes = epoch.validation.labels.len();
    let flat = match evidence.one_label {
        true => format!(" (with {classes} labels as frequent as each other it would be ln {classes})"),
        false => String::new(),
    };
    is_flat.then(|| {
        (
            Finding::NothingLearned,
            format!(
                "the loss is {} in training and {} in validation, as much as guessing by how frequent each label is \
                 gives, {}{flat}: nothing was learned so far; {way}",
                short(train),
                short(validation),
                short(evidence.train_guess)
            ),
        )
    })
}

fn norms(evidence: &Evidence<'_>) -> Option<(Finding, String)> {
    let (first, last) = evidence.norms?;
    (last > 100.0 * first.max(1.0)).then(|| {
        let clipping = match evidence.of.max_grad_norm {
            Some(bound) => format!("each step is clipped to {bound}, which hides it"),
            None => "nothing clips them; `max_grad_norm = 1` does".to_owned(),
        };
        let rate = evidence.of.learning_rate;
        let words = format!(
            "gradient norms grew from {} to {} ({clipping}): training diverges; lower `learning_rate` (now {rate})",
            short(first),
            short(last)
        );
        (Finding::Norms, words)
    })
}

/// The gradient norms of a job's steps: those of its begin, and the last ones of the epoch under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Norms {
    first: Vec<f64>,
    last: VecDeque<f64>,
    /// Steps of the epoch under way.
    steps: usize,
}

impl Norms {
    /// Steps of the job's begin, and of an epoch's end.
    const STEPS: usize = 10;

    pub(super) fn add(&mut self, norm: f64) {
        if self.first.len() < Self::STEPS {
            self.first.push(norm);
        }
        if self.last.len() == Self::STEPS {
            self.last.pop_front();
        }
        self.last.push_back(norm);
        self.steps += 1;
    }

    /// Medians, which single steps do not move, of the begin and of the end of the epoch, which is over with this.
    pub(super) fn end_epoch(&mut self) -> Option<(f64, f64)> {
        let last: Vec<f64> = std::mem::take(&mut self.last).into();
        let steps = Self::STEPS.min(std::mem::take(&mut self.steps).div_ceil(4));
        let first = self.first.get(..steps.min(self.first.len()))?;
        let last = last.get(last.len() - steps..)?;
        Some((median(first)?, median(last)?))
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// The mean loss over `rows` of the one answer that gives each label the frequency that it has in `train`.
pub(super) fn loss_of_guessing(train: &Targets, rows: &Targets, labels: usize) -> f64 {
    let (seen, asked) = (train.counts(labels), rows.counts(labels));
    let (of, total) = (train.len() as f64, rows.len() as f64);
    if total == 0.0 {
        return 0.0;
    }
    // A label that training lacks counts as half a row there: guessing never says that anything is impossible.
    let frequency = |count: u64| ((count as f64).max(0.5) / of.max(1.0)).min(1.0);
    let pairs = seen.into_iter().zip(asked).map(|(seen, asked)| (seen, asked as f64));
    match rows {
        Targets::Classes(_) => pairs.map(|(seen, asked)| -asked * frequency(seen).ln()).sum::<f64>() / total,
        Targets::Sets(_) => {
            let binary = |(seen, asked): (u64, f64)| {
                let absent = frequency((of as u64).saturating_sub(seen));
                -asked * frequency(seen).ln() - (total - asked) * absent.ln()
            };
            pairs.map(binary).sum::<f64>() / (total * labels.max(1) as f64)
        }
    }
}

/// Which number of these metrics is not finite.
pub fn not_finite(metrics: &Metrics) -> Option<(&'static str, f64)> {
    let numbers = [
        ("loss", metrics.loss),
        ("accuracy", metrics.accuracy),
        ("F1", metrics.f1),
        ("recall", metrics.recall),
        ("precision", metrics.precision),
    ];
    let of_labels = metrics.labels.iter().flat_map(|label| {
        let threshold = label.threshold.map_or(0.0, f64::from);
        [("recall", label.recall), ("precision", label.precision), ("F1", label.f1), ("threshold", threshold)]
    });
    numbers.into_iter().chain(of_labels).find(|(_, value)| !value.is_finite())
}

/// A number that is not finite, in words.
pub fn in_words(value: f64) -> &'static str {
    match (value.is_nan(), value > 0.0) {
        (true, _) => "NaN (not a number)",
        (_, true) => "infinite",
        _ => "minus infinity",
    }
}

fn named(labels: &[(&str, u64)]) -> String {
    let names = labels
        .iter()
        .take(NAMES)
        .map(|(label, rows)| format!("{} ({})", quoted(label), plural(*rows, "row", "rows")));
    let names = names.collect::<Vec<_>>().join(", ");
    match labels.len().saturating_sub(NAMES) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

fn quoted(label: &str) -> String {
    format!("'{label}'")
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Three digits or so.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if (1e-2..1e4).contains(&size) => format!("{value:.3}"),
        _ => format!("{value:.2e}"),
    }
}

#[cfg(test)]
mod tests;
