//! Jobs: how many are in which state, and how the one that runs goes.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Registry, Result};

use super::family::{counters, gauges, real_gauges};
use hone_storage::State;
use hone_train::event::TrainEvent;

/// All jobs.
#[derive(Debug)]
pub struct JobsMetrics {
    states: IntGaugeVec,
    steps: IntCounterVec,
    progress: GaugeVec,
    loss: GaugeVec,
    learning_rate: GaugeVec,
    steps_per_second: GaugeVec,
    tokens_per_second: GaugeVec,
    validation_loss: GaugeVec,
}

impl JobsMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self> {
        let of_job = |name, help| real_gauges(registry, name, help, &["model"]);
        Ok(Self {
            states: gauges(registry, "hone_jobs", "Jobs by state.", &["state"])?,
            steps: counters(
                registry,
                "hone_job_steps_total",
                "Optimizer steps that jobs have made, by the model that they train.",
                &["model"],
            )?,
            progress: of_job("hone_job_progress_ratio", "Share of the running job's steps that are done.")?,
            loss: of_job("hone_job_loss", "Training loss of the running job's last step.")?,
            learning_rate: of_job("hone_job_learning_rate", "Learning rate of the running job's last step.")?,
            steps_per_second: of_job("hone_job_steps_per_second", "Steps per second of the running job.")?,
            tokens_per_second: of_job("hone_job_tokens_per_second", "Tokens per second of the running job.")?,
            validation_loss: of_job(
                "hone_job_validation_loss",
                "Validation loss after the running job's last epoch.",
            )?,
        })
    }

    /// So many jobs are in a state.
    pub fn set(&self, state: State, jobs: usize) {
        self.states.with_label_values(&[state.name()]).set(i64::try_from(jobs).unwrap_or(i64::MAX));
    }

    /// A job for a model runs from now on, until what is returned is dropped. So many steps were made before.
    pub fn running<'a>(&'a self, model: &'a str, steps: u64) -> RunningJob<'a> {
        RunningJob { metrics: self, model, steps }
    }
}

/// The job that runs. What is told of it goes when this is dropped.
#[derive(Debug)]
pub struct RunningJob<'a> {
    metrics: &'a JobsMetrics,
    model: &'a str,
    /// Steps that were counted.
    steps: u64,
}

impl RunningJob<'_> {
    /// Training tells something.
    pub fn told(&mut self, event: &TrainEvent) {
        let (metrics, model) = (self.metrics, &[self.model]);
        match event {
            TrainEvent::Step(step) => {
                self.count(step.step);
                let progress = step.step as f64 / step.total_steps.max(1) as f64;
                metrics.progress.with_label_values(model).set(progress);
                metrics.loss.with_label_values(model).set(step.loss);
                metrics.learning_rate.with_label_values(model).set(step.learning_rate);
                metrics.steps_per_second.with_label_values(model).set(step.steps_per_second);
                metrics.tokens_per_second.with_label_values(model).set(step.tokens_per_second);
            }
            TrainEvent::Epoch(epoch) => {
                self.count(epoch.step);
                metrics.validation_loss.with_label_values(model).set(epoch.validation.loss);
            }
            _ => {}
        }
    }

    /// Events of steps are throttled: each counts those since the one before.
    fn count(&mut self, done: u64) {
        self.metrics.steps.with_label_values(&[self.model]).inc_by(done.saturating_sub(self.steps));
        self.steps = self.steps.max(done);
    }
}

impl Drop for RunningJob<'_> {
    fn drop(&mut self) {
        let JobsMetrics { progress, loss, learning_rate, steps_per_second, .. } = self.metrics;
        let JobsMetrics { tokens_per_second, validation_loss, .. } = self.metrics;
        let gauges = [progress, loss, learning_rate, steps_per_second, tokens_per_second, validation_loss];
        for gauge in gauges {
            // Only those that were told are there.
            let _ = gauge.remove_label_values(&[self.model]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;
    use hone_storage::testing::{epoch, step_metrics};

    #[test]
    fn steps_add_up_over_jobs_and_the_rest_goes_with_its_job() {
        let metrics = Metrics::new().unwrap();
        let mut job = metrics.jobs.running("reviews", 0);
        job.told(&TrainEvent::Step(step_metrics(3)));
        job.told(&TrainEvent::Step(step_metrics(7)));
        let is = |line: &str| assert!(metrics.render().contains(line), "{}", metrics.render());
        is("hone_job_steps_total{model=\"reviews\"} 7\n");
        is("hone_job_loss{model=\"reviews\"} ");
        drop(job);
        let mut resumed = metrics.jobs.running("reviews", 7);
        resumed.told(&TrainEvent::Step(step_metrics(9)));
        resumed.told(&TrainEvent::Epoch(epoch()));
        drop(resumed);
        assert!(!metrics.render().contains("hone_job_loss{"));
        assert!(!metrics.render().contains("hone_job_validation_loss{"));
        let steps = 9.max(epoch().step);
        is(&format!("hone_job_steps_total{{model=\"reviews\"}} {steps}\n"));
    }
}
