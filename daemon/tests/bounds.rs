//! What may be asked of a daemon at once, shown on a daemon that may take 1 GiB of address space: it refuses what does not
//! fit, with a status and words that say what to change, and lives.

#[path = "bounds/limited.rs"]
mod limited;

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;

use futures::future::{join_all, poll_fn};
use hone::v1::{Hyperparameters, JobSpec};
use hone_base::cancel::Cancel;
use hone_base::error::Kind;
use hone_train::host::{HostMemory, MemoryLimit};
use limited::{KIB, Limited, chunk, header, long_encoder, packed, spec};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic::Code;
use tonic::codegen::Bytes;
use tonic::codegen::http::{HeaderMap, Method, Request};

/// Every status is one of these, and says this.
fn said<T>(outcomes: Vec<Result<T, tonic::Status>>, expected: &[(Code, &str)]) -> BTreeMap<i32, usize> {
    let mut codes = BTreeMap::new();
    for outcome in outcomes {
        let status = outcome.map(drop).expect_err("a refusal");
        let known =
            expected.iter().any(|(code, words)| status.code() == *code && status.message().contains(words));
        assert!(known, "{status}");
        *codes.entry(status.code() as i32).or_default() += 1;
    }
    codes
}

#[tokio::test]
async fn a_packed_file_is_read_row_by_row_however_much_it_unpacks_to() {
    let daemon = Limited::start(&[]).await;
    // 1.2 GB of text in about 12 MB.
    let dataset = daemon.upload("large.csv.gz", packed(1200, 1000)).await.expect("an upload");
    assert_eq!(dataset.summary.as_ref().map_or(0, |summary| summary.rows), 1_200_000);
    let peak = daemon.status("VmHWM");
    assert!(peak < KIB / 4, "{peak} KiB");
    daemon.answers().await;
    // Its texts cannot be trained on here: known before they are taken.
    let refused = daemon.start_job(spec(&dataset, Hyperparameters::default())).await;
    said(vec![refused], &[(Code::ResourceExhausted, "Take fewer rows (train_limit)")]);
    daemon.answers().await;
}

#[tokio::test]
async fn a_packed_file_beyond_the_limits_is_refused_with_bytes_and_rows() {
    let daemon = Limited::start(&["--max-unpacked", "20M", "--max-rows", "50000"]).await;
    let bytes = daemon.upload("large.csv.gz", packed(100, 1000)).await;
    said(
        vec![bytes],
        &[(
            Code::ResourceExhausted,
            "unpacks to more than 20 MiB, the most that this daemon reads (--max-unpacked); that is reached in line 20",
        )],
    );
    let rows = daemon.upload("long.csv.gz", packed(100, 10)).await;
    said(
        vec![rows],
        &[(
            Code::ResourceExhausted,
            "more than 50000 rows, the most that this daemon reads of a file (--max-rows); they come to ",
        )],
    );
    daemon.answers().await;
}

#[tokio::test]
async fn many_jobs_and_dry_runs_at_once_are_checked_a_few_at_a_time() {
    let daemon = Limited::start(&[]).await;
    let dataset = daemon.upload("large.csv.gz", packed(30, 1000)).await.expect("an upload");
    // Found wrong only when the whole file was read.
    let wrong =
        spec(&dataset, Hyperparameters { positive_label: Some("ugly".into()), ..Hyperparameters::default() });
    let expected = [(Code::InvalidArgument, "ugly"), (Code::ResourceExhausted, "try again")];
    let starts = said(join_all((0..200).map(|_| daemon.start_job(wrong.clone()))).await, &expected);
    assert_eq!(starts[&(Code::ResourceExhausted as i32)], 200 - 2 - 64);
    let dry_runs = said(join_all((0..40).map(|_| daemon.dry_run(wrong.clone()))).await, &expected);
    assert_eq!(dry_runs[&(Code::ResourceExhausted as i32)], 40 - 1 - 16);
    daemon.answers().await;
}

#[tokio::test]
async fn a_batch_that_does_not_fit_into_memory_is_refused_before_it_is_taken() {
    let daemon = Limited::start(&[]).await;
    let (dataset, encoder) = (daemon.upload("rows.csv.gz", packed(5, 1200)).await, long_encoder());
    let dataset = dataset.expect("an upload");
    let batches_of = |rows| JobSpec {
        encoder: Some(encoder.path().to_string_lossy().into_owned()),
        ..spec(&dataset, Hyperparameters { batch_size: Some(rows), ..Hyperparameters::default() })
    };
    let report = daemon.dry_run(batches_of(4096)).await.expect("a report");
    let memory = report.memory.expect("an estimate");
    assert!(memory.activations > KIB << 10, "{memory:?}");
    assert!(
        report.notices.iter().any(|notice| notice.contains("no step was measured")),
        "{:?}",
        report.notices
    );
    let refused = daemon.start_job(batches_of(4096)).await.expect_err("a refusal");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    for words in [
        "batch_size 4096",
        "Lower batch_size",
        "gradient_accumulation",
        "max_length",
        "gradient_checkpointing",
    ] {
        assert!(refused.message().contains(words), "{words}: {refused}");
    }
    let fits = JobSpec { train_limit: Some(40), ..batches_of(4) };
    daemon.start_job(fits).await.expect("a job that fits");
    daemon.answers().await;
}

#[test]
fn a_job_that_would_not_fit_when_it_runs_fails_before_it_takes_the_memory() {
    use hone_train::{self as train, Control, Plan};
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let spec = serde_json::json!({
        "name": "toy", "encoder": "tiny", "train": {"dataset": "train", "name": "train.csv"}, "validation": null,
        "test": null, "validation_split": 0.2, "columns": {"text": null, "text_pair": null, "label": null},
        "train_limit": 50, "validation_limit": null, "test_limit": null,
        "hyperparameters": hone_train::spec::Hyperparameters::default(),
    });
    let spec = serde_json::from_value(spec).expect("a specification");
    let path_of = |_: &str| root.join("demo/reviews/train.csv");
    let plan = Plan::new(spec, &root.join("tests/fixtures/tiny_roberta"), &path_of, &Cancel::default())
        .expect("a plan");
    let plan = Plan { host: HostMemory::new(MemoryLimit::Bytes(1)), ..plan };
    let workspace = tempfile::tempdir().expect("a folder");
    let mut events = 0;
    let mut emit = |_| {
        events += 1;
        std::ops::ControlFlow::Continue(())
    };
    let device = hone_daemon::config::DeviceChoice::Cpu.open().expect("the processor");
    let error =
        train::run(plan, &device, workspace.path(), Control::default(), &mut emit).expect_err("a refusal");
    assert_eq!((error.kind(), events), (Kind::Exhausted, 0));
    assert!(error.message().contains("--memory-limit"), "{error}");
}

/// A request to classify one text of 31 MiB, which is refused when it is there.
fn large_request() -> Bytes {
    use prost::Message as _;
    let input = hone::v1::Input { text: "x".repeat(31 << 20), ..Default::default() };
    let message = hone::v1::ClassifyRequest { inputs: vec![input], ..Default::default() }.encode_to_vec();
    let mut framed = vec![0];
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend(message);
    framed.into()
}

/// Calls of one connection, below tonic, so that all of them send the same bytes.
struct Connection(h2::client::SendRequest<Bytes>);

impl Connection {
    async fn open(daemon: &Limited) -> Self {
        let stream = TcpStream::connect(&daemon.address).await.expect("a connection");
        let (calls, connection) = h2::client::handshake(stream).await.expect("a connection");
        tokio::spawn(connection);
        Self(calls)
    }

    /// A call to classify that has begun.
    async fn begin(&self) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let request = Request::builder()
            .method(Method::POST)
            .uri("http://localhost/hone.v1.InferenceService/Classify")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        self.0.clone().ready().await.expect("a stream").send_request(request, false).expect("a stream")
    }
}

/// Sends bytes as fast as they are taken, until they are sent or nobody wants them.
async fn send(
    mut stream: h2::SendStream<Bytes>,
    mut bytes: Bytes,
    to_the_end: bool,
) -> h2::SendStream<Bytes> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len().min(16 << 10));
        let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { break };
        let piece = bytes.split_to(room.min(bytes.len()));
        if stream.send_data(piece, to_the_end && bytes.is_empty()).is_err() {
            break;
        }
    }
    stream
}

/// The status that a call is answered with.
async fn status(response: h2::client::ResponseFuture) -> Code {
    let of = |headers: &HeaderMap| Some(Code::from_bytes(headers.get("grpc-status")?.as_bytes()));
    let (head, mut body) = response.await.expect("an answer").into_parts();
    if let Some(code) = of(&head.headers) {
        return code;
    }
    while poll_fn(|cx| body.poll_data(cx)).await.is_some() {}
    let trailers = poll_fn(|cx| body.poll_trailers(cx)).await.expect("trailers").expect("trailers");
    of(&trailers).expect("a status")
}

#[tokio::test]
async fn a_thousand_large_messages_on_one_connection_are_admitted_before_they_are_received() {
    let daemon = Limited::start(&[]).await;
    let (connection, message) = (Connection::open(&daemon).await, large_request());
    let calls = (0..1024).map(async |_| {
        let (response, stream) = connection.begin().await;
        let mut sent: Pin<Box<_>> = Box::pin(send(stream, message.clone(), true));
        let mut answered = Box::pin(status(response));
        tokio::select! {
            code = &mut answered => code,
            _ = &mut sent => answered.await,
        }
    });
    let mut codes: BTreeMap<i32, usize> = BTreeMap::new();
    for code in join_all(calls).await {
        *codes.entry(code as i32).or_default() += 1;
    }
    let (invalid, exhausted) = (Code::InvalidArgument as i32, Code::ResourceExhausted as i32);
    assert!(codes.keys().all(|code| [invalid, exhausted].contains(code)), "{codes:?}");
    assert!(codes[&invalid] >= 1 && codes[&exhausted] >= 1, "{codes:?}");
    daemon.answers().await;
}

#[tokio::test]
async fn messages_that_stop_half_way_keep_nobody_out_and_are_given_up() {
    let daemon = Limited::start(&["--idle-timeout", "2"]).await;
    let (connection, message) = (Connection::open(&daemon).await, large_request());
    let mut calls = Vec::new();
    for _ in 0..100 {
        let (response, stream) = connection.begin().await;
        let stream = send(stream, message.slice(..100), false).await;
        calls.push(async move { (status(response).await, stream).0 });
    }
    daemon.answers().await;
    let (late, full) = (Code::DeadlineExceeded, Code::ResourceExhausted);
    let codes = join_all(calls).await;
    assert!(codes.iter().all(|&code| code == late || code == full) && codes.contains(&late), "{codes:?}");
    daemon.answers().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_the_others_are_answered() {
    let daemon = Limited::start(&["--max-connections", "3"]).await;
    let connect = || TcpStream::connect(&daemon.address);
    let _idle = (connect().await.expect("a connection"), connect().await.expect("a connection"));
    let mut closed = connect().await.expect("a connection");
    assert_eq!(closed.read(&mut [0; 1]).await.expect("an end"), 0);
    daemon.answers().await;
}

#[tokio::test]
async fn slow_uploads_hold_no_thread_and_are_given_up_when_nothing_comes() {
    let daemon = Limited::start(&["--idle-timeout", "3"]).await;
    let mut uploads = Vec::new();
    let mut senders = Vec::new();
    for number in 0..70 {
        let (sender, parts) = tokio::sync::mpsc::channel(4);
        sender.send(header(&format!("{number}.csv"))).await.expect("sent");
        sender.send(chunk(b"text,label\n")).await.expect("sent");
        let mut datasets = daemon.datasets();
        uploads.push(tokio::spawn(async move {
            datasets.upload(tokio_stream::wrappers::ReceiverStream::new(parts)).await.map(drop)
        }));
        senders.push(sender);
        // One after the other: threads that many short writes at once would need tell nothing.
        daemon.answers().await;
    }
    let threads = daemon.status("Threads");
    assert!(threads < 40, "{threads} threads for 64 uploads");
    let ended = join_all(uploads).await.into_iter().map(|upload| upload.expect("no panic")).collect();
    let codes = said(
        ended,
        &[
            (Code::DeadlineExceeded, "nothing more of the upload has come for 3 s"),
            (Code::ResourceExhausted, "as many uploads as it can: 64 go on at once"),
        ],
    );
    assert!(codes.contains_key(&(Code::DeadlineExceeded as i32)));
    daemon.answers().await;
    drop(senders);
}
