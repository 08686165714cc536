//! classify, on the command line and as a stream.

use std::fmt::Write as _;

use serde_json::json;

use super::stub::Stub;
use super::{client, client_with};
use crate::{Interrupt, Terminal};

#[tokio::test]
async fn json_has_exactly_the_promised_form() {
    let stub = Stub::start().await;
    let ran = client(&stub, &["--json", "classify", "--model", "reviews", "positive film"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(
        ran.out,
        "{\"text\":\"positive film\",\"label\":\"positive\",\"score\":0.98,\
         \"scores\":{\"negative\":0.02,\"positive\":0.98},\"model\":\"reviews@3\",\"weights_sha256\":\"abc\",\
         \"tokens\":7,\"truncated\":false}\n"
    );
}

#[tokio::test]
async fn a_pipe_gets_label_score_and_text_without_escape_codes() {
    let stub = Stub::start().await;
    let ran = client(&stub, &["classify", "positive film", "negative \x1b[31mfilm"]).await;
    assert_eq!(ran.out, "positive\t0.9800\tpositive film\nnegative\t0.9800\tnegative  [31mfilm\n");
    assert!(!ran.out.contains('\x1b'), "{:?}", ran.out);
}

#[tokio::test]
async fn a_model_of_several_labels_gives_all_that_are_set() {
    let stub = Stub::start().await;
    let classify = ["classify", "-m", "several", "positive negative", "film"];
    let ran = client(&stub, &classify).await;
    assert_eq!(ran.out, "positive|negative\t0.9800|0.0200\tpositive negative\n\t\tfilm\n");
    let terminal = Terminal { out: Some(60), err: None, color: false };
    let ran = client_with(&stub.url, &classify, terminal, Interrupt::never()).await;
    assert_eq!(ran.out, "positive|negative  0.9800|0.0200  positive negative\n(none)  film\n");
    let ran = client(&stub, &["--json", "classify", "-m", "several", "positive film"]).await;
    assert_eq!(ran.json()[0]["labels"], json!(["positive"]));
}

#[tokio::test]
async fn a_terminal_gets_rows_that_fit() {
    let stub = Stub::start().await;
    let terminal = Terminal { out: Some(40), err: None, color: false };
    let text = format!("positive {}", "long ".repeat(40));
    let ran = client_with(&stub.url, &["classify", &text], terminal, Interrupt::never()).await;
    assert_eq!(ran.out, "positive  0.9800  positive long long lo…\n");
}

#[tokio::test]
async fn a_file_is_streamed_in_order_and_bad_lines_keep_their_place() {
    let stub = Stub::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("texts.txt");
    let mut input = String::new();
    for index in 0..5000 {
        let line = if index == 2500 { String::new() } else { format!("label{index} and so on") };
        writeln!(input, "{line}").expect("written");
    }
    std::fs::write(&path, input).expect("written");
    let path = path.to_str().expect("UTF-8");
    let ran = client(&stub, &["classify", "--file", path]).await;
    assert_eq!(ran.code, 5);
    assert_eq!(
        ran.err,
        "error: 1 of 5,000 lines could not be classified; the first is line 2501: the line is empty\n"
    );
    for (index, line) in ran.out.lines().enumerate() {
        let label = if index == 2500 { "-".to_owned() } else { format!("label{index}") };
        assert_eq!(line.split('\t').next(), Some(label.as_str()));
    }
    assert_eq!(ran.out.lines().count(), 5000);
    let batches = stub.script().batches.clone();
    assert!(batches.len() > 10 && batches.iter().all(|&texts| texts <= 1024), "{batches:?}");

    let ran = client(&stub, &["classify", "--json", "--file", path]).await;
    let line = &ran.json()[2500];
    assert_eq!(
        (&line["text"], &line["label"], &line["error"]),
        (&json!(""), &json!(null), &json!("the line is empty"))
    );
}

#[tokio::test]
async fn an_empty_file_has_no_answers_and_is_no_failure() {
    let stub = Stub::start().await;
    let ran = client(&stub, &["classify", "--file", "/dev/null"]).await;
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
}

#[tokio::test]
async fn a_model_that_does_not_exist_is_4_either_way() {
    let stub = Stub::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("texts.txt");
    std::fs::write(&path, "one\n").expect("written");
    for args in
        [["classify", "-m", "absent", "text"], ["classify", "-mabsent", "-f", path.to_str().expect("UTF-8")]]
    {
        let ran = client(&stub, &args).await;
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(
            ran.err.starts_with("error: there is no model \"absent\"\nhint: `client models` lists"),
            "{ran:?}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_classified_is_refused_before_connecting() {
    for args in [
        &["classify", "--file", "/nonexistent"][..],
        &["classify", " "],
        &["classify", "--text-pair", "b", "a", "c"],
        &["classify"],
    ] {
        let ran = client_with("127.0.0.1:1", args, Terminal::default(), Interrupt::never()).await;
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
    }
}
