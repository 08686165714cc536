//! Events, from the domain to the wire.

use super::{Convert, Wire};
use hone::v1;
use hone::v1::event::Kind;

use super::all;
use hone_base::status::code;
use hone_storage::{Entry, Failure, JobEvent, Published, State};
use hone_train::event::{
    Average, EpochMetrics, LabelMetrics, Metrics, Overlap, Prepared, Split, SplitReport, StepMetrics,
    TestMetrics,
};

/// An entry of a job's log.
pub fn of(job: &str, entry: Entry) -> v1::Event {
    let kind = match entry.event {
        JobEvent::StateChanged { state, failure } => Kind::StateChanged(v1::StateChanged {
            state: v1::JobState::convert(state).into(),
            failure: failure.as_ref().map(Wire::wire),
        }),
        JobEvent::Prepared(prepared) => Kind::Prepared((&prepared).wire()),
        JobEvent::Step(step) => Kind::Step(step.wire()),
        JobEvent::Evaluation { split, rows_done, rows } => Kind::Evaluation(v1::EvaluationProgress {
            split: v1::Split::convert(split).into(),
            rows_done,
            rows,
        }),
        JobEvent::Epoch(epoch) => Kind::Epoch((&epoch).wire()),
        JobEvent::Test(test) => Kind::Test((&test).wire()),
        JobEvent::Published(published) => Kind::Published((&published).wire()),
        JobEvent::Notice { message } => Kind::Notice(v1::Notice { message }),
    };
    v1::Event {
        job_id: job.to_owned(),
        number: entry.number,
        time: Some(entry.time.wire()),
        kind: Some(kind),
    }
}

impl Convert<State> for v1::JobState {
    fn convert(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Running => Self::Running,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
            State::Interrupted => Self::Interrupted,
            State::Paused => Self::Paused,
        }
    }
}

impl Convert<Split> for v1::Split {
    fn convert(split: Split) -> Self {
        match split {
            Split::Train => Self::Train,
            Split::Validation => Self::Validation,
            Split::Test => Self::Test,
        }
    }
}

impl Convert<&Failure> for v1::Failure {
    fn convert(failure: &Failure) -> Self {
        Self { code: code(failure.kind) as i32, message: failure.message.clone() }
    }
}

impl Convert<&Prepared> for v1::Prepared {
    fn convert(prepared: &Prepared) -> Self {
        Self {
            splits: all(&prepared.splits),
            labels: prepared.labels.clone(),
            overlaps: all(&prepared.overlaps),
            total_steps: prepared.total_steps,
            steps_per_epoch: prepared.steps_per_epoch,
            warmup_steps: prepared.warmup_steps,
            max_length: prepared.max_length,
            parameters: prepared.parameters,
            device: prepared.device.clone(),
            encoder: prepared.encoder.clone(),
            encoder_sha256: prepared.encoder_sha256.clone(),
        }
    }
}

impl Convert<&SplitReport> for v1::SplitReport {
    fn convert(report: &SplitReport) -> Self {
        Self {
            split: v1::Split::convert(report.split).into(),
            name: report.name.clone(),
            rows: report.rows,
            labels: all(&report.labels),
            tokens: Some(report.tokens.wire()),
            total_tokens: report.total_tokens,
            truncated: report.truncated,
            empty_texts: report.empty_texts,
            duplicates: report.duplicates,
            contradictions: report.contradictions,
            unknown: report.unknown,
            notes: report.notes.clone(),
        }
    }
}

impl Convert<&Overlap> for v1::Overlap {
    fn convert(overlap: &Overlap) -> Self {
        let split = |split| v1::Split::convert(split).into();
        Self {
            first: split(overlap.first),
            second: split(overlap.second),
            rows: overlap.rows,
            contradictions: overlap.contradictions,
        }
    }
}

impl Convert<StepMetrics> for v1::StepMetrics {
    fn convert(step: StepMetrics) -> Self {
        Self {
            step: step.step,
            total_steps: step.total_steps,
            epoch: step.epoch,
            loss: step.loss,
            learning_rate: step.learning_rate,
            gradient_norm: step.gradient_norm,
            steps_per_second: step.steps_per_second,
            tokens_per_second: step.tokens_per_second,
            step_in_epoch: step.step_in_epoch,
            steps_per_epoch: step.steps_per_epoch,
        }
    }
}

impl Convert<&Metrics> for v1::Metrics {
    fn convert(metrics: &Metrics) -> Self {
        Self {
            loss: metrics.loss,
            accuracy: metrics.accuracy,
            f1: metrics.f1,
            recall: metrics.recall,
            precision: metrics.precision,
            rows: metrics.rows,
            labels: all(&metrics.labels),
            micro: metrics.micro.map(|Average { precision, recall, f1 }| v1::Average {
                f1,
                recall,
                precision,
            }),
        }
    }
}

impl Convert<&LabelMetrics> for v1::LabelMetrics {
    fn convert(metrics: &LabelMetrics) -> Self {
        Self {
            label: metrics.label.clone(),
            precision: metrics.precision,
            recall: metrics.recall,
            f1: metrics.f1,
            rows: metrics.rows,
            threshold: metrics.threshold,
        }
    }
}

impl Convert<&EpochMetrics> for v1::EpochMetrics {
    fn convert(epoch: &EpochMetrics) -> Self {
        Self {
            epoch: epoch.epoch,
            epochs: epoch.epochs,
            train: Some((&epoch.train).wire()),
            validation: Some((&epoch.validation).wire()),
            seconds: epoch.seconds,
            train_seconds: epoch.train_seconds,
            steps_per_second: epoch.steps_per_second,
            tokens_per_second: epoch.tokens_per_second,
            best: epoch.best,
            validation_loss_rose: epoch.validation_loss_rose,
            step: epoch.step,
        }
    }
}

impl Convert<&TestMetrics> for v1::TestMetrics {
    fn convert(test: &TestMetrics) -> Self {
        Self { metrics: Some((&test.metrics).wire()), epoch: test.epoch, seconds: test.seconds }
    }
}

impl Convert<&Published> for v1::PublishedModel {
    fn convert(published: &Published) -> Self {
        Self {
            name: published.name.clone(),
            version: published.version,
            weights_sha256: published.weights_sha256.clone(),
            epoch: published.epoch,
        }
    }
}
