//! Requests for what does not exist, and beyond a limit or a deadline; and what the daemon tells of its services.

use std::path::PathBuf;
use std::time::Duration;

use hone::v1::event::Kind;
use hone::v1::{
    CancelJobRequest, ClassifyRequest, DeleteDatasetRequest, DeleteModelRequest, DownloadModelRequest,
    GetDatasetRequest, GetJobRequest, GetModelRequest, Input, JobSpec, JobState, PromoteModelRequest,
    WatchJobRequest,
};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::{Held, NO_FILE, assert_refused, files_below, folder, hyperparameters, quick, train};
use crate::harness::daemon::Daemon;
use crate::harness::toy_rows;

const NOBODY: &str = "01arz3ndektsv4rrffq69g5fav";

/// A job that does not end by itself.
fn endless(mut spec: JobSpec) -> JobSpec {
    hyperparameters(&mut spec).epochs = Some(10_000);
    spec
}

async fn wait_until_it_runs(daemon: &Daemon, job: &str) {
    let request = WatchJobRequest { job_id: job.into(), after: 0 };
    let mut events = daemon.training().watch(request).await.expect("a stream").into_inner();
    while let Some(event) = events.message().await.expect("an event") {
        if matches!(event.kind, Some(Kind::Prepared(_))) {
            return;
        }
    }
    panic!("the job ended before it began");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_not_found_by_its_name() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let (mut training, mut models, mut datasets) = (daemon.training(), daemon.models(), daemon.datasets());
    let trained = train(&daemon, quick(daemon.toy_spec().await, "toy")).await;
    assert_eq!(trained.state(), JobState::Succeeded, "{trained:?}");
    let before = Held::by(&daemon).await;
    let check = |case: &str, answer: Result<(), Status>, word: &str| {
        assert_refused(case, answer, Code::NotFound, &[word]);
    };
    let job_id = || NOBODY.to_owned();
    check("get a job", training.get(GetJobRequest { job_id: job_id() }).await.map(drop), NOBODY);
    check(
        "watch a job",
        training.watch(WatchJobRequest { job_id: job_id(), after: 0 }).await.map(drop),
        NOBODY,
    );
    check("cancel a job", training.cancel(CancelJobRequest { job_id: job_id() }).await.map(drop), NOBODY);
    check("classify", daemon.classify("nobody", &["a"]).await.map(drop), "\"nobody\"; this daemon has toy");
    check("a version", daemon.classify("toy@7", &["a"]).await.map(drop), "\"toy@7\"; toy has the versions 1");
    check("an alias", daemon.classify("toy@best", &["a"]).await.map(drop), "\"toy@best\"");
    check("get a model", models.get(GetModelRequest { name: "nobody".into() }).await.map(drop), "nobody");
    let promote = PromoteModelRequest { model: "toy@7".into(), alias: "best".into(), ..Default::default() };
    check("promote", models.promote(promote).await.map(drop), "toy@7");
    check(
        "delete a model",
        models.delete(DeleteModelRequest { model: "nobody".into() }).await.map(drop),
        "nobody",
    );
    let download = DownloadModelRequest { model: "nobody".into() };
    check("download", models.download(download).await.map(drop), "nobody");
    let get = GetDatasetRequest { id: NO_FILE.into(), columns: None, name: None };
    check("get a data set", datasets.get(get).await.map(drop), NO_FILE);
    let delete = DeleteDatasetRequest { id: NO_FILE.into() };
    check("delete a data set", datasets.delete(delete).await.map(drop), NO_FILE);
    assert_eq!(Held::by(&daemon).await, before);

    let beyond = daemon.watch(&trained.id, trained.last_event + 99).await.expect("a stream");
    assert_eq!(beyond, [], "a cursor beyond the end of a job that has ended reads nothing, and ends");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_classify_outside_the_limits_is_refused_and_the_model_lives_on() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    train(&daemon, quick(daemon.toy_spec().await, "toy")).await;
    let before = Held::by(&daemon).await;
    let ask = |texts: Vec<String>| {
        let inputs = texts.into_iter().map(|text| Input { text, text_pair: None }).collect();
        let (request, mut inference) = (
            ClassifyRequest { model: "toy".into(), inputs, all_or_nothing: true, ..Default::default() },
            daemon.inference(),
        );
        async move { inference.classify(request).await.map(drop) }
    };
    let long = vec!["short".to_owned(), "x".repeat(10 << 20)];
    let words = ["inputs[1].text", "10485760 bytes", "1048576"];
    assert_refused("a text of 10 MB", ask(long).await, Code::InvalidArgument, &words);
    let words = ["1 to 1024 inputs", "has 0"];
    assert_refused("no text", ask(vec![]).await, Code::InvalidArgument, &words);
    let many = vec!["a".to_owned(); 1025];
    assert_refused(
        "too many texts",
        ask(many).await,
        Code::InvalidArgument,
        &["1 to 1024 inputs", "has 1025"],
    );
    let bad_name = daemon.classify("toy@1/../..", &["a"]).await;
    assert_refused("a name that is a path", bad_name, Code::InvalidArgument, &["\"1/../..\""]);
    ask(vec![String::new(), "x".repeat(1 << 20), "\0".to_owned()]).await.expect("what is odd is no mistake");
    ask(vec!["a".to_owned(); 1024]).await.expect("the most that is allowed");
    assert_eq!(Held::by(&daemon).await, before);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_exceeds_the_operators_limits_is_refused_by_the_limits_flag() {
    let data = folder();
    let daemon = Daemon::start_with(data.path(), &["--max-jobs", "1", "--max-upload", "32K"]).await;
    let spec = endless(daemon.toy_spec().await);
    let running = daemon.start_job(spec.clone()).await.expect("a job");
    wait_until_it_runs(&daemon, &running.id).await;
    let waiting = daemon.start_job(spec.clone()).await.expect("a place in the queue");
    let refused = daemon.start_job(spec.clone()).await;
    assert_refused("a full queue", refused, Code::ResourceExhausted, &["at most 1 wait", "--max-jobs"]);
    let large = daemon.upload("large.csv", toy_rows(2000, 1)).await;
    assert_refused("a large file", large, Code::ResourceExhausted, &["large.csv", "32768", "--max-upload"]);
    let held = Held::by(&daemon).await;
    let ids: Vec<&str> = held.jobs.iter().map(|job| job.id.as_str()).collect();
    assert_eq!((ids, held.datasets.len()), (vec![waiting.id.as_str(), running.id.as_str()], 2));
    assert_eq!(files_below(&data.path().join("tmp")), Vec::<PathBuf>::new());

    let cancel = CancelJobRequest { job_id: waiting.id };
    daemon.training().cancel(cancel).await.expect("cancelled");
    daemon.start_job(spec).await.expect("there is room again");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_past_its_deadline_ends_with_that_status_and_the_job_goes_on() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let job = daemon.start_job(endless(daemon.toy_spec().await)).await.expect("a job");
    let mut request = Request::new(WatchJobRequest { job_id: job.id.clone(), after: 1 << 40 });
    request.set_timeout(Duration::from_millis(500));
    let mut events = daemon.training().watch(request).await.expect("a stream").into_inner();
    let end = events.message().await;
    assert_refused("no event", end, Code::DeadlineExceeded, &["deadline"]);
    wait_until_it_runs(&daemon, &job.id).await;
    assert_eq!(daemon.job(&job.id).await.state(), JobState::Running);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_runs_is_healthy_and_tells_its_services() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let services = ["Training", "Inference", "Dataset", "Model"].map(|name| format!("hone.v1.{name}Service"));
    let mut health = HealthClient::new(daemon.channel.clone());
    for service in services.iter().cloned().chain([String::new()]) {
        let answer = health.check(HealthCheckRequest { service: service.clone() }).await.expect("an answer");
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "hone.v1.Nobody".into() }).await;
    assert_refused("an unknown service", unknown, Code::NotFound, &[]);

    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let mut reflection = ServerReflectionClient::new(daemon.channel.clone());
    let answers = reflection.server_reflection_info(tokio_stream::once(request)).await.expect("answers");
    let answer = answers.into_inner().message().await.expect("an answer").expect("an answer");
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else {
        panic!("{answer:?}")
    };
    for service in &services {
        assert!(listed.service.iter().any(|listed| listed.name == *service), "{service}: {listed:?}");
    }
    daemon.stop().await;
}
