//! The training loop: epochs and what ends each of them.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::Device;
use serde_json::json;

use super::admission::admit;
use super::ahead::ahead;
use super::control::Control;
use super::diagnosis;
use super::epoch::Trained;
use super::event::{EpochMetrics, Split, StepMetrics, TestMetrics, TrainEvent};
use super::metrics::Tally;
use super::pace::{Pace, Spent};
use super::plan::Plan;
use super::prepare::{Prepared, prepare};
use super::retention;
use super::schedule::Schedule;
use super::seen::Emitter;
use super::spec::Hyperparameters;
use super::state::{Kept, Loaded, Moment, Numbers, Position, Positions, Saver};
use super::step::Step;
use hone_base::cancel::{Cancel, Reason};
use hone_base::error::{Error, Kind, Result};
use hone_engine::batch::epoch_order;
use hone_engine::model::average::Average;
use hone_engine::model::backend::{Saved, State};
use hone_engine::model::checkpoint::{self, Checkpoint};
use hone_engine::model::classifier::{Classifier, Setup, Trainable};
use hone_engine::model::declaration::Declaration;

/// What stands before the names of tensors in a saved position: of the parameters, both moments, and the average.
const VALUES: &str = "";
const FIRST: &str = "m.";
const SECOND: &str = "v.";
const AVERAGE: &str = "average.";

/// How a run ended, when it did not fail.
#[derive(Debug)]
pub enum Outcome {
    /// All epochs are done.
    Finished(Box<Finished>),
    /// It was asked to end. The position is in the workspace, unless the reason is [`Reason::Cancelled`].
    Stopped,
}

/// What a finished run leaves.
#[derive(Clone, Debug)]
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

/// Where events go; it may ask to end.
pub(super) type Emit<'a> = &'a mut dyn FnMut(TrainEvent) -> ControlFlow<()>;

/// Why a run ends before its time.
pub(super) enum Halt {
    Stopped,
    Failed(Error),
}

impl<E: Into<Error>> From<E> for Halt {
    fn from(error: E) -> Self {
        let error = error.into();
        if error.kind() == Kind::Cancelled { Self::Stopped } else { Self::Failed(error) }
    }
}

/// Trains. Everything that happens goes through `emit`, but for what `control` says that the log has. When `emit` breaks
/// or the token of `control` is asked, the run ends between two micro-batches or batches of an evaluation, its position
/// saved. A workspace with a saved position continues from there: to the same weights, bit for bit, and the same events
/// but for times. `workspace` is the job's own folder. The texts of the plan are freed once they are tokens. Blocking;
/// runs on the current rayon pool.
///
/// # Errors
/// Fails when training diverges, the encoder cannot be read, or a checkpoint cannot be written. A position that cannot be
/// read or written is a notice.
pub fn run(
    mut plan: Plan,
    device: &Device,
    workspace: &Path,
    control: Control,
    emit: &mut dyn FnMut(TrainEvent) -> ControlFlow<()>,
) -> Result<Outcome> {
    match Run::start(&mut plan, device, workspace, control, emit).and_then(Run::complete) {
        Ok(finished) => Ok(Outcome::Finished(Box::new(finished))),
        Err(Halt::Stopped) => Ok(Outcome::Stopped),
        Err(Halt::Failed(error)) => Err(error),
    }
}

pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) device: &'a Device,
    pub(super) workspace: &'a Path,
    pub(super) emit: Emitter<'a>,
    pub(super) cancel: Cancel,
    pub(super) throttle: Duration,
    pub(super) prepared: Prepared,
    pub(super) schedule: Schedule,
    pub(super) model: Trainable,
    pub(super) average: Option<Average>,
    pub(super) position: Position,
    saver: Saver,
}

impl<'a> Run<'a> {
    pub(super) fn start(
        plan: &'a mut Plan,
        device: &'a Device,
        workspace: &'a Path,
        control: Control,
        emit: Emit<'a>,
    ) -> Result<Self, Halt> {
        let Control { cancel, seen, throttle } = control;
        let schedule = plan.schedule();
        cancel.check()?;
        let encoder = Checkpoint::open(&plan.encoder)?;
        cancel.check()?;
        let declaration = Declaration::new(&encoder.config().architecture, plan.labels.names().len());
        let learning = plan.spec.hyperparameters.workload().learning(&declaration);
        let prepared = prepare(plan, &encoder, learning, schedule.warmup_steps(), device, &cancel)?;
        let plan: &Plan = plan;
        let of = &plan.spec.hyperparameters;
        // What was read is there; what training takes is asked for before it is taken.
        let lengths = prepared.train.tokens.iter().map(|tokens| tokens.ids.len());
        admit(&plan.host, plan, &declaration, device, lengths, 0)?;
        let mut model = Trainable::start(&encoder, plan.labels.names(), &setup(of, device)?, device)?;
        drop(encoder);
        let Loaded { positions, found, refused } = Positions::load(workspace, &plan.spec, &cancel)?;
        let decay = of.methods.ema_decay;
        let (position, average) = match found {
            Some((position, tensors)) => {
                let parameters = model.parameters()?;
                let [values, m, v] = [VALUES, FIRST, SECOND].map(|of| parameters.gather(of, &tensors));
                let saved = Saved { step: position.step, values: values?, moments: [m?, v?] };
                let average = match decay {
                    Some(decay) => Some(Average::restore(decay, parameters.gather(AVERAGE, &tensors)?)),
                    None => None,
                };
                model.restore(saved)?;
                (position, average)
            }
            None => (
                Position::start(&plan.spec, Tally::new(plan.objective.kind, plan.labels.names().len())),
                match decay {
                    Some(decay) => Some(Average::new(decay, model.parameters()?)),
                    None => None,
                },
            ),
        };
        let saver = Saver::new(positions, of.checkpoint_every, position.step);
        let emit = Emitter::new(emit, seen, cancel.clone(), position.epoch);
        let mut run = Self {
            plan,
            device,
            workspace,
            emit,
            cancel,
            throttle,
            prepared,
            schedule,
            model,
            average,
            position,
            saver,
        };
        run.begin(&refused)?;
        Ok(run)
    }

    /// Tells what is known before the first step.
    fn begin(&mut self, refused: &[String]) -> Result<(), Halt> {
        self.tell(TrainEvent::Prepared(self.prepared.report.clone()))?;
        for message in diagnosis::before(self.hyperparameters(), &self.schedule) {
            self.tell(TrainEvent::Notice { message })?;
        }
        for why in refused {
            let from = match self.position.step {
                0 => "the beginning".to_owned(),
                step => format!("step {step}, the position before"),
            };
            let message = format!("a saved position cannot be used: {why}; the job continues from {from}");
            self.tell(TrainEvent::Notice { message })?;
        }
        Ok(())
    }

    fn tell(&mut self, event: TrainEvent) -> Result<(), Halt> {
        if self.emit.tell(event).is_break() { Err(Halt::Stopped) } else { Ok(()) }
    }

    fn complete(mut self) -> Result<Finished, Halt> {
        while !self.is_done() {
            if let Err(halt) = self.epoch() {
                // Nobody goes on with a job that was cancelled, so that one does not wait for the disk.
                if matches!(halt, Halt::Stopped) && self.cancel.reason() != Some(Reason::Cancelled) {
                    self.save_if_due(Moment::Last)?;
                    self.saver.wait();
                    self.tell_failure();
                }
                return Err(halt);
            }
        }
        self.finish()
    }

    fn epoch(&mut self) -> Result<(), Halt> {
        let trained = self.train_epoch()?;
        let started = Instant::now();
        self.check_weights("")?;
        // What is judged and kept is the average, where there is one.
        self.swap_average()?;
        let ended = self.judge(trained, started);
        self.swap_average()?;
        let (epoch, notices) = ended?;
        // All of it is told, and only then does a position say that the epoch is over.
        let notices = notices.into_iter().map(|message| TrainEvent::Notice { message });
        let mut is_asked = false;
        for event in std::iter::once(TrainEvent::Epoch(epoch)).chain(notices) {
            is_asked |= self.emit.tell(event).is_break();
        }
        if self.is_done() {
            return self.save_if_due(Moment::Last);
        }
        if is_asked {
            return Err(Halt::Stopped);
        }
        self.save_if_due(Moment::Epoch)
    }

    pub(super) fn hyperparameters(&self) -> &'a Hyperparameters {
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
        let order = epoch_order(self.prepared.train.tokens.len(), of.seed, self.position.epoch);
        let batches: Vec<&[usize]> = order.chunks(of.batch_size.get() as usize).collect();
        let windows = batches.chunks(of.gradient_accumulation.get() as usize);
        let mut pace = Pace::new();
        let mut total = Pace::after(self.position.spent);
        let windows = windows.skip(self.position.step_in_epoch as usize);
        let rows = self.prepared.train.clone();
        ahead(&rows, self.plan.objective.passes(), windows, |windows| {
            for window in windows {
                let step = self.step(&window)?;
                pace.add(step.tokens);
                total.add(step.tokens);
                self.position.spent = total.spent();
                let is_last = self.position.step_in_epoch == self.plan.steps_per_epoch();
                if pace.started.elapsed() >= self.throttle || is_last {
                    let event = self.step_event(&step, pace.spent());
                    pace = Pace::new();
                    self.tell(event)?;
                }
                self.save_if_due(Moment::Step)?;
            }
            Ok::<_, Halt>(())
        })?;
        Ok(Trained { metrics: self.metrics(&self.position.tally), spent: self.position.spent })
    }

    /// Has the position saved, if one is due, while the run goes on.
    fn save_if_due(&mut self, moment: Moment) -> Result<(), Halt> {
        if self.saver.is_due(self.position.step, moment) {
            let State { parameters, moments: [m, v], .. } = self.model.state()?;
            let average = self.average.as_ref().map(|average| (AVERAGE, average.values()));
            let sections = [(VALUES, &**parameters.values()), (FIRST, m), (SECOND, v)];
            let sections = sections.into_iter().chain(average);
            let numbers = Numbers { list: parameters.list(), sections: sections.collect() };
            self.saver.save(&self.position, &numbers);
        }
        self.tell_failure();
        Ok(())
    }

    /// Tells why a position could not be saved, and whether all is well. The job goes on in any case: it only loses more
    /// when it is cut off.
    fn tell_failure(&mut self) -> bool {
        let Some(error) = self.saver.failure() else { return true };
        if self.cancel.reason() == Some(Reason::Cancelled) {
            // That is why, and nobody goes on.
            return false;
        }
        let message = format!(
            "the position could not be saved: {error}; the job goes on, but if it is cut off it continues from an earlier \
             step"
        );
        // Whether to end is asked again before the next step.
        let _ = self.emit.tell(TrainEvent::Notice { message });
        false
    }

    /// Puts the average in the place of the weights, and the weights in its place; a second time puts both back.
    fn swap_average(&mut self) -> Result<()> {
        match &mut self.average {
            Some(average) => self.model.exchange(average.values_mut()),
            None => Ok(()),
        }
    }

    fn step_event(&self, step: &Step, pace: Spent) -> TrainEvent {
        TrainEvent::Step(StepMetrics {
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

    /// Scores the kept checkpoint, as it is on disk, and describes it.
    fn finish(mut self) -> Result<Finished, Halt> {
        self.cancel.check()?;
        let kept = self.position.kept.clone();
        let of = |kept: Kept| Some((self.position.epochs.get(kept.epoch as usize - 1)?.clone(), kept));
        let Some((epoch, Kept { weights_sha256, .. })) = kept.and_then(of) else {
            return Err(Error::internal("the run kept no checkpoint").into());
        };
        let folder = retention::folder(self.workspace, epoch.epoch);
        let test = match &self.plan.test {
            Some(_) => {
                let started = Instant::now();
                let classifier = Classifier::load(&folder, self.device)?;
                let tally = self.evaluate(Split::Test, Some(&classifier))?.tally;
                let metrics = self.metrics(&tally);
                self.check_metrics(&metrics, "test", epoch.epoch)?;
                let test =
                    TestMetrics { metrics, epoch: epoch.epoch, seconds: started.elapsed().as_secs_f64() };
                let _ = self.emit.tell(TrainEvent::Test(test.clone()));
                Some(test)
            }
            None => None,
        };
        self.saver.wait();
        if self.tell_failure() {
            // No position that a crash would lead back to names another one.
            retention::forget(self.workspace, self.position.epoch, &[Some(epoch.epoch)]);
        }
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
        optimizer: of.optimizer_settings(),
        checkpointing: methods.gradient_checkpointing,
        freeze_embeddings: methods.freeze_embeddings,
        freeze_layers: methods.freeze_layers as usize,
        reinit_layers: methods.reinit_layers as usize,
    })
}
