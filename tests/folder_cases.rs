//! Folders of encoders as people have them: each opens as the encoder that it is, or is refused in words that say what it
//! is and what to do.

mod configuration;
mod files;
mod tokens;
mod weights;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use hone_base::error::{Error, Kind, Result};
use hone_engine::model::checkpoint::Checkpoint;
use hone_engine::model::declaration::{Declaration, Place};
use hone_hub as hub;
use hone_hub::EncoderName;
use hone_train::plan::read_encoder;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::model::fixture;

const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";

type Tensors = HashMap<String, Tensor>;

fn read(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(name)).expect("a file")).expect("json")
}

fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) {
    fs::write(folder.join(name), text).expect("written");
}

fn remove(folder: &Path, name: &str) {
    fs::remove_file(folder.join(name)).expect("removed");
}

/// A copy of a family's fixture, with a tokenizer of its own where the fixture has none.
fn copy(family: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in [CONFIG, WEIGHTS, "tokenizer.json", "tokenizer_config.json"] {
        let from = fixture(family).join(name);
        if from.exists() {
            fs::copy(from, folder.path().join(name)).expect("a copy");
        }
    }
    if !folder.path().join("tokenizer.json").exists() {
        write(folder.path(), "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nfilm\n##s\n.\n");
    }
    folder
}

fn tensors(folder: &Path) -> Tensors {
    candle_core::safetensors::load(folder.join(WEIGHTS), &Device::Cpu).expect("weights")
}

/// A copy whose tensors are called and stored otherwise.
fn renamed(family: &str, change: impl Fn(String, Tensor) -> (String, Tensor)) -> TempDir {
    let folder = copy(family);
    let tensors: Tensors =
        tensors(folder.path()).into_iter().map(|(name, tensor)| change(name, tensor)).collect();
    candle_core::safetensors::save(&tensors, folder.path().join(WEIGHTS)).expect("saved");
    folder
}

/// A copy whose configuration has other values; `null` takes one out.
fn configured(family: &str, changes: &[(&str, Value)]) -> TempDir {
    let folder = copy(family);
    let mut config = read(folder.path(), CONFIG);
    let fields = config.as_object_mut().expect("an object");
    for (name, value) in changes {
        match value {
            Value::Null => fields.remove(*name),
            value => fields.insert((*name).to_owned(), value.clone()),
        };
    }
    write(folder.path(), CONFIG, config.to_string());
    folder
}

/// Opens a folder as the daemon does.
fn open(folder: &Path) -> Result<PathBuf> {
    let found = hub::find_local(&EncoderName::parse(&folder.to_string_lossy())?)?.expect("a folder");
    read_encoder(&found, None).map(|_| found)
}

fn refused(folder: &Path) -> Error {
    let error = open(folder).expect_err("a refusal");
    assert_eq!(error.kind(), Kind::Precondition, "{error}");
    assert!(error.message().contains(&folder.display().to_string()), "{error}");
    error
}

#[track_caller]
fn assert_refused(case: &str, folder: &Path, words: &[&str]) {
    let error = refused(folder);
    for word in words {
        assert!(error.message().contains(word), "{case}: {word:?} is not in {error}");
    }
}

/// The values of the encoder's tensors.
fn encoder_values(folder: &Path) -> Vec<Vec<f32>> {
    let checkpoint = Checkpoint::open(&open(folder).expect("an encoder")).expect("a checkpoint");
    let declared = Declaration::new(&checkpoint.config().architecture, 3).parameters;
    let encoder = declared.iter().filter(|declared| declared.place != Place::Head);
    let value = |name: &String| {
        let tensor = checkpoint.tensor(name).expect("readable").expect("a tensor");
        tensor.flatten_all().and_then(|flat| flat.to_vec1()).expect("values")
    };
    encoder.flat_map(|declared| &declared.parts).map(value).collect()
}
