//! A whole daemon over gRPC, with a trainer and an engine that need no model.

mod lanes;
mod lists;
mod records;
mod stopping;

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Parser as _;
use hone::v1;
use hone::v1::dataset_service_client::DatasetServiceClient;
use hone::v1::download_model_response::Part as DownloadPart;
use hone::v1::event::Kind;
use hone::v1::inference_service_client::InferenceServiceClient;
use hone::v1::model_service_client::ModelServiceClient;
use hone::v1::training_service_client::TrainingServiceClient;
use hone::v1::upload_dataset_request::Part;
use prost::Message as _;
use tokio::sync::oneshot;
use tokio::task::JoinHandle as Task;
use tonic::Code;
use tonic::codegen::http;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use super::*;
use crate::jobs::testing::{self, FakeTrainer, Home};
use crate::serve::testing::FakeEngine;

struct Harness {
    address: String,
    channel: Channel,
    stop: Option<oneshot::Sender<()>>,
    task: Task<Result<()>>,
    jobs: Arc<Registry>,
}

impl Harness {
    async fn start(home: &Home) -> Self {
        let compute = Compute {
            trainer: Arc::new(FakeTrainer),
            engine: Arc::new(FakeEngine::default()),
            lanes: Lanes::new(const { NonZeroUsize::new(2).unwrap() }).unwrap(),
            reader: testing::read,
        };
        Self::start_with(home, compute).await
    }

    async fn start_with(home: &Home, compute: Compute) -> Self {
        let folder = home.path().to_str().unwrap();
        let config =
            Config::parse_from(["daemon", "--data-dir", folder, "--max-jobs", "2", "--max-upload", "3M"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let daemon = Daemon::open_with(&config, compute).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let jobs = daemon.jobs.clone();
        let task = tokio::spawn(daemon.serve(listener, async { drop(stopped.await) }));
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { address, channel, stop: Some(stop), task, jobs }
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        tokio::time::timeout(Duration::from_secs(10), self.task).await.unwrap().unwrap().unwrap();
    }

    fn training(&self) -> TrainingServiceClient<Channel> {
        TrainingServiceClient::new(self.channel.clone())
    }

    fn inference(&self) -> InferenceServiceClient<Channel> {
        InferenceServiceClient::new(self.channel.clone())
    }

    fn datasets(&self) -> DatasetServiceClient<Channel> {
        DatasetServiceClient::new(self.channel.clone())
    }

    fn models(&self) -> ModelServiceClient<Channel> {
        ModelServiceClient::new(self.channel.clone())
    }

    async fn submit(&self, name: &str) -> v1::Job {
        let spec = v1::JobSpec { name: Some(name.into()), ..Default::default() };
        self.training()
            .start(v1::StartJobRequest { spec: Some(spec), request_id: None })
            .await
            .unwrap()
            .into_inner()
    }

    async fn watch(&self, job: &str, after: u64) -> tonic::Streaming<v1::Event> {
        let request = v1::WatchJobRequest { job_id: job.into(), after };
        self.training().watch(request).await.unwrap().into_inner()
    }

    /// Trains a model and returns the job's events.
    async fn train(&self, name: &str) -> Vec<v1::Event> {
        let job = self.submit(name).await;
        let mut events = self.watch(&job.id, 0).await;
        let mut seen = Vec::new();
        while let Some(event) = events.message().await.unwrap() {
            seen.push(event);
        }
        seen
    }

    /// The status of a call over plain HTTP/2: tonic's client would end it by a timer of its own.
    async fn raw(&self, method: &str, timeout: &str, message: &[u8]) -> String {
        let stream = tokio::net::TcpStream::connect(&self.address).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post(format!("http://{}/hone.v1.{method}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", timeout)
            .body(())
            .unwrap();
        let (response, mut body) = client.send_request(request, false).unwrap();
        let frame = [&[0], &(message.len() as u32).to_be_bytes()[..], message].concat();
        body.send_data(frame.into(), true).unwrap();
        let mut response = response.await.unwrap();
        let status = |headers: &http::HeaderMap| Some(headers.get("grpc-status")?.to_str().ok()?.to_owned());
        if let Some(status) = status(response.headers()) {
            return status;
        }
        while let Some(data) = response.body_mut().data().await {
            let length = data.unwrap().len();
            response.body_mut().flow_control().release_capacity(length).unwrap();
        }
        status(&response.body_mut().trailers().await.unwrap().unwrap()).unwrap()
    }

    async fn upload(&self, parts: Vec<Part>) -> Result<v1::Dataset, tonic::Status> {
        let messages = parts.into_iter().map(|part| v1::UploadDatasetRequest { part: Some(part) });
        let messages = futures::stream::iter(messages.collect::<Vec<_>>());
        Ok(self.datasets().upload(messages).await?.into_inner())
    }
}

fn header(name: &str) -> Part {
    Part::Header(v1::UploadHeader { name: name.into(), ..Default::default() })
}

fn chunk(bytes: &[u8]) -> Part {
    Part::Chunk(bytes.to_vec())
}

fn texts(model: &str, texts: &[&str]) -> v1::ClassifyRequest {
    let input = |text: &&str| v1::Input { text: (*text).into(), text_pair: None };
    v1::ClassifyRequest {
        model: model.into(),
        inputs: texts.iter().map(input).collect(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_file_becomes_a_job_becomes_a_model_becomes_an_answer() {
    let home = Home::new();
    let daemon = Harness::start(&home).await;
    let dataset =
        daemon.upload(vec![header("films.csv"), chunk(b"text,label\n"), chunk(b"a,b\n")]).await.unwrap();
    assert_eq!(dataset.summary.unwrap().rows, 1);
    let spec = v1::JobSpec {
        train: Some(v1::DataSource { dataset_id: dataset.id.clone(), name: None }),
        ..Default::default()
    };
    let job = daemon
        .training()
        .start(v1::StartJobRequest { spec: Some(spec), request_id: None })
        .await
        .unwrap()
        .into_inner();
    let spec = job.spec.unwrap();
    assert_eq!(spec.name.as_deref(), Some("films"));
    assert_eq!(spec.hyperparameters.unwrap().learning_rate, Some(2e-5));

    let mut events = daemon.watch(&job.id, 0).await;
    let mut seen = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        seen.push(event);
    }
    assert!(seen.iter().map(|event| event.number).eq(1..=seen.len() as u64));
    let Some(Kind::StateChanged(last)) = &seen[seen.len() - 1].kind else { panic!("{seen:?}") };
    assert_eq!(last.state(), v1::JobState::Succeeded);
    let mut rest = daemon.watch(&job.id, 3).await;
    assert_eq!(rest.message().await.unwrap().unwrap(), seen[3]);

    let job = daemon.training().get(v1::GetJobRequest { job_id: job.id }).await.unwrap().into_inner();
    assert_eq!((job.epochs.len(), job.model.unwrap().version), (1, 1));
    assert_eq!(job.last_event, seen.len() as u64);

    let answer = daemon.inference().classify(texts("", &["good", "dull"])).await.unwrap().into_inner();
    assert_eq!((answer.model.as_str(), answer.version, answer.tokens), ("films", 1, 2));
    let labels: Vec<&str> = answer.predictions.iter().map(|p| p.label.as_str()).collect();
    assert_eq!(labels, ["positive", "negative"]);
    daemon.stop().await;
}

#[tokio::test]
async fn uploads_that_break_the_rules_are_refused_and_leave_nothing() {
    let home = Home::new();
    let daemon = Harness::start(&home).await;
    let big = vec![b'x'; 1 << 20];
    for (parts, code) in [
        (vec![], Code::InvalidArgument),
        (vec![chunk(b"text,label\n")], Code::InvalidArgument),
        (vec![header("a.csv"), header("a.csv")], Code::InvalidArgument),
        (vec![header("a.csv"), chunk(&vec![b'x'; (1 << 20) + 1])], Code::InvalidArgument),
        (vec![header("a.csv"), chunk(b"bad")], Code::InvalidArgument),
        (vec![header("a.csv"), chunk(&big), chunk(&big), chunk(&big), chunk(&big)], Code::ResourceExhausted),
    ] {
        assert_eq!(daemon.upload(parts).await.unwrap_err().code(), code);
    }
    assert!(
        daemon
            .datasets()
            .list(v1::ListDatasetsRequest::default())
            .await
            .unwrap()
            .into_inner()
            .datasets
            .is_empty()
    );
    daemon.stop().await;
    for folder in ["tmp", "datasets"] {
        assert_eq!(std::fs::read_dir(home.path().join(folder)).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn jobs_are_validated_bounded_and_cancelled() {
    let home = Home::new();
    let daemon = Harness::start(&home).await;
    let start = async |spec| {
        daemon.training().start(v1::StartJobRequest { spec: Some(spec), request_id: None }).await.unwrap_err()
    };
    let named = |name: &str| v1::JobSpec { name: Some(name.into()), ..Default::default() };
    assert_eq!(start(named("invalid")).await.message(), "the training file has one label only");
    let hyperparameters = v1::Hyperparameters { learning_rate: Some(-1.0), ..Default::default() };
    let status = start(v1::JobSpec { hyperparameters: Some(hyperparameters), ..Default::default() }).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    let train = Some(v1::DataSource { dataset_id: "0".repeat(64), name: None });
    assert_eq!(start(v1::JobSpec { train, ..Default::default() }).await.code(), Code::NotFound);

    let running = daemon.submit("endless").await;
    let mut events = daemon.watch(&running.id, 0).await;
    while !matches!(events.message().await.unwrap().unwrap().kind, Some(Kind::Step(_))) {}
    let queued = [daemon.submit("reviews").await, daemon.submit("reviews").await];
    assert_eq!(queued[1].jobs_ahead, 2);
    let full = start(named("reviews")).await;
    assert_eq!(full.code(), Code::ResourceExhausted);

    let cancel = async |id: &str| {
        let request = v1::CancelJobRequest { job_id: id.into() };
        daemon.training().cancel(request).await.map(|job| job.into_inner().state())
    };
    assert_eq!(cancel(&queued[1].id).await.unwrap(), v1::JobState::Cancelled);
    cancel(&running.id).await.unwrap();
    let mut last = None;
    while let Some(event) = events.message().await.unwrap() {
        last = event.kind;
    }
    let Some(Kind::StateChanged(last)) = last else { panic!("{last:?}") };
    assert_eq!(last.state(), v1::JobState::Cancelled);
    assert_eq!(cancel("nothing").await.unwrap_err().code(), Code::NotFound);
    daemon.stop().await;
}

#[tokio::test]
async fn a_dry_run_ends_when_its_caller_has_gone() {
    let home = Home::new();
    let daemon = Harness::start(&home).await;
    let dry_run = async |name: &str| {
        let spec = v1::JobSpec { name: Some(name.into()), ..Default::default() };
        daemon.training().dry_run(v1::StartJobRequest { spec: Some(spec), request_id: None }).await
    };
    let gone = tokio::time::timeout(Duration::from_millis(100), dry_run("endless")).await;
    assert!(gone.is_err(), "it ended by itself");
    // One goes on at a time.
    dry_run("reviews").await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn models_are_promoted_downloaded_and_deleted() {
    let home = Home::new();
    let daemon = Harness::start(&home).await;
    daemon.train("reviews").await;
    daemon.train("reviews").await;
    let promote =
        v1::PromoteModelRequest { model: "reviews@1".into(), alias: "live".into(), ..Default::default() };
    let model = daemon.models().promote(promote).await.unwrap().into_inner();
    let aliases: Vec<_> = model.aliases.iter().map(|alias| (alias.name.as_str(), alias.version)).collect();
    assert_eq!(aliases, [("latest", 2), ("live", 1)]);
    let answer = daemon.inference().classify(texts("reviews@live", &["good"])).await.unwrap().into_inner();
    assert_eq!(answer.version, 1);

    let request = v1::DownloadModelRequest { model: "reviews".into() };
    let mut pieces = daemon.models().download(request).await.unwrap().into_inner();
    let mut names = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        if let Some(DownloadPart::File(file)) = piece.part {
            names.push(file.name);
        }
    }
    assert_eq!(names, ["config.json", "model.safetensors"]);

    let delete = async |model: &str| {
        let request = v1::DeleteModelRequest { model: model.into() };
        daemon.models().delete(request).await.map(drop).map_err(|status| status.code())
    };
    assert_eq!(delete("reviews@1").await, Err(Code::FailedPrecondition));
    assert_eq!(delete("reviews@2").await, Ok(()));
    assert_eq!(delete("films").await, Err(Code::NotFound));
    let status = daemon.inference().classify(texts("films", &["good"])).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("this daemon has reviews"), "{status}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_stream_answers_in_order_and_a_request_that_fails_has_its_error_in_its_place() {
    let home = Home::new();
    let daemon = Harness::start(&home).await;
    daemon.train("reviews").await;
    let requests: Vec<_> = (0..50).map(|i| texts("", &[if i % 2 == 0 { "good" } else { "dull" }])).collect();
    let bad = v1::ClassifyRequest { request_id: "bad".into(), ..texts("", &[]) };
    let requests = requests.into_iter().chain([bad, texts("", &["good"])]);
    let requests = futures::stream::iter(requests.collect::<Vec<_>>());
    let mut answers = daemon.inference().classify_stream(requests).await.unwrap().into_inner();
    for i in 0..50 {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.predictions[0].label, if i % 2 == 0 { "positive" } else { "negative" });
    }
    let failed = answers.message().await.unwrap().unwrap();
    let error = failed.error.unwrap();
    assert_eq!((failed.request_id.as_str(), error.code, error.field.as_str()), ("bad", 3, "inputs"));
    assert_eq!(answers.message().await.unwrap().unwrap().predictions[0].label, "positive");
    assert_eq!(answers.message().await.unwrap(), None);
    daemon.stop().await;
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_said_to_be_one() {
    let home = Home::new();
    let daemon = Harness::start(&home).await;
    daemon.train("reviews").await;
    daemon.inference().classify(texts("", &["good"])).await.unwrap();
    let request = texts("", &["slow"]).encode_to_vec();
    assert_eq!(daemon.raw("InferenceService/Classify", "50m", &request).await, "4");

    let running = daemon.submit("endless").await;
    let request = v1::WatchJobRequest { job_id: running.id, after: 0 }.encode_to_vec();
    assert_eq!(daemon.raw("TrainingService/Watch", "100m", &request).await, "4");
    daemon.stop().await;
}

#[tokio::test]
async fn a_text_beyond_the_limit_is_named() {
    let home = Home::new();
    let daemon = Harness::start(&home).await;
    daemon.train("reviews").await;
    let long = "x".repeat(10 << 20);
    let answer = daemon.inference().classify(texts("", &["good", &long])).await.unwrap().into_inner();
    let error = answer.predictions[1].error.as_ref().unwrap();
    assert_eq!((error.code, error.field.as_str()), (3, "inputs[1].text"));
    assert_eq!(answer.predictions[0].label, "positive");
    let status = daemon.inference().classify(texts("", &[&long])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("inputs[0].text"), "{status}");
    let details = status.get_details_bad_request().unwrap();
    assert_eq!(details.field_violations[0].field, "inputs[0].text");
    daemon.stop().await;
}

#[tokio::test]
async fn health_tells_of_every_service() {
    let home = Home::new();
    let daemon = Harness::start(&home).await;
    let mut health = HealthClient::new(daemon.channel.clone());
    for service in ["", "Training", "Inference", "Dataset", "Model"] {
        let service = if service.is_empty() { String::new() } else { format!("hone.v1.{service}Service") };
        let answer = health.check(HealthCheckRequest { service }).await.unwrap().into_inner();
        assert_eq!(answer.status, 1);
    }
    daemon.stop().await;
}
