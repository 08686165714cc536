//! What a job would need, asked of a real daemon before the job is started.

use std::time::{Duration, Instant};

use hone::v1::event::Kind;
use hone::v1::{
    CancelJobRequest, DataSource, DryRunResponse, JobSpec, JobState, ListJobsRequest, Methods, Precision,
    Prepared, Split, Truncation,
};
use tonic::Code;

use crate::harness::daemon::Daemon;
use crate::harness::toy_rows;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn prepared(report: &DryRunResponse) -> &Prepared {
    report.prepared.as_ref().expect("a report on the data")
}

fn with_methods(mut spec: JobSpec, methods: Methods) -> JobSpec {
    spec.hyperparameters.get_or_insert_default().methods = Some(methods);
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_what_the_job_then_reports_and_queues_nothing() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let spec = daemon.toy_spec().await;
    let report = daemon.dry_run(spec.clone()).await.expect("a report");
    let jobs = daemon.training().list(ListJobsRequest::default()).await.expect("jobs").into_inner().jobs;
    assert!(jobs.is_empty(), "{jobs:?}");
    assert!(!data.path().join("jobs/dry-run").exists());
    assert_eq!(report.notices, Vec::<String>::new());
    let answered = report.spec.clone().and_then(|spec| spec.hyperparameters).expect("every default");
    assert_eq!((answered.epochs, answered.precision()), (Some(3), Precision::Auto));

    let memory = report.memory.expect("an estimate");
    assert_eq!(memory.moments, 8 * prepared(&report).parameters);
    // Of the words only those of a batch have a gradient.
    assert!(memory.gradients < memory.moments / 2, "{memory:?}");
    assert_eq!(memory.total, memory.parameters + memory.gradients + memory.moments + memory.activations);
    assert!((4..=4 * 32).contains(&memory.batch_tokens), "{memory:?}");

    let job = daemon.start_job(spec).await.expect("a job");
    let events = daemon.watch(&job.id, 0).await.expect("events");
    let reported = events.into_iter().find_map(|event| match event.kind {
        Some(Kind::Prepared(report)) => Some(report),
        _ => None,
    });
    assert_eq!(report.prepared, reported);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_is_that_of_a_few_measured_steps() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let mut spec = daemon.toy_spec().await;
    let time = daemon.dry_run(spec.clone()).await.expect("a report").time.expect("a time");
    assert!((1..=3).contains(&time.steps), "{time:?}");
    assert!(time.tokens_per_second > 0.0 && time.evaluation_seconds > 0.0, "{time:?}");
    assert!((time.total_seconds - time.train_seconds - time.evaluation_seconds).abs() < 1e-9);
    assert!(time.epoch_seconds > time.train_seconds / 3.0);
    // What 10,000 epochs take is extrapolated, not waited for.
    spec.hyperparameters.get_or_insert_default().epochs = Some(10_000);
    let started = Instant::now();
    let long = daemon.dry_run(spec).await.expect("a report").time.expect("a time");
    assert!(long.total_seconds > 100.0 * time.epoch_seconds, "{long:?} {time:?}");
    assert!(started.elapsed() < Duration::from_secs(30));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doubtful_data_are_named_before_anything_runs() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let rows = toy_rows(40, 1);
    let doubtful = format!("{rows}same text,positive\nsame text,positive\nsame text,negative\n");
    let long = "word ".repeat(40);
    let test = format!("text,label\nsame text,positive\n{long},negative\n");
    let source = |id: String| Some(DataSource { dataset_id: id, name: None });
    let train = source(daemon.upload("train.csv", doubtful).await.expect("an upload").id);
    let test = source(daemon.upload("test.csv", test).await.expect("an upload").id);
    let validation = source(daemon.upload("validation.csv", toy_rows(10, 3)).await.expect("an upload").id);
    let spec = JobSpec { train, test, validation, ..daemon.toy_spec().await };
    let report = daemon.dry_run(spec).await.expect("a report");
    let of = |split: Split| {
        prepared(&report).splits.iter().find(|report| report.split() == split).expect("the split")
    };
    let train = of(Split::Train);
    assert_eq!((train.rows, train.duplicates, train.contradictions), (43, 1, 1));
    assert_eq!(train.labels.iter().map(|count| count.rows).collect::<Vec<_>>(), [21, 22]);
    assert_eq!((of(Split::Test).rows, of(Split::Test).truncated), (2, 1));
    let leak = prepared(&report).overlaps.iter().find(|overlap| overlap.second() == Split::Test);
    assert_eq!(leak.map(|leak| (leak.first(), leak.rows)), Some((Split::Train, 1)));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_layers_need_no_gradients() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let spec = daemon.toy_spec().await;
    let all = daemon.dry_run(spec.clone()).await.expect("a report");
    let methods = Methods { freeze_layers: Some(1), ..Methods::default() };
    let some = daemon.dry_run(with_methods(spec, methods)).await.expect("a report");
    assert!(prepared(&some).parameters < prepared(&all).parameters);
    let (all, some) = (all.memory.expect("an estimate"), some.memory.expect("an estimate"));
    assert_eq!(some.parameters, all.parameters);
    assert!(some.gradients < all.gradients);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_job_has_the_device_the_time_is_left_out_and_nobody_waits() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let spec = daemon.toy_spec().await;
    let mut endless = spec.clone();
    endless.hyperparameters.get_or_insert_default().epochs = Some(10_000);
    let job = daemon.start_job(endless).await.expect("a job");
    let request = hone::v1::WatchJobRequest { job_id: job.id.clone(), after: 0 };
    let mut events = daemon.training().watch(request).await.expect("a stream").into_inner();
    while let Some(event) = events.message().await.expect("an event") {
        if matches!(event.kind, Some(Kind::Step(_))) {
            break;
        }
    }
    let report = daemon.dry_run(spec).await.expect("a report");
    assert_eq!(report.time, None);
    assert!(report.notices.iter().any(|notice| notice.contains("a job has the device")), "{report:?}");
    assert!(report.memory.is_some() && prepared(&report).total_steps > 0);
    daemon.training().cancel(CancelJobRequest { job_id: job.id }).await.expect("cancelled");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_would_be_refused_is_refused_here_too() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let methods = Methods { freeze_layers: Some(9), ..Methods::default() };
    let spec = with_methods(daemon.toy_spec().await, methods);
    let refused = daemon.dry_run(spec.clone()).await.expect_err("too many layers");
    let started = daemon.start_job(spec).await.expect_err("too many layers");
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, started.message()));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_diverges_at_once_is_told_before_it_runs() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let mut spec = daemon.toy_spec().await;
    let of = spec.hyperparameters.get_or_insert_default();
    (of.learning_rate, of.max_grad_norm) = (Some(1e30), Some(0.0));
    of.warmup = Some(hone::v1::hyperparameters::Warmup::WarmupSteps(0));
    let report = daemon.dry_run(spec).await.expect("a report");
    assert_eq!(report.time, None);
    assert!(report.notices.iter().any(|notice| notice.contains("diverged")), "{report:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_cuts_long_texts_as_its_training_did() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let mut spec = daemon.toy_spec().await;
    spec.name = Some("tail".into());
    spec.hyperparameters.get_or_insert_default().truncation = Some(Truncation::Tail.into());
    let job = daemon.start_job(spec).await.expect("a job");
    daemon.watch(&job.id, 0).await.expect("events");
    // The verdict stands at the end, behind more words than fit.
    let filler = "the thing and it was with ".repeat(20);
    let texts = [format!("{filler} splendid"), format!("{filler} dreadful")];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    assert_eq!(daemon.classify("tail", &texts).await.expect("answers"), ["positive", "negative"]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_runs_that_come_together_and_a_job_beside_them_all_end() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let spec = daemon.toy_spec().await;
    let ask = || {
        let (mut training, spec) = (daemon.training(), Some(spec.clone()));
        tokio::spawn(
            async move { training.dry_run(hone::v1::StartJobRequest { spec, request_id: None }).await },
        )
    };
    let asked = [ask(), ask(), ask()];
    let job = daemon.start_job(spec.clone()).await.expect("a job");
    daemon.watch(&job.id, 0).await.expect("events");
    assert_eq!(daemon.job(&job.id).await.state(), JobState::Succeeded);
    for answer in asked {
        let report = answer.await.expect("no panic").expect("a report").into_inner();
        assert_eq!(
            report.time.is_none(),
            !report.notices.is_empty(),
            "a time, or why there is none: {report:?}"
        );
    }
    daemon.stop().await;
}
