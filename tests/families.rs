//! Encoders of the other families than BERT, as `fixtures/make.py` made them: their tokens, and a run from the encoder
//! to a checkpoint that answers.

use std::path::{Path, PathBuf};

use candle_core::Device;
use hone_data::tokenize::Tokenizer;
use hone_engine::batch::Batch;
use hone_engine::model::classifier::Classifier;
use serde_json::{Value, json};

use crate::harness::encoder::make_like;
use crate::harness::toy_texts;
use crate::training::Job;

const FAMILIES: [&str; 5] = ["distilbert", "roberta", "xlm_roberta", "electra", "albert"];

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/tiny_{family}"))
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("json")
}

#[test]
fn tokens_are_those_of_transformers() {
    for family in FAMILIES {
        let cases = read(&folder(family).join("tokens.json"));
        for case in cases.as_array().expect("cases") {
            let length = case["max_length"].as_u64().expect("a length") as usize;
            let tokenizer = Tokenizer::from_folder(&folder(family), length).expect("a tokenizer");
            let text = case["text"].as_str().expect("a text");
            let tokens = tokenizer.encode(text, case["pair"].as_str()).expect("tokens");
            assert_eq!(json!(tokens.ids), case["ids"], "{family}: {case}");
        }
    }
}

#[test]
fn a_run_learns_and_its_checkpoint_answers() {
    for family in FAMILIES {
        let encoder = tempfile::tempdir().expect("a folder");
        make_like(&folder(family), encoder.path());
        let mut job = Job::new(|spec| spec.hyperparameters.epochs = 8.try_into().expect("8"));
        job.encoder = encoder.path().to_owned();
        let (finished, _) = job.finish("run", 2);
        let accuracy = finished.test.expect("a test result").metrics.accuracy;
        assert!(accuracy > 0.9, "{family}: accuracy {accuracy}");
        let config = read(&finished.folder.join("config.json"));
        for field in ["model_type", "architectures"] {
            assert_eq!(config[field], read(&folder(family).join("config.json"))[field]);
        }

        let classifier = Classifier::load(&finished.folder, &Device::Cpu).expect("a classifier");
        assert_eq!(classifier.max_length(), 32);
        let tokenizer = Tokenizer::from_folder(&finished.folder, 32).expect("a tokenizer");
        let (texts, labels) = toy_texts();
        let tokens: Vec<_> = texts.iter().map(|text| tokenizer.encode(text, None).expect("tokens")).collect();
        let scores = classifier.scores(&Batch::pack(&tokens)).expect("scores");
        let alone = classifier.scores(&Batch::pack(&tokens[3..])).expect("scores");
        assert!((scores[3][0] - alone[0][0]).abs() < 1e-6, "{family}: {scores:?}, {alone:?}");
        let lines: Vec<Value> =
            texts.iter().zip(&scores).map(|(text, scores)| record(text, scores, &classifier)).collect();
        for (line, label) in lines.iter().zip(labels) {
            assert_eq!(line["label"], label, "{family}: {line}");
        }
        keep(family, &finished.folder, &lines);
    }
}

/// What the client prints for a text, which is what `check_checkpoint.py` reads.
fn record(text: &str, scores: &[f32], classifier: &Classifier) -> Value {
    let (score, label) = scores
        .iter()
        .zip(classifier.labels())
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .expect("two labels or more");
    let all: Value =
        classifier.labels().iter().cloned().zip(scores.iter().map(|&score| json!(score))).collect();
    json!({"text": text, "label": label, "score": score, "scores": all})
}

/// Leaves the checkpoint and its answers in the folder that `HONE_TEST_CHECKPOINTS` names, if it does, for
/// `check_checkpoint.py`.
fn keep(family: &str, checkpoint: &Path, answers: &[Value]) {
    let Some(folder) = std::env::var_os("HONE_TEST_CHECKPOINTS") else { return };
    let folder = Path::new(&folder).join(family);
    std::fs::create_dir_all(&folder).expect("a folder");
    for file in std::fs::read_dir(checkpoint).expect("a folder") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), folder.join(file.file_name())).expect("a copy");
    }
    let lines: String = answers.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(folder.join("scores.jsonl"), lines).expect("scores.jsonl");
}
