//! Jobs, from the domain to the wire.

use super::{Convert, Wire};
use hone::v1;
use hone::v1::hyperparameters::{CheckpointEvery as WireEvery, Warmup as WireWarmup};

use super::all;
use crate::jobs::registry::JobView;
use hone_train::spec::{
    CheckpointEvery, Hyperparameters, Keep, Metric, Optimizer, Precision, Scheduler, Source, Spec,
    Truncation, Warmup,
};

impl Convert<JobView> for v1::Job {
    fn convert(view: JobView) -> Self {
        let JobView { job, results, ahead } = view;
        Self {
            state: v1::JobState::convert(job.state).into(),
            spec: Some((&job.spec).wire()),
            created_at: Some(job.created.wire()),
            started_at: job.started.map(Wire::wire),
            ended_at: job.ended.map(Wire::wire),
            failure: job.failure.as_ref().map(Wire::wire),
            epochs: all(&results.epochs),
            test: results.test.as_ref().map(Wire::wire),
            model: results.published.as_ref().map(Wire::wire),
            last_event: job.last_event,
            jobs_ahead: ahead as u32,
            id: job.id,
        }
    }
}

impl Convert<&Spec> for v1::JobSpec {
    fn convert(spec: &Spec) -> Self {
        let source = |source: &Source| v1::DataSource {
            dataset_id: source.dataset.clone(),
            name: Some(source.name.clone()),
        };
        Self {
            name: Some(spec.name.clone()),
            encoder: Some(spec.encoder.clone()),
            train: Some(source(&spec.train)),
            validation: spec.validation.as_ref().map(source),
            test: spec.test.as_ref().map(source),
            validation_split: Some(spec.validation_split),
            columns: Some((&spec.columns).wire()),
            train_limit: spec.train_limit.map(Into::into),
            validation_limit: spec.validation_limit.map(Into::into),
            test_limit: spec.test_limit.map(Into::into),
            hyperparameters: Some((&spec.hyperparameters).wire()),
        }
    }
}

impl Convert<&Hyperparameters> for v1::Hyperparameters {
    fn convert(h: &Hyperparameters) -> Self {
        let optimizer = match h.optimizer {
            Optimizer::Adam => v1::Optimizer::Adam,
            Optimizer::AdamW => v1::Optimizer::Adamw,
        };
        let scheduler = match h.scheduler {
            Scheduler::Constant => v1::Scheduler::Constant,
            Scheduler::Linear => v1::Scheduler::Linear,
            Scheduler::Cosine => v1::Scheduler::Cosine,
        };
        let keep = match h.keep {
            Keep::Best => v1::Keep::Best,
            Keep::Last => v1::Keep::Last,
        };
        let metric = match h.metric {
            Metric::Loss => v1::Metric::Loss,
            Metric::Accuracy => v1::Metric::Accuracy,
            Metric::F1 => v1::Metric::F1,
        };
        let precision = match h.precision {
            Precision::Auto => v1::Precision::Auto,
            Precision::Fp32 => v1::Precision::Fp32,
            Precision::Bf16 => v1::Precision::Bf16,
        };
        let truncation = match h.truncation {
            Truncation::Head => v1::Truncation::Head,
            Truncation::Tail => v1::Truncation::Tail,
            Truncation::HeadTail => v1::Truncation::HeadTail,
        };
        let warmup = match h.warmup {
            Warmup::Steps(steps) => WireWarmup::WarmupSteps(steps),
            Warmup::Ratio(ratio) => WireWarmup::WarmupRatio(ratio),
            Warmup::Epochs(epochs) => WireWarmup::WarmupEpochs(epochs),
        };
        let checkpoint_every = match h.checkpoint_every {
            CheckpointEvery::Auto => None,
            CheckpointEvery::Epoch => Some(WireEvery::CheckpointEpochs(true)),
            CheckpointEvery::Steps(steps) => Some(WireEvery::CheckpointSteps(steps.get())),
            CheckpointEvery::Minutes(minutes) => Some(WireEvery::CheckpointMinutes(minutes.get())),
        };
        Self {
            optimizer: Some(optimizer.into()),
            learning_rate: Some(h.learning_rate),
            beta1: Some(h.beta1),
            beta2: Some(h.beta2),
            epsilon: Some(h.epsilon),
            weight_decay: Some(h.weight_decay),
            scheduler: Some(scheduler.into()),
            warmup: Some(warmup),
            epochs: Some(h.epochs.get()),
            batch_size: Some(h.batch_size.get()),
            gradient_accumulation: Some(h.gradient_accumulation.get()),
            max_grad_norm: Some(h.max_grad_norm.unwrap_or(0.0)),
            dropout: h.dropout,
            encoder_dropout: h.encoder_dropout,
            seed: Some(h.seed),
            keep: Some(keep.into()),
            metric: Some(metric.into()),
            early_stopping: h.early_stopping.map(Into::into),
            max_length: h.max_length.map(Into::into),
            positive_label: h.positive_label.clone(),
            precision: Some(precision.into()),
            truncation: Some(truncation.into()),
            checkpoint_every,
            methods: Some((&h.methods).wire()),
        }
    }
}
