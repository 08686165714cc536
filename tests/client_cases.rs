//! What people saw go wrong at the command line: each case with a real daemon.

use std::process::Stdio;

use hone::v1::JobState;

use crate::cli::{Bench, client};
use crate::harness::daemon::Daemon;

/// Set for the child process of the test below: the daemon that it asks.
const ASKED: &str = "HONE_TEST_ASKED_DAEMON";

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_has_no_say_in_calls_to_the_daemon() {
    // In the child, whose environment names a proxy that does not exist.
    if let Ok(address) = std::env::var(ASKED) {
        client(&address, &["health"]).await.assert_shows(&["serving"]);
        return;
    }
    let bench = Bench::start().await;
    let test = std::env::current_exe().expect("this program");
    let name = "client_cases::a_proxy_has_no_say_in_calls_to_the_daemon";
    let mut child = std::process::Command::new(test);
    child.args(["--exact", name]).env(ASKED, &bench.daemon.address).stdout(Stdio::piped());
    for variable in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        child.env(variable, "http://127.0.0.1:9");
    }
    let ran = tokio::task::spawn_blocking(move || child.output()).await.expect("no panic").expect("it runs");
    let out = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && out.contains("1 passed"), "{out}");
    bench.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_has_lines_only_and_one_block_for_each_epoch() {
    let bench = Bench::start().await;
    let ran = bench.train("3", &[]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let log = format!("{}{}", ran.out, ran.err);
    assert!(!log.contains(['\r', '\x1b', '\x08']), "{log:?}");
    let epochs: Vec<&str> = ran.out.lines().filter(|line| line.starts_with("epoch ")).collect();
    assert_eq!(epochs.len(), 3, "{epochs:?}");
    bench.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_job_failed_is_kept_with_it_in_words_and_in_json_also_after_a_restart() {
    let bench = Bench::start().await;
    let train = bench.path("train.csv");
    let ran = bench.client(&["train", "--train", &train, "--lr", "1e30", "--max-grad-norm", "0"]).await;
    assert_eq!(ran.code, 7, "{ran:?}");
    let job = bench.newest().await;
    let data = bench.daemon.data().to_owned();
    bench.daemon.stop().await;
    let daemon = Daemon::start(&data).await;
    client(&daemon.address, &["show", &job]).await.assert_shows(&["failed", "failure", "--lr"]);
    let shown = client(&daemon.address, &["--json", "show", &job]).await.json();
    let message = shown[0]["failure"]["message"].as_str().expect("a reason");
    assert!(message.contains("`learning_rate`"), "{message}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_job_is_told_with_the_way_on_and_its_data_are_not_sent_again() {
    let bench = Bench::start().await;
    let ran = bench.train("10000", &["--detach"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let job = bench.newest().await;
    // It has begun when it has an event behind those of its start.
    let request = hone::v1::WatchJobRequest { job_id: job.clone(), after: 2 };
    let mut events = bench.daemon.training().watch(request).await.expect("a stream").into_inner();
    events.message().await.expect("a stream").expect("an event");
    drop(events);
    let (data, folder) = (bench.daemon.data().to_owned(), bench.folder);
    bench.daemon.stop().await;

    let daemon = Daemon::start_with(&data, &["--resume-jobs", "manual"]).await;
    assert_eq!(daemon.job(&job).await.state(), JobState::Interrupted);
    client(&daemon.address, &["jobs"]).await.assert_shows(&[&job, "interrupted"]);
    let (resume, cancel) = (format!("resume {job}` continues it"), format!("cancel {job}` ends it"));
    client(&daemon.address, &["show", &job]).await.assert_shows(&["interrupted", "way on", &resume, &cancel]);
    client(&daemon.address, &["cancel", &job]).await.assert_shows(&["is cancelled"]);
    let watched = client(&daemon.address, &["watch", &job]).await;
    watched.assert_fails("watched later", 8, &["interrupted: the daemon stopped", "was cancelled"]);
    let file = folder.path().join("train.csv");
    let again =
        ["train", "--detach", "--epochs", "1", "--max-length", "32", "--train", &file.to_string_lossy()];
    let ran = client(&daemon.address, &again).await;
    assert!(ran.code == 0 && ran.err.contains("the daemon has it already"), "{ran:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slip_in_a_name_is_answered_with_the_name_that_was_meant() {
    let bench = Bench::start().await;
    assert_eq!(bench.train("1", &["--name", "reviews"]).await.code, 0);
    let job = bench.newest().await;
    let slip = format!("{}x", &job[..job.len() - 1]);
    let (job, slip) = (job.as_str(), slip.as_str());
    let meant = format!("did you mean {job}?");
    let cases: [(&[&str], &str); 5] = [
        (
            &["classify", "--model", "reveiws", "a"],
            "there is no model \"reveiws\"; did you mean \"reviews\"?",
        ),
        (&["classify", "--model", "reviews@latset", "a"], "did you mean \"reviews@latest\"?"),
        (&["models", "show", "Reviews"], "did you mean \"reviews\"?"),
        (&["show", slip], &meant),
        (&["watch", slip], &meant),
    ];
    for (args, words) in cases {
        bench.client(args).await.assert_fails(args[0], 4, &[words]);
    }
    let datasets = bench.client(&["--json", "datasets"]).await.json();
    let id = datasets[0]["id"].as_str().expect("an id");
    bench.client(&["datasets", "show", &id[..8]]).await.assert_shows(&[id]);
    bench.daemon.stop().await;
}
