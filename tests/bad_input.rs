//! Input that is wrong, against a real daemon: each case is refused with the right code and a message that names what
//! is wrong, and leaves the daemon as it was.

mod files;
mod jobs;
mod models;
mod requests;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hone::v1::{
    Hyperparameters, Job, JobSpec, ListDatasetsRequest, ListJobsRequest, ListModelsRequest, Model,
};
use tonic::{Code, Status};

use crate::harness::daemon::Daemon;

const NO_FILE: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Everything that a refused request must leave as it is.
#[derive(Debug, PartialEq)]
struct Held {
    datasets: Vec<hone::v1::Dataset>,
    jobs: Vec<Job>,
    models: Vec<Model>,
    files: Vec<PathBuf>,
}

impl Held {
    async fn by(daemon: &Daemon) -> Self {
        let datasets =
            daemon.datasets().list(ListDatasetsRequest::default()).await.expect("data sets").into_inner();
        let jobs = daemon.training().list(ListJobsRequest::default()).await.expect("jobs").into_inner();
        let models = daemon.models().list(ListModelsRequest::default()).await.expect("models").into_inner();
        let mut files = files_below(daemon.data());
        files.sort();
        Self { datasets: datasets.datasets, jobs: jobs.jobs, models: models.models, files }
    }
}

/// All files below a folder, but for the database's own.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    // What is being removed may be gone by now.
    let Ok(entries) = std::fs::read_dir(folder) else { return vec![] };
    let is_database =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("hone.db"));
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| !is_database(path))
        .flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] })
        .collect()
}

/// Checks that a call is refused with this code and a message with all of these words.
#[track_caller]
fn assert_refused<T: Debug>(case: &str, answer: Result<T, Status>, code: Code, words: &[&str]) {
    let status = answer.expect_err(case);
    assert_eq!(status.code(), code, "{case}: {status}");
    for word in words {
        assert!(status.message().contains(word), "{case}: no {word:?} in {:?}", status.message());
    }
}

/// A job on few rows: short, and long enough to learn nothing wrong.
fn quick(mut spec: JobSpec, name: &str) -> JobSpec {
    spec.name = Some(name.into());
    spec.train_limit = Some(40);
    spec.test = None;
    hyperparameters(&mut spec).epochs = Some(1);
    spec
}

fn hyperparameters(spec: &mut JobSpec) -> &mut Hyperparameters {
    spec.hyperparameters.get_or_insert_default()
}

/// Trains to the end, and waits until the job's folder is gone, which is after its last event.
async fn train(daemon: &Daemon, spec: JobSpec) -> Job {
    let job = daemon.start_job(spec).await.expect("a job");
    daemon.watch(&job.id, 0).await.expect("events");
    until_nothing_is_left(daemon).await;
    daemon.job(&job.id).await
}

/// Waits until the daemon has cleared up after what has ended.
async fn until_nothing_is_left(daemon: &Daemon) {
    let left = || ["tmp", "jobs"].into_iter().flat_map(|name| files_below(&daemon.data().join(name)));
    let mut tries = 0;
    while left().next().is_some() {
        assert!(tries < 1000, "{:?}", left().collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(10)).await;
        tries += 1;
    }
}
