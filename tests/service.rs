//! A real daemon over a real socket: the whole path from a file to an answer, and what survives a restart.

use std::collections::HashMap;

use hone::v1::event::Kind;
use hone::v1::{
    CancelJobRequest, DeleteDatasetRequest, DeleteModelRequest, DownloadModelRequest, Event, GetModelRequest,
    JobState, ListDatasetsRequest, ListJobsRequest, PromoteModelRequest, download_model_response,
};
use tonic::Code;

use crate::harness::daemon::Daemon;
use crate::harness::{toy_rows, toy_texts};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_becomes_a_model_that_answers() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let job = daemon.start_job(daemon.toy_spec().await).await.expect("a job");
    assert_eq!(job.state(), JobState::Queued);
    let events = daemon.watch(&job.id, 0).await.expect("events");
    assert_eq!(numbers(&events), (1..=events.len() as u64).collect::<Vec<_>>());
    let of_kind = |wanted: fn(&Kind) -> bool| {
        events.iter().filter(|event| event.kind.as_ref().is_some_and(wanted)).count()
    };
    assert_eq!(of_kind(|kind| matches!(kind, Kind::Prepared(_))), 1);
    assert_eq!(of_kind(|kind| matches!(kind, Kind::Epoch(_))), 3);
    assert!(of_kind(|kind| matches!(kind, Kind::Step(_))) >= 3);
    assert_eq!(of_kind(|kind| matches!(kind, Kind::Test(_))), 1);
    let Some(Kind::StateChanged(last)) = events.last().and_then(|event| event.kind.clone()) else {
        panic!("{events:?}")
    };
    assert_eq!(last.state(), JobState::Succeeded);

    let job = daemon.job(&job.id).await;
    assert_eq!((job.state(), job.epochs.len()), (JobState::Succeeded, 3));
    assert_eq!(job.last_event, events.len() as u64);
    let model = job.model.expect("a model");
    assert_eq!((model.name.as_str(), model.version), ("toy", 1));
    let (texts, labels) = toy_texts();
    assert_eq!(daemon.classify("toy", &texts).await.expect("answers"), labels);
    assert_eq!(daemon.classify("toy@1", &texts).await.expect("answers"), labels);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_names_the_model_and_is_alike_alone_and_in_a_batch() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let model = daemon.train_toy().await.model.expect("a model");
    let (texts, _) = toy_texts();
    let ask = |texts: Vec<&str>| {
        let inputs =
            texts.iter().map(|text| hone::v1::Input { text: (*text).into(), text_pair: None }).collect();
        let mut inference = daemon.inference();
        async move {
            let request =
                hone::v1::ClassifyRequest { model: "toy@latest".into(), inputs, ..Default::default() };
            inference.classify(request).await.expect("answers").into_inner()
        }
    };
    let together = ask(texts.clone()).await;
    assert_eq!((together.model.as_str(), together.version), ("toy", 1));
    assert_eq!(together.weights_sha256, model.weights_sha256);
    assert_eq!(
        together.tokens,
        together.predictions.iter().map(|prediction| u64::from(prediction.tokens)).sum::<u64>()
    );
    assert!(
        together
            .timings
            .is_some_and(|timings| timings.total_ms >= timings.compute_ms && timings.compute_ms > 0.0)
    );
    for (text, prediction) in texts.iter().zip(&together.predictions) {
        let alone = ask(vec![text]).await;
        assert_eq!(alone.predictions[0].scores, prediction.scores, "{text}");
        let total: f32 = prediction.scores.iter().map(|score| score.score).sum();
        assert!((total - 1.0).abs() < 1e-5);
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_requests_is_answered_in_order() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    daemon.train_toy().await;
    let (texts, labels) = toy_texts();
    let requests: Vec<_> = (0..40)
        .map(|index| hone::v1::ClassifyRequest {
            model: "toy".into(),
            inputs: vec![hone::v1::Input { text: texts[index % texts.len()].into(), text_pair: None }],
            ..Default::default()
        })
        .collect();
    let mut answers = daemon
        .inference()
        .classify_stream(tokio_stream::iter(requests))
        .await
        .expect("a stream")
        .into_inner();
    for index in 0..40 {
        let answer = answers.message().await.expect("an answer").expect("an answer for each request");
        assert_eq!(answer.predictions[0].label, labels[index % labels.len()]);
    }
    assert!(answers.message().await.expect("the end").is_none());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_comes_back_gets_the_rest_and_everything_survives_a_restart() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let job = daemon.train_toy().await;
    let events = daemon.watch(&job.id, 0).await.expect("events");
    let rest = daemon.watch(&job.id, 3).await.expect("events");
    assert_eq!(rest, events[3..]);
    daemon.stop().await;

    let daemon = Daemon::start(data.path()).await;
    assert_eq!(daemon.watch(&job.id, 0).await.expect("events"), events);
    assert_eq!(daemon.job(&job.id).await, job);
    let (texts, labels) = toy_texts();
    assert_eq!(daemon.classify("toy", &texts).await.expect("answers"), labels);
    let datasets =
        daemon.datasets().list(ListDatasetsRequest::default()).await.expect("datasets").into_inner().datasets;
    assert_eq!(datasets.len(), 2);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_hand_a_job_that_ran_when_the_daemon_stopped_stays_interrupted_and_a_queued_one_runs_later() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let mut spec = daemon.toy_spec().await;
    let quick = spec.clone();
    spec.hyperparameters.as_mut().expect("some").epochs = Some(10_000);
    let long = daemon.start_job(spec).await.expect("a job");
    let queued = daemon.start_job(quick).await.expect("a job");
    assert_eq!(queued.jobs_ahead, 1);
    wait_for_a_step(&daemon, &long.id).await;
    daemon.stop().await;

    let daemon = Daemon::start_with(data.path(), &["--resume-jobs", "manual"]).await;
    let long = daemon.job(&long.id).await;
    assert_eq!(long.state(), JobState::Interrupted);
    daemon.watch(&queued.id, 0).await.expect("events");
    assert_eq!(daemon.job(&queued.id).await.state(), JobState::Succeeded);
    daemon.stop().await;
}

async fn wait_for_a_step(daemon: &Daemon, job: &str) {
    let request = hone::v1::WatchJobRequest { job_id: job.into(), after: 0 };
    let mut stream = daemon.training().watch(request).await.expect("a stream").into_inner();
    while let Some(event) = stream.message().await.expect("an event") {
        if matches!(event.kind, Some(Kind::Step(_))) {
            return;
        }
    }
    panic!("the job ended before a step");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_stops_a_running_job_and_a_queued_one_at_once() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let mut spec = daemon.toy_spec().await;
    spec.hyperparameters.as_mut().expect("some").epochs = Some(10_000);
    let running = daemon.start_job(spec.clone()).await.expect("a job");
    let queued = daemon.start_job(spec).await.expect("a job");
    wait_for_a_step(&daemon, &running.id).await;
    let cancel = async |id: &str| {
        let request = CancelJobRequest { job_id: id.into() };
        daemon.training().cancel(request).await.expect("a job").into_inner()
    };
    assert_eq!(cancel(&queued.id).await.state(), JobState::Cancelled);
    cancel(&running.id).await;
    daemon.watch(&running.id, 0).await.expect("events");
    assert_eq!(daemon.job(&running.id).await.state(), JobState::Cancelled);
    let jobs = daemon.training().list(ListJobsRequest::default()).await.expect("jobs").into_inner().jobs;
    assert_eq!(
        jobs.iter().map(|job| job.id.as_str()).collect::<Vec<_>>(),
        [queued.id.as_str(), running.id.as_str()]
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_promoted_downloaded_and_deleted() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    daemon.train_toy().await;
    let second = daemon.train_toy().await.model.expect("a model");
    assert_eq!(second.version, 2);
    let promote =
        PromoteModelRequest { model: "toy@1".into(), alias: "production".into(), ..Default::default() };
    let model = daemon.models().promote(promote).await.expect("a model").into_inner();
    let aliases: HashMap<_, _> =
        model.aliases.iter().map(|alias| (alias.name.as_str(), alias.version)).collect();
    assert_eq!(aliases, HashMap::from([("latest", 2), ("production", 1)]));
    daemon.classify("toy@production", &["a lovely thing"]).await.expect("an answer");

    let refused = daemon
        .models()
        .delete(DeleteModelRequest { model: "toy@1".into() })
        .await
        .expect_err("an alias holds it");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    daemon.models().delete(DeleteModelRequest { model: "toy@2".into() }).await.expect("deleted");
    let model =
        daemon.models().get(GetModelRequest { name: "toy".into() }).await.expect("a model").into_inner();
    assert_eq!(model.versions.len(), 1);
    assert!(model.aliases.iter().all(|alias| alias.version == 1));

    let request = DownloadModelRequest { model: "toy@production".into() };
    let mut stream = daemon.models().download(request).await.expect("a stream").into_inner();
    let mut files: Vec<(hone::v1::DownloadedFile, Vec<u8>)> = Vec::new();
    while let Some(message) = stream.message().await.expect("a part") {
        match message.part.expect("a part") {
            download_model_response::Part::File(file) => files.push((file, Vec::new())),
            download_model_response::Part::Chunk(chunk) => files.last_mut().expect("a file").1.extend(chunk),
        }
    }
    let names: Vec<_> = files.iter().map(|(file, _)| file.name.as_str()).collect();
    for name in ["config.json", "hone.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        assert!(names.contains(&name), "{name} is not among {names:?}");
    }
    assert!(files.iter().all(|(file, bytes)| file.size_bytes == bytes.len() as u64));
    let weights = files.iter().find(|(file, _)| file.name == "model.safetensors").expect("weights");
    assert_eq!(weights.0.sha256, model.versions[0].weights_sha256);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_file_is_kept_once_and_not_deleted_under_a_job() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let first = daemon.upload("a.csv", toy_rows(20, 1)).await.expect("an upload");
    let again = daemon.upload("b.csv", toy_rows(20, 1)).await.expect("an upload");
    assert_eq!(first.id, again.id);
    let summary = first.summary.expect("a summary");
    assert_eq!((summary.rows, summary.labels.len()), (20, 2));
    let spec = daemon.toy_spec().await;
    let train = spec.train.clone().expect("a file").dataset_id;
    let mut long = spec;
    long.hyperparameters.as_mut().expect("some").epochs = Some(10_000);
    let job = daemon.start_job(long).await.expect("a job");
    let delete = |id: &str| {
        let (id, mut datasets) = (id.to_owned(), daemon.datasets());
        async move { datasets.delete(DeleteDatasetRequest { id }).await }
    };
    assert_eq!(delete(&train).await.expect_err("in use").code(), Code::FailedPrecondition);
    daemon.training().cancel(CancelJobRequest { job_id: job.id.clone() }).await.expect("a job");
    daemon.watch(&job.id, 0).await.expect("events");
    delete(&train).await.expect("deleted");
    assert_eq!(delete(&train).await.expect_err("gone").code(), Code::NotFound);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_the_demonstration_data_is_used() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let spec = hone::v1::JobSpec {
        hyperparameters: Some(hone::v1::Hyperparameters {
            epochs: Some(1),
            max_length: Some(16),
            ..Default::default()
        }),
        ..Default::default()
    };
    let job = daemon.start_job(spec).await.expect("a job");
    daemon.watch(&job.id, 0).await.expect("events");
    let job = daemon.job(&job.id).await;
    assert_eq!(job.state(), JobState::Succeeded);
    assert_eq!(job.model.expect("a model").name, "reviews");
    assert_eq!(job.test.and_then(|test| test.metrics).expect("a test result").rows, 200);
    daemon.stop().await;
}
