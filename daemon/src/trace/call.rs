//! The call, or job, that a task works for: what serving finds out of it, for those who count it and trace it.
//!
//! The layer that observes calls (`rpc::observe`) makes one for each call and has it at hand whenever the call's future or
//! the body of its answer is polled. Another task or thread has none, unless it is put [`within`] one or in its
//! [`Call::scope`].

use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Instant, SystemTime};

use opentelemetry::trace::{Span as _, SpanBuilder, SpanContext, SpanKind, Status};
use opentelemetry::{Context, KeyValue, trace::TraceContextExt as _, trace::Tracer as _};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use hone_base::panic::lock;

tokio::task_local! {
    static CURRENT: Arc<Call>;
}

/// A call or a job.
#[derive(Debug)]
pub struct Call {
    model: OnceLock<Arc<str>>,
    /// What each line of the log says that is written for this call.
    log: tracing::Span,
    /// Its place in a trace, if it is in one.
    context: Option<SpanContext>,
    exported: Option<Exported>,
}

/// What is exported of a call.
#[derive(Debug)]
pub(super) struct Exported {
    pub(super) tracer: SdkTracer,
    pub(super) span: Mutex<Span>,
}

impl Default for Call {
    fn default() -> Self {
        Self::new(None, tracing::Span::none(), None)
    }
}

impl Call {
    pub(super) fn new(context: Option<SpanContext>, log: tracing::Span, exported: Option<Exported>) -> Self {
        Self { model: OnceLock::new(), log, context, exported }
    }

    /// The model that the call named, once it was looked for.
    pub fn model(&self) -> Option<&str> {
        self.model.get().map(|model| &**model)
    }

    /// The call's place in a trace, if it is in one.
    pub fn context(&self) -> Option<&SpanContext> {
        self.context.as_ref()
    }

    /// Does something for this call: what asks for the current one finds it, and lines of the log name its trace.
    pub fn scope<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), || self.log.in_scope(work))
    }

    /// The call has ended with a code; `is_fault` if it was not its caller's.
    pub fn end(&self, code: &'static str, is_fault: bool) {
        let Some(exported) = &self.exported else { return };
        let mut span = lock(&exported.span);
        if let Some(model) = self.model() {
            span.set_attribute(KeyValue::new("hone.model", model.to_owned()));
        }
        span.set_attribute(KeyValue::new("rpc.response.status_code", code));
        if is_fault {
            span.set_status(Status::error(code));
        }
        span.end();
    }

    fn stage(&self, name: &'static str, from: Instant, to: Instant) {
        let (Some(exported), Some(context)) = (&self.exported, &self.context) else { return };
        if !context.is_sampled() {
            return;
        }
        let parent = Context::new().with_remote_span_context(context.clone());
        let mut builder = SpanBuilder::from_name(name).with_kind(SpanKind::Internal);
        builder.start_time = Some(at(from));
        exported.tracer.build_with_context(builder, &parent).end_with_timestamp(at(to));
    }
}

/// A moment by the clock that collectors know.
fn at(moment: Instant) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(moment.elapsed()).unwrap_or(now)
}

/// The call that this task or thread works for.
pub fn current() -> Option<Arc<Call>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// The current call is for this model; of a stream that names several, the first counts.
pub fn names(model: &Arc<str>) {
    // Work that no call asked for has none.
    let _ = CURRENT.try_with(|call| call.model.set(model.clone()));
}

/// The current call has passed a stage.
pub fn stage(name: &'static str, from: Instant, to: Instant) {
    let _ = CURRENT.try_with(|call| call.stage(name, from, to));
}

/// The same work for another thread, which works for the call that is current now.
pub fn carried<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let call = current();
    move || match call {
        Some(call) => call.scope(work),
        None => work(),
    }
}

/// The same future for another task, which works for the call that is current now.
pub async fn within<F: Future>(call: Option<Arc<Call>>, future: F) -> F::Output {
    let Some(call) = call else { return future.await };
    let mut future = pin!(future);
    std::future::poll_fn(|cx| call.scope(|| future.as_mut().poll(cx))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_and_a_thread_within_a_call_tell_it_the_first_model() {
        let call = Arc::new(Call::default());
        let work = call.scope(|| carried(|| names(&"reviews".into())));
        tokio::task::spawn_blocking(work).await.unwrap();
        let task = within(Some(call.clone()), async { names(&"topics".into()) });
        tokio::spawn(task).await.unwrap();
        assert_eq!(call.model(), Some("reviews"));
        assert!(current().is_none());
    }
}
