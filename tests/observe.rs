//! What a daemon tells of itself: its metrics count what was done, no more and no less.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hone::v1::{CancelJobRequest, ClassifyRequest, Input, StartJobRequest, WatchJobRequest};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

use crate::harness::daemon::Daemon;
use crate::harness::scrape::{Samples, scrape};
use crate::harness::toy_texts;

/// A daemon with metrics, and where they are.
async fn start(data: &std::path::Path) -> (Daemon, SocketAddr) {
    let daemon = Daemon::start_with(data, &["--metrics-listen", "127.0.0.1:0"]).await;
    let address = daemon.metrics().expect("an address of the metrics");
    (daemon, address)
}

/// Scrapes until the metrics say something, which happens soon after what it tells of.
async fn until(address: SocketAddr, says: impl Fn(&Samples) -> bool) -> Samples {
    for _ in 0..1000 {
        let samples = scrape(address).await;
        if says(&samples) {
            return samples;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the metrics never say it: {:#?}", scrape(address).await.iter().collect::<Vec<_>>());
}

fn request(model: &str, texts: &[&str]) -> ClassifyRequest {
    let inputs = texts.iter().map(|text| Input { text: (*text).into(), text_pair: None }).collect();
    ClassifyRequest { model: model.into(), inputs, ..ClassifyRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_say_exactly_what_was_done() {
    let data = tempfile::tempdir().expect("a folder");
    let (daemon, address) = start(data.path()).await;
    let job = daemon.train_toy().await;
    let steps = job.epochs.last().expect("an epoch").step;
    let (texts, _) = toy_texts();
    let mut tokens = 0;
    for texts in [&texts[..], &texts[..1]] {
        tokens +=
            daemon.inference().classify(request("toy", texts)).await.expect("answers").into_inner().tokens;
    }
    let samples = until(address, |samples| samples.get("hone_jobs{state=\"succeeded\"}") == Some(1.0)).await;
    samples.assert(&[
        ("hone_requests_total{code=\"OK\",method=\"hone.v1.InferenceService/Classify\",model=\"toy\"}", 2.0),
        ("hone_requests_total{code=\"OK\",method=\"hone.v1.TrainingService/Start\",model=\"\"}", 1.0),
        ("hone_requests_total{code=\"OK\",method=\"hone.v1.DatasetService/Upload\",model=\"\"}", 2.0),
        ("hone_requests_in_progress{method=\"hone.v1.InferenceService/Classify\"}", 0.0),
        ("hone_request_duration_seconds_count{method=\"hone.v1.InferenceService/Classify\"}", 2.0),
        ("hone_classifications_total{code=\"OK\",model=\"toy\"}", 2.0),
        ("hone_texts_total{model=\"toy\"}", 5.0),
        ("hone_tokens_total{model=\"toy\"}", tokens as f64),
        ("hone_batch_texts_sum{model=\"toy\"}", 5.0),
        ("hone_batch_tokens_sum{model=\"toy\"}", tokens as f64),
        ("hone_queue_texts{model=\"toy\"}", 0.0),
        ("hone_queue_tokens{model=\"toy\"}", 0.0),
        ("hone_model_loads_total{model=\"toy\",result=\"ok\"}", 1.0),
        ("hone_model_loads_total{model=\"toy\",result=\"error\"}", 0.0),
        ("hone_models_loaded{model=\"toy\"}", 1.0),
        ("hone_jobs{state=\"failed\"}", 0.0),
        ("hone_job_steps_total{model=\"toy\"}", steps as f64),
    ]);
    for stage in ["load", "tokenize", "queue", "compute"] {
        let count = format!("hone_stage_duration_seconds_count{{model=\"toy\",stage=\"{stage}\"}}");
        samples.assert(&[(&count, 2.0)]);
    }
    assert!(samples.get("hone_model_memory_bytes{model=\"toy\"}").is_some_and(|bytes| bytes > 1000.0));
    assert_eq!(samples.get("hone_job_loss{model=\"toy\"}"), None, "no job runs");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_and_one_that_is_given_up_are_counted_by_their_codes() {
    let data = tempfile::tempdir().expect("a folder");
    let (daemon, address) = start(data.path()).await;
    let status = daemon.inference().classify(request("no-such-model", &["a"])).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    // Two jobs, so that the second waits and its log goes on.
    let spec = daemon.toy_spec().await;
    daemon.start_job(spec.clone()).await.expect("a job");
    let waiting = daemon.start_job(spec).await.expect("a job");
    let watch = WatchJobRequest { job_id: waiting.id, after: 0 };
    let mut events = daemon.training().watch(watch).await.expect("a stream").into_inner();
    events.message().await.expect("an event");
    drop(events);
    let cancelled =
        "hone_requests_total{code=\"CANCELLED\",method=\"hone.v1.TrainingService/Watch\",model=\"\"}";
    let samples = until(address, |samples| samples.get(cancelled) == Some(1.0)).await;
    let method = "hone.v1.InferenceService/Classify";
    samples.assert(&[
        (&format!("hone_requests_total{{code=\"NOT_FOUND\",method=\"{method}\",model=\"unknown\"}}"), 1.0),
        ("hone_classifications_total{code=\"NOT_FOUND\",model=\"unknown\"}", 1.0),
    ]);
    assert!(samples.iter().all(|(series, _)| !series.contains("no-such-model")));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_never_go_down() {
    let data = tempfile::tempdir().expect("a folder");
    let (daemon, address) = start(data.path()).await;
    daemon.train_toy().await;
    let mut before = scrape(address).await;
    for _ in 0..5 {
        daemon.classify("toy", &["a fine day"]).await.expect("answers");
        let after = scrape(address).await;
        let counts = |series: &str| {
            let name = series.split('{').next().unwrap_or_default();
            ["_total", "_count", "_sum", "_bucket"].iter().any(|suffix| name.ends_with(suffix))
        };
        for (series, value) in before.iter().filter(|(series, _)| counts(series)) {
            assert!(after.get(series).is_some_and(|now| now >= value), "{series}: {value}");
        }
        before = after;
    }
    daemon.stop().await;
}

/// A collector that keeps the spans that it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans);
        self.0.lock().expect("no panic").extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts it; its address.
    async fn start(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = Server::builder().add_service(TraceServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        format!("http://{address}")
    }
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A request in a trace.
fn traced<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01").parse().expect("a value");
    request.metadata_mut().insert("traceparent", parent);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_the_spans_of_calls_their_stages_and_jobs_in_their_callers_trace() {
    let data = tempfile::tempdir().expect("a folder");
    let collector = Collector::default();
    let endpoint = collector.start().await;
    let daemon = Daemon::start_with(data.path(), &["--otlp-endpoint", &endpoint]).await;
    let start = StartJobRequest { spec: Some(daemon.toy_spec().await), request_id: None };
    let job = daemon.training().start(traced(start)).await.expect("a job").into_inner();
    daemon.watch(&job.id, 0).await.expect("events");
    daemon.inference().classify(traced(request("toy", &["a fine day"]))).await.expect("an answer");
    // Stopping sends what has not been sent.
    daemon.stop().await;
    let spans = collector.0.lock().expect("no panic").clone();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let named = |name: &str| {
        let found = spans.iter().find(|span| span.name == name && hex(&span.trace_id) == TRACE);
        found.unwrap_or_else(|| panic!("no {name} in the trace among {spans:#?}"))
    };
    let (start, classify) =
        (named("hone.v1.TrainingService/Start"), named("hone.v1.InferenceService/Classify"));
    assert_eq!(hex(&classify.parent_span_id), "00f067aa0ba902b7");
    for stage in ["load", "tokenize", "queue", "compute"] {
        let span = named(stage);
        assert_eq!(span.parent_span_id, classify.span_id, "{stage}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano, "{stage}");
    }
    assert_eq!(named("job").parent_span_id, start.span_id);
    assert!(
        spans.iter().any(|span| span.name == "hone.v1.TrainingService/Watch" && hex(&span.trace_id) != TRACE)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_gone_holds_no_call_up() {
    let data = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start_with(data.path(), &["--otlp-endpoint", "http://127.0.0.1:1"]).await;
    daemon.train_toy().await;
    daemon.classify("toy", &["a fine day"]).await.expect("an answer");
    daemon.stop().await;
}

/// The names of metrics in an expression of PromQL: those of this daemon have one of two prefixes.
fn names(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("hone_") || word.starts_with("process_")).collect()
}

/// Every `expr` in a dashboard.
fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == "expr" || name == "query" && text.contains('(') => {
                        found.push(text.to_owned());
                    }
                    _ => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_shows_metrics_that_exist() {
    let dashboard = std::fs::read_to_string("docs/grafana.json").expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    assert!(found.len() > 20, "{found:?}");

    let data = tempfile::tempdir().expect("a folder");
    let (daemon, address) = start(data.path()).await;
    daemon.train_toy().await;
    daemon.classify("toy", &["a fine day"]).await.expect("an answer");
    // A second job, long enough to be seen while it runs.
    let mut spec = daemon.toy_spec().await;
    if let Some(hyperparameters) = &mut spec.hyperparameters {
        hyperparameters.epochs = Some(1000);
    }
    let job = daemon.start_job(spec).await.expect("a job");
    let samples = until(address, |samples| {
        samples.get("hone_job_validation_loss{model=\"toy\"}").is_some()
            && samples.get("hone_jobs{state=\"succeeded\"}").is_some()
    })
    .await;
    let known: HashSet<&str> =
        samples.iter().map(|(series, _)| series.split('{').next().unwrap_or_default()).collect();
    for expression in &found {
        let names = names(expression);
        assert!(!names.is_empty(), "{expression}");
        for name in names {
            assert!(known.contains(name), "{name} in {expression} does not exist");
        }
    }
    daemon.training().cancel(CancelJobRequest { job_id: job.id }).await.expect("cancelled");
    daemon.stop().await;
}
