//! What a job would need, before it has the device: a report on its data, its memory by shapes, and its time by a few
//! steps whose result is thrown away.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::Device;

use super::event::{Prepared, Split};
use super::memory::{Count, Memory};
use super::plan::Plan;
use super::prepare::prepare;
use super::run::Rehearsal;
use super::schedule::Schedule;
use crate::data::batch::epoch_order;
use crate::error::Result;
use crate::model::checkpoint::Checkpoint;

/// How long the steps may take, all together, as far as the ones before tell.
const BUDGET: Duration = Duration::from_secs(4);

/// Steps that are measured at most, the first of which counts only when it stays the only one.
const STEPS: usize = 4;

/// Tokens of the step that comes before them, so that nothing is measured that happens once.
const WARM_UP_TOKENS: usize = 256;

/// Rows that the steps have at most, all together: they are tokenized while the device is held.
const ROWS: usize = 2048;

/// A pass without gradients over tokens takes this share of a training step over them, if nothing better is known.
const FORWARD_SHARE: f64 = 1.0 / 3.0;

/// What a job would need.
#[derive(Clone, Debug, PartialEq)]
pub struct DryRun {
    /// The data as the job would use it.
    pub prepared: Prepared,
    /// By shapes.
    pub memory: Memory,
    /// By a few steps; `None` when they could not be made.
    pub time: Option<Time>,
    /// What the user should know.
    pub notices: Vec<String>,
}

/// The time of a job, as a few steps let expect it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Time {
    /// Steps that were measured.
    pub steps: u32,
    /// Of a training step.
    pub tokens_per_second: f64,
    /// Of training.
    pub steps_per_second: f64,
    /// One epoch, its evaluation included.
    pub epoch_seconds: f64,
    /// Training in all epochs.
    pub train_seconds: f64,
    /// All evaluations, that of the test file included.
    pub evaluation_seconds: f64,
}

/// What is known of a job without the device.
pub struct Study {
    plan: Plan,
    report: DryRun,
    /// Tokens of each training row.
    lengths: Vec<usize>,
}

impl Study {
    /// Reads the plan's rows. Blocking; runs on the current rayon pool.
    pub fn new(plan: Plan, device: &Device) -> Result<Self> {
        let of = &plan.spec.hyperparameters;
        let encoder = Checkpoint::open(&plan.encoder)?;
        let architecture = &encoder.config().architecture;
        let labels = plan.labels.names().len();
        let learning = Count::of(architecture, labels, &of.methods).learning;
        let warmup = Schedule::new(of, plan.total_steps(), plan.steps_per_epoch()).warmup_steps();
        let prepared = prepare(&plan, &encoder, learning, warmup, device)?;
        let lengths: Vec<usize> = prepared.train.tokens.iter().map(|tokens| tokens.ids.len()).collect();
        let memory = Memory::of(architecture, labels, of, lengths.iter().copied());
        let report = DryRun { prepared: prepared.report, memory, time: None, notices: Vec::new() };
        Ok(Self { plan, report, lengths })
    }

    /// Makes the steps and extrapolates their time to the whole job. Ends early when `stop` says so. `nowhere` is a
    /// folder that does not exist: nothing is read from it or written to it. Blocking; runs on the current rayon pool.
    pub fn rehearse(&mut self, device: &Device, nowhere: &Path, stop: &dyn Fn() -> bool) {
        match self.measure(device, nowhere, stop) {
            Ok(Some(pace)) => self.report.time = Some(self.extrapolate(pace)),
            Ok(None) => self.note("a job began to wait for the device, so no step was measured"),
            // The job would meet the same: that is worth more than a time.
            Err(error) => self.note(format!("the first steps failed: {error}")),
        }
    }

    /// Adds something that the user should know.
    pub fn note(&mut self, notice: impl Into<String>) {
        self.report.notices.push(notice.into());
    }

    /// What was found out.
    pub fn into_report(self) -> DryRun {
        self.report
    }

    fn measure(&self, device: &Device, nowhere: &Path, stop: &dyn Fn() -> bool) -> Result<Option<Pace>> {
        let of = &self.plan.spec.hyperparameters;
        let order = epoch_order(self.lengths.len(), of.seed, 0);
        let window = (of.batch_size.get() as usize).saturating_mul(of.gradient_accumulation.get() as usize);
        // A part of the first epoch, so that no more is tokenized again than is used.
        let rows: Vec<usize> = order.into_iter().take(window.saturating_mul(STEPS).min(ROWS)).collect();
        let lengths: Vec<usize> = rows.iter().filter_map(|&row| self.lengths.get(row).copied()).collect();
        let plan = self.plan.excerpt(&rows);
        let mut ignore = |_| ControlFlow::Continue(());
        let mut rehearsal = Rehearsal::start(&plan, device, nowhere, &mut ignore)?;
        let all: Vec<usize> = (0..rows.len()).collect();
        let micro_batch = of.batch_size.get() as usize;
        let mut step = |rows: &[usize]| -> Result<Pace> {
            let started = Instant::now();
            let tokens = rehearsal.step(&rows.chunks(micro_batch).collect::<Vec<_>>())?;
            Ok(Pace { steps: 1, tokens, seconds: started.elapsed().as_secs_f64(), forward: None })
        };

        if stop() {
            return Ok(None);
        }
        let started = Instant::now();
        let mut last = step(fitting(&all, &lengths, WARM_UP_TOKENS as f64))?;
        let mut measured: Vec<Pace> = Vec::new();
        let mut passed: &[usize] = &[];
        for (done, window) in all.chunks(window).enumerate() {
            let left = BUDGET.saturating_sub(started.elapsed()).as_secs_f64();
            if stop() || left <= 0.0 {
                break;
            }
            let affordable = left / (STEPS - done) as f64 * last.tokens_per_second();
            passed = fitting(window, &lengths, affordable);
            last = step(passed)?;
            measured.push(last);
        }
        let mut pace = if measured.is_empty() { last } else { sum(measured) };
        if !passed.is_empty() && !stop() && started.elapsed() < BUDGET {
            let first = passed.chunks(micro_batch).next().unwrap_or_default();
            let started = Instant::now();
            let tokens = rehearsal.evaluate(first)?;
            pace.forward = Some(tokens as f64 / started.elapsed().as_secs_f64().max(1e-9));
        }
        Ok(Some(pace))
    }

    fn extrapolate(&self, pace: Pace) -> Time {
        let prepared = &self.report.prepared;
        let tokens = |split: Split| -> f64 {
            let of_split = prepared.splits.iter().filter(|report| report.split == split);
            of_split.map(|report| report.total_tokens as f64).sum()
        };
        let epochs = f64::from(self.plan.spec.hyperparameters.epochs.get());
        let train = tokens(Split::Train) / pace.tokens_per_second();
        let forward = pace.forward.unwrap_or(pace.tokens_per_second() / FORWARD_SHARE);
        let validation = tokens(Split::Validation) / forward;
        Time {
            steps: pace.steps,
            tokens_per_second: pace.tokens_per_second(),
            steps_per_second: prepared.steps_per_epoch as f64 / train.max(1e-9),
            epoch_seconds: train + validation,
            train_seconds: epochs * train,
            evaluation_seconds: epochs * validation + tokens(Split::Test) / forward,
        }
    }
}

/// Steps, their tokens and their time.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    steps: u32,
    tokens: u64,
    seconds: f64,
    /// Tokens a second without gradients, where that was measured.
    forward: Option<f64>,
}

impl Pace {
    fn tokens_per_second(&self) -> f64 {
        self.tokens.max(1) as f64 / self.seconds.max(1e-9)
    }

    fn and(self, other: &Self) -> Self {
        Self {
            steps: self.steps + other.steps,
            tokens: self.tokens + other.tokens,
            seconds: self.seconds + other.seconds,
            forward: self.forward,
        }
    }
}

/// What the steps say together. The first one counts only when it is the only one, and one that had to be much smaller
/// than another says little.
fn sum(mut steps: Vec<Pace>) -> Pace {
    if steps.len() > 1 {
        steps.remove(0);
    }
    let largest = steps.iter().map(|step| step.tokens).max().unwrap_or_default();
    steps.iter().filter(|step| 2 * step.tokens >= largest).fold(Pace::default(), Pace::and)
}

/// The first of the rows that together have at most so many tokens, and one at least.
fn fitting<'a>(rows: &'a [usize], lengths: &[usize], tokens: f64) -> &'a [usize] {
    let mut sum = 0;
    let fit = rows.iter().take_while(|&&row| {
        sum += lengths.get(row).copied().unwrap_or_default();
        sum as f64 <= tokens
    });
    let count = fit.count().max(1);
    rows.get(..count).unwrap_or(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_as_many_rows_as_fit_and_one_at_least() {
        let (rows, lengths) = ([0, 1, 2, 3], [5, 5, 9, 1]);
        assert_eq!(fitting(&rows, &lengths, 10.0), [0, 1]);
        assert_eq!(fitting(&rows, &lengths, 19.5), [0, 1, 2]);
        assert_eq!(fitting(&rows, &lengths, 1e9), rows);
        assert_eq!(fitting(&rows, &lengths, 0.0), [0]);
        assert!(fitting(&[], &lengths, 10.0).is_empty());
    }

    #[test]
    fn steps_of_one_size_count_together_but_for_the_first() {
        let step = |tokens, seconds| Pace { steps: 1, tokens, seconds, forward: None };
        let pace = sum(vec![step(300, 9.0), step(10, 1.0), step(300, 1.0), step(200, 1.0)]);
        assert_eq!((pace.steps, pace.tokens_per_second()), (2, 250.0));
        assert_eq!(sum(vec![step(300, 9.0)]).seconds, 9.0);
    }
}
