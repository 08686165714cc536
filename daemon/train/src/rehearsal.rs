//! What a job would need, before it has the device: a report on its data, its memory by shapes, and its time by a few
//! steps whose result is thrown away.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use candle_core::Device;

use super::admission::admit;
use super::ahead::MicroBatch;
use super::control::Control;
use super::diagnosis;
use super::event::{Prepared, Split};
use super::plan::Plan;
use super::prepare::prepare;
use super::run::{Emit, Halt, Run};
use hone_base::cancel::Cancel;
use hone_base::error::{Error, Kind, Result};
use hone_engine::batch::epoch_order;
use hone_engine::model::backend;
use hone_engine::model::checkpoint::{self, Checkpoint};
use hone_engine::model::declaration::Declaration;
use hone_engine::model::memory::Memory;

/// How long the steps may take, all together, as far as the ones before tell.
const BUDGET: Duration = Duration::from_secs(4);

/// Steps over as many rows as can be afforded, at most.
const STEPS: usize = 4;

/// Tokens of the step that comes before all others, so that nothing is measured that happens once.
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

/// Rows of a step.
fn window(plan: &Plan) -> usize {
    let of = &plan.spec.hyperparameters;
    (of.batch_size.get() as usize).saturating_mul(of.gradient_accumulation.get() as usize)
}

/// The training rows of the first steps, so many that no more is tokenized again than is used.
fn first_rows(plan: &Plan) -> Vec<usize> {
    let order = epoch_order(plan.train.targets.len(), plan.spec.hyperparameters.seed, 0);
    order.into_iter().take(window(plan).saturating_mul(STEPS).min(ROWS)).collect()
}

/// What is known of a job without the device.
pub struct Study {
    plan: Plan,
    report: DryRun,
    /// A part of the first epoch, from its begin, until its texts are tokens.
    excerpt: Option<Plan>,
    /// Tokens of each training row of the excerpt.
    lengths: Vec<usize>,
}

impl Study {
    /// Reads the plan's rows. Blocking; runs on the current rayon pool.
    ///
    /// # Errors
    /// Fails when a text has no tokens or the encoder cannot be read, and with [`Kind::Cancelled`] when `cancel` is asked.
    pub fn new(mut plan: Plan, device: &Device, cancel: &Cancel) -> Result<Self> {
        let encoder = Checkpoint::open(&plan.encoder)?;
        let declaration = Declaration::new(&encoder.config().architecture, plan.labels.names().len());
        let workload = plan.spec.hyperparameters.workload();
        let learning = workload.learning(&declaration);
        let schedule = plan.schedule();
        let rows = first_rows(&plan);
        let excerpt = Some(plan.excerpt(&rows));
        let prepared = prepare(&mut plan, &encoder, learning, schedule.warmup_steps(), device, cancel)?;
        let of = &plan.spec.hyperparameters;
        let all: Vec<usize> = prepared.train.tokens.iter().map(|tokens| tokens.ids.len()).collect();
        let lengths = rows.iter().filter_map(|&row| all.get(row).copied()).collect();
        let compute = of.precision.compute(device)?;
        let platform = backend::on(device)?;
        platform.check(&declaration, compute.precision())?;
        let memory = platform.estimate(&declaration, &workload, compute, &mut all.into_iter());
        let report = DryRun {
            prepared: prepared.report,
            memory,
            time: None,
            notices: diagnosis::before(of, &schedule),
        };
        Ok(Self { plan, report, excerpt, lengths })
    }

    /// Makes the steps and extrapolates their time to the whole job. Ends early when `stop` says so. `nowhere` is a
    /// folder that does not exist: nothing is read from it or written to it. Ends too when `cancel` is asked, and nobody
    /// reads the report then. Blocking; runs on the current rayon pool.
    pub fn rehearse(&mut self, device: &Device, nowhere: &Path, cancel: &Cancel, stop: &dyn Fn() -> bool) {
        if let Err(error) = self.fits(device) {
            return self
                .note(format!("no step was measured, because a job like this would be refused: {error}"));
        }
        match self.measure(device, nowhere, cancel, stop) {
            Ok(Some(cost)) => self.report.time = Some(self.extrapolate(cost)),
            Ok(None) => self.note("a job began to wait for the device, so no step was measured"),
            // The job would meet the same: that is worth more than a time.
            Err(error) => self.note(format!("the first steps failed: {error}")),
        }
    }

    /// What is odd about the encoder.
    pub fn encoder_notices(&self) -> Vec<String> {
        self.plan.tokenizer.notices().to_vec()
    }

    /// Adds something that the user should know.
    pub fn note(&mut self, notice: impl Into<String>) {
        self.report.notices.push(notice.into());
    }

    /// What was found out.
    pub fn into_report(self) -> DryRun {
        self.report
    }

    fn fits(&self, device: &Device) -> Result<()> {
        let encoder = checkpoint::check(&self.plan.encoder)?;
        let declaration = Declaration::new(&encoder.architecture, self.plan.labels.names().len());
        let lengths = self.lengths.iter().copied();
        admit(&self.plan.host, &self.plan, &declaration, device, lengths, 0)
    }

    fn measure(
        &mut self,
        device: &Device,
        nowhere: &Path,
        cancel: &Cancel,
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<Cost>> {
        let Some(mut plan) = self.excerpt.take() else { return Ok(None) };
        let (lengths, window) = (&self.lengths, window(&plan));
        let mut ignore = |_| ControlFlow::Continue(());
        let mut rehearsal = Rehearsal::start(&mut plan, device, nowhere, cancel, &mut ignore)?;
        let of = &self.plan.spec.hyperparameters;
        let all: Vec<usize> = (0..lengths.len()).collect();
        let micro_batch = of.batch_size.get() as usize;
        let mut step = |rows: &[usize]| -> Result<Sample> {
            let started = Instant::now();
            let tokens = rehearsal.step(&rows.chunks(micro_batch).collect::<Vec<_>>())?;
            Ok(Sample { tokens, seconds: started.elapsed().as_secs_f64() })
        };

        if stop() {
            return Ok(None);
        }
        let started = Instant::now();
        let first = all.chunks(window).next().unwrap_or_default();
        let warm_up = step(fitting(first, lengths, WARM_UP_TOKENS as f64))?;
        let small = step(fitting(first, lengths, 0.0))?;
        let mut pace = warm_up.tokens_per_second().max(small.tokens_per_second());
        let (mut large, mut passed): (Vec<Sample>, &[usize]) = (Vec::new(), &[]);
        for (done, window) in all.chunks(window).take(STEPS).enumerate() {
            let left = BUDGET.saturating_sub(started.elapsed()).as_secs_f64();
            if stop() || left <= 0.0 {
                break;
            }
            passed = fitting(window, lengths, left / (STEPS - done) as f64 * pace);
            let sample = step(passed)?;
            pace = sample.tokens_per_second();
            large.push(sample);
        }
        let mut cost = Cost::of(small, large);
        if !passed.is_empty() && !stop() && started.elapsed() < BUDGET {
            let first = passed.chunks(micro_batch).next().unwrap_or_default();
            let started = Instant::now();
            let tokens = rehearsal.evaluate(first)?;
            cost.forward = started.elapsed().as_secs_f64() / tokens.max(1) as f64;
        }
        Ok(Some(cost))
    }

    fn extrapolate(&self, cost: Cost) -> Time {
        let prepared = &self.report.prepared;
        let tokens = |split: Split| -> f64 {
            let of_split = prepared.splits.iter().filter(|report| report.split == split);
            of_split.map(|report| report.total_tokens as f64).sum()
        };
        let epochs = f64::from(self.plan.spec.hyperparameters.epochs.get());
        let steps = prepared.steps_per_epoch as f64;
        let train = steps * cost.step + tokens(Split::Train) * cost.token;
        let validation = tokens(Split::Validation) * cost.forward;
        Time {
            steps: cost.steps,
            tokens_per_second: tokens(Split::Train) / train.max(1e-9),
            steps_per_second: steps / train.max(1e-9),
            epoch_seconds: train + validation,
            train_seconds: epochs * train,
            evaluation_seconds: epochs * validation + tokens(Split::Test) * cost.forward,
        }
    }
}

/// A run whose steps are thrown away: nothing is logged, evaluated or written.
struct Rehearsal<'a>(Run<'a>);

impl<'a> Rehearsal<'a> {
    /// Gets ready as a run does. `nowhere` is a folder that does not exist.
    fn start(
        plan: &'a mut Plan,
        device: &'a Device,
        nowhere: &'a Path,
        cancel: &Cancel,
        emit: Emit<'a>,
    ) -> Result<Self> {
        let control = Control { cancel: cancel.clone(), ..Control::default() };
        match Run::start(plan, device, nowhere, control, emit) {
            Ok(run) => Ok(Self(run)),
            Err(Halt::Failed(error)) => Err(error),
            Err(Halt::Stopped) => Err(stopped()),
        }
    }

    /// One optimizer step over a window of micro-batches of training rows; returns its tokens once it is done.
    fn step(&mut self, window: &[&[usize]]) -> Result<u64> {
        let passes = self.0.plan.objective.passes();
        let rows = &self.0.prepared.train;
        let window: Vec<MicroBatch> =
            window.iter().map(|which| MicroBatch::pack(rows, which, passes)).collect();
        let step = self.0.step(&window).map_err(|halt| match halt {
            Halt::Failed(error) => error,
            Halt::Stopped => stopped(),
        })?;
        self.0.device.synchronize()?;
        Ok(step.tokens)
    }

    /// A pass without gradients over training rows; returns its tokens once it is done.
    fn evaluate(&mut self, rows: &[usize]) -> Result<u64> {
        let batch = self.0.prepared.train.batch(rows, 1);
        self.0.model.evaluate(&batch)?;
        Ok(batch.tokens() as u64)
    }
}

fn stopped() -> Error {
    Error::new(Kind::Cancelled, "the steps were stopped")
}

/// One step that was measured.
#[derive(Clone, Copy, Debug)]
struct Sample {
    tokens: u64,
    seconds: f64,
}

impl Sample {
    fn tokens_per_second(&self) -> f64 {
        self.tokens.max(1) as f64 / self.seconds.max(1e-9)
    }
}

/// What training costs, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cost {
    /// Steps that were measured.
    steps: u32,
    /// Of a step, however small.
    step: f64,
    /// Of each token of a step.
    token: f64,
    /// Of each token of a pass without gradients.
    forward: f64,
}

impl Cost {
    /// By a step over one row and steps over as much as could be afforded. The first of those counts only when it is
    /// the only one, and one that had to be much smaller than another says little.
    fn of(small: Sample, mut large: Vec<Sample>) -> Self {
        if large.len() > 1 {
            large.remove(0);
        }
        let most = large.iter().map(|sample| sample.tokens).max().unwrap_or_default();
        large.retain(|sample| 2 * sample.tokens >= most);
        let steps = large.len();
        let mean = |value: fn(&Sample) -> f64| large.iter().map(value).sum::<f64>() / steps.max(1) as f64;
        let (tokens, seconds) = (mean(|sample| sample.tokens as f64), mean(|sample| sample.seconds));
        let (few, quick) = (small.tokens as f64, small.seconds);
        let (step, token) = if steps == 0 {
            (0.0, 1.0 / small.tokens_per_second())
        } else if tokens < 2.0 * few || seconds <= quick {
            // Too close together to tell what belongs to the step and what to its tokens.
            (0.0, seconds / tokens.max(1.0))
        } else {
            let token = ((seconds - quick) / (tokens - few)).min(seconds / tokens);
            (seconds - token * tokens, token)
        };
        Self { steps: steps.max(1) as u32, step, token, forward: token * FORWARD_SHARE }
    }
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

    fn sample(tokens: u64, seconds: f64) -> Sample {
        Sample { tokens, seconds }
    }

    #[test]
    fn what_a_step_costs_is_told_from_what_its_tokens_cost() {
        let large = vec![sample(300, 9.0), sample(10, 1.0), sample(300, 1.75), sample(200, 1.25)];
        let cost = Cost::of(sample(50, 0.5), large);
        assert_eq!((cost.steps, cost.step, cost.token), (2, 0.25, 0.005));
    }

    #[test]
    fn steps_of_one_size_are_counted_by_tokens_alone() {
        let cost = Cost::of(sample(100, 1.0), vec![sample(120, 9.0), sample(120, 1.2)]);
        assert_eq!((cost.steps, cost.step, cost.token), (1, 0.0, 0.01));
        let only = Cost::of(sample(100, 1.0), vec![]);
        assert_eq!((only.steps, only.step, only.token), (1, 0.0, 0.01));
    }
}
