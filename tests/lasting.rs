//! Jobs that last: a daemon is killed or stopped while a job runs, and the job goes on as if nothing had happened.

use std::path::Path;

use hone::v1::event::Kind;
use hone::v1::{
    CancelJobRequest, EpochMetrics, Event, Job, JobSpec, JobState, PauseJobRequest, ResumeJobRequest,
    StartJobRequest, StepMetrics,
};
use tonic::Code;

use crate::cli;
use crate::harness::daemon::{Calls, Daemon};
use crate::harness::process::Process;
use crate::harness::toy_rows;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// A job of three epochs, each of which takes long enough to be interrupted in.
async fn spec(daemon: &Calls) -> JobSpec {
    let mut spec = daemon.toy_spec().await;
    let train = daemon.upload("long.csv", toy_rows(12_000, 3)).await.expect("an upload");
    spec.train.as_mut().expect("a file").dataset_id = train.id;
    spec
}

fn is_in_the_second_epoch(kind: &Kind) -> bool {
    matches!(kind, Kind::Step(step) if step.epoch == 2 && step.step_in_epoch < step.steps_per_epoch)
}

fn states(events: &[Event]) -> Vec<JobState> {
    let state = |event: &Event| match &event.kind {
        Some(Kind::StateChanged(change)) => Some(change.state()),
        _ => None,
    };
    events.iter().filter_map(state).collect()
}

fn steps(events: &[Event]) -> Vec<&StepMetrics> {
    let step = |event: &'_ Event| matches!(event.kind, Some(Kind::Step(_)));
    let of = events.iter().filter(|event| step(event));
    of.filter_map(|event| if let Some(Kind::Step(step)) = &event.kind { Some(step) } else { None }).collect()
}

fn count(events: &[Event], of: fn(&Kind) -> bool) -> usize {
    events.iter().filter(|event| event.kind.as_ref().is_some_and(of)).count()
}

/// What of an epoch does not depend on the clock.
fn learned(epochs: &[EpochMetrics]) -> Vec<impl PartialEq + std::fmt::Debug> {
    let of = |epoch: &EpochMetrics| {
        (epoch.epoch, epoch.train.clone(), epoch.validation.clone(), epoch.best, epoch.step)
    };
    epochs.iter().map(of).collect()
}

/// Checks that the log of a job has everything once and in order, whatever happened on the way.
fn assert_each_once(events: &[Event], epochs: u32) {
    assert!(events.iter().map(|event| event.number).eq(1..=events.len() as u64));
    assert_eq!(count(events, |kind| matches!(kind, Kind::Prepared(_))), 1);
    assert_eq!(count(events, |kind| matches!(kind, Kind::Test(_))), 1);
    assert_eq!(count(events, |kind| matches!(kind, Kind::Published(_))), 1);
    let told: Vec<u32> = events
        .iter()
        .filter_map(|event| if let Some(Kind::Epoch(epoch)) = &event.kind { Some(epoch.epoch) } else { None })
        .collect();
    assert_eq!(told, (1..=epochs).collect::<Vec<_>>());
    let steps = steps(events);
    assert!(steps.is_sorted_by(|one, next| one.step < next.step), "a step is told twice or out of order");
    let ends = steps.iter().filter(|step| step.step_in_epoch == step.steps_per_epoch).count();
    assert_eq!(ends, epochs as usize, "the last step of every epoch is told");
}

/// Checks that two jobs of one specification have learned the same, to the bit.
fn assert_same(resumed: &Job, whole: &Job) {
    let weights = |job: &Job| job.model.as_ref().expect("a model").weights_sha256.clone();
    assert_eq!(weights(resumed), weights(whole));
    assert_eq!(learned(&resumed.epochs), learned(&whole.epochs));
    let test = |job: &Job| job.test.as_ref().and_then(|test| test.metrics.clone());
    assert_eq!(test(resumed), test(whole));
}

/// Runs the same job without a pause.
async fn run_through(daemon: &Calls, spec: JobSpec) -> Job {
    let job = daemon.start_job(spec).await.expect("a job");
    daemon.watch(&job.id, 0).await.expect("events");
    daemon.job(&job.id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_daemon_is_killed_in_the_second_epoch_goes_on_to_the_same_weights_and_the_same_log() {
    use JobState::{Interrupted, Queued, Running, Succeeded};
    let data = folder();
    let mut daemon = Process::start(data.path(), &[]).await;
    let spec = spec(&daemon).await;
    let job = daemon.start_job(spec.clone()).await.expect("a job");
    daemon.until(&job.id, is_in_the_second_epoch).await;
    daemon.kill();

    let daemon = Process::start(data.path(), &[]).await;
    let events = daemon.watch(&job.id, 0).await.expect("events");
    assert_eq!(states(&events), [Queued, Running, Interrupted, Queued, Running, Succeeded]);
    assert_each_once(&events, 3);
    let resumed = daemon.job(&job.id).await;
    assert!(resumed.ended_at.is_some());
    assert_same(&resumed, &run_through(&daemon, spec).await);
    assert!(!data.path().join("jobs").join(&job.id).exists(), "its folder is gone with its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_killed_again_and_again_still_ends_with_the_same_weights() {
    let data = folder();
    let mut daemon = Process::start(data.path(), &[]).await;
    let spec = spec(&daemon).await;
    let job = daemon.start_job(spec.clone()).await.expect("a job");
    for step in [1, 600, 1500] {
        daemon.until(&job.id, |kind| matches!(kind, Kind::Step(told) if told.step >= step)).await;
        daemon.kill();
        daemon = Process::start(data.path(), &[]).await;
    }
    let events = daemon.watch(&job.id, 0).await.expect("events");
    assert_each_once(&events, 3);
    assert_same(&daemon.job(&job.id).await, &run_through(&daemon, spec).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_leaves_the_device_survives_a_restart_and_goes_on_when_it_is_resumed() {
    use JobState::{Paused, Queued, Running, Succeeded};
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let spec = spec(&daemon).await;
    let job = daemon.start_job(spec.clone()).await.expect("a job");
    daemon.until(&job.id, is_in_the_second_epoch).await;
    let request = PauseJobRequest { job_id: job.id.clone() };
    daemon.training().pause(request).await.expect("told");
    daemon
        .until(&job.id, |kind| matches!(kind, Kind::StateChanged(change) if change.state() == Paused))
        .await;
    let whole = run_through(&daemon, spec).await;
    assert_eq!(whole.state(), Succeeded, "the device is free");
    daemon.stop().await;

    let daemon = Daemon::start(data.path()).await;
    assert_eq!(daemon.job(&job.id).await.state(), Paused, "it does not go on by itself");
    let request = ResumeJobRequest { job_id: job.id.clone() };
    daemon.training().resume(request).await.expect("queued");
    let events = daemon.watch(&job.id, 0).await.expect("events");
    assert_eq!(states(&events), [Queued, Running, Paused, Queued, Running, Succeeded]);
    assert_each_once(&events, 3);
    assert_same(&daemon.job(&job.id).await, &whole);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_hand_an_interrupted_job_waits_for_its_user() {
    use JobState::{Interrupted, Queued, Running, Succeeded};
    let data = folder();
    let mut daemon = Process::start(data.path(), &[]).await;
    let job = daemon.start_job(spec(&daemon).await).await.expect("a job");
    daemon.until(&job.id, is_in_the_second_epoch).await;
    daemon.kill();

    let daemon = Daemon::start_with(data.path(), &["--resume-jobs", "manual"]).await;
    assert_eq!(daemon.job(&job.id).await.state(), Interrupted);
    // The device is free for others meanwhile.
    let other = daemon.train_toy().await;
    assert_eq!(other.state(), Succeeded);
    assert_eq!(daemon.job(&job.id).await.state(), Interrupted);
    let ran = cli::client(&daemon.address, &["resume", &job.id]).await;
    ran.assert_shows(&[&job.id, "watch"]);
    let events = daemon.watch(&job.id, 0).await.expect("events");
    assert_eq!(states(&events), [Queued, Running, Interrupted, Queued, Running, Succeeded]);
    assert_each_once(&events, 3);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_watches_comes_back_after_the_daemon_was_killed_and_stays_to_the_end() {
    let data = folder();
    let mut daemon = Process::start(data.path(), &[]).await;
    let (address, place) = (daemon.address.clone(), daemon.place());
    let job = daemon.start_job(spec(&daemon).await).await.expect("a job").id;
    let watching = tokio::spawn({
        let job = job.clone();
        async move { cli::client(&address, &["--json", "watch", &job]).await }
    });
    daemon.until(&job, is_in_the_second_epoch).await;
    daemon.kill();
    let daemon = Process::start_at(data.path(), &place, &[]).await;
    let ran = watching.await.expect("no panic");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("is lost (") && !ran.err.contains("start it again"), "{}", ran.err);
    let events: Vec<u64> =
        ran.json().iter().map(|event| event["number"].as_u64().expect("a number")).collect();
    assert_eq!(events, (1..=daemon.job(&job).await.last_event).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_and_an_interrupted_job_are_ended_at_once_and_leave_nothing() {
    let data = folder();
    let mut daemon = Process::start(data.path(), &[]).await;
    let job = daemon.start_job(spec(&daemon).await).await.expect("a job").id;
    daemon.until(&job, is_in_the_second_epoch).await;
    daemon.kill();
    let daemon = Daemon::start_with(data.path(), &["--resume-jobs", "manual"]).await;
    let workspace = |id: &str| data.path().join("jobs").join(id);
    assert!(workspace(&job).exists());
    let cancel = async |id: &str| {
        let request = CancelJobRequest { job_id: id.into() };
        daemon.training().cancel(request).await.expect("a job").into_inner().state()
    };
    assert_eq!(cancel(&job).await, JobState::Cancelled);
    assert!(!workspace(&job).exists());
    let status = daemon.training().resume(ResumeJobRequest { job_id: job.clone() }).await.expect_err("ended");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("it was cancelled"), "{status}");
    cli::client(&daemon.address, &["jobs", "delete", &job]).await.assert_shows(&["deleted", &job]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_sent_again_is_one_job_also_to_the_next_daemon() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let spec = daemon.toy_spec().await;
    let ask = |spec: &JobSpec| StartJobRequest { spec: Some(spec.clone()), request_id: Some("r-1".into()) };
    let first = daemon.training().start(ask(&spec)).await.expect("a job").into_inner();
    let second = daemon.training().start(ask(&spec)).await.expect("a job").into_inner();
    assert_eq!(second.id, first.id);
    daemon.watch(&first.id, 0).await.expect("events");
    daemon.stop().await;

    let daemon = Daemon::start(data.path()).await;
    let again = daemon.training().start(ask(&spec)).await.expect("a job").into_inner();
    assert_eq!((again.id.as_str(), again.state()), (first.id.as_str(), JobState::Succeeded));
    let mut other = spec;
    other.name = Some("other".into());
    let status = daemon.training().start(ask(&other)).await.expect_err("the id is taken");
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(status.message().contains("r-1") && status.message().contains(&first.id), "{status}");
    let bad = StartJobRequest { request_id: Some("a b".into()), ..ask(&other) };
    let status = daemon.training().start(bad).await.expect_err("no id");
    assert_eq!(status.code(), Code::InvalidArgument);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_nobody_needs_is_left_after_a_restart() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let job = daemon.train_toy().await;
    daemon.stop().await;
    let litter = ["jobs/01x/state", "models/toy/7", "models/nobody/1", "tmp/upload-x"];
    for folder in litter {
        std::fs::create_dir_all(data.path().join(folder)).expect("a folder");
    }
    let orphan = data.path().join("datasets").join("0".repeat(64));
    std::fs::write(&orphan, "text,label\n").expect("a file");
    let daemon = Daemon::start(data.path()).await;
    let names = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(Path::new(data.path()).join(folder)).expect("a folder");
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    };
    assert_eq!((names("jobs").len(), names("tmp").len()), (0, 0));
    assert_eq!((names("models"), names("models/toy")), (vec!["toy".to_owned()], vec!["1".to_owned()]));
    assert!(!orphan.exists());
    assert_eq!(names("datasets").len(), 2, "what users sent stays");
    assert_eq!(daemon.job(&job.id).await, job);
    daemon.stop().await;
}
