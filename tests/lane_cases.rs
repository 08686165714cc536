//! What waits for a disk holds no answer up, with a real daemon: the files are pipes that nobody writes to.

#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use hone::v1::{DataSource, JobSpec, JobState};

use crate::harness::daemon::Daemon;
use crate::harness::{toy_rows, toy_texts};

/// `O_NONBLOCK`: a pipe that nobody reads is not opened for writing.
const AT_ONCE: i32 = 0o4000;

/// A data set's file, in whose place stands a pipe.
struct Pipe {
    path: PathBuf,
    file: PathBuf,
}

impl Pipe {
    fn in_place_of(path: PathBuf) -> Self {
        let file = path.with_extension("file");
        std::fs::rename(&path, &file).expect("a data set");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(made.success());
        Self { path, file }
    }

    /// Waits until the daemon reads it. It reads on until what is returned is dropped.
    async fn read(&self) -> File {
        loop {
            match File::options().write(true).custom_flags(AT_ONCE).open(&self.path) {
                Ok(writer) => return writer,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    /// Puts the file back.
    fn end(&self) {
        std::fs::rename(&self.file, &self.path).expect("the file");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_a_job_that_begins_at_once_is_read_once() {
    let data = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(data.path()).await;
    let rows = toy_rows(40, 11);
    let dataset = daemon.upload("once.csv", rows.clone()).await.expect("an upload");
    let pipe = Pipe::in_place_of(data.path().join("datasets").join(&dataset.id));
    let train = Some(DataSource { dataset_id: dataset.id, name: None });
    let (mut training, spec) = (daemon.training(), JobSpec { train, ..JobSpec::default() });
    let request = hone::v1::StartJobRequest { spec: Some(spec), request_id: None };
    let started = tokio::spawn(async move { training.start(request).await });
    let mut writer = tokio::time::timeout(Duration::from_secs(20), pipe.read()).await.expect("it is read");
    writer.write_all(rows.as_bytes()).expect("written");
    drop(writer);
    // Whoever read it again would wait for ever.
    let job = started.await.expect("no panic").expect("a job").into_inner();
    let ended = tokio::time::timeout(Duration::from_secs(60), daemon.watch(&job.id, 0)).await;
    pipe.end();
    ended.expect("read again").expect("events");
    assert_eq!(daemon.job(&job.id).await.state(), JobState::Succeeded);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_files_as_there_are_threads_cannot_be_read_and_texts_are_answered() {
    let data = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(data.path()).await;
    daemon.train_toy().await;
    let (mut starts, mut writers, mut pipes) = (Vec::new(), Vec::new(), Vec::new());
    for seed in [11, 12] {
        let dataset = daemon.upload("slow.csv", toy_rows(40, seed)).await.expect("an upload");
        let pipe = Pipe::in_place_of(data.path().join("datasets").join(&dataset.id));
        let train = Some(DataSource { dataset_id: dataset.id, name: None });
        let (mut training, spec) = (daemon.training(), JobSpec { train, ..JobSpec::default() });
        let request = hone::v1::StartJobRequest { spec: Some(spec), request_id: None };
        starts.push(tokio::spawn(async move { training.start(request).await.map(drop) }));
        writers.push(tokio::time::timeout(Duration::from_secs(20), pipe.read()).await.expect("it is read"));
        pipes.push(pipe);
    }
    let (texts, labels) = toy_texts();
    let many = |list: &[&'static str]| list.iter().copied().cycle().take(100).collect::<Vec<_>>();
    let answers = tokio::time::timeout(Duration::from_secs(20), daemon.classify("toy", &many(&texts))).await;
    pipes.iter().for_each(Pipe::end);
    drop(writers);
    for start in starts {
        // Whether a file that is empty all at once is refused is not the matter here.
        let _ = start.await.expect("no panic");
    }
    assert_eq!(answers.expect("held up").expect("answers"), many(&labels));
    daemon.stop().await;
}
