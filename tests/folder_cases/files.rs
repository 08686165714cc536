//! Files of a folder: weights in several, what stands in the place of one, and other formats.

use std::fs;
use std::path::Path;

use hone_base::digest;
use hone_engine::model::checkpoint::Checkpoint;
use serde_json::json;
use tempfile::TempDir;

use super::{
    CONFIG, Tensors, WEIGHTS, assert_refused, copy, encoder_values, open, refused, remove, renamed, tensors,
    write,
};
use crate::harness::model::{FAMILIES, fixture};

const INDEX: &str = "model.safetensors.index.json";

fn link(folder: &Path, target: &str, name: &str) {
    let _ = fs::remove_file(folder.join(name));
    std::os::unix::fs::symlink(target, folder.join(name)).expect("a link");
}

/// A copy with its weights in two files and an index.
fn sharded(family: &str) -> TempDir {
    let folder = copy(family);
    let all = tensors(folder.path());
    let mut names: Vec<&String> = all.keys().collect();
    names.sort();
    let mut map = serde_json::Map::new();
    for (part, file) in
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"].iter().enumerate()
    {
        let of_part = names.iter().skip(part).step_by(2);
        let tensors: Tensors = of_part.map(|name| ((*name).clone(), all[*name].clone())).collect();
        map.extend(tensors.keys().map(|name| (name.clone(), json!(file))));
        candle_core::safetensors::save(&tensors, folder.path().join(file)).expect("saved");
    }
    remove(folder.path(), WEIGHTS);
    write(folder.path(), INDEX, json!({"metadata": {}, "weight_map": map}).to_string());
    folder
}

#[test]
fn weights_in_several_files_are_those_of_one() {
    for family in FAMILIES {
        let folder = sharded(family);
        assert!(encoder_values(folder.path()) == encoder_values(copy(family).path()), "{family}");
    }
    // As `sha256sum model-*.safetensors | sha256sum` prints it.
    let folder = sharded("bert");
    let lines: String = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        .map(|name| {
            format!("{}  {name}\n", digest::of_bytes(&fs::read(folder.path().join(name)).expect("a file")))
        })
        .concat();
    let checkpoint = Checkpoint::open(folder.path()).expect("a checkpoint");
    assert_eq!(checkpoint.weights_sha256(), digest::of_bytes(lines.as_bytes()));
}

#[test]
fn an_index_and_its_files_have_to_belong_together() {
    let second = "model-00002-of-00002.safetensors";
    let change = |from: &str, to: &str| {
        let folder = sharded("bert");
        let text = fs::read_to_string(folder.path().join(INDEX)).expect("a file");
        assert!(text.contains(from), "{text}");
        write(folder.path(), INDEX, text.replace(from, to));
        folder
    };
    let folder = sharded("bert");
    remove(folder.path(), second);
    assert_refused("a file is missing", folder.path(), &[INDEX, "names 2 files", second, "fetch them again"]);
    let lie = change("\"bert.pooler.dense.bias\":", "\"bert.pooler.dense.nothing\":");
    assert_refused("a tensor is missing", lie.path(), &["bert.pooler.dense.nothing is in model-0000"]);
    for outside in ["../model", "/etc/model", ".model", "a/model"] {
        let folder = change("\"model-00002", &format!("\"{outside}-00002"));
        assert_refused(outside, folder.path(), &[INDEX, "no safetensors file of this folder"]);
    }
    for (text, words) in
        [("{}", "weight_map"), ("[]", "cannot be used"), ("", "is empty"), ("<html>", "web page")]
    {
        let folder = sharded("bert");
        write(folder.path(), INDEX, text);
        assert_refused(text, folder.path(), &[INDEX, words]);
    }
    let folder = sharded("bert");
    write(folder.path(), second, "version https://git-lfs.github.com/spec/v1\n");
    assert_refused("a pointer", folder.path(), &[second, "git lfs pull"]);
}

#[test]
fn what_stands_in_the_place_of_a_file_is_told() {
    let whole = fs::read(fixture("roberta").join(WEIGHTS)).expect("weights");
    let longer = [whole.as_slice(), &[0]].concat();
    let pointer =
        format!("version https://git-lfs.github.com/spec/v1\noid sha256:{:064}\nsize 133466304\n", 0);
    let cases: [(&[u8], &str); 10] = [
        (pointer.as_bytes(), "is a Git LFS pointer, not the file itself; run `git lfs"),
        (b"<!doctype html><title>Sign in</title>", "is a web page"),
        (b"", "is empty"),
        (&whole[..whole.len() / 2], "is truncated or damaged (it has"),
        (&whole[..20], "is truncated or damaged (it ends within its header)"),
        (&longer, "is truncated or damaged (it has"),
        (&whole[..5], "is no safetensors file"),
        (b"PK\x03\x04 and so on", "is a zip archive, as PyTorch writes"),
        (b"{\"error\": \"Repository not found\"}", "is no safetensors file"),
        (&[0xff; 64], "is no safetensors file"),
    ];
    for (bytes, words) in cases {
        let folder = copy("roberta");
        write(folder.path(), WEIGHTS, bytes);
        assert_refused(words, folder.path(), &[WEIGHTS, words]);
    }
    for name in [CONFIG, "tokenizer.json", "tokenizer_config.json"] {
        for (bytes, words) in [
            (pointer.as_bytes(), "git lfs pull"),
            (b"<html>", "web page"),
            (b"", "is empty"),
            (b"\xff\xfe{\0}\0", "UTF-16"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"{\"a\": ", name),
            (b"[1]", name),
            (b"{\"a\": \"\xff\"}", "is not UTF-8"),
        ] {
            let folder = copy("roberta");
            write(folder.path(), name, bytes);
            assert_refused(name, folder.path(), &[name, words]);
        }
        let folder = copy("roberta");
        link(folder.path(), "../../blobs/gone", name);
        assert_refused(name, folder.path(), &[name, "is a link to ../../blobs/gone, which is not there"]);
        let folder = copy("roberta");
        let text = fs::read(folder.path().join(name)).expect("a file");
        write(folder.path(), name, [b"\xef\xbb\xbf", text.as_slice()].concat());
        open(folder.path()).expect("a byte order mark does no harm");
    }
    let folder = copy("roberta");
    link(folder.path(), "gone", WEIGHTS);
    assert_refused("weights that are a dead link", folder.path(), &["is a link to gone"]);
}

#[test]
fn weights_in_other_formats_are_refused_with_the_line_that_converts_them() {
    for (name, words) in [
        ("pytorch_model.bin", "AutoModel.from_pretrained('"),
        ("model.pt", "torch.load('"),
        ("tf_model.h5", "from_tf=True"),
        ("flax_model.msgpack", "from_flax=True"),
        ("model.onnx", "cannot be trained"),
    ] {
        let folder = copy("roberta");
        remove(folder.path(), WEIGHTS);
        write(folder.path(), name, "x");
        assert_refused(name, folder.path(), &["lacks model.safetensors (", name, words]);
    }
    let folder = copy("xlm_roberta");
    remove(folder.path(), "tokenizer.json");
    write(folder.path(), "sentencepiece.bpe.model", "x");
    assert_refused(
        "SentencePiece",
        folder.path(),
        &["sentencepiece.bpe.model", "AutoTokenizer.from_pretrained('"],
    );
}

#[test]
fn an_adapter_alone_names_its_base() {
    for (task, class) in [("SEQ_CLS", "AutoPeftModelForSequenceClassification"), ("", "AutoPeftModel as M")] {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "adapter_model.safetensors", "x");
        let config = json!({"base_model_name_or_path": "FacebookAI/roberta-base", "task_type": task});
        write(folder.path(), "adapter_config.json", config.to_string());
        assert_refused(
            task,
            folder.path(),
            &["adapter alone", "to the base model FacebookAI/roberta-base", "merge_and_unload()", class],
        );
    }
    let folder = renamed("bert", |name, tensor| {
        (
            name.replace("query.weight", "query.base_layer.weight")
                .replace("key.bias", "query.lora_A.x.weight"),
            tensor,
        )
    });
    assert_refused("not merged", folder.path(), &["query.lora_A.x.weight", "merge_and_unload()"]);
}

#[test]
fn a_folder_of_sentence_transformers_is_entered() {
    let folder = tempfile::tempdir().expect("a folder");
    let modules = json!([
        {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]);
    write(folder.path(), "modules.json", modules.to_string());
    let error = refused(folder.path());
    assert!(error.message().contains("0_Transformer"), "{error}");
    fs::rename(copy("roberta").keep(), folder.path().join("0_Transformer")).expect("moved");
    assert_eq!(open(folder.path()).expect("an encoder"), folder.path().join("0_Transformer"));
}
