//! train, watch, jobs, show, cancel, compare.

use std::time::Duration;

use hone::v1;
use hone::v1::event::Kind;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tonic::Status;

use super::stub::{Stub, Then};
use super::{Ran, client, client_with};
use crate::{Interrupt, Terminal};

fn state(state: v1::JobState) -> Kind {
    Kind::StateChanged(v1::StateChanged { state: state.into(), failure: None })
}

fn metrics(loss: f64, accuracy: f64) -> Option<v1::Metrics> {
    Some(v1::Metrics { loss, accuracy, f1: 0.9, recall: 0.9, precision: 0.9, rows: 10, ..Default::default() })
}

fn epoch(number: u32, validation_loss: f64, best: bool) -> v1::EpochMetrics {
    v1::EpochMetrics {
        epoch: number,
        epochs: 2,
        train: metrics(0.5 / f64::from(number), 0.8),
        validation: metrics(validation_loss, 0.85),
        seconds: 4.0,
        train_seconds: 3.0,
        steps_per_second: 1.5,
        best,
        validation_loss_rose: !best,
        ..Default::default()
    }
}

fn published() -> v1::PublishedModel {
    v1::PublishedModel { name: "demo".into(), version: 1, weights_sha256: "ab".into(), epoch: 1 }
}

fn events(kinds: Vec<Kind>) -> Vec<v1::Event> {
    let numbered = kinds.into_iter().zip(1..);
    numbered
        .map(|(kind, number)| v1::Event {
            job_id: "j1".into(),
            number,
            time: Some(prost_types::Timestamp { seconds: 1_700_000_000 + number as i64, nanos: 0 }),
            kind: Some(kind),
        })
        .collect()
}

/// A job of two epochs whose second one overfits.
async fn trained() -> Stub {
    let stub = Stub::start().await;
    let step =
        v1::StepMetrics { step: 1, total_steps: 4, epoch: 1, steps_per_epoch: 2, ..Default::default() };
    let test = v1::TestMetrics { metrics: metrics(0.4, 0.9), epoch: 1, seconds: 1.0 };
    let mut script = stub.script();
    script.job = v1::Job {
        id: "j1".into(),
        state: v1::JobState::Succeeded.into(),
        spec: Some(v1::JobSpec { name: Some("demo".into()), ..Default::default() }),
        epochs: vec![epoch(1, 0.41, true), epoch(2, 0.44, false)],
        test: Some(test.clone()),
        model: Some(published()),
        last_event: 9,
        ..Default::default()
    };
    script.events = events(vec![
        state(v1::JobState::Queued),
        state(v1::JobState::Running),
        Kind::Prepared(v1::Prepared { total_steps: 4, ..Default::default() }),
        Kind::Step(step),
        Kind::Epoch(epoch(1, 0.41, true)),
        Kind::Epoch(epoch(2, 0.44, false)),
        Kind::Test(test),
        Kind::Published(published()),
        state(v1::JobState::Succeeded),
    ]);
    drop(script);
    stub
}

fn numbers(ran: &Ran) -> Vec<u64> {
    ran.json().iter().filter_map(|event| event["number"].as_u64()).collect()
}

#[tokio::test]
async fn training_shows_epochs_the_overfitting_and_how_to_use_the_model() {
    let stub = trained().await;
    let ran = client(&stub, &["train"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for words in [
        "epoch 1/2  4.0 s",
        "0.4100    0.8500  0.9000  0.9000     0.9000  * best",
        "! validation loss rose from 0.4100 to 0.4400: the model starts to overfit",
        "test  10 rows, the checkpoint of epoch 1",
        "model demo@1 (epoch 1, weights ab)",
        &format!("use it: client --daemon {} classify --model demo \"some text\"", stub.url),
    ] {
        assert!(ran.out.contains(words), "no {words:?} in {}", ran.out);
    }
    assert!(!ran.out.contains('\x1b') && !ran.err.contains('\x1b'), "{ran:?}");
    assert!(ran.err.contains("epoch 1/2  25% 1/4 [00:01<"), "a plain line of progress: {}", ran.err);
    assert_eq!(stub.script().started, [v1::JobSpec::default()]);
}

#[tokio::test]
async fn json_is_one_event_a_line_and_nothing_else() {
    let stub = trained().await;
    let ran = client(&stub, &["train", "--json"]).await;
    assert_eq!(numbers(&ran), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let lines = ran.json();
    assert_eq!(lines[8]["type"], "state_changed");
    assert_eq!(lines[8]["state"], "succeeded");
    assert_eq!(lines[8]["time"], "2023-11-14T22:13:29.000Z");
}

#[tokio::test]
async fn a_stream_that_breaks_after_event_2_is_taken_up_there_and_nothing_is_shown_twice() {
    let stub = trained().await;
    stub.script().watches =
        [(2, Then::Fail(Status::unavailable("the daemon restarts"))), (2, Then::End), (5, Then::End)].into();
    let ran = client(&stub, &["watch", "j1", "--json"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(numbers(&ran), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(stub.script().cursors, [0, 2, 2, 5]);
    assert!(ran.err.contains("is lost (the daemon restarts); trying again"), "{}", ran.err);
    assert!(ran.err.contains("connected again after"), "{}", ran.err);
}

#[tokio::test]
async fn a_connection_that_is_cut_is_made_again() {
    let stub = trained().await;
    stub.script().watches = [(4, Then::Hang)].into();
    let wire = Wire::to(&stub, "127.0.0.1:0").await;
    let watching = tokio::spawn({
        let address = wire.address.clone();
        async move {
            let args = ["watch", "j1", "--json"];
            client_with(&address, &args, Terminal::default(), Interrupt::never()).await
        }
    });
    while stub.script().cursors.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let address = wire.cut().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let _wire = Wire::to(&stub, &address).await;
    let ran = watching.await.expect("ran");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(numbers(&ran), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(stub.script().cursors, [0, 4]);
    assert!(ran.err.contains("is lost (") && ran.err.contains("connected again after"), "{}", ran.err);
}

/// A connection between client and stub that can be cut.
struct Wire {
    address: String,
    tasks: JoinSet<()>,
}

impl Wire {
    async fn to(stub: &Stub, listen: &str) -> Self {
        let listener = TcpSocket::new_v4().expect("a socket");
        listener.set_reuseaddr(true).expect("set");
        listener.bind(listen.parse().expect("an address")).expect("bound");
        let listener = listener.listen(8).expect("listening");
        let address = listener.local_addr().expect("an address").to_string();
        let target = stub.url.trim_start_matches("http://").to_owned();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let target = target.clone();
                connections.spawn(async move {
                    let mut far = TcpStream::connect(target).await.expect("the stub listens");
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { address, tasks }
    }

    /// Cuts it and returns where it was, which is free then.
    async fn cut(mut self) -> String {
        self.tasks.shutdown().await;
        self.address
    }
}

#[tokio::test]
async fn watching_begins_after_the_number_that_was_given() {
    let stub = trained().await;
    let ran = client(&stub, &["watch", "j1", "--after", "5"]).await;
    assert_eq!(ran.code, 0);
    assert!(!ran.out.contains("epoch 1/2"), "{}", ran.out);
    assert!(ran.out.contains("rose from 0.4100 to 0.4400"), "known from the job: {}", ran.out);
    let ran = client(&stub, &["watch", "j1", "--after", "9", "--json"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
}

#[tokio::test]
async fn a_connection_that_stays_away_is_given_up_with_its_own_code() {
    let stub = trained().await;
    let gone = || (2, Then::Fail(Status::unavailable("gone")));
    stub.script().watches = std::iter::repeat_with(gone).take(20).collect();
    stub.script().job.state = v1::JobState::Running.into();
    let ran = client(&stub, &["watch", "j1", "--retry-for", "1"]).await;
    assert_eq!(ran.code, 9, "{ran:?}");
    assert!(ran.err.contains("did not come back within 1 s"), "{}", ran.err);
    assert!(ran.err.contains("`client watch j1 --after 2`"), "{}", ran.err);
}

#[tokio::test]
async fn ctrl_c_detaches_and_says_how_to_come_back() {
    let stub = trained().await;
    stub.script().watches = [(4, Then::Hang)].into();
    let (press, interrupt) = Interrupt::by_hand();
    let running = tokio::spawn({
        let url = stub.url.clone();
        async move { client_with(&url, &["train"], Terminal::default(), interrupt).await }
    });
    while stub.script().cursors.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    press.send(true).expect("somebody listens");
    let ran = running.await.expect("ran");
    assert_eq!(ran.code, 0);
    assert!(
        ran.err.contains(&format!("Come back with `client --daemon {} watch j1`", stub.url)),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn ctrl_c_before_there_is_a_job_is_130() {
    let stub = trained().await;
    let (press, interrupt) = Interrupt::by_hand();
    press.send(true).expect("somebody listens");
    let ran = client_with(&stub.url, &["train"], Terminal::default(), interrupt).await;
    assert_eq!(ran.code, 130);
    assert!(stub.script().started.is_empty());
}

#[tokio::test]
async fn a_failed_job_is_7_and_a_stopped_one_8() {
    let stub = trained().await;
    let failure = v1::Failure { code: 3, message: "the loss is not a number at step 3".into() };
    let failed = v1::StateChanged { state: v1::JobState::Failed.into(), failure: Some(failure) };
    stub.script().events = events(vec![Kind::StateChanged(failed)]);
    let ran = client(&stub, &["train"]).await;
    assert_eq!(ran.code, 7);
    assert!(
        ran.err.contains("error: job j1 failed: the loss is not a number at step 3\nhint: "),
        "{}",
        ran.err
    );
    stub.script().events = events(vec![state(v1::JobState::Cancelled)]);
    assert_eq!(client(&stub, &["train", "--json"]).await.code, 8);
}

/// The events of a job that is stopped in one way before its second epoch, and goes on.
async fn stopped_between(stopped: v1::JobState) -> Stub {
    let stub = trained().await;
    let mut script = stub.script();
    let mut kinds: Vec<Kind> = script.events.drain(..).filter_map(|event| event.kind).collect();
    let between = [stopped, v1::JobState::Queued, v1::JobState::Running];
    kinds.splice(5..5, between.map(state));
    script.events = events(kinds);
    drop(script);
    stub
}

#[tokio::test]
async fn a_job_that_is_interrupted_or_paused_is_watched_until_it_really_ends() {
    for (stopped, words) in [
        (v1::JobState::Interrupted, "job j1 was interrupted: the daemon stopped while it ran"),
        (v1::JobState::Paused, "job j1 is paused; `client --daemon"),
    ] {
        let stub = stopped_between(stopped).await;
        let ran = client(&stub, &["watch", "j1"]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        for words in [words, " resume j1`", "job j1 continues from where it stopped"] {
            assert!(ran.err.contains(words), "no {words:?} in {}", ran.err);
        }
        assert!(ran.out.contains("epoch 2/2") && !ran.err.contains("client train"), "{ran:?}");
        let ran = client(&stub, &["watch", "j1", "--json"]).await;
        assert_eq!((ran.code, numbers(&ran)), (0, (1..=12).collect::<Vec<_>>()));
    }
}

#[tokio::test]
async fn a_job_that_stays_paused_is_told_with_the_way_on() {
    let stub = trained().await;
    {
        let mut script = stub.script();
        script.job.state = v1::JobState::Paused.into();
        script.watches = [(9, Then::Hang)].into();
    }
    let (press, interrupt) = Interrupt::by_hand();
    let watching = tokio::spawn({
        let url = stub.url.clone();
        async move { client_with(&url, &["watch", "j1", "--after", "9"], Terminal::default(), interrupt).await }
    });
    while stub.script().cursors.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    press.send(true).expect("somebody listens");
    let ran = watching.await.expect("ran");
    assert!(ran.err.contains("job j1 is paused; `client --daemon"), "{}", ran.err);
    let ran = client(&stub, &["show", "j1"]).await;
    assert!(ran.out.contains("way on") && ran.out.contains("resume j1` continues it"), "{}", ran.out);
}

#[tokio::test]
async fn an_older_daemon_that_cannot_continue_a_job_is_told_as_that() {
    let stub = trained().await;
    {
        let mut script = stub.script();
        script.events = events(vec![state(v1::JobState::Interrupted)]);
        (script.job.state, script.job.last_event) = (v1::JobState::Interrupted.into(), 1);
    }
    let ran = client(&stub, &["watch", "j1"]).await;
    assert_eq!(ran.code, 8, "{ran:?}");
    assert!(ran.err.contains("run the same `client train` again"), "{}", ran.err);
}

#[tokio::test]
async fn pausing_and_resuming_say_what_the_job_is_now() {
    let stub = trained().await;
    for (state, command, words) in [
        (v1::JobState::Running, "pause", "job j1 pauses at its next step; `client --daemon"),
        (v1::JobState::Paused, "pause", "job j1 is paused; `client --daemon"),
        (v1::JobState::Queued, "resume", "job j1 is queued, 2 jobs ahead; `client --daemon"),
        (v1::JobState::Running, "resume", "job j1 runs; `client --daemon"),
    ] {
        let ahead = if state == v1::JobState::Queued { 2 } else { 0 };
        (stub.script().job.state, stub.script().job.jobs_ahead) = (state.into(), ahead);
        let ran = client(&stub, &[command, "j1"]).await;
        assert!(ran.code == 0 && ran.out.starts_with(words), "{ran:?}");
        assert_eq!(client(&stub, &[command, "j1", "--json"]).await.json()[0]["id"], "j1");
        assert_eq!(client(&stub, &[command, "j2"]).await.code, 4);
    }
}

#[tokio::test]
async fn a_start_whose_answer_was_lost_is_sent_again_with_the_same_id() {
    let stub = trained().await;
    stub.script().silent_starts = 1;
    let wire = Wire::to(&stub, "127.0.0.1:0").await;
    let training = tokio::spawn({
        let address = wire.address.clone();
        async move { client_with(&address, &["train", "--detach"], Terminal::default(), Interrupt::never()).await }
    });
    while stub.script().request_ids.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let address = wire.cut().await;
    let _wire = Wire::to(&stub, &address).await;
    let ran = training.await.expect("ran");
    assert_eq!((ran.code, ran.out.as_str()), (0, "j1\n"), "{ran:?}");
    assert!(ran.err.contains("asking again, which starts no second job"), "{}", ran.err);
    let ids = stub.script().request_ids.clone();
    assert!(
        ids.len() == 2 && ids[0] == ids[1] && ids[0].as_ref().is_some_and(|id| id.len() == 26),
        "{ids:?}"
    );
    client(&stub, &["train", "--detach"]).await;
    assert_ne!(stub.script().request_ids[2], ids[0], "another job has another id");
}

#[tokio::test]
async fn a_list_that_comes_in_pages_is_shown_whole() {
    let stub = trained().await;
    let page = |ids: [&str; 2], next: &str| v1::ListJobsResponse {
        jobs: ids.map(|id| v1::Job { id: id.into(), ..Default::default() }).into(),
        next_page_token: next.into(),
        ..Default::default()
    };
    stub.script().pages = vec![page(["a", "b"], "b"), page(["c", "d"], "d"), page(["e", "f"], "")];
    let ran = client(&stub, &["--json", "jobs"]).await;
    let ids: Vec<_> = ran.json().iter().map(|job| job["id"].as_str().map(str::to_owned)).collect();
    assert_eq!(ids, ["a", "b", "c", "d", "e", "f"].map(|id| Some(id.to_owned())));
    assert_eq!(stub.script().asked_pages, ["", "b", "d"]);
}

#[tokio::test]
async fn a_refused_job_shows_the_daemons_sentence() {
    let stub = trained().await;
    stub.script().start = Some(Status::invalid_argument("the learning rate 7 is greater than 1"));
    let ran = client(&stub, &["train", "--lr", "7"]).await;
    assert_eq!(ran.code, 5);
    assert_eq!(ran.err, "error: the learning rate 7 is greater than 1\n");
}

#[tokio::test]
async fn detach_prints_the_id_alone() {
    let stub = trained().await;
    let ran = client(&stub, &["train", "--detach"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "j1\n"));
    assert!(stub.script().cursors.is_empty());
}

#[tokio::test]
async fn a_dry_run_says_what_the_job_would_need_and_starts_nothing() {
    let stub = trained().await;
    stub.script().dry_run = v1::DryRunResponse {
        prepared: Some(v1::Prepared { total_steps: 4, max_length: 128, ..Default::default() }),
        memory: Some(v1::MemoryEstimate { total: 90 << 20, ..Default::default() }),
        time: Some(v1::TimeEstimate { steps: 3, total_seconds: 110.0, ..Default::default() }),
        notices: vec!["the encoder was downloaded".into()],
        ..Default::default()
    };
    let ran = client(&stub, &["train", "--dry-run", "--lr", "1e-5"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    for words in ["4 steps", "memory", "90.0 MiB", "1m 50s", "3 measured steps", "the encoder was downloaded"]
    {
        assert!(ran.out.contains(words), "no {words:?} in {}", ran.out);
    }
    let ran = client(&stub, &["train", "--dry-run", "--json"]).await;
    assert_eq!(ran.json().len(), 1);
    assert_eq!(ran.json()[0]["time"]["total_seconds"], 110.0);
    let script = stub.script();
    let rate = script.dry_runs[0].hyperparameters.as_ref().and_then(|given| given.learning_rate);
    assert_eq!((rate, script.dry_runs.len()), (Some(1e-5), 2));
    assert!(script.started.is_empty() && script.cursors.is_empty());
}

#[tokio::test]
async fn a_dry_run_of_a_wrong_job_is_refused_like_the_job() {
    let stub = trained().await;
    stub.script().start = Some(Status::invalid_argument("`freeze_layers` is 9"));
    let ran = client(&stub, &["train", "--dry-run", "--freeze-layers", "9"]).await;
    assert_eq!((ran.code, ran.err.lines().last()), (5, Some("error: --freeze-layers is 9")));
}

#[tokio::test]
async fn jobs_show_cancel_and_compare_read_well() {
    let stub = trained().await;
    let ran = client(&stub, &["jobs"]).await;
    assert_eq!(
        ran.out,
        "job  state      model   started (UTC)  epochs  val acc  test acc\n\
         j1   succeeded  demo@1  -                 2/2   0.8500    0.9000\n"
    );
    let ran = client(&stub, &["show", "j1"]).await;
    assert!(ran.out.contains("result") && ran.out.contains("* kept"), "{}", ran.out);
    let ran = client(&stub, &["cancel", "j1"]).await;
    assert_eq!(ran.out, "job j1 had ended before: succeeded\n");
    let ran = client(&stub, &["compare", "j1", "j1"]).await;
    assert!(ran.out.ends_with("0.9000  +0.0000  nothing\n"), "{}", ran.out);
    let ran = client(&stub, &["show", "j2"]).await;
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (4, "error: there is no job j2\nhint: `client jobs` lists the jobs\n")
    );
}

#[tokio::test]
async fn a_terminal_gets_colour_and_the_course_of_the_losses() {
    let stub = trained().await;
    let terminal = Terminal { out: Some(60), err: None, color: true };
    let ran = client_with(&stub.url, &["watch", "j1"], terminal, Interrupt::never()).await;
    assert!(ran.out.contains("\x1b[32m* best\x1b[0m"), "{}", ran.out);
    assert!(ran.out.contains("lowest validation loss 0.4100 in epoch 1"), "{}", ran.out);
    let plain = Terminal { color: false, ..terminal };
    let ran = client_with(&stub.url, &["watch", "j1"], plain, Interrupt::never()).await;
    assert!(!ran.out.contains('\x1b'), "{}", ran.out);
}
