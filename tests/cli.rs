//! The client against a real daemon: what it prints, and how it ends.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use clap::Parser as _;
use hone::v1::{CancelJobRequest, ListJobsRequest};
use hone_daemon::config::Config;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::daemon::Daemon;
use crate::harness::encoder::tiny_encoder;
use crate::harness::{toy_rows, toy_sets, toy_texts};

/// What a command wrote and how it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Standard output as JSON lines; anything else is a failure.
    pub(crate) fn json(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line:?}"));
        self.out.lines().map(parse).collect()
    }

    /// The numbers of the events among the JSON lines.
    fn numbers(&self) -> Vec<u64> {
        self.json().iter().map(|event| event["number"].as_u64().expect("a numbered event")).collect()
    }

    #[track_caller]
    pub(crate) fn assert_shows(&self, words: &[&str]) {
        assert_eq!(self.code, 0, "{self:?}");
        for word in words {
            assert!(self.out.contains(word), "no {word:?} in {}", self.out);
        }
    }

    /// Checks that the command failed with this code, said all of these words, and printed no result.
    #[track_caller]
    pub(crate) fn assert_fails(&self, case: &str, code: u8, words: &[&str]) {
        assert_eq!(self.code, code, "{case}: {self:?}");
        assert!(self.err.starts_with("error: ") || self.err.contains("\nerror: "), "{case}: {}", self.err);
        for word in words {
            assert!(self.err.contains(word), "{case}: no {word:?} in {}", self.err);
        }
    }
}

/// Runs `client --daemon ADDRESS ARGS…` as if in a pipe.
pub(crate) async fn client(address: &str, args: &[&str]) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = hone_client::run_with(command_line(address, args), &mut out, &mut err).await;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let ran = Ran { code, out: text(out), err: text(err) };
    assert!(!ran.out.contains('\x1b') && !ran.err.contains('\x1b'), "escape codes in a pipe: {ran:?}");
    ran
}

fn command_line(address: &str, args: &[&str]) -> Vec<OsString> {
    ["client", "--daemon", address].iter().chain(args).map(OsString::from).collect()
}

/// A daemon, and a folder with the toy data as `train.csv` and `test.csv`.
pub(crate) struct Bench {
    pub(crate) daemon: Daemon,
    pub(crate) folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("train.csv"), toy_rows(400, 1)).expect("written");
        std::fs::write(folder.path().join("test.csv"), toy_rows(40, 2)).expect("written");
        Self { daemon: Daemon::start(&folder.path().join("data")).await, folder }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    pub(crate) async fn client(&self, args: &[&str]) -> Ran {
        client(&self.daemon.address, args).await
    }

    /// `client train` on the toy data; three epochs are enough to learn it.
    pub(crate) async fn train(&self, epochs: &str, more: &[&str]) -> Ran {
        let (train, test) = (self.path("train.csv"), self.path("test.csv"));
        let args = ["train", "--train", &train, "--test", &test, "--epochs", epochs, "--lr", "2e-3"];
        let args = [&args[..], &["--batch-size", "4", "--max-length", "32"], more].concat();
        self.client(&args).await
    }

    /// The newest job's id.
    pub(crate) async fn newest(&self) -> String {
        let jobs =
            self.daemon.training().list(ListJobsRequest::default()).await.expect("jobs").into_inner().jobs;
        jobs.first().expect("a job").id.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn training_on_files_prints_its_epochs_the_test_and_the_model() {
    let bench = Bench::start().await;
    let ran = bench.train("2", &[]).await;
    ran.assert_shows(&[
        "train.csv   320  negative 160 · positive 160",
        "test.csv     40  negative 20 · positive 20",
        "160 steps, 80 an epoch, 16 of warm-up; texts up to 32 tokens",
        "epoch 1/2  ",
        "epoch 2/2  ",
        "           loss  accuracy      F1  recall  precision",
        "* best",
        "test  40 rows, the checkpoint of epoch ",
        "model train@1 (epoch ",
        &format!("use it: client --daemon {} classify --model train \"some text\"", bench.daemon.address),
    ]);
    for word in ["train.csv: 400 rows", "(sent)", "text column \"text\" (by its name)", "Ctrl-C detaches"] {
        assert!(ran.err.contains(word), "no {word:?} in {}", ran.err);
    }
    let again = bench.train("2", &["--detach"]).await;
    assert!(again.err.contains("(the daemon has it already)"), "{again:?}");
    assert_eq!(again.out, format!("{}\n", bench.newest().await));
    bench.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_several_labels_are_trained_on_and_every_label_that_is_set_is_answered() {
    let bench = Bench::start().await;
    std::fs::write(bench.path("train.csv"), toy_sets(300, 1)).expect("written");
    std::fs::write(bench.path("test.csv"), toy_sets(60, 2)).expect("written");
    let refused = bench.train("1", &[]).await;
    refused.assert_fails("rows without a label", 5, &["rows have no label (empty)", "--multi-label"]);
    let ran = bench.train("40", &["--multi-label", "--scheduler", "constant", "--precision", "fp32"]).await;
    ran.assert_shows(&["blame ", " · food ", " · praise ", "    micro ", "threshold"]);
    let rows = toy_sets(60, 2);
    let rows: Vec<(&str, &str)> = rows.lines().skip(1).filter_map(|row| row.split_once(',')).collect();
    let texts: Vec<&str> = rows.iter().map(|(text, _)| *text).collect();
    let ran = bench.client(&[&["classify"][..], &texts].concat()).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let set = |labels: &str| -> BTreeSet<String> {
        labels.split('|').filter(|label| !label.is_empty()).map(str::to_owned).collect()
    };
    let answers = ran.out.lines().map(|line| set(line.split('\t').next().unwrap_or_default()));
    let right = answers.zip(&rows).filter(|(answer, (_, labels))| *answer == set(labels));
    let right: Vec<usize> = right.map(|(answer, _)| answer.len()).collect();
    assert!(right.len() >= 54, "{} of {} are right: {}", right.len(), rows.len(), ran.out);
    for labels in 0..=3 {
        assert!(right.contains(&labels), "no row of {labels} labels is answered: {}", ran.out);
    }
    let shown = bench.client(&["show", &bench.newest().await]).await;
    shown.assert_shows(&["label separator", "\"|\""]);
    bench.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_training_prints_every_event_once_and_nothing_else() {
    let bench = Bench::start().await;
    let ran = bench.train("2", &["--json"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let numbers = ran.numbers();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let events = ran.json();
    let types: BTreeSet<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    for wanted in ["state_changed", "prepared", "step", "epoch", "test", "published"] {
        assert!(types.contains(wanted), "no {wanted} in {types:?}");
    }
    assert_eq!(events.last().expect("events")["state"], "succeeded");

    let job = bench.newest().await;
    let whole = bench.client(&["watch", &job, "--json"]).await;
    assert_eq!(whole.out, ran.out, "a replay is what was shown");
    let rest = bench.client(&["watch", &job, "--after", "3", "--json"]).await;
    assert_eq!(rest.numbers(), numbers[3..]);
    let beyond = bench.client(&["watch", &job, "--after", "999999", "--json"]).await;
    assert_eq!((beyond.code, beyond.out.as_str()), (0, ""), "{beyond:?}");
    bench.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_daemon_holds_is_listed_shown_and_compared() {
    let bench = Bench::start().await;
    for (list, note) in
        [("jobs", "no jobs yet"), ("models", "no models yet"), ("datasets", "no data sets yet")]
    {
        let ran = bench.client(&[list]).await;
        assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{ran:?}");
        assert!(ran.err.contains(note), "{ran:?}");
    }
    assert_eq!(bench.train("2", &[]).await.code, 0);
    let first = bench.newest().await;
    let slower = ["--optimizer", "adam", "--scheduler", "constant", "--name", "slower"];
    assert_eq!(bench.train("2", &slower).await.code, 0);
    let second = bench.newest().await;

    bench.client(&["jobs"]).await.assert_shows(&[&first, &second, "succeeded", "train@1", "slower@1", "2/2"]);
    let shown = bench.client(&["show", &second]).await;
    shown.assert_shows(&["result", "model slower@1", "optimizer", "adam", "0.002", "train.csv (", "* kept"]);
    let compared = bench.client(&["compare", &first, &second]).await;
    compared.assert_shows(&["the first run", "optimizer adamw → adam", "scheduler linear → constant"]);
    let compared = bench.client(&["--json", "compare", &first, &second]).await.json();
    assert_eq!(compared[1]["changed"]["optimizer"], serde_json::json!({"before": "adamw", "after": "adam"}));
    bench.client(&["models"]).await.assert_shows(&["train@1", "slower@1", "latest", &first, &second]);
    bench.client(&["models", "show", "slower"]).await.assert_shows(&["negative", "positive", "32 tokens"]);
    let datasets = bench.client(&["datasets"]).await;
    datasets.assert_shows(&["train.csv", "test.csv", "400", "40"]);
    assert_eq!(datasets.out.lines().count(), 3, "a file is kept once: {datasets:?}");
    bench.client(&["health"]).await.assert_shows(&["the daemon", "hone.v1.InferenceService", "serving"]);
    for list in ["jobs", "models", "datasets", "health"] {
        assert!(!bench.client(&[list, "--json"]).await.json().is_empty(), "{list}");
    }
    bench.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_classified_from_arguments_and_from_a_file() {
    let bench = Bench::start().await;
    assert_eq!(bench.train("3", &["--name", "toy"]).await.code, 0);
    let (texts, labels) = toy_texts();
    let ran = bench.client(&[&["classify", "--model", "toy"], &texts[..]].concat()).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let rows: Vec<Vec<&str>> = ran.out.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows.len(), texts.len());
    for ((row, text), label) in rows.iter().zip(&texts).zip(&labels) {
        assert_eq!((row[0], row[2], row.len()), (*label, *text, 3), "{ran:?}");
        assert!(row[1].parse::<f64>().is_ok_and(|score| (0.5..=1.0).contains(&score)), "{row:?}");
    }

    let file = bench.path("texts.txt");
    std::fs::write(&file, texts.join("\n") + "\n").expect("written");
    let of_file = bench.client(&["classify", "--file", &file]).await;
    assert_eq!((of_file.code, &of_file.out), (0, &ran.out), "the only model needs no name: {of_file:?}");

    let answers = bench.client(&["--json", "classify", "--model", "toy@1", "--file", &file]).await.json();
    assert_eq!(answers.len(), texts.len());
    for ((answer, text), label) in answers.iter().zip(&texts).zip(&labels) {
        let keys: BTreeSet<&str> =
            answer.as_object().expect("an object").keys().map(String::as_str).collect();
        let wanted = ["label", "model", "score", "scores", "text", "tokens", "truncated", "weights_sha256"];
        assert_eq!(keys, BTreeSet::from(wanted));
        assert_eq!((&answer["text"], &answer["label"]), (&(*text).into(), &(*label).into()));
        assert_eq!((&answer["model"], &answer["truncated"]), (&"toy@1".into(), &false.into()));
        assert_eq!(answer["scores"][label], answer["score"]);
    }

    std::fs::write(&file, "a lovely thing\n\nit was cold\n").expect("written");
    let gap = bench.client(&["classify", "--file", &file]).await;
    gap.assert_fails("an empty line", 5, &["1 of 3 lines", "line 2"]);
    assert_eq!(
        gap.out.lines().map(|line| line.split('\t').next()).collect::<Vec<_>>(),
        [Some("positive"), Some("-"), Some("negative")]
    );
    bench.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_ends_with_its_exit_code_and_names_its_cause() {
    let bench = Bench::start().await;
    let (train, missing, folder) = (bench.path("train.csv"), bench.path("missing.csv"), bench.path(""));
    let short = bench.path("short.csv");
    std::fs::write(&short, "text,label\na,b\nc\n").expect("written");
    let cases: [(&str, &[&str], u8, &[&str]); 14] = [
        ("no such file", &["train", "--train", &missing], 2, &["--train", &missing, "no such file"]),
        ("a folder", &["train", "--train", &folder], 2, &["--train", &folder, "a folder"]),
        (
            "no such test file",
            &["train", "--train", &train, "--test", &missing],
            2,
            &["--test", &missing, "no such file"],
        ),
        ("no texts", &["classify", "--file", &missing], 2, &[&missing]),
        ("a rate that is no number", &["train", "--lr", "nan"], 2, &["--lr", "not a number"]),
        ("no such command", &["trian"], 2, &["trian", "train"]),
        ("a bad row", &["train", "--train", &short], 5, &["short.csv, line 3", "1 field"]),
        (
            "no such column",
            &["train", "--train", &train, "--label-column", "stars"],
            5,
            &["train.csv", "\"stars\"", "\"text\", \"label\""],
        ),
        (
            "longer than the encoder",
            &["train", "--train", &train, "--max-length", "129"],
            5,
            &["--max-length", "129", "128"],
        ),
        (
            "no such encoder",
            &["train", "--train", &train, "--encoder", "/no/such"],
            5,
            &["/no/such", "on the daemon's machine"],
        ),
        ("no such job", &["show", "01x"], 4, &["\"01x\"", "`client jobs`"]),
        ("nothing to watch", &["watch", "01x"], 4, &["\"01x\"", "`client jobs`"]),
        ("no such model", &["classify", "--model", "nobody", "a"], 4, &["\"nobody\"", "`client models`"]),
        ("no model yet", &["classify", "a"], 5, &["none yet", "client train"]),
    ];
    for (case, args, code, words) in cases {
        let ran = bench.client(args).await;
        ran.assert_fails(case, code, words);
        assert_eq!(ran.out, "", "{case}");
    }
    let jobs =
        bench.daemon.training().list(ListJobsRequest::default()).await.expect("jobs").into_inner().jobs;
    assert_eq!(jobs, [], "none of these started a job");

    let hopeless = ["--lr", "1e30", "--max-grad-norm", "0", "--train", &train];
    let ran = bench.client(&[&["train"], &hopeless[..]].concat()).await;
    ran.assert_fails(
        "a run that diverges",
        7,
        &["failed: the ", "at step ", "--lr", "hint: `client", "show "],
    );
    let watched = bench.client(&["watch", &bench.newest().await, "--after", "99"]).await;
    watched.assert_fails("watched later", 7, &["failed: the ", "at step "]);
    bench.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_not_there_is_said_with_how_to_start_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    for args in [&["jobs"][..], &["train"], &["watch", "01x"], &["classify", "a"], &["health"]] {
        let ran = client(&address, args).await;
        ran.assert_fails(args[0], 3, &[&address, &format!("`daemon --listen {address}`"), "HONE_DAEMON"]);
        assert_eq!(ran.out, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_the_same_folder_is_refused_and_the_first_goes_on() {
    async fn run_on(data: &Path) -> hone_base::error::Result<()> {
        let (data, model) = (data.to_string_lossy(), tiny_encoder().to_string_lossy());
        let arguments =
            ["daemon", "--device", "cpu", "--threads", "1", "--data-dir", &data, "--model", &model];
        let config = Config::try_parse_from(arguments).expect("arguments");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        hone_daemon::run(config, listener, std::future::ready(())).await
    }
    let bench = Bench::start().await;
    let data = bench.daemon.data().to_owned();
    let error = run_on(&data).await.expect_err("the folder is taken");
    for word in ["another daemon", &*data.to_string_lossy(), "--data-dir"] {
        assert!(error.message().contains(word), "no {word:?} in {error}");
    }
    bench.client(&["health"]).await.assert_shows(&["serving"]);
    bench.daemon.stop().await;
    run_on(&data).await.expect("the folder is free again");
}

/// Standard output that tells how many lines it has.
#[derive(Clone)]
struct Told {
    text: Arc<Mutex<String>>,
    lines: watch::Sender<usize>,
}

impl Write for Told {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut text = self.text.lock().expect("no panic");
        text.push_str(std::str::from_utf8(bytes).expect("whole lines"));
        self.lines.send_replace(text.lines().count());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A wire to the daemon whose connections can be cut; the next one is let through again.
struct Wire {
    address: String,
    connections: Arc<Mutex<JoinSet<()>>>,
    _accepting: JoinSet<()>,
}

impl Wire {
    async fn to(daemon: &Daemon) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let target = daemon.address.trim_start_matches("http://").to_owned();
        let connections: Arc<Mutex<JoinSet<()>>> = Arc::default();
        let (mut accepting, open) = (JoinSet::new(), connections.clone());
        accepting.spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let target = target.clone();
                open.lock().expect("no panic").spawn(async move {
                    let mut far = TcpStream::connect(target).await.expect("the daemon listens");
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, connections, _accepting: accepting }
    }

    fn cut(&self) {
        self.connections.lock().expect("no panic").abort_all();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_whose_connection_is_cut_shows_each_event_once() {
    let bench = Bench::start().await;
    let mut spec = bench.daemon.toy_spec().await;
    spec.hyperparameters.get_or_insert_default().epochs = Some(10_000);
    let job = bench.daemon.start_job(spec).await.expect("a job").id;

    let wire = Wire::to(&bench.daemon).await;
    let out = Told { text: Arc::default(), lines: watch::Sender::new(0) };
    let watching = tokio::spawn({
        let (args, mut out) = (command_line(&wire.address, &["--json", "watch", &job]), out.clone());
        async move {
            let mut err = Vec::new();
            let code = hone_client::run_with(args, &mut out, &mut err).await;
            (code, String::from_utf8(err).expect("UTF-8"))
        }
    });
    let mut lines = out.lines.subscribe();
    let shown = *lines.wait_for(|lines| *lines >= 4).await.expect("events");
    wire.cut();
    lines.wait_for(|lines| *lines >= shown + 5).await.expect("events");
    let cancel = CancelJobRequest { job_id: job.clone() };
    bench.daemon.training().cancel(cancel).await.expect("cancelled");
    let (code, err) = watching.await.expect("no panic");

    assert_eq!(code, 8, "{err}");
    assert!(err.contains("is lost (") && err.contains("connected again after"), "{err}");
    let ran = Ran { code, out: out.text.lock().expect("no panic").clone(), err };
    assert_eq!(ran.numbers(), (1..=bench.daemon.job(&job).await.last_event).collect::<Vec<_>>());
    bench.daemon.stop().await;
}
