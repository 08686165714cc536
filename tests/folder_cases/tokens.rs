//! Tokens: which a folder's tokenizer makes of a text, and whether the encoder has a row for each.

use candle_core::{DType, Device, Tensor};
use hone_data::tokenize::Tokenizer;
use hone_train::plan::read_encoder;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{CONFIG, WEIGHTS, assert_refused, configured, copy, read, remove, tensors, write};
use crate::harness::daemon::Daemon;
use crate::harness::encoder::make;
use crate::harness::model::fixture;

#[test]
fn a_table_may_have_more_rows_than_the_tokenizer_has_tokens_but_not_fewer() {
    let resized = |family: &str, change: i64| {
        let rows = read(&fixture(family), CONFIG)["vocab_size"].as_i64().expect("rows") + change;
        let folder = configured(family, &[("vocab_size", json!(rows))]);
        let mut tensors = tensors(folder.path());
        for (_, table) in tensors.iter_mut().filter(|(name, _)| name.ends_with("word_embeddings.weight")) {
            let width = table.dim(1).expect("a table");
            let more = Tensor::zeros((8, width), DType::F32, &Device::Cpu).expect("rows");
            let both = Tensor::cat(&[&*table, &more], 0).expect("a table");
            *table = both.narrow(0, 0, rows as usize).and_then(|table| table.contiguous()).expect("a table");
        }
        candle_core::safetensors::save(&tensors, folder.path().join(WEIGHTS)).expect("saved");
        folder
    };
    let larger = resized("roberta", 7);
    assert_eq!(read_encoder(larger.path(), None).expect("an encoder").0.architecture.vocab_size, 336);
    let smaller = resized("roberta", -4);
    assert_refused(
        "fewer rows",
        smaller.path(),
        &["has 329 tokens", "embeddings for 325 (vocab_size)", "<mask>", "m.resize_token_embeddings(len("],
    );
}

#[test]
fn a_post_processor_whose_numbers_no_row_has_is_refused() {
    let folder = copy("roberta");
    let mut tokenizer = read(folder.path(), "tokenizer.json");
    tokenizer["post_processor"]["cls"][1] = json!(40_000);
    write(folder.path(), "tokenizer.json", tokenizer.to_string());
    assert_refused("cls", folder.path(), &["has 40001 tokens"]);
}

/// A copy of the RoBERTa fixture whose tokenizer is `vocab.json` and `merges.txt`.
fn byte_pairs() -> TempDir {
    let folder = copy("roberta");
    let tokenizer = read(folder.path(), "tokenizer.json");
    let merges = tokenizer["model"]["merges"].as_array().expect("merges");
    let line = |pair: &Value| {
        format!("{} {}\n", pair[0].as_str().expect("a token"), pair[1].as_str().expect("a token"))
    };
    let lines: String = merges.iter().map(line).collect();
    write(folder.path(), "vocab.json", tokenizer["model"]["vocab"].to_string());
    write(folder.path(), "merges.txt", format!("#version: 0.2\n{lines}"));
    remove(folder.path(), "tokenizer.json");
    folder
}

const TEXTS: [&str; 9] = [
    "",
    " ",
    "a splendid thing",
    "  The\tcold  été, isn't it?\n\n 42 times!",
    "日本語 and emoji 🙂🙂 and e\u{301}",
    "<s> a </s> <pad><unk>",
    "wonderful<mask>wonderful",
    "don't we'll I'M they're",
    "\u{0}\u{7f}\u{a0}x",
];

#[test]
fn a_vocabulary_with_merges_gives_the_tokens_of_tokenizer_json() {
    let (whole, pairs) = (copy("roberta"), byte_pairs());
    for prefix in [false, true] {
        for folder in [&whole, &pairs] {
            let mut config = read(folder.path(), "tokenizer_config.json");
            config["add_prefix_space"] = json!(prefix);
            write(folder.path(), "tokenizer_config.json", config.to_string());
        }
        if prefix {
            let mut tokenizer = read(whole.path(), "tokenizer.json");
            tokenizer["pre_tokenizer"]["add_prefix_space"] = json!(true);
            tokenizer["post_processor"]["add_prefix_space"] = json!(true);
            write(whole.path(), "tokenizer.json", tokenizer.to_string());
        }
        let [whole, pairs] =
            [&whole, &pairs].map(|folder| Tokenizer::from_folder(folder.path(), 64).expect("a tokenizer"));
        for text in TEXTS {
            for pair in [None, Some("a warm thing")] {
                let [whole, pairs] = [&whole, &pairs].map(|of| of.encode(text, pair).expect("tokens"));
                assert_eq!(pairs, whole, "{text:?} {pair:?} {prefix}");
            }
        }
    }
    remove(pairs.path(), "tokenizer_config.json");
    let plain = Tokenizer::from_folder(pairs.path(), 64).expect("a tokenizer");
    let fixture = Tokenizer::from_folder(&fixture("roberta"), 64).expect("a tokenizer");
    for text in TEXTS {
        assert_eq!(plain.encode(text, None).expect("tokens"), fixture.encode(text, None).expect("tokens"));
    }
    // The mask takes the space before it, as in transformers.
    assert_eq!(plain.encode("a <mask>", None).expect("tokens").ids, [0, 101, 328, 2]);
}

#[test]
fn a_checkpoint_of_a_vocabulary_with_merges_has_a_tokenizer_json() {
    let (source, target) = (byte_pairs(), tempfile::tempdir().expect("a folder"));
    let tokenizer = Tokenizer::from_folder(source.path(), 32).expect("a tokenizer");
    tokenizer.write_files(source.path(), target.path()).expect("written");
    let again = Tokenizer::from_folder(target.path(), 32).expect("a tokenizer");
    assert!(target.path().join("tokenizer.json").exists());
    for text in TEXTS {
        assert_eq!(again.encode(text, None).expect("tokens"), tokenizer.encode(text, None).expect("tokens"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn capitals_that_are_never_used_are_told_by_the_dry_run_and_the_job() {
    let encoder = tempfile::tempdir().expect("a folder");
    make(encoder.path());
    let vocab = read(encoder.path(), "tokenizer.json")["model"]["vocab"].clone();
    let mut tokens: Vec<(u64, String)> = vocab
        .as_object()
        .expect("a vocabulary")
        .iter()
        .map(|(token, id)| (id.as_u64().expect("an id"), token.clone()))
        .collect();
    tokens.sort();
    let capital = |(id, token): &(u64, String)| match *id > 1000 {
        true => token.to_uppercase(),
        false => token.clone(),
    };
    write(encoder.path(), "vocab.txt", tokens.iter().map(capital).collect::<Vec<_>>().join("\n"));
    remove(encoder.path(), "tokenizer.json");
    let data = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(data.path()).await;
    let mut spec = daemon.toy_spec().await;
    spec.encoder = Some(encoder.path().to_string_lossy().into_owned());
    let told = |notice: &str| notice.contains("have capitals") && notice.contains("do_lower_case");
    let report = daemon.dry_run(spec.clone()).await.expect("a report");
    assert!(report.notices.iter().any(|notice| told(notice)), "{:?}", report.notices);
    let job = daemon.start_job(spec).await.expect("a job");
    let events = daemon.watch(&job.id, 0).await.expect("events");
    let is_notice = |event: &hone::v1::Event| match &event.kind {
        Some(hone::v1::event::Kind::Notice(notice)) => told(&notice.message),
        _ => false,
    };
    assert_eq!(events.iter().filter(|event| is_notice(event)).count(), 1);
    daemon.stop().await;
}
