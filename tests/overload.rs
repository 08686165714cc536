//! More than a daemon can answer: what it cannot answer in time it refuses at once, and then it goes on as before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hone::v1::{ClassifyRequest, Input};
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::daemon::Daemon;

/// A request of a few milliseconds.
fn request(text: &str) -> ClassifyRequest {
    let input = Input { text: text.to_owned(), text_pair: None };
    ClassifyRequest { inputs: vec![input; 64], ..ClassifyRequest::default() }
}

fn text() -> String {
    "a splendid thing and a fine day ".repeat(4)
}

async fn with_queue_of(ms: &str) -> (tempfile::TempDir, Daemon) {
    let data = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start_with(data.path(), &["--max-queue-ms", ms]).await;
    daemon.train_toy().await;
    (data, daemon)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_the_queue_are_refused_with_when_to_try_again_and_the_rest_is_answered() {
    let (_data, daemon) = with_queue_of("5").await;
    let mut calls = JoinSet::new();
    for _ in 0..128 {
        let (mut inference, request) = (daemon.inference(), request(&text()));
        calls.spawn(async move { inference.classify(request).await });
    }
    let (mut answered, mut refused) = (0, 0);
    for answer in calls.join_all().await {
        match answer {
            Ok(answer) => {
                assert!(
                    answer.into_inner().predictions.iter().all(|prediction| !prediction.label.is_empty())
                );
                answered += 1;
            }
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                assert!(status.message().contains("--max-queue-ms"), "{status}");
                let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
                assert!(retry.expect("when to try again") >= Duration::from_millis(50));
                refused += 1;
            }
        }
    }
    assert!(answered > 0 && refused > 0, "{answered} answered, {refused} refused");
    let answer = daemon.inference().classify(request("fine")).await.expect("an answer afterwards");
    assert_eq!(answer.into_inner().predictions.len(), 64);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_as_fast_as_the_daemon_and_none_of_its_requests_is_refused() {
    let (_data, daemon) = with_queue_of("1").await;
    let requests = tokio_stream::iter((0..200).map(|i| ClassifyRequest {
        request_id: i.to_string(),
        ..request("a splendid thing and a fine day")
    }));
    let answers = daemon.inference().classify_stream(requests).await.expect("a stream").into_inner();
    let answers: Vec<_> = answers.collect().await;
    assert_eq!(answers.len(), 200);
    for (place, answer) in answers.into_iter().enumerate() {
        let answer = answer.expect("an answer");
        assert_eq!((answer.error, answer.request_id), (None, place.to_string()));
        assert_eq!(answer.predictions.len(), 64);
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_urgent_call_is_answered_while_a_crowd_is_refused() {
    let (_data, daemon) = with_queue_of("100").await;
    let done = Arc::new(AtomicBool::new(false));
    let mut crowd = JoinSet::new();
    for _ in 0..128 {
        let (mut inference, done) = (daemon.inference(), done.clone());
        crowd.spawn(async move {
            let mut refused = 0;
            while !done.load(Ordering::Relaxed) {
                refused += usize::from(inference.classify(request(&text())).await.is_err());
            }
            refused
        });
    }
    for _ in 0..20 {
        let urgent = ClassifyRequest { priority: 50, ..request(&text()) };
        let answer = daemon.inference().classify(urgent).await.expect("an urgent call is not refused");
        assert_eq!(answer.into_inner().predictions.len(), 64);
    }
    done.store(true, Ordering::Relaxed);
    assert!(crowd.join_all().await.into_iter().sum::<usize>() > 0, "the crowd was too small to be refused");
    daemon.stop().await;
}
