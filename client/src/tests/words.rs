//! Nothing that the client says shows how Rust writes its values.

use std::path::{Path, PathBuf};

use hone::v1;
use hone::v1::event::Kind;

use super::stub::Stub;
use super::{Ran, client, client_with};
use crate::{Interrupt, Terminal};

/// Fails where a text shows a value as Rust's debug form does. Every command that the tests run goes through it.
pub(super) fn assert_plain(ran: &Ran) {
    for (stream, text) in [("out", &ran.out), ("err", &ran.err)] {
        if let Some(found) = debug_form(text) {
            panic!("{found:?} in {stream}: {text}");
        }
    }
}

/// The first sign of a debug form.
fn debug_form(text: &str) -> Option<&'static str> {
    const SIGNS: [&str; 15] = [
        "Some(",
        "None",
        "Ok(",
        "Err(",
        "Error(",
        "Status {",
        "Os {",
        "Custom {",
        "Kind::",
        "Code::",
        "\\u{",
        "PhantomData",
        "Timestamp {",
        "State::",
        "Box<",
    ];
    SIGNS.into_iter().find(|sign| text.contains(sign)).or_else(|| struct_form(text))
}

/// `Name { field: …`, the form of a struct.
fn struct_form(text: &str) -> Option<&'static str> {
    text.match_indices(" { ").find_map(|(at, _)| {
        let name = text[..at].rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        let field =
            text[at + 3..].split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap_or_default();
        let is_field = !field.is_empty() && text[at + 3 + field.len()..].starts_with(": ");
        (name.starts_with(|c: char| c.is_ascii_uppercase()) && is_field).then_some("Name { field: ")
    })
}

#[test]
fn the_debug_form_is_recognised() {
    let status = tonic::Status::not_found("there is no job");
    for text in [
        format!("{:?}", Some(1)),
        format!("{status:?}"),
        format!("{:?}", std::io::Error::from_raw_os_error(2)),
        format!("{:?}", v1::Notice { message: "a".into() }),
        format!("{:?}", "e\u{301}\u{200b}"),
    ] {
        assert!(debug_form(&text).is_some(), "{text}");
    }
    assert_eq!(debug_form("error: {\"label\": null} is no row; see { below"), None);
}

/// Every kind of event, each with nothing in it and with what no daemon should send.
fn events() -> Vec<v1::Event> {
    let odd = f64::NAN;
    let metrics = || v1::Metrics { loss: odd, accuracy: f64::INFINITY, ..Default::default() };
    let label = "\u{1f469}\u{200d}\u{1f52c} e\u{301} C:\\x".to_owned();
    let split = v1::SplitReport {
        labels: vec![v1::LabelCount { label: label.clone(), rows: 1 }],
        ..Default::default()
    };
    let kinds = [
        Kind::StateChanged(v1::StateChanged::default()),
        Kind::StateChanged(v1::StateChanged { state: 99, failure: None }),
        Kind::Prepared(v1::Prepared::default()),
        Kind::Prepared(v1::Prepared {
            splits: vec![split, v1::SplitReport::default()],
            ..Default::default()
        }),
        Kind::Step(v1::StepMetrics::default()),
        Kind::Step(v1::StepMetrics { loss: odd, ..Default::default() }),
        Kind::Evaluation(v1::EvaluationProgress::default()),
        Kind::Epoch(v1::EpochMetrics::default()),
        Kind::Epoch(v1::EpochMetrics {
            epoch: 1,
            train: Some(metrics()),
            validation: Some(metrics()),
            ..Default::default()
        }),
        Kind::Test(v1::TestMetrics::default()),
        Kind::Test(v1::TestMetrics { metrics: Some(metrics()), ..Default::default() }),
        Kind::Published(v1::PublishedModel { name: label, ..Default::default() }),
        Kind::Notice(v1::Notice::default()),
        Kind::StateChanged(v1::StateChanged {
            state: v1::JobState::Failed.into(),
            failure: Some(v1::Failure {
                message: "the loss is not a number at step 3".into(),
                ..Default::default()
            }),
        }),
    ];
    let event = |(number, kind)| v1::Event { number, kind: Some(kind), ..Default::default() };
    let mut events: Vec<v1::Event> = (1..).zip(kinds).map(event).collect();
    events.insert(0, v1::Event::default());
    events
}

#[tokio::test]
async fn no_event_of_any_kind_shows_a_debug_form() {
    let stub = Stub::start().await;
    {
        let mut script = stub.script();
        script.events = events();
        script.job = v1::Job { id: "01j".into(), state: 99, ..Default::default() };
    }
    let wide = Terminal { out: Some(100), err: Some(100), color: true };
    for args in [
        &["watch", "01j"][..],
        &["--json", "watch", "01j"],
        &["show", "01j"],
        &["jobs"],
        &["compare", "01j", "01j"],
    ] {
        // The helper that runs a command looks for debug forms in all that it wrote.
        client(&stub, args).await;
        client_with(&stub.url, args, wide, Interrupt::never()).await;
    }
    let ran = client(&stub, &["watch", "01j"]).await;
    assert_eq!(ran.code, 7, "{ran:?}");
    assert!(
        ran.out.contains("\u{1f469}\u{200d}\u{1f52c} e\u{301} C:\\x"),
        "labels are shown as they stand: {ran:?}"
    );
}

#[tokio::test]
async fn no_status_of_any_code_shows_a_debug_form() {
    let stub = Stub::start().await;
    for code in 1..=16 {
        for message in ["", "a sentence of the daemon"] {
            stub.script().start = Some(tonic::Status::new(tonic::Code::from_i32(code), message));
            let ran = client(&stub, &["train", "--detach"]).await;
            assert!(ran.code != 0 && ran.err.contains("error: "), "{code}: {ran:?}");
        }
    }
}

/// Lines of the program, tests left out, in which a value is written in its debug form for a user to read.
fn debug_formats(source: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(source).expect("source");
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let found = text[..end].lines().filter(|line| line.contains(":?}") || line.contains(":#?}"));
    found.map(|line| format!("{}: {}", source.display(), line.trim())).collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if entry.is_dir() && name != "tests" {
            sources(&entry, found);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(entry);
        }
    }
}

#[test]
fn no_source_of_the_client_formats_a_value_in_its_debug_form() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > 20);
    let found: Vec<String> = files.iter().flat_map(|file| debug_formats(file)).collect();
    assert_eq!(found, [""; 0], "quote names with `format::quoted`");
}
