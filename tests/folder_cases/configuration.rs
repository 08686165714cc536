//! What a configuration says: the kind of model, shapes, positions and the labels of an old head.

use std::num::NonZeroU32;
use std::path::Path;

use candle_core::Device;
use hone_engine::kernels::{Compute, Isa, Precision};
use hone_engine::model::checkpoint::Checkpoint;
use hone_engine::model::classifier::{Setup, Trainable};
use hone_engine::model::declaration::Declaration;
use hone_train::plan::read_encoder;
use serde_json::{Value, json};

use super::{CONFIG, WEIGHTS, assert_refused, configured, copy, encoder_values, open, read};
use crate::harness::encoder::make_like;
use crate::harness::model::fixture;
use crate::training::Job;

#[test]
fn camembert_has_the_network_of_roberta() {
    let folder = configured("roberta", &[("model_type", json!("camembert"))]);
    assert!(encoder_values(folder.path()) == encoder_values(copy("roberta").path()));
    let source = tempfile::tempdir().expect("a folder");
    make_like(folder.path(), source.path());
    let mut job = Job::new(|spec| spec.hyperparameters.epochs = 1.try_into().expect("1"));
    job.encoder = source.path().to_owned();
    let (finished, _) = job.finish("run", 2);
    let config = read(&finished.folder, CONFIG);
    assert_eq!(config["model_type"], "camembert");
    assert_eq!(config["architectures"][0], "CamembertForSequenceClassification");
}

#[test]
fn a_shape_that_differs_is_told_with_tensor_both_shapes_and_file() {
    for (family, name) in [("bert", "bert.embeddings"), ("roberta", "roberta.embeddings")] {
        let [rows, width] = ["vocab_size", "hidden_size"]
            .map(|field| read(&fixture(family), CONFIG)[field].as_u64().expect("a number"));
        let folder = configured(family, &[("vocab_size", json!(rows + 8))]);
        assert_refused(
            family,
            folder.path(),
            &[
                &format!("{WEIGHTS}: {name}.word_embeddings.weight has the shape [{rows}, {width}]"),
                &format!("config.json asks for [{}, {width}] (vocab_size {})", rows + 8, rows + 8),
            ],
        );
    }
}

#[test]
fn the_last_position_that_can_be_used_is_named() {
    let folder = copy("roberta");
    let at = |length: u32| read_encoder(folder.path(), NonZeroU32::new(length));
    assert_eq!(at(40).expect("42 positions, 2 of them for padding").1.max_length(), 40);
    let error = at(41).expect_err("too long");
    assert!(error.message().contains("has only 40 positions; use at most 40"), "{error}");
}

#[test]
fn the_labels_of_an_old_head_are_never_taken_by_place() {
    let labels = |names: [&str; 3]| names.map(str::to_owned);
    let compute = Compute::new(Isa::chosen().expect("a processor"), Precision::Fp32);
    let head = |folder: &Path, labels: &[String]| {
        let checkpoint = Checkpoint::open(folder).expect("a checkpoint");
        let model = Trainable::start(&checkpoint, labels, &Setup::new(1, compute), &Device::Cpu);
        let output = Declaration::new(&checkpoint.config().architecture, 3).head.output;
        model.expect("a model").parameters().expect("parameters").of(output.weight).to_vec()
    };
    let same = labels(["negative", "neutral", "positive"]);
    let stored = head(copy("bert").path(), &same);
    let new = head(copy("bert").path(), &labels(["neutral", "negative", "positive"]));
    assert_ne!(stored, new, "labels in another order");
    for (case, changes) in [
        ("no id2label", vec![("id2label", Value::Null), ("label2id", Value::Null)]),
        ("a number alone", vec![("id2label", Value::Null), ("num_labels", json!(3))]),
        ("a gap", vec![("id2label", json!({"0": "negative", "1": "neutral", "3": "positive"}))]),
        ("no texts", vec![("id2label", json!({"0": 0, "1": 1, "2": 2}))]),
        ("one label", vec![("id2label", json!({"0": "LABEL_0"}))]),
        ("no object", vec![("id2label", json!("negative"))]),
    ] {
        let folder = configured("bert", &changes);
        open(folder.path()).expect(case);
        assert_eq!(head(folder.path(), &same), new, "{case}");
    }
    let two = &same[..2];
    let folder = configured("bert", &[("id2label", json!({"0": "negative", "1": "neutral"}))]);
    assert_eq!(head(folder.path(), two), head(&fixture("bert"), two), "two labels named, three stored");
}
