//! Jobs, from the domain to the wire.

use super::{Convert, Wire};
use hone::v1;

use super::all;
use crate::jobs::registry::JobView;

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
