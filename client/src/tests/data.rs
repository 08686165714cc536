//! Files that are sent and models that are fetched.

use std::path::Path;

use hone::v1;

use super::client;
use super::stub::Stub;

fn write(folder: &Path, name: &str, content: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, content).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

async fn stub() -> Stub {
    let stub = Stub::start().await;
    stub.script().job.id = "j1".into();
    stub
}

#[tokio::test]
async fn a_file_is_sent_once_and_named_as_the_user_knows_it() {
    let stub = stub().await;
    let folder = tempfile::tempdir().expect("a folder");
    let large = format!("text,label\n{}", "good,1\n".repeat(400_000));
    let train = write(folder.path(), "reviews.csv", &large);
    let test = write(folder.path(), "test.csv", "text,label\nbad,0\n");
    let args = ["train", "--detach", "--train", &train, "--validation", &train, "--test", &test];
    let ran = client(&stub, &args).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("train: reviews.csv: 2 rows (sent)"), "{}", ran.err);
    assert!(ran.err.contains("the column \"text\" is taken for the text"), "{}", ran.err);
    let script = stub.script();
    let names: Vec<_> =
        script.uploads.iter().map(|(header, chunks)| (header.name.as_str(), *chunks)).collect();
    assert_eq!(names, [("reviews.csv", 3), ("test.csv", 1)]);
    let spec = &script.started[0];
    assert_eq!(spec.train, spec.validation);
    assert_eq!(spec.test.as_ref().and_then(|test| test.name.as_deref()), Some("test.csv"));
    assert_eq!(spec.columns, None, "what was guessed is not sent as if it were given");
    // What the training file let guess is asked of the other files too.
    let columns = script.uploads[1].0.columns.clone().expect("columns");
    assert_eq!(columns.label.as_deref(), Some("label"));
}

#[tokio::test]
async fn a_file_that_is_refused_early_shows_the_daemons_sentence() {
    let stub = stub().await;
    let folder = tempfile::tempdir().expect("a folder");
    let bad = write(folder.path(), "bad.csv", &"good,1\n".repeat(3_000_000));
    let ran = client(&stub, &["train", "--train", &bad]).await;
    assert_eq!(ran.code, 5);
    assert_eq!(ran.err, "error: bad.csv: line 3 has 5 columns and line 1 has 2\n");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_told_before_connecting() {
    let stub = stub().await;
    let ran = client(&stub, &["train", "--test", "/nonexistent/test.csv"]).await;
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (2, "error: --test /nonexistent/test.csv: there is no such file\n")
    );
}

#[tokio::test]
async fn data_sets_are_uploaded_listed_and_kept_while_they_are_needed() {
    let stub = stub().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = write(folder.path(), "a.csv", "text,label\nbad,0\n");
    for (sent, note) in [(1, ""), (1, "the daemon has this file already; nothing was sent\n")] {
        let ran = client(&stub, &["datasets", "upload", &file]).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, note));
        assert_eq!(stub.script().uploads.len(), sent);
    }
    let ran = client(&stub, &["datasets", "--json"]).await;
    assert_eq!(ran.json()[0]["name"], "a.csv");
    let ran = client(&stub, &["datasets", "delete", "x"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (5, "error: the queued job j needs the data set x\n"));
}

fn reviews(weights: &[u8]) -> v1::Model {
    use sha2::{Digest as _, Sha256};
    let version = v1::ModelVersion {
        version: 2,
        weights_sha256: crate::output::format::hex(&Sha256::digest(weights)),
        labels: vec!["negative".into(), "positive".into()],
        ..Default::default()
    };
    let aliases = vec![v1::Alias { name: "latest".into(), version: 2, ..Default::default() }];
    v1::Model { name: "reviews".into(), versions: vec![version], aliases, precision: None }
}

#[tokio::test]
async fn a_model_is_downloaded_whole_or_not_at_all() {
    let stub = stub().await;
    let folder = tempfile::tempdir().expect("a folder");
    let target = folder.path().join("out");
    let to = target.to_str().expect("UTF-8");
    stub.script().models = vec![reviews(b"weights")];

    for bad in [
        vec![("../evil".to_owned(), b"x".to_vec())],
        vec![("model.safetensors".to_owned(), b"others".to_vec())],
        vec![("config.json".to_owned(), b"{}".to_vec())],
    ] {
        stub.script().files = bad;
        let ran = client(&stub, &["models", "download", "reviews", "--to", to]).await;
        assert_eq!(ran.code, 1, "{ran:?}");
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0, "{ran:?}");
    }

    stub.script().files =
        vec![("config.json".into(), b"{}".to_vec()), ("model.safetensors".into(), b"weights".to_vec())];
    let ran = client(&stub, &["models", "download", "reviews@latest", "--to", to]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.out, format!("reviews@2 is in {to} (2 files, digests checked)\n"));
    assert_eq!(std::fs::read(target.join("model.safetensors")).expect("there"), b"weights");
    let ran = client(&stub, &["models", "download", "reviews", "--to", to]).await;
    assert_eq!(ran.code, 2, "it exists already: {ran:?}");
}

#[tokio::test]
async fn models_are_listed_shown_promoted_and_deleted() {
    let stub = stub().await;
    stub.script().models = vec![reviews(b"weights")];
    let ran = client(&stub, &["models"]).await;
    assert!(ran.out.contains("reviews@2  latest"), "{}", ran.out);
    let ran = client(&stub, &["models", "show", "reviews"]).await;
    assert!(ran.out.contains("negative, positive"), "{}", ran.out);
    let ran = client(&stub, &["models", "promote", "reviews@2", "production"]).await;
    assert_eq!(ran.out, "reviews@production is version 2 now\n");
    let ran = client(&stub, &["models", "delete", "reviews@2"]).await;
    assert_eq!(ran.code, 2, "nobody can be asked: {ran:?}");
    let ran = client(&stub, &["models", "delete", "reviews@2", "--yes"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "deleted version 2 of reviews\n"));
    let ran = client(&stub, &["models", "show", "absent"]).await;
    assert_eq!(ran.code, 4);
}
