//! The traces that jobs belong to: those of the calls that have started them, as long as this daemon runs.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::trace::{SpanContext, call};
use hone_base::panic::lock;

/// Jobs and the contexts of the calls that have started them. It holds no more than the jobs that have not ended.
#[derive(Debug, Default)]
pub struct Traces(Mutex<HashMap<String, SpanContext>>);

impl Traces {
    /// The call that this thread works for has started a job.
    pub fn started(&self, job: &str) {
        if let Some(context) = call::current().and_then(|call| call.context().cloned()) {
            lock(&self.0).insert(job.to_owned(), context);
        }
    }

    /// The context of the call that has started a job, if it had one.
    pub fn of(&self, job: &str) -> Option<SpanContext> {
        lock(&self.0).get(job).cloned()
    }

    /// A job has ended or is gone.
    pub fn forget(&self, job: &str) {
        lock(&self.0).remove(job);
    }
}
