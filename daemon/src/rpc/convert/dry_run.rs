//! What a job would need, from the domain to the wire.

use super::{Convert, Wire};
use hone::v1;

use hone_engine::model::memory::Memory;
use hone_train::rehearsal::{DryRun, Time};
use hone_train::spec::Spec;

/// The answer to a dry run of this job.
pub fn response(spec: &Spec, report: DryRun) -> v1::DryRunResponse {
    v1::DryRunResponse {
        spec: Some(spec.wire()),
        prepared: Some((&report.prepared).wire()),
        memory: Some(report.memory.wire()),
        time: report.time.map(Wire::wire),
        notices: report.notices,
    }
}

impl Convert<Memory> for v1::MemoryEstimate {
    fn convert(memory: Memory) -> Self {
        let total = memory.total();
        let Memory { parameters, gradients, moments, activations, batch_tokens } = memory;
        Self { parameters, gradients, moments, activations, batch_tokens, total }
    }
}

impl Convert<Time> for v1::TimeEstimate {
    fn convert(time: Time) -> Self {
        Self {
            steps: time.steps,
            tokens_per_second: time.tokens_per_second,
            steps_per_second: time.steps_per_second,
            epoch_seconds: time.epoch_seconds,
            train_seconds: time.train_seconds,
            evaluation_seconds: time.evaluation_seconds,
            total_seconds: time.train_seconds + time.evaluation_seconds,
        }
    }
}
