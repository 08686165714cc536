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
async fn what_is_asked_for_besides_stands_in_the_json() {
    let stub = Stub::start().await;
    let ran = client(&stub, &["--json", "classify", "--logits", "--id", "mine", "positive film"]).await;
    let answer = &ran.json()[0];
    assert_eq!((&answer["logits"]["positive"], &answer["id"]), (&json!(1.5), &json!("mine")));
}

#[tokio::test]
async fn a_text_that_the_daemon_refuses_keeps_its_place_and_the_others_are_answered() {
    let stub = Stub::start().await;
    let why = "it has 9 tokens, and at most 7 are taken";
    let classify = ["classify", "--truncation", "none", "positive film", "refused"];
    let ran = client(&stub, &classify).await;
    assert_eq!((ran.code, ran.out.as_str()), (5, "positive\t0.9800\tpositive film\n-\t-\trefused\n"));
    assert!(ran.err.contains(&format!("1 of 2 texts could not be classified; the first is text 2: {why}")));
    let ran = client(&stub, &[&["--json"], &classify[..]].concat()).await;
    assert_eq!(ran.json()[1]["error"], json!(why));

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("texts.txt");
    std::fs::write(&file, "refused\n").unwrap();
    let ran = client(&stub, &["classify", "--truncation", "none", "--file", &file.to_string_lossy()]).await;
    assert_eq!((ran.code, ran.out.as_str()), (5, "-\t-\trefused\n"));
    assert!(ran.err.contains(why), "{ran:?}");
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
async fn a_text_that_was_cut_is_told_in_every_form() {
    let stub = Stub::start().await;
    let classify = ["classify", "positive endless film", "negative film"];
    let note = "note: 1 of 2 texts was cut: the model reads 7 tokens of a text\n";
    for (width, first) in
        [(60, "positive  0.9800  (cut)  positive endless film"), (20, "positive  0.9800  (…")]
    {
        let terminal = Terminal { out: Some(width), err: None, color: false };
        let ran = client_with(&stub.url, &classify, terminal, Interrupt::never()).await;
        assert_eq!((ran.out.lines().next(), ran.err.as_str()), (Some(first), note));
    }
    let ran = client(&stub, &classify).await;
    assert_eq!(ran.out, "positive\t0.9800\tpositive endless film\nnegative\t0.9800\tnegative film\n");
    assert_eq!(ran.err, note);
    let ran = client(&stub, &[&["--json"], &classify[..]].concat()).await;
    assert_eq!(ran.json().iter().map(|line| line["truncated"].clone()).collect::<Vec<_>>(), [true, false]);
    assert_eq!(ran.err, "");

    let terminal = Terminal { out: Some(60), err: None, color: false };
    let several = ["classify", "-m", "several", "endless film"];
    let ran = client_with(&stub.url, &several, terminal, Interrupt::never()).await;
    assert!(ran.out.contains("  (cut)  endless film"), "{ran:?}");
}

#[tokio::test]
async fn a_file_in_utf16_is_read_as_such_and_the_encoding_is_told() {
    let stub = Stub::start().await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let bytes: Vec<u8> = "\u{feff}schön Film\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    std::fs::write(file.path(), bytes).expect("written");
    let path = file.path().to_str().expect("UTF-8");
    let ran = client(&stub, &["classify", "--file", path]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "schön\t0.9800\tschön Film\n"), "{ran:?}");
    assert_eq!(ran.err, "note: the texts are read as UTF-16LE\n");
    let ran = client(&stub, &["classify", "--file", path, "--encoding", "klingon"]).await;
    assert!(ran.code == 2 && ran.err.contains("not the name of an encoding"), "{ran:?}");
}

#[tokio::test]
async fn a_file_in_another_encoding_is_refused_with_the_flag_that_reads_it() {
    let stub = Stub::start().await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), b"it\x92s a caf\xe9\nfine day\n").expect("written");
    let path = file.path().to_str().expect("UTF-8");
    let ran = client(&stub, &["classify", "--file", path]).await;
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.err.contains("line 1: the line is no UTF-8\nhint: it looks like Windows-1252"), "{ran:?}");
    let ran = client(&stub, &["classify", "--file", path, "--encoding", "windows-1252"]).await;
    assert_eq!((ran.code, ran.out.lines().next()), (0, Some("it’s\t0.9800\tit’s a café")), "{ran:?}");
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
