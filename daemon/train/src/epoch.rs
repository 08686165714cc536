//! What ends an epoch: its validation, whether its checkpoint is kept, and what is odd about it.

use std::time::Instant;

use super::diagnosis::{self, Evidence, loss_of_guessing};
use super::evaluate::{Pass, evaluate};
use super::event::{EpochMetrics, Metrics, Split, TrainEvent};
use super::metrics::{Tally, is_better};
use super::pace::Spent;
use super::retention;
use super::run::{Halt, Run};
use super::spec::Keep;
use super::state::Kept;
use hone_base::error::Result;
use hone_data::sample::{SAMPLE, Sample};
use hone_engine::batch::Batch;
use hone_engine::model::backend::Threads;
use hone_engine::model::checkpoint;
use hone_engine::model::classifier::Classifier;
use hone_engine::model::config::HeadConfig;
use hone_engine::targets::Targets;

/// The training part of an epoch.
pub(super) struct Trained {
    pub(super) metrics: Metrics,
    pub(super) spent: Spent,
}

impl Run<'_> {
    /// Ends an epoch: judges the weights in place by the validation rows. Returns what is told of it besides.
    pub(super) fn judge(
        &mut self,
        trained: Trained,
        started: Instant,
    ) -> Result<(EpochMetrics, Vec<String>), Halt> {
        if self.average.is_some() {
            self.check_weights("averaged ")?;
        }
        let Pass { tally, mut logits } = self.evaluate(Split::Validation, None)?;
        let called = tally.called();
        let validation = self.metrics(&tally);
        let recorded = self.hyperparameters().precision.compute(self.device)?.precision().into();
        let of_row = |row: usize| logits.get_mut(row).map(std::mem::take);
        let sample = self.prepared.sample.judged(recorded, of_row);
        self.check_metrics(&validation, "validation", self.position.epoch + 1)?;
        let epoch = self.end_epoch(trained, validation, &sample, started)?;
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
            norms: self.position.norms.end_epoch(),
            one_label: matches!(train, Targets::Classes(_)),
        };
        diagnosis::after(&evidence, &mut self.position.told)
    }

    pub(super) fn metrics(&self, tally: &Tally) -> Metrics {
        tally.metrics(self.plan.labels.names(), self.plan.positive)
    }

    pub(super) fn new_tally(&self) -> Tally {
        Tally::new(self.plan.objective.kind, self.plan.labels.names().len())
    }

    /// Counts a split with the model that learns, or with another one.
    pub(super) fn evaluate(&mut self, split: Split, other: Option<&Classifier>) -> Result<Pass, Halt> {
        let tally = self.new_tally();
        let Some(rows) = self.prepared.rows(split) else { return Ok(Pass { tally, logits: Vec::new() }) };
        let (labels, count) = (self.plan.labels.names().len(), rows.tokens.len() as u64);
        let (model, emit, cancel) = (&mut self.model, &mut self.emit, &self.cancel);
        let mut answer = |batch: &Batch| {
            cancel.check()?;
            match other {
                Some(other) => other.logits(batch, Threads::All),
                None => model.evaluate(batch),
            }
        };
        let mut progress = |rows_done| emit.tell(TrainEvent::Evaluation { split, rows_done, rows: count });
        let given = other.and_then(Classifier::thresholds);
        let ended = evaluate(rows, tally, labels, given, self.throttle, &mut answer, &mut progress)?;
        ended.ok_or(Halt::Stopped)
    }

    /// Counts the epoch and keeps its checkpoint, when it is to be kept.
    fn end_epoch(
        &mut self,
        trained: Trained,
        validation: Metrics,
        sample: &Sample,
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
            seconds: trained.spent.seconds + started.elapsed().as_secs_f64(),
            train_seconds: trained.spent.seconds,
            steps_per_second: trained.spent.steps_per_second(),
            tokens_per_second: trained.spent.tokens_per_second(),
            best,
            step: self.position.step,
        };
        self.position.epochs.push(epoch.clone());
        self.position.step_in_epoch = 0;
        self.position.spent = Spent::default();
        self.position.tally = self.new_tally();
        if best || self.hyperparameters().keep == Keep::Last {
            self.keep_checkpoint(&epoch.validation, sample)?;
        }
        Ok(epoch)
    }

    /// Writes the epoch that has just ended as the kept checkpoint, with the thresholds that its validation chose and
    /// what it gave for a sample of the rows.
    fn keep_checkpoint(&mut self, validation: &Metrics, sample: &Sample) -> Result<()> {
        let epoch = self.position.epoch;
        let thresholds: Option<Vec<f32>> = validation.labels.iter().map(|label| label.threshold).collect();
        let head = HeadConfig {
            labels: self.plan.labels.names(),
            thresholds: thresholds.as_deref(),
            dropout: self.head_dropout(),
        };
        let weights_sha256 = retention::write(self.workspace, epoch, |folder| {
            let config = self.model.config.clone();
            let digest = checkpoint::write(folder, &config, &head, self.model.parameters()?)?;
            self.plan.tokenizer.write_files(&self.plan.encoder, folder)?;
            if !sample.rows.is_empty() {
                checkpoint::write_file(&folder.join(SAMPLE), &sample.to_json()?)?;
            }
            Ok(digest)
        })?;
        self.position.kept = Some(Kept { epoch, weights_sha256 });
        Ok(())
    }
}
