//! What a daemon tells of itself: its metrics count what was done, no more and no less.

use std::net::SocketAddr;

use hone::v1::{ClassifyRequest, Input, WatchJobRequest};
use tonic::Code;

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
