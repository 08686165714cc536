//! Encoders and models whose files are damaged: refused with the file at fault.

use std::path::Path;

use hone::v1::JobSpec;
use tonic::Code;

use super::{Held, assert_refused, folder, quick, train};
use crate::harness::daemon::Daemon;
use crate::harness::encoder::tiny_encoder;
use crate::harness::toy_texts;

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
