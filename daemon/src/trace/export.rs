//! Traces for a collector, over OTLP: one span for each call and each job, and one for each stage of an answer.
//!
//! Spans wait in a bounded queue for a thread of their own, which sends them in batches; what finds no room is dropped. So
//! a collector that is slow or gone costs nothing but the spans.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    IdGenerator as _, RandomIdGenerator, SdkTracer, SdkTracerProvider, SpanData, SpanExporter,
};

use super::call::{Call, Exported};
use hone_base::error::{Error, Result, quoted};

/// How long the daemon waits for the last spans when it stops.
const FLUSH: Duration = Duration::from_secs(3);

/// The variable of OpenTelemetry that names a service.
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";

/// Begins the spans of calls and jobs. Clones export to the same collector.
#[derive(Clone, Debug, Default)]
pub struct Tracer {
    export: Option<(SdkTracerProvider, SdkTracer)>,
}

impl Tracer {
    /// Exports to the collector at this address. Does not wait for it. Further settings are OpenTelemetry's variables of
    /// the environment, for example `OTEL_TRACES_SAMPLER` and `OTEL_SERVICE_NAME`.
    ///
    /// # Errors
    /// `Invalid` when the address is none.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn to(endpoint: &str) -> Result<Self> {
        let exporter = OtlpExporter::builder().with_tonic().with_endpoint(endpoint).build();
        let exporter = exporter.map_err(|error| {
            Error::invalid(format!(
                "no traces can be sent to {} (--otlp-endpoint): {error}; it must be the address of a collector for \
                 OTLP over gRPC, for example http://127.0.0.1:4317",
                quoted(endpoint)
            ))
        })?;
        let mut resource = Resource::builder();
        if std::env::var_os(SERVICE_NAME).is_none() {
            resource = resource.with_service_name("hone");
        }
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Told { exporter, has_failed: AtomicBool::new(false) })
            .with_resource(resource.with_attribute(version).build())
            .build();
        let tracer = provider.tracer("hone");
        Ok(Self { export: Some((provider, tracer)) })
    }

    /// A call of a method begins, as its caller's context says.
    pub fn call(&self, method: &str, parent: Option<SpanContext>) -> Call {
        let Some((context, exported)) = self
            .begin(method, SpanKind::Server, parent, || vec![KeyValue::new("rpc.method", method.to_owned())])
        else {
            return Call::default();
        };
        // The highest level, so that a filter that lets a line through keeps what it belongs to.
        let log = tracing::error_span!(
            "call",
            method,
            trace_id = %context.trace_id(),
            span_id = %context.span_id()
        );
        Call::new(Some(context), log, exported)
    }

    /// A job begins, in the trace of the call that has started it, if there is one.
    pub fn job(&self, id: &str, model: &str, parent: Option<SpanContext>) -> Call {
        let Some((context, exported)) = self.begin("job", SpanKind::Internal, parent, || {
            vec![KeyValue::new("hone.job", id.to_owned()), KeyValue::new("hone.model", model.to_owned())]
        }) else {
            return Call::default();
        };
        let log = tracing::error_span!("job", trace_id = %context.trace_id(), span_id = %context.span_id());
        Call::new(Some(context), log, exported)
    }

    fn begin(
        &self,
        name: &str,
        kind: SpanKind,
        parent: Option<SpanContext>,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Option<(SpanContext, Option<Exported>)> {
        let Some((_, tracer)) = &self.export else {
            let parent = parent?;
            let state = parent.trace_state().clone();
            let span = RandomIdGenerator::default().new_span_id();
            return Some((
                SpanContext::new(parent.trace_id(), span, parent.trace_flags(), false, state),
                None,
            ));
        };
        let builder = SpanBuilder::from_name(name.to_owned()).with_kind(kind).with_attributes(attributes());
        // Not the thread's own context: who began the call is known by its headers alone.
        let context =
            parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        let span = tracer.build_with_context(builder, &context);
        let context = span.span_context().clone();
        Some((context, Some(Exported { tracer: tracer.clone(), span: Mutex::new(span) })))
    }

    /// Sends what has ended, and takes no more. Blocking, for a few seconds at most.
    pub fn shut_down(&self) {
        if let Some((provider, _)) = &self.export
            && let Err(error) = provider.shutdown_with_timeout(FLUSH)
        {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

/// An exporter whose failures the log tells: once, until it works again.
#[derive(Debug)]
struct Told {
    exporter: OtlpExporter,
    has_failed: AtomicBool,
}

impl SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        let had_failed = self.has_failed.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !had_failed => tracing::warn!(%error, "traces cannot be sent; dropping them"),
            Ok(()) if had_failed => tracing::info!("traces can be sent again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanId, TraceFlags, TraceId, TraceState};

    use super::*;

    fn parent() -> SpanContext {
        let (trace, span) = (TraceId::from(7_u128), SpanId::from(9_u64));
        SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE)
    }

    #[test]
    fn without_a_collector_a_call_is_in_a_trace_only_if_its_caller_was() {
        let tracer = Tracer::default();
        assert!(tracer.call("Classify", None).context().is_none());
        let call = tracer.call("Classify", Some(parent()));
        let context = call.context().unwrap();
        assert_eq!(context.trace_id(), parent().trace_id());
        assert!(context.span_id() != parent().span_id() && context.is_valid());
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused_with_an_example() {
        let error = Tracer::to("no address").unwrap_err();
        assert!(error.message().contains("--otlp-endpoint"), "{error}");
        assert!(error.message().contains("http://127.0.0.1:4317"), "{error}");
    }

    #[tokio::test]
    async fn a_collector_that_is_not_there_holds_nothing_up() {
        let tracer = Tracer::to("http://127.0.0.1:1").unwrap();
        for _ in 0..10_000 {
            let call = tracer.call("Classify", Some(parent()));
            assert_eq!(call.context().unwrap().trace_id(), parent().trace_id());
            call.end("OK", false);
        }
        tokio::task::spawn_blocking(move || tracer.shut_down()).await.unwrap();
    }
}
