//! Files and uploads that cannot be used: refused with the place, and not kept.

use std::time::Duration;

use hone::v1::upload_dataset_request::Part;
use hone::v1::{Columns, UploadDatasetRequest, UploadHeader};
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Status};

use super::{Held, NO_FILE, assert_refused, folder, until_nothing_is_left};
use crate::harness::daemon::Daemon;
use crate::harness::toy_rows;

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
