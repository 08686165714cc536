//! Input that is wrong, against a real daemon: each case is refused with the right code and a message that names what
//! is wrong, and leaves the daemon as it was.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hone::v1::event::Kind;
use hone::v1::hyperparameters::Warmup;
use hone::v1::upload_dataset_request::Part;
use hone::v1::{
    CancelJobRequest, ClassWeights, ClassifyRequest, Columns, DataSource, DeleteDatasetRequest,
    DeleteModelRequest, DownloadModelRequest, GetDatasetRequest, GetJobRequest, GetModelRequest,
    Hyperparameters, Input, Job, JobSpec, JobState, LabelWeight, ListDatasetsRequest, ListJobsRequest,
    ListModelsRequest, Methods, Model, PromoteModelRequest, UploadDatasetRequest, UploadHeader,
    WatchJobRequest,
};
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::harness::daemon::Daemon;
use crate::harness::encoder::{POSITIONS, tiny_encoder};
use crate::harness::{toy_rows, toy_texts};

const NOBODY: &str = "01arz3ndektsv4rrffq69g5fav";
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

fn header(header: UploadHeader) -> Part {
    Part::Header(header)
}

fn chunk(bytes: &[u8]) -> Part {
    Part::Chunk(bytes.to_vec())
}

async fn upload(daemon: &Daemon, parts: Vec<Part>) -> Result<hone::v1::Dataset, Status> {
    let messages = parts.into_iter().map(|part| UploadDatasetRequest { part: Some(part) });
    let messages: Vec<_> = messages.collect();
    Ok(daemon.datasets().upload(tokio_stream::iter(messages)).await?.into_inner())
}

fn source(id: &str) -> Option<DataSource> {
    Some(DataSource { dataset_id: id.into(), name: None })
}

/// A job on few rows: short, and long enough to learn nothing wrong.
fn quick(mut spec: JobSpec, name: &str) -> JobSpec {
    spec.name = Some(name.into());
    spec.train_limit = Some(40);
    spec.test = None;
    hyperparameters(&mut spec).epochs = Some(1);
    spec
}

/// A job that does not end by itself.
fn endless(mut spec: JobSpec) -> JobSpec {
    hyperparameters(&mut spec).epochs = Some(10_000);
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
async fn a_file_that_cannot_be_used_is_refused_with_the_place_and_not_kept() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let before = Held::by(&daemon).await;
    let unclear =
        (0..8).fold("text,note\n".to_owned(), |file, row| file + &format!("row {row},note {row}\n"));
    let cases: [(&str, &str, &[u8], &[&str]); 8] = [
        ("empty", "empty.csv", b"", &["empty.csv", "the file is empty"]),
        ("header only", "header.csv", b"text,label\n", &["header.csv", "no rows below the header"]),
        (
            "no label column",
            "notes.csv",
            unclear.as_bytes(),
            &["notes.csv", "which column is the label", "\"text\", \"note\"", "`columns.label`"],
        ),
        (
            "too few fields",
            "short.csv",
            b"text,label\na,b\nc\n",
            &["short.csv, line 3", "1 field", "header 2"],
        ),
        ("too many fields", "long.csv", b"text,label\na,b,c\n", &["long.csv, line 2", "3 fields", "quotes"]),
        (
            "an open quote",
            "quote.csv",
            b"text,label\n\"a,b\nc,d\n",
            &["quote.csv, line 2", "\"text\"", "not closed"],
        ),
        ("not UTF-8", "latin.csv", b"text,label\na,b\ncaf\xe9,d\n", &["latin.csv, line 3", "not UTF-8"]),
        ("not JSON", "rows.jsonl", b"{\"text\":\"a\",\"label\":1}\n{\"text\":\n", &["rows.jsonl, line 2"]),
    ];
    for (case, name, bytes, words) in cases {
        assert_refused(case, daemon.upload(name, bytes).await, Code::InvalidArgument, words);
        assert_eq!(Held::by(&daemon).await, before, "{case}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_the_protocol_is_refused_and_leaves_nothing() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let before = Held::by(&daemon).await;
    let file = || UploadHeader { name: "toy.csv".into(), ..UploadHeader::default() };
    let damaged = UploadHeader { sha256: Some(NO_FILE.into()), ..file() };
    let stars = Columns { label: Some("stars".into()), ..Columns::default() };
    let other_column = UploadHeader { columns: Some(stars), ..file() };
    let rows = toy_rows(10, 1);
    let rows = rows.as_bytes();
    let cases: [(&str, Vec<Part>, Code, &[&str]); 6] = [
        ("nothing at all", vec![], Code::InvalidArgument, &["header"]),
        ("chunk before header", vec![chunk(rows)], Code::InvalidArgument, &["first message", "header"]),
        ("two headers", vec![header(file()), header(file())], Code::InvalidArgument, &["one header"]),
        (
            "a large chunk",
            vec![header(file()), chunk(&vec![b'a'; (1 << 20) + 1])],
            Code::InvalidArgument,
            &["1048576", "1048577"],
        ),
        (
            "another SHA-256",
            vec![header(damaged), chunk(rows)],
            Code::DataLoss,
            &["toy.csv", NO_FILE, "send it again"],
        ),
        (
            "a column that is not there",
            vec![header(other_column), chunk(rows)],
            Code::InvalidArgument,
            &["toy.csv", "\"stars\"", "\"text\", \"label\""],
        ),
    ];
    for (case, parts, code, words) in cases {
        assert_refused(case, upload(&daemon, parts).await, code, words);
        assert_eq!(Held::by(&daemon).await, before, "{case}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_with_a_wrong_value_is_refused_by_its_flag() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let toy = daemon.toy_spec().await;
    let before = Held::by(&daemon).await;
    let beyond = POSITIONS as u32 + 1;
    let number = |change: fn(&mut Hyperparameters)| {
        let mut spec = toy.clone();
        change(hyperparameters(&mut spec));
        spec
    };
    let method = |change: fn(&mut Methods)| {
        let mut spec = toy.clone();
        change(hyperparameters(&mut spec).methods.get_or_insert_default());
        spec
    };
    let long = |length| {
        let mut spec = toy.clone();
        hyperparameters(&mut spec).max_length = Some(length);
        spec
    };
    let cases: [(&str, JobSpec, &[&str]); 19] = [
        (
            "rate 0",
            number(|of| of.learning_rate = Some(0.0)),
            &["`learning_rate`", "greater than 0", "got 0"],
        ),
        (
            "a negative rate",
            number(|of| of.learning_rate = Some(-1e-5)),
            &["`learning_rate`", "got -0.00001"],
        ),
        (
            "a rate that is no number",
            number(|of| of.learning_rate = Some(f64::NAN)),
            &["`learning_rate`", "got NaN"],
        ),
        ("more positions than there are", long(beyond), &["`max_length`", "129", "128 positions"]),
        ("no room for a text", long(2), &["`max_length`", "got 2"]),
        ("no epoch", number(|of| of.epochs = Some(0)), &["`epochs`", "got 0"]),
        ("an empty batch", number(|of| of.batch_size = Some(0)), &["`batch_size`", "got 0"]),
        ("all dropped out", number(|of| of.dropout = Some(1.0)), &["`dropout`", "got 1"]),
        (
            "a warm-up longer than all",
            number(|of| of.warmup = Some(Warmup::WarmupRatio(1.5))),
            &["`warmup_ratio`", "got 1.5"],
        ),
        ("an unknown optimizer", number(|of| of.optimizer = Some(9)), &["`optimizer`", "9"]),
        (
            "a positive label that is none",
            number(|of| of.positive_label = Some("lukewarm".into())),
            &["`positive_label`", "\"lukewarm\"", "\"negative\", \"positive\""],
        ),
        ("an unknown precision", number(|of| of.precision = Some(9)), &["`precision`", "9"]),
        ("an unknown truncation", number(|of| of.truncation = Some(9)), &["`truncation`", "9"]),
        (
            "more frozen layers than there are",
            method(|of| of.freeze_layers = Some(3)),
            &["`freeze_layers`", "3", "only 2 layers"],
        ),
        (
            "more new layers than there are",
            method(|of| of.reinit_layers = Some(3)),
            &["`reinit_layers`", "3", "only 2 layers"],
        ),
        (
            "a layer both frozen and new",
            method(|of| (of.freeze_layers, of.reinit_layers) = (Some(1), Some(2))),
            &["`freeze_layers = 1`", "`reinit_layers = 2`", "overlap"],
        ),
        ("a rate that never decays", method(|of| of.layer_decay = Some(1.5)), &["`layer_decay`", "got 1.5"]),
        (
            "a weight of a label that is none",
            method(|of| {
                let given = vec![LabelWeight { label: "lukewarm".into(), weight: 2.0 }];
                of.class_weights = Some(ClassWeights { balanced: false, given });
            }),
            &["`class_weights`", "\"lukewarm\"", "negative, positive"],
        ),
        (
            "a name that is a path",
            JobSpec { name: Some("../toy".into()), ..toy.clone() },
            &["`name`", "\"../toy\""],
        ),
    ];
    for (case, spec, words) in cases {
        assert_refused(case, daemon.start_job(spec).await, Code::InvalidArgument, words);
        assert_eq!(Held::by(&daemon).await, before, "{case}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_on_data_that_does_not_fit_is_refused_by_file_line_and_label() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let toy = daemon.toy_spec().await;
    let kept = async |name: &str, rows: &str| daemon.upload(name, rows).await.expect("an upload").id;
    let praise = kept("praise.csv", "text,label\na,positive\nb,positive\nc,positive\n").await;
    let mixed = kept("mixed.csv", "text,label\na,positive\nb,lukewarm\n").await;
    let reviews = kept("reviews.csv", "review,label\na,positive\nb,negative\n").await;
    let before = Held::by(&daemon).await;
    let named = DataSource { dataset_id: NO_FILE.into(), name: Some("toy.csv".into()) };
    let cases: [(&str, JobSpec, Code, &[&str]); 9] = [
        (
            "an unknown training file",
            JobSpec { train: source(NO_FILE), ..toy.clone() },
            Code::NotFound,
            &["`train`", NO_FILE],
        ),
        (
            "an unknown file with a name",
            JobSpec { train: Some(named), ..toy.clone() },
            Code::NotFound,
            &["`train`", "there is no data set", NO_FILE],
        ),
        (
            "an unknown validation file",
            JobSpec { validation: source(NO_FILE), ..toy.clone() },
            Code::NotFound,
            &["`validation`", NO_FILE],
        ),
        (
            "an id that is a path",
            JobSpec { test: source("../hone.db"), ..toy.clone() },
            Code::InvalidArgument,
            &["`test`", "\"../hone.db\"", "SHA-256"],
        ),
        ("a test file alone", JobSpec { train: None, ..toy.clone() }, Code::InvalidArgument, &["`train`"]),
        (
            "one label only",
            JobSpec { train: source(&praise), ..toy.clone() },
            Code::InvalidArgument,
            &["praise.csv", "\"positive\"", "two labels"],
        ),
        (
            "one label in the first rows",
            JobSpec { train_limit: Some(1), ..toy.clone() },
            Code::InvalidArgument,
            &["toy.csv", "\"positive\"", "two labels"],
        ),
        (
            "a label that training lacks",
            JobSpec { validation: source(&mixed), ..toy.clone() },
            Code::InvalidArgument,
            &["mixed.csv, line 3", "\"lukewarm\"", "negative, positive"],
        ),
        (
            "a column that one file lacks",
            JobSpec { test: source(&reviews), ..toy.clone() },
            Code::InvalidArgument,
            &["reviews.csv", "\"text\"", "\"review\", \"label\""],
        ),
    ];
    for (case, spec, code, words) in cases {
        assert_refused(case, daemon.start_job(spec).await, code, words);
        assert_eq!(Held::by(&daemon).await, before, "{case}");
    }
    daemon.stop().await;
}

/// A copy of the tiny encoder that was damaged by `harm`.
fn damaged_encoder(harm: impl FnOnce(&Path)) -> tempfile::TempDir {
    let copy = folder();
    for entry in std::fs::read_dir(tiny_encoder()).expect("the encoder") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    harm(copy.path());
    copy
}

/// Cuts a file's second half off.
fn truncate(path: &Path) {
    let file = std::fs::File::options().write(true).open(path).expect("a file");
    file.set_len(file.metadata().expect("a size").len() / 2).expect("cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_encoder_is_refused_with_the_file_at_fault() {
    fn remove(folder: &Path, name: &str) {
        std::fs::remove_file(folder.join(name)).expect("removed");
    }
    fn replace(folder: &Path, name: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(folder.join(name)).expect("a file");
        assert!(text.contains(from), "{text}");
        std::fs::write(folder.join(name), text.replace(from, to)).expect("written");
    }
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let toy = daemon.toy_spec().await;
    let before = Held::by(&daemon).await;
    type Harm = fn(&Path);
    let cases: [(&str, Harm, Code, &[&str]); 8] = [
        (
            "no configuration",
            |folder| remove(folder, "config.json"),
            Code::FailedPrecondition,
            &["config.json"],
        ),
        (
            "no weights",
            |folder| remove(folder, "model.safetensors"),
            Code::FailedPrecondition,
            &["model.safetensors"],
        ),
        (
            "no tokenizer",
            |folder| remove(folder, "tokenizer.json"),
            Code::FailedPrecondition,
            &["tokenizer.json or vocab.txt"],
        ),
        (
            "weights that end early",
            |folder| truncate(&folder.join("model.safetensors")),
            Code::FailedPrecondition,
            &["model.safetensors", "truncated"],
        ),
        (
            "weights that are something else",
            |folder| std::fs::write(folder.join("model.safetensors"), "<html>").expect("written"),
            Code::FailedPrecondition,
            &["model.safetensors"],
        ),
        (
            "weights of another shape",
            |folder| replace(folder, "config.json", "\"intermediate_size\":64", "\"intermediate_size\":96"),
            Code::FailedPrecondition,
            &["model.safetensors", "intermediate.dense", "[64, 32]", "[96, 32]"],
        ),
        (
            "a configuration that is no JSON",
            |folder| truncate(&folder.join("config.json")),
            Code::FailedPrecondition,
            &["config.json"],
        ),
        (
            "a tokenizer that is no JSON",
            |folder| truncate(&folder.join("tokenizer.json")),
            Code::FailedPrecondition,
            &["tokenizer.json"],
        ),
    ];
    for (case, harm, code, words) in cases {
        let encoder = damaged_encoder(harm);
        let path = encoder.path().to_string_lossy().into_owned();
        let spec = JobSpec { encoder: Some(path.clone()), ..toy.clone() };
        assert_refused(case, daemon.start_job(spec).await, code, &[words, &[&path]].concat());
        assert_eq!(Held::by(&daemon).await, before, "{case}");
    }
    for (encoder, code) in [
        ("/no/such/folder", Code::FailedPrecondition),
        ("no such name", Code::InvalidArgument),
        ("", Code::InvalidArgument),
    ] {
        let spec = JobSpec { encoder: Some(encoder.into()), ..toy.clone() };
        assert_refused(encoder, daemon.start_job(spec).await, code, &[encoder]);
        assert_eq!(Held::by(&daemon).await, before, "{encoder:?}");
    }
    daemon.stop().await;
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
    let promote = PromoteModelRequest { model: "toy@7".into(), alias: "best".into() };
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
        let (request, mut inference) = (ClassifyRequest { model: "toy".into(), inputs }, daemon.inference());
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
async fn a_damaged_model_says_which_file_and_harms_no_other() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    train(&daemon, quick(daemon.toy_spec().await, "broken")).await;
    train(&daemon, daemon.toy_spec().await).await;
    assert_refused(
        "no name for two models",
        daemon.classify("", &["a"]).await,
        Code::InvalidArgument,
        &["broken, toy"],
    );
    let weights = data.path().join("models/broken/1/model.safetensors");
    let whole = std::fs::read(&weights).expect("weights");
    truncate(&weights);
    for _ in 0..2 {
        let answer = daemon.classify("broken", &["a"]).await;
        assert_refused("damaged", answer, Code::DataLoss, &["broken@1", &weights.to_string_lossy()]);
        let (texts, labels) = toy_texts();
        assert_eq!(daemon.classify("toy", &texts).await.expect("answers"), labels);
    }
    std::fs::write(&weights, whole).expect("restored");
    daemon.classify("broken", &["a"]).await.expect("a restored model answers again");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_diverges_fails_at_its_step_and_the_next_job_succeeds() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let toy = quick(daemon.toy_spec().await, "toy");
    let before = Held::by(&daemon).await;
    let mut spec = toy.clone();
    let of = hyperparameters(&mut spec);
    (of.learning_rate, of.max_grad_norm) = (Some(1e30), Some(0.0));
    let failed = train(&daemon, spec).await;
    assert_eq!(failed.state(), JobState::Failed);
    let failure = failed.failure.clone().expect("a reason");
    assert_eq!(failure.code, Code::FailedPrecondition as i32, "{failure:?}");
    for word in ["diverged", "at step ", "(epoch 1)", "`learning_rate`"] {
        assert!(failure.message.contains(word), "no {word:?} in {failure:?}");
    }
    assert_eq!((failed.model.clone(), failed.test.clone()), (None, None));

    let next = train(&daemon, toy).await;
    assert_eq!(next.state(), JobState::Succeeded, "{next:?}");
    let held = Held::by(&daemon).await;
    assert_eq!(held.models.iter().map(|model| model.versions.len()).collect::<Vec<_>>(), [1]);
    assert_eq!(held.datasets, before.datasets);
    assert_eq!(daemon.job(&failed.id).await, failed);
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
async fn an_upload_past_its_deadline_leaves_nothing() {
    let data = folder();
    let daemon = Daemon::start(data.path()).await;
    let before = Held::by(&daemon).await;
    let parts =
        [header(UploadHeader { name: "toy.csv".into(), ..UploadHeader::default() }), chunk(b"text,label\n")];
    let parts = parts.map(|part| UploadDatasetRequest { part: Some(part) });
    let mut request = Request::new(tokio_stream::iter(parts).chain(tokio_stream::pending()));
    request.set_timeout(Duration::from_millis(200));
    let status = daemon.datasets().upload(request).await.expect_err("it never ends");
    // The client has a timer of its own, which may be the first.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    until_nothing_is_left(&daemon).await;
    assert_eq!(Held::by(&daemon).await, before);
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
