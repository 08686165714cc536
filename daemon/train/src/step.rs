//! One optimizer step, and what must not come out of it.

use super::ahead::MicroBatch;
use super::diagnosis;
use super::evaluate::in_rows;
use super::event::Metrics;
use super::run::{Halt, Run};
use hone_base::error::{Error, Kind, Result};
use hone_engine::kernels::calls::give_way;
use hone_engine::model::finite;
use hone_engine::model::noise::{Mode, Noise};

/// One optimizer step.
pub(super) struct Step {
    /// Mean of its examples.
    pub(super) loss: f64,
    /// The learning rate.
    pub(super) rate: f64,
    /// Before clipping.
    pub(super) gradient_norm: f64,
    /// Of its batches.
    pub(super) tokens: u64,
}

impl Run<'_> {
    /// One optimizer step over a window of micro-batches.
    pub(super) fn step(&mut self, window: &[MicroBatch]) -> Result<Step, Halt> {
        let (objective, labels) = (&self.plan.objective, self.plan.labels.names().len());
        let (mut loss, mut rows, mut tokens) = (0.0, 0, 0);
        let mut passed = Vec::with_capacity(window.len());
        for (index, MicroBatch { batch, targets }) in window.iter().enumerate() {
            self.cancel.check()?;
            give_way();
            let mode = Mode::Train(self.noise(index as u64));
            let logits = self.model.forward(batch, mode)?;
            let micro = objective.evaluate(&logits, targets);
            self.check_finite(micro.mean, "loss")?;
            passed.push((in_rows(&logits, labels), targets));
            loss += micro.mean * targets.len() as f64;
            rows += targets.len();
            tokens += batch.tokens() as u64;
            let share = 1.0 / window.len() as f32;
            self.model.backward(&micro.gradient.iter().map(|grad| grad * share).collect::<Vec<f32>>())?;
        }
        if rows == 0 {
            return Err(Error::internal("a step without a batch").into());
        }
        // Counted once nothing can end the run before the step is done. Of examples that pass twice, the first pass counts.
        for (logits, targets) in passed {
            let plain = self.position.tally.add(&logits, targets);
            self.check_finite(plain, "loss")?;
        }
        let rate = self.schedule.rate(self.position.step);
        let gradient_norm = self.model.step(rate)?;
        self.check_finite(gradient_norm, "gradient")?;
        self.position.norms.add(gradient_norm);
        if let Some(average) = &mut self.average {
            average.add(self.model.parameters()?)?;
        }
        self.position.step += 1;
        self.position.step_in_epoch += 1;
        Ok(Step { loss: loss / rows as f64, rate, gradient_norm, tokens })
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

    pub(super) fn head_dropout(&self) -> f64 {
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
    pub(super) fn check_weights(&mut self, which: &str) -> Result<()> {
        let Some(found) = finite::in_parameters(self.model.parameters()?) else { return Ok(()) };
        let (step, epoch) = (self.position.step, self.position.epoch + 1);
        Err(self.diverged(&format!("after step {step} (epoch {epoch}) the {which}weight {found}")))
    }

    pub(super) fn check_metrics(&self, metrics: &Metrics, of: &str, epoch: u32) -> Result<()> {
        let Some((what, value)) = diagnosis::not_finite(metrics) else { return Ok(()) };
        Err(self.diverged(&format!("the {of} {what} of epoch {epoch} is {value}")))
    }

    fn diverged(&self, what: &str) -> Error {
        let rate = self.hyperparameters().learning_rate;
        Error::new(
            Kind::Precondition,
            format!("{what}: training diverged; lower `learning_rate` (now {rate})"),
        )
    }
}
