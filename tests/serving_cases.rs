//! What people saw go wrong in serving: each case with a real daemon.

use hone::v1::{ClassifyRequest, ClassifyResponse, Input, Prediction, WatchJobRequest};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::daemon::Daemon;

const SERVICES: [&str; 5] = [
    "",
    "hone.v1.TrainingService",
    "hone.v1.InferenceService",
    "hone.v1.DatasetService",
    "hone.v1.ModelService",
];

async fn classify(daemon: &Daemon, texts: &[&str]) -> Result<ClassifyResponse, Status> {
    Ok(daemon.inference().classify(request(texts)).await?.into_inner())
}

fn request(texts: &[&str]) -> ClassifyRequest {
    let inputs = texts.iter().map(|text| Input { text: (*text).into(), text_pair: None }).collect();
    ClassifyRequest { model: String::new(), inputs, ..Default::default() }
}

async fn predictions(daemon: &Daemon, texts: &[&str]) -> Vec<Prediction> {
    classify(daemon, texts).await.expect("answers").predictions
}

async fn with_model() -> (tempfile::TempDir, Daemon) {
    let data = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(data.path()).await;
    daemon.train_toy().await;
    (data, daemon)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_text_is_cut_alike_alone_and_beside_others() {
    let (_data, daemon) = with_model().await;
    let long = "a splendid thing and ".repeat(1250);
    let together = predictions(&daemon, &[&long, "it was cold", &long]).await;
    let alone = predictions(&daemon, &[&long]).await;
    assert!(alone[0].truncated && together[0].truncated && together[2].truncated && !together[1].truncated);
    assert_eq!((&together[0], &together[2]), (&alone[0], &alone[0]));
    assert_eq!(together[1], predictions(&daemon, &["it was cold"]).await[0]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_without_words_has_an_answer_and_harms_no_other() {
    let (_data, daemon) = with_model().await;
    let fine = predictions(&daemon, &["a fine day"]).await;
    let mixed = predictions(&daemon, &["", " \t\n", "\u{200b}", "a fine day"]).await;
    assert_eq!(mixed[3], fine[0]);
    for prediction in &mixed {
        assert!(prediction.scores.iter().all(|score| score.score.is_finite()), "{prediction:?}");
        assert!(!prediction.label.is_empty());
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_very_large_request_a_small_one_has_the_same_scores_to_the_bit() {
    let (_data, daemon) = with_model().await;
    let before = predictions(&daemon, &["a fine day"]).await;
    let large = "wonderful ".repeat(512);
    assert_eq!(predictions(&daemon, &vec![large.as_str(); 1024]).await.len(), 1024);
    assert_eq!(predictions(&daemon, &["a fine day"]).await, before);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_overload_whose_callers_all_went_away_one_call_is_answered() {
    let (_data, daemon) = with_model().await;
    let before = predictions(&daemon, &["a fine day"]).await;
    let large = "dreadful ".repeat(200);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (mut inference, request) = (daemon.inference(), request(&vec![large.as_str(); 128]));
        calls.spawn(async move { inference.classify(request).await.map(|_| ()) });
    }
    // Some are computed by now, some wait, some have no room.
    let _ = calls.join_next().await;
    calls.shutdown().await;
    let after = loop {
        match classify(&daemon, &["a fine day"]).await {
            Ok(answer) => break answer.predictions,
            // What was under way may hold its room until its batch is done.
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(after, before);
    daemon.stop().await;
}

async fn assert_all_serve(daemon: &Daemon) {
    for service in SERVICES {
        let request = HealthCheckRequest { service: service.into() };
        let answer = HealthClient::new(daemon.channel.clone()).check(request).await.expect("an answer");
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_service_serves_and_a_model_answers_while_a_job_prepares_trains_and_publishes() {
    let (_data, daemon) = with_model().await;
    let before = classify(&daemon, &["a fine day"]).await.expect("an answer");
    let mut spec = daemon.toy_spec().await;
    spec.name = Some("another".into());
    let job = daemon.start_job(spec).await.expect("a job");
    let watch = WatchJobRequest { job_id: job.id, after: 0 };
    let mut events = daemon.training().watch(watch).await.expect("a stream").into_inner();
    let mut rounds = 0;
    while events.message().await.expect("an event").is_some() {
        if rounds % 8 == 0 {
            assert_all_serve(&daemon).await;
            let mut request = request(&["a fine day"]);
            request.model.clone_from(&before.model);
            let answer = daemon.inference().classify(request).await.expect("an answer").into_inner();
            assert_eq!(answer.predictions, before.predictions);
        }
        rounds += 1;
    }
    assert!(rounds > 8);
    assert_all_serve(&daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_while_requests_fill_the_queue() {
    let (_data, daemon) = with_model().await;
    let large = "dreadful ".repeat(200);
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (mut inference, request) = (daemon.inference(), request(&vec![large.as_str(); 64]));
        calls.spawn(async move { inference.classify(request).await.map(|_| ()) });
    }
    assert_all_serve(&daemon).await;
    assert!(calls.try_join_next().is_none() || !calls.is_empty(), "asked under load");
    while let Some(call) = calls.join_next().await {
        if let Err(status) = call.expect("no panic") {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        }
    }
    daemon.stop().await;
}
