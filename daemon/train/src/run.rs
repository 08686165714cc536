//! The training loop.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::Device;
use serde_json::json;

use super::ahead::{MicroBatch, ahead};
use super::diagnosis::{self, Evidence, Finding, Norms, loss_of_guessing};
use super::evaluate::{evaluate, in_rows};
use super::event::{EpochMetrics, Event, Metrics, Split, StepMetrics, TestMetrics};
use super::metrics::{Tally, is_better};
use super::pace::Pace;
use super::plan::Plan;
use super::prepare::{Prepared, prepare};
use super::schedule::Schedule;
use super::spec::{Hyperparameters, Keep};
use super::state::{self, Position};
use hone_base::digest;
use hone_base::error::{Error, Kind, Result};
use hone_engine::batch::{Batch, epoch_order};
use hone_engine::model::average::Average;
use hone_engine::model::checkpoint::{self, Checkpoint};
use hone_engine::model::classifier::{Classifier, Setup, Trainable};
use hone_engine::model::config::HeadConfig;
use hone_engine::model::finite;
use hone_engine::model::noise::{Mode, Noise};
use hone_engine::model::optimizer::Optimizer;
use hone_engine::targets::Targets;

/// Events of one sort are this far apart at least.
const THROTTLE: Duration = Duration::from_millis(250);

/// How a run ended, when it did not fail.
#[derive(Debug)]
pub enum Outcome {
    /// All epochs are done.
    Finished(Box<Finished>),
    /// `emit` asked to stop; the position is in the workspace.
    Stopped,
}

/// What a finished run leaves.
#[derive(Debug)]
pub struct Finished {
    /// The kept checkpoint: a folder inside the workspace, in Hugging Face layout, `hone.json` included.
    pub folder: PathBuf,
    /// SHA-256 of its `model.safetensors`.
    pub weights_sha256: String,
    /// The kept epoch.
    pub epoch: EpochMetrics,
    /// The test result, when there was a test file.
    pub test: Option<TestMetrics>,
    /// In class order.
    pub labels: Vec<String>,
    /// Tokens of a sequence at most, special tokens included.
    pub max_length: u32,
}

/// Where events go; it may ask to stop.
type Emit<'a> = &'a mut dyn FnMut(Event) -> ControlFlow<()>;

/// Why a run ends before its time.
enum Halt {
    Stopped,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Trains. Everything that happens goes through `emit`, which may ask to stop; the run then stops at the next step,
/// its position saved. A workspace with a saved position continues from there, bit for bit. `workspace` is the job's
/// own folder. Blocking; runs on the current rayon pool.
pub fn run(plan: &Plan, device: &Device, workspace: &Path, emit: Emit<'_>) -> Result<Outcome> {
    match Run::start(plan, device, workspace, emit).and_then(Run::complete) {
        Ok(finished) => Ok(Outcome::Finished(Box::new(finished))),
        Err(Halt::Stopped) => Ok(Outcome::Stopped),
        Err(Halt::Failed(error)) => Err(error),
    }
}

struct Run<'a> {
    plan: &'a Plan,
    device: &'a Device,
    workspace: &'a Path,
    emit: Emit<'a>,
    prepared: Prepared,
    schedule: Schedule,
    model: Trainable,
    optimizer: Optimizer,
    average: Option<Average>,
    position: Position,
    norms: Norms,
    /// What was told of the epoch before.
    told: BTreeSet<Finding>,
}

impl<'a> Run<'a> {
    fn start(plan: &'a Plan, device: &'a Device, workspace: &'a Path, emit: Emit<'a>) -> Result<Self, Halt> {
        let of = &plan.spec.hyperparameters;
        let schedule = plan.schedule();
        let encoder = Checkpoint::open(&plan.encoder)?;
        let mut model = Trainable::start(&encoder, plan.labels.names(), &setup(of, device)?, device)?;
        let prepared = prepare(plan, &encoder, model.learning(), schedule.warmup_steps(), device)?;
        let (position, optimizer, average) = match state::load(workspace, &plan.spec, &mut model)? {
            Some(saved) => saved,
            None => (
                Position::start(&plan.spec, Tally::new(plan.objective.kind, plan.labels.names().len())),
                Optimizer::new(&of.optimizer_settings(), model.parameters()),
                of.methods.ema_decay.map(|decay| Average::new(decay, model.parameters())),
            ),
        };
        if emit(Event::Prepared(prepared.report.clone())).is_break() {
            return Err(Halt::Stopped);
        }
        if position.step == 0 {
            for message in diagnosis::before(of, &schedule) {
                let _ = emit(Event::Notice { message });
            }
        }
        let (norms, told) = (Norms::default(), BTreeSet::new());
        Ok(Self {
            plan,
            device,
            workspace,
            emit,
            prepared,
            schedule,
            model,
            optimizer,
            average,
            position,
            norms,
            told,
        })
    }

    fn complete(mut self) -> Result<Finished, Halt> {
        while !self.is_done() {
            if let Err(halt) = self.epoch() {
                if matches!(halt, Halt::Stopped) {
                    self.save()?;
                }
                return Err(halt);
            }
        }
        self.finish()
    }

    fn epoch(&mut self) -> Result<(), Halt> {
        let started = Instant::now();
        let trained = self.train_epoch()?;
        self.settle()?;
        self.check_weights("")?;
        // What is judged and kept is the average, where there is one.
        self.swap_average();
        let ended = self.judge(trained, started);
        self.swap_average();
        let (epoch, notices) = ended?;
        self.save()?;
        self.forget_before();
        let notices = notices.into_iter().map(|message| Event::Notice { message });
        for event in std::iter::once(Event::Epoch(epoch)).chain(notices) {
            if (self.emit)(event).is_break() && !self.is_done() {
                return Err(Halt::Stopped);
            }
        }
        Ok(())
    }

    /// Ends an epoch: judges the weights in place by the validation rows. Returns what is told of it besides.
    fn judge(&mut self, trained: Trained, started: Instant) -> Result<(EpochMetrics, Vec<String>), Halt> {
        if self.average.is_some() {
            self.check_weights("averaged ")?;
        }
        let validation = self.evaluate(Split::Validation, None)?;
        let called = validation.called();
        let validation = self.metrics(&validation);
        self.check_metrics(&validation, "validation", self.position.epoch + 1)?;
        let epoch = self.end_epoch(trained, validation, started)?;
        let notices = self.diagnose(&called);
        Ok((epoch, notices))
    }

    fn diagnose(&mut self, called: &[u64]) -> Vec<String> {
        let labels = self.plan.labels.names().len();
        let (train, validation) = (&self.plan.train.targets, &self.plan.validation.targets);
        let evidence = Evidence {
            of: self.hyperparameters(),
            epochs: &self.position.epochs,
            called,
            train_guess: loss_of_guessing(train, train, labels),
            validation_guess: loss_of_guessing(train, validation, labels),
            norms: self.norms.end_epoch(),
            one_label: matches!(train, Targets::Classes(_)),
        };
        diagnosis::after(&evidence, &mut self.told)
    }

    fn hyperparameters(&self) -> &'a Hyperparameters {
        &self.plan.spec.hyperparameters
    }

    /// Whether all epochs are done, or the last ones brought nothing.
    fn is_done(&self) -> bool {
        let best = self.position.epochs.iter().rposition(|epoch| epoch.best);
        let without_gain = best.map_or(0, |best| self.position.epochs.len() - 1 - best);
        let patience =
            self.hyperparameters().early_stopping.map_or(usize::MAX, |epochs| epochs.get() as usize);
        self.position.epoch >= self.hyperparameters().epochs.get() || without_gain >= patience
    }

    fn train_epoch(&mut self) -> Result<Trained, Halt> {
        let of = self.hyperparameters();
        let order = epoch_order(self.plan.train.examples.len(), of.seed, self.position.epoch);
        let batches: Vec<&[usize]> = order.chunks(of.batch_size.get() as usize).collect();
        let windows = batches.chunks(of.gradient_accumulation.get() as usize);
        let mut pace = Pace::new();
        let mut total = Pace::new();
        let windows = windows.skip(self.position.step_in_epoch as usize);
        let rows = self.prepared.train.clone();
        ahead(&rows, self.plan.objective.passes(), windows, |windows| {
            for window in windows {
                let step = self.step(&window)?;
                pace.add(step.tokens);
                total.add(step.tokens);
                let is_last = self.position.step_in_epoch == self.plan.steps_per_epoch();
                if pace.started.elapsed() >= THROTTLE || is_last {
                    let event = self.step_event(&step, &pace);
                    pace = Pace::new();
                    if (self.emit)(event).is_break() {
                        return Err(Halt::Stopped);
                    }
                }
            }
            Ok(())
        })?;
        Ok(Trained {
            metrics: self.metrics(&self.position.tally),
            seconds: total.started.elapsed().as_secs_f64(),
            steps_per_second: total.steps_per_second(),
            tokens_per_second: total.tokens_per_second(),
        })
    }

    /// One optimizer step over a window of micro-batches.
    fn step(&mut self, window: &[MicroBatch]) -> Result<Step, Halt> {
        let (objective, labels) = (&self.plan.objective, self.plan.labels.names().len());
        let (mut loss, mut rows, mut tokens) = (0.0, 0, 0);
        for (index, MicroBatch { batch, targets }) in window.iter().enumerate() {
            let mode = Mode::Train(self.noise(index as u64));
            self.optimizer.refresh(&mut self.model, &batch.ids)?;
            let logits = self.model.forward(batch, mode)?;
            let micro = objective.evaluate(&logits, targets);
            // Of examples that pass twice, the first pass counts.
            let plain = self.position.tally.add(&in_rows(&logits, labels), targets);
            self.check_finite(plain + micro.mean, "loss")?;
            loss += micro.mean * targets.len() as f64;
            rows += targets.len();
            tokens += batch.tokens() as u64;
            let share = 1.0 / window.len() as f32;
            self.model.backward(&micro.gradient.iter().map(|grad| grad * share).collect::<Vec<f32>>())?;
        }
        if rows == 0 {
            return Err(Error::internal("a step without a batch").into());
        }
        let rate = self.schedule.rate(self.position.step);
        let gradient_norm = self.optimizer.step(&mut self.model, rate)?;
        self.check_finite(gradient_norm, "gradient")?;
        self.norms.add(gradient_norm);
        if self.average.is_some() {
            self.settle()?;
        }
        if let Some(average) = &mut self.average {
            average.add(self.model.parameters())?;
        }
        self.position.step += 1;
        self.position.step_in_epoch += 1;
        Ok(Step { loss: loss / rows as f64, rate, gradient_norm, tokens })
    }

    /// Brings every parameter up to date.
    fn settle(&mut self) -> Result<()> {
        self.optimizer.settle(&mut self.model)
    }

    fn save(&mut self) -> Result<()> {
        self.settle()?;
        let average = self.average.as_ref();
        state::save(self.workspace, &self.position, self.model.parameters(), &self.optimizer, average)
    }

    fn swap_average(&mut self) {
        if let Some(average) = &mut self.average {
            self.model.change(false, |parameters, _| average.swap(parameters));
        }
    }

    /// The dropout of micro-batch `index` of the step that comes next.
    fn noise(&self, index: u64) -> Noise {
        let of = self.hyperparameters();
        let architecture = &self.model.config.architecture;
        Noise {
            seed: of.seed,
            position: self.position.step * u64::from(of.gradient_accumulation.get()) + index,
            hidden: of.encoder_dropout.unwrap_or(architecture.hidden_dropout_prob),
            attention: of.encoder_dropout.unwrap_or(architecture.attention_probs_dropout_prob),
            head: self.head_dropout(),
        }
    }

    fn head_dropout(&self) -> f64 {
        self.hyperparameters().dropout.unwrap_or_else(|| self.model.config.architecture.head_dropout())
    }

    fn check_finite(&self, value: f64, what: &str) -> Result<()> {
        if value.is_finite() {
            return Ok(());
        }
        let (step, epoch) = (self.position.step + 1, self.position.epoch + 1);
        Err(self.diverged(&format!("the {what} became {value} at step {step} (epoch {epoch})")))
    }

    /// Refuses weights that are no numbers after an epoch's last step: nothing before need have shown it.
    fn check_weights(&self, which: &str) -> Result<()> {
        let Some(found) = finite::in_parameters(self.model.parameters()) else { return Ok(()) };
        let (step, epoch) = (self.position.step, self.position.epoch + 1);
        Err(self.diverged(&format!("after step {step} (epoch {epoch}) the {which}weight {found}")))
    }

    fn check_metrics(&self, metrics: &Metrics, of: &str, epoch: u32) -> Result<()> {
        let Some((what, value)) = diagnosis::not_finite(metrics) else { return Ok(()) };
        Err(self.diverged(&format!("the {of} {what} of epoch {epoch} is {value}")))
    }

    fn diverged(&self, what: &str) -> Error {
        let rate = self.hyperparameters().learning_rate;
        Error::new(Kind::Precondition, format!("{what}: training diverged; lower --lr (now {rate})"))
    }

    fn step_event(&self, step: &Step, pace: &Pace) -> Event {
        Event::Step(StepMetrics {
            step: self.position.step,
            total_steps: self.plan.total_steps(),
            epoch: self.position.epoch + 1,
            step_in_epoch: self.position.step_in_epoch,
            steps_per_epoch: self.plan.steps_per_epoch(),
            loss: step.loss,
            learning_rate: step.rate,
            gradient_norm: step.gradient_norm,
            steps_per_second: pace.steps_per_second(),
            tokens_per_second: pace.tokens_per_second(),
        })
    }

    fn metrics(&self, tally: &Tally) -> Metrics {
        tally.metrics(self.plan.labels.names(), self.plan.positive)
    }

    fn new_tally(&self) -> Tally {
        Tally::new(self.plan.objective.kind, self.plan.labels.names().len())
    }

    /// Counts a split with the model that learns, or with another one.
    fn evaluate(&mut self, split: Split, other: Option<&Classifier>) -> Result<Tally, Halt> {
        let tally = self.new_tally();
        let Some(rows) = self.prepared.rows(split) else { return Ok(tally) };
        let (labels, count) = (self.plan.labels.names().len(), rows.tokens.len() as u64);
        let (model, emit) = (&mut self.model, &mut self.emit);
        let mut answer = |batch: &Batch| match other {
            Some(other) => other.logits(batch),
            None => model.answer(batch),
        };
        let mut progress = |rows_done| emit(Event::Evaluation { split, rows_done, rows: count });
        let given = other.and_then(Classifier::thresholds);
        evaluate(rows, tally, labels, given, &mut answer, &mut progress)?.ok_or(Halt::Stopped)
    }

    /// Counts the epoch and keeps its checkpoint, when it is to be kept.
    fn end_epoch(
        &mut self,
        trained: Trained,
        validation: Metrics,
        started: Instant,
    ) -> Result<EpochMetrics, Halt> {
        let metric = self.hyperparameters().metric;
        let best_so_far = self.position.epochs.iter().rfind(|epoch| epoch.best);
        let best = best_so_far.is_none_or(|best| is_better(metric, &validation, &best.validation));
        let before = self.position.epochs.last().map(|epoch| epoch.validation.loss);
        self.position.epoch += 1;
        let epoch = EpochMetrics {
            epoch: self.position.epoch,
            epochs: self.hyperparameters().epochs.get(),
            train: trained.metrics,
            validation_loss_rose: before.is_some_and(|before| validation.loss > before),
            validation,
            seconds: started.elapsed().as_secs_f64(),
            train_seconds: trained.seconds,
            steps_per_second: trained.steps_per_second,
            tokens_per_second: trained.tokens_per_second,
            best,
            step: self.position.step,
        };
        self.position.epochs.push(epoch.clone());
        self.position.step_in_epoch = 0;
        self.position.tally = self.new_tally();
        if best || self.hyperparameters().keep == Keep::Last {
            self.keep_checkpoint(&epoch.validation)?;
        }
        Ok(epoch)
    }

    /// Removes the checkpoints of other epochs than the kept one. Only once the position is saved: until then the
    /// saved one names the checkpoint before.
    fn forget_before(&self) {
        let kept = self.position.kept;
        for epoch in (1..self.position.epoch).filter(|epoch| Some(*epoch) != kept) {
            let _ = std::fs::remove_dir_all(self.checkpoint_folder(epoch));
        }
    }

    fn checkpoint_folder(&self, epoch: u32) -> PathBuf {
        self.workspace.join(format!("epoch-{epoch}"))
    }

    /// Writes the epoch that has just ended as the kept checkpoint, with the thresholds that its validation chose.
    fn keep_checkpoint(&mut self, validation: &Metrics) -> Result<()> {
        let epoch = self.position.epoch;
        let folder = self.checkpoint_folder(epoch);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).map_err(|error| Error::io("create", &folder, &error))?;
        let thresholds: Option<Vec<f32>> = validation.labels.iter().map(|label| label.threshold).collect();
        let head = HeadConfig {
            labels: self.plan.labels.names(),
            thresholds: thresholds.as_deref(),
            dropout: self.head_dropout(),
        };
        checkpoint::write(&folder, &self.model.config, &head, self.model.parameters())?;
        self.plan.tokenizer.write_files(&self.plan.encoder, &folder)?;
        self.position.kept = Some(epoch);
        Ok(())
    }

    /// Scores the kept checkpoint, as it is on disk, and describes it.
    fn finish(mut self) -> Result<Finished, Halt> {
        let kept = self.position.kept.and_then(|kept| self.position.epochs.get(kept as usize - 1)).cloned();
        let Some(epoch) = kept else { return Err(Error::internal("the run kept no checkpoint").into()) };
        let folder = self.checkpoint_folder(epoch.epoch);
        let test = match &self.plan.test {
            Some(_) => {
                let started = Instant::now();
                let classifier = Classifier::load(&folder, self.device)?;
                let tally = self.evaluate(Split::Test, Some(&classifier))?;
                let metrics = self.metrics(&tally);
                self.check_metrics(&metrics, "test", epoch.epoch)?;
                let test =
                    TestMetrics { metrics, epoch: epoch.epoch, seconds: started.elapsed().as_secs_f64() };
                let _ = (self.emit)(Event::Test(test.clone()));
                Some(test)
            }
            None => None,
        };
        let weights = folder.join(checkpoint::WEIGHTS);
        let weights_sha256 = digest::of_file(&weights, checkpoint::WEIGHTS.into())?.sha256;
        let description = json!({
            "hone_version": env!("CARGO_PKG_VERSION"),
            "job": self.plan.spec,
            "data": self.prepared.report,
            "weights_sha256": weights_sha256,
            "kept_epoch": epoch.epoch,
            "epochs": self.position.epochs,
            "test": test,
        });
        checkpoint::write_file(&folder.join("hone.json"), format!("{description:#}\n").as_bytes())?;
        Ok(Finished {
            folder,
            weights_sha256,
            epoch,
            test,
            labels: self.plan.labels.names().to_vec(),
            max_length: self.plan.tokenizer.max_length() as u32,
        })
    }
}

/// How the model is set up.
fn setup(of: &Hyperparameters, device: &Device) -> Result<Setup> {
    let methods = &of.methods;
    Ok(Setup {
        seed: of.seed,
        compute: of.precision.compute(device)?,
        checkpointing: methods.gradient_checkpointing,
        freeze_embeddings: methods.freeze_embeddings,
        freeze_layers: methods.freeze_layers as usize,
        reinit_layers: methods.reinit_layers as usize,
    })
}

/// A run whose steps are thrown away: nothing is logged, evaluated or written.
pub(super) struct Rehearsal<'a>(Run<'a>);

impl<'a> Rehearsal<'a> {
    /// Gets ready as a run does. `nowhere` is a folder that does not exist.
    pub(super) fn start(
        plan: &'a Plan,
        device: &'a Device,
        nowhere: &'a Path,
        emit: Emit<'a>,
    ) -> Result<Self> {
        match Run::start(plan, device, nowhere, emit) {
            Ok(run) => Ok(Self(run)),
            Err(Halt::Failed(error)) => Err(error),
            Err(Halt::Stopped) => Err(Error::internal("a rehearsal was stopped before it began")),
        }
    }

    /// One optimizer step over a window of micro-batches of training rows; returns its tokens once it is done.
    pub(super) fn step(&mut self, window: &[&[usize]]) -> Result<u64> {
        let passes = self.0.plan.objective.passes();
        let rows = &self.0.prepared.train;
        let window: Vec<MicroBatch> =
            window.iter().map(|which| MicroBatch::pack(rows, which, passes)).collect();
        let step = self.0.step(&window).map_err(|halt| match halt {
            Halt::Failed(error) => error,
            Halt::Stopped => Error::internal("a step was stopped"),
        })?;
        self.0.device.synchronize()?;
        Ok(step.tokens)
    }

    /// A pass without gradients over training rows; returns its tokens once it is done.
    pub(super) fn evaluate(&mut self, rows: &[usize]) -> Result<u64> {
        let batch = self.0.prepared.train.batch(rows, 1);
        self.0.model.answer(&batch)?;
        Ok(batch.tokens() as u64)
    }
}

/// One optimizer step.
struct Step {
    loss: f64,
    rate: f64,
    gradient_norm: f64,
    tokens: u64,
}

/// The training part of an epoch.
struct Trained {
    metrics: Metrics,
    seconds: f64,
    steps_per_second: f64,
    tokens_per_second: f64,
}
