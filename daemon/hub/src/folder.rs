//! What a folder, or a repository of the hub, must hold to be an encoder, and what people have instead.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use hone_base::error::{Error, Result};
use hone_base::model_file;
use hone_base::model_file::index::{self, INDEX, WEIGHTS};

/// Describes the network.
pub(crate) const CONFIG: &str = "config.json";

/// Files of a tokenizer, each list enough for one.
pub(crate) const TOKENIZERS: [&[&str]; 3] =
    [&["tokenizer.json"], &["vocab.txt"], &["vocab.json", "merges.txt"]];

/// Describes what was trained beside frozen weights, which are not in the folder.
pub(crate) const ADAPTER: &str = "adapter_config.json";

/// Lists the parts of a model of sentence-transformers and their folders.
const MODULES: &str = "modules.json";

/// The models of SentencePiece, which only Python's converters turn into `tokenizer.json`.
const SENTENCE_PIECE: [&str; 4] = ["sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model"];

/// The folder of the encoder: this one, or the part of it that sentence-transformers keeps the encoder in.
pub(crate) fn encoder_folder(folder: &Path) -> Result<PathBuf> {
    let path = folder.join(MODULES);
    if folder.join(CONFIG).exists() {
        return Ok(folder.to_owned());
    }
    let Some(text) = model_file::read_text(&path)? else { return Ok(folder.to_owned()) };
    let unusable = |why: String| Error::precondition(format!("{}: {why}", path.display()));
    let modules: Vec<Value> = serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    let of = |module: &Value, key: &str| module.get(key).and_then(Value::as_str).map(str::to_owned);
    let is_encoder = |module: &&Value| {
        of(module, "type").is_some_and(|kind| kind.rsplit('.').next() == Some("Transformer"))
    };
    let part = modules.iter().find(is_encoder).and_then(|module| of(module, "path")).ok_or_else(|| {
        unusable("it names no Transformer: the model has no encoder that can be trained".to_owned())
    })?;
    if Path::new(&part).components().any(|component| !matches!(component, Component::Normal(_))) {
        return Err(unusable(format!("the Transformer's path \"{part}\" leads out of the folder")));
    }
    Ok(folder.join(part))
}

/// Why the folder is no encoder: which files it lacks, and what can be done with those that it has.
pub(crate) fn lacking(folder: &Path) -> Result<Option<String>> {
    let mut names = BTreeSet::new();
    for part in [folder.to_owned(), folder.join("onnx")] {
        let entries = match fs::read_dir(&part) {
            Ok(entries) => entries,
            Err(error) if part == folder => return Err(Error::io("read", folder, &error)),
            Err(_) => continue,
        };
        names.extend(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()));
    }
    if names.contains(ADAPTER) && !has_weights(&names) {
        return adapter(folder).map(Some);
    }
    Ok(lacking_of(&names, &folder.display().to_string()))
}

/// Whether the folder holds the files that an encoder needs, every file of its weights included; a link that leads
/// nowhere is not there.
pub(crate) fn is_complete(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    let files = entries.flatten().filter(|entry| entry.path().is_file());
    let names = files.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    lacking_of(&names, "").is_none() && index::are_there(folder)
}

/// The same as [`lacking`] of a list of names. `place` is where `transformers` finds them.
pub(crate) fn lacking_of(names: &BTreeSet<String>, place: &str) -> Option<String> {
    let mut missing = Vec::new();
    if !names.contains(CONFIG) {
        missing.push(CONFIG.to_owned());
    }
    if !has_weights(names) {
        missing.push(format!("{WEIGHTS}{}", instead_of_weights(names, place)));
    }
    if !TOKENIZERS.iter().any(|files| files.iter().all(|name| names.contains(*name))) {
        missing.push(format!("tokenizer.json or vocab.txt{}", instead_of_tokenizer(names, place)));
    }
    (!missing.is_empty()).then(|| missing.join(", "))
}

fn has_weights(names: &BTreeSet<String>) -> bool {
    names.contains(WEIGHTS) || names.contains(INDEX)
}

/// What was saved in the place of safetensors, and the line that converts it.
fn instead_of_weights(names: &BTreeSet<String>, place: &str) -> String {
    let ending = |ends: &[&str]| names.iter().find(|name| ends.iter().any(|end| name.ends_with(end)));
    let convert = |more: &str| {
        format!(
            "python3 -c \"from transformers import AutoModel; \
             AutoModel.from_pretrained('{place}'{more}).save_pretrained('{place}')\""
        )
    };
    let named = |name: &str| names.contains(name);
    if named("pytorch_model.bin") || named("pytorch_model.bin.index.json") {
        let line = convert("");
        format!(
            " (pytorch_model.bin is a pickle, which can run code when it is opened, so Hone does not; convert it: {line})"
        )
    } else if named("tf_model.h5") {
        let line = convert(", from_tf=True");
        format!(" (tf_model.h5 is TensorFlow's; convert it with TensorFlow and transformers 4: {line})")
    } else if named("flax_model.msgpack") {
        let line = convert(", from_flax=True");
        format!(" (flax_model.msgpack is Flax's; convert it with Flax and transformers 4: {line})")
    } else if named(ADAPTER) {
        " (it is an adapter alone: merge it into its base by merge_and_unload() and save_pretrained())"
            .to_owned()
    } else if let Some(other) = ending(&[".safetensors"]) {
        format!(" (is {other} the model's weights? then rename it)")
    } else if let Some(other) = ending(&[".pt", ".pth", ".ckpt", ".bin"]) {
        format!(
            " ({other} is a pickle, which can run code when it is opened, so Hone does not; if it is a state dict, \
             convert it: python3 -c \"import torch, safetensors.torch as s; s.save_file({{n: t.clone().contiguous() \
             for n, t in torch.load('{place}/{other}', map_location='cpu', weights_only=True).items()}}, \
             '{place}/{WEIGHTS}', {{'format': 'pt'}})\")"
        )
    } else if let Some(other) = ending(&[".onnx", ".gguf"]) {
        format!(
            " ({other} is for inference alone and cannot be trained; take the model that it was made from)"
        )
    } else {
        String::new()
    }
}

fn instead_of_tokenizer(names: &BTreeSet<String>, place: &str) -> String {
    if let Some(model) = SENTENCE_PIECE.into_iter().find(|name| names.contains(*name)) {
        return format!(
            " ({model} is SentencePiece's; convert it: python3 -c \"from transformers import AutoTokenizer; \
             AutoTokenizer.from_pretrained('{place}').save_pretrained('{place}')\", with the packages sentencepiece and \
             protobuf)"
        );
    }
    match ["vocab.json", "merges.txt"].map(|name| names.contains(name)) {
        [true, false] => " (vocab.json needs merges.txt)".to_owned(),
        [false, true] => " (merges.txt needs vocab.json)".to_owned(),
        _ => String::new(),
    }
}

/// What to do with a folder that holds an adapter alone.
fn adapter(folder: &Path) -> Result<String> {
    let path = folder.join(ADAPTER);
    let text = model_file::read_text(&path)?.unwrap_or_default();
    let config: Value = serde_json::from_str(&text)
        .map_err(|error| Error::precondition(format!("{} is not JSON: {error}", path.display())))?;
    let place = folder.display();
    let base = config.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or("unknown");
    // With the class of another task the adapter's weights find no place, and are left out in silence.
    let class = match config.get("task_type").and_then(Value::as_str) {
        Some("SEQ_CLS") => "AutoPeftModelForSequenceClassification",
        Some("TOKEN_CLS") => "AutoPeftModelForTokenClassification",
        Some("FEATURE_EXTRACTION") => "AutoPeftModelForFeatureExtraction",
        _ => "AutoPeftModel",
    };
    Ok(format!(
        "{WEIGHTS}: it is an adapter alone ({ADAPTER}), to the base model {base}. Start from {base}, or merge both: \
         python3 -c \"from peft import {class} as M; \
         M.from_pretrained('{place}').merge_and_unload().save_pretrained('MERGED')\", and put the tokenizer of {base} \
         beside it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(names: &[&str]) -> String {
        lacking_of(&names.iter().map(|name| (*name).to_owned()).collect(), "/enc").unwrap_or_default()
    }

    #[test]
    fn an_encoder_has_a_configuration_weights_and_a_tokenizer() {
        for weights in [WEIGHTS, INDEX] {
            for tokenizer in TOKENIZERS {
                assert_eq!(told(&[&[CONFIG, weights], tokenizer].concat()), "");
            }
        }
        assert_eq!(told(&[]), "config.json, model.safetensors, tokenizer.json or vocab.txt");
    }

    #[test]
    fn what_is_there_instead_is_told_with_the_line_that_converts_it() {
        let tokenizer = [CONFIG, "vocab.txt"];
        for (name, expected) in [
            ("pytorch_model.bin", "AutoModel.from_pretrained('/enc').save_pretrained('/enc')\""),
            ("pytorch_model.bin.index.json", "AutoModel.from_pretrained('/enc')"),
            ("tf_model.h5", "AutoModel.from_pretrained('/enc', from_tf=True)"),
            ("flax_model.msgpack", "from_flax=True"),
            ("model.pt", "torch.load('/enc/model.pt', map_location='cpu', weights_only=True)"),
            ("model.onnx", "model.onnx is for inference alone"),
            ("model.fp16.safetensors", "is model.fp16.safetensors the model's weights?"),
            (ADAPTER, "adapter alone"),
        ] {
            let told = told(&[&tokenizer[..], &[name]].concat());
            assert!(told.starts_with("model.safetensors ("), "{told}");
            assert!(told.contains(expected), "{told}");
        }
        for (name, expected) in [
            ("sentencepiece.bpe.model", "AutoTokenizer.from_pretrained('/enc').save_pretrained('/enc')"),
            ("vocab.json", "vocab.json needs merges.txt"),
        ] {
            let told = told(&[CONFIG, WEIGHTS, name]);
            assert!(told.starts_with("tokenizer.json or vocab.txt ("), "{told}");
            assert!(told.contains(expected), "{told}");
        }
    }

    #[test]
    fn the_encoder_of_sentence_transformers_stands_in_a_part_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let found = |modules: &str| {
            fs::write(folder.path().join(MODULES), modules).unwrap();
            encoder_folder(folder.path())
        };
        let modules = |path: &str| {
            format!(
                "[{{\"path\": \"{path}\", \"type\": \"sentence_transformers.models.Transformer\"}}, \
                 {{\"path\": \"1_Pooling\", \"type\": \"sentence_transformers.models.Pooling\"}}]"
            )
        };
        assert_eq!(found(&modules("0_Transformer")).unwrap(), folder.path().join("0_Transformer"));
        assert_eq!(found(&modules("")).unwrap(), folder.path().join(""));
        for path in ["..", "../other", "/etc", "a/../../b"] {
            assert!(found(&modules(path)).unwrap_err().message().contains("leads out"), "{path}");
        }
        assert!(found("[]").unwrap_err().message().contains("no Transformer"));
        assert!(found("{").unwrap_err().message().contains("modules.json"));
        fs::write(folder.path().join(CONFIG), "{}").unwrap();
        assert_eq!(found(&modules("0_Transformer")).unwrap(), folder.path());
    }
}
