//! Folders of encoders as people have them: each opens as the encoder that it is, or is refused in words that say what it
//! is and what to do.

use std::collections::HashMap;
use std::fs;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use hone_base::digest;
use hone_base::error::{Error, Kind, Result};
use hone_data::tokenize::Tokenizer;
use hone_engine::kernels::{Compute, Isa, Precision};
use hone_engine::model::checkpoint::Checkpoint;
use hone_engine::model::classifier::{Setup, Trainable};
use hone_engine::model::declaration::{Declaration, Place};
use hone_hub as hub;
use hone_hub::EncoderName;
use hone_train::plan::read_encoder;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::daemon::Daemon;
use crate::harness::encoder::{make, make_like};
use crate::harness::model::{FAMILIES, fixture};
use crate::training::Job;

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
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

fn link(folder: &Path, target: &str, name: &str) {
    let _ = fs::remove_file(folder.join(name));
    std::os::unix::fs::symlink(target, folder.join(name)).expect("a link");
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

fn prefix(family: &str) -> &str {
    match family {
        "bert" => "bert.",
        "distilbert" => "distilbert.",
        _ => "roberta.",
    }
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

#[test]
fn an_encoder_is_found_under_any_prefix() {
    for family in FAMILIES {
        let own = prefix(family);
        let expected = encoder_values(copy(family).path());
        for (from, to) in [
            (own, ""),
            (own, "0.auto_model."),
            (own, "encoder."),
            ("", "model."),
            ("", "module."),
            ("", "_orig_mod.module."),
            ("", "base_model.model."),
        ] {
            let folder = renamed(family, |name, tensor| {
                let bare = name.strip_prefix(from).map(|bare| format!("{to}{bare}"));
                (bare.unwrap_or(name), tensor)
            });
            assert!(encoder_values(folder.path()) == expected, "{family} under {to:?}");
        }
    }
}

#[test]
fn two_encoders_in_one_file_are_not_mixed_up() {
    let folder = copy("bert");
    let both: Tensors = tensors(folder.path())
        .into_iter()
        .flat_map(|(name, tensor)| ["query", "document"].map(|of| (format!("{of}.{name}"), tensor.clone())))
        .collect();
    candle_core::safetensors::save(&both, folder.path().join(WEIGHTS)).expect("saved");
    assert_refused("two", folder.path(), &["several encoders", "document.bert.", "query.bert."]);
}

#[test]
fn half_precision_and_buffers_of_integers_are_read_and_the_checkpoint_is_float32() {
    for dtype in [DType::F16, DType::BF16, DType::F64] {
        let folder = renamed("bert", |name, tensor| (name, tensor.to_dtype(dtype).expect("converted")));
        let exact = encoder_values(copy("bert").path());
        for (half, exact) in encoder_values(folder.path()).iter().flatten().zip(exact.iter().flatten()) {
            assert!((half - exact).abs() <= exact.abs() / 128.0 + 1e-6, "{half} {exact}");
        }
    }
    let source = tempfile::tempdir().expect("a folder");
    make(source.path());
    let mut half: Tensors = tensors(source.path());
    for tensor in half.values_mut() {
        *tensor = tensor.to_dtype(DType::BF16).expect("converted");
    }
    let ids = Tensor::arange(0i64, 128, &Device::Cpu).and_then(|ids| ids.unsqueeze(0)).expect("ids");
    half.insert("embeddings.position_ids".to_owned(), ids);
    candle_core::safetensors::save(&half, source.path().join(WEIGHTS)).expect("saved");
    let mut job = Job::new(|spec| spec.hyperparameters.epochs = 1.try_into().expect("1"));
    job.encoder = source.path().to_owned();
    let (finished, _) = job.finish("run", 2);
    let written = tensors(&finished.folder);
    assert!(written.values().all(|tensor| tensor.dtype() == DType::F32));
    assert!(!written.contains_key("bert.embeddings.position_ids"));
}

#[test]
fn names_of_2018_are_read_with_and_without_a_prefix() {
    let old = |name: &str| {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    };
    let expected = encoder_values(copy("bert").path());
    for own in ["bert.", ""] {
        let folder = renamed("bert", |name, tensor| {
            let bare = name.strip_prefix("bert.").map(|bare| format!("{own}{bare}"));
            (old(&bare.unwrap_or(name)), tensor)
        });
        assert!(encoder_values(folder.path()) == expected, "{own:?}");
    }
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

#[test]
fn a_missing_tensor_is_answered_with_what_the_file_has() {
    let folder = renamed("bert", |name, tensor| {
        (name.replace("layer.1.output.dense", "layer.1.output.linear"), tensor)
    });
    assert_refused(
        "another name",
        folder.path(),
        &[
            "model.safetensors: the weights have no bert.encoder.layer.1.output.dense.weight; they have",
            "more",
        ],
    );
    assert!(refused(folder.path()).message().len() < 600);
    let folder = renamed("bert", |name, tensor| (name.replace("embeddings", "wte"), tensor));
    assert_refused(
        "no embeddings",
        folder.path(),
        &["have no bert.embeddings.word_embeddings.weight; they have bert."],
    );
    let folder = configured("bert", &[("num_hidden_layers", json!(5))]);
    assert_refused(
        "fewer layers",
        folder.path(),
        &["they have 2 layers, but config.json says 5 (num_hidden_layers)"],
    );
    let folder = copy("bert");
    candle_core::safetensors::save(&Tensors::new(), folder.path().join(WEIGHTS)).expect("saved");
    assert_refused("nothing", folder.path(), &["no tensor at all"]);
}

#[test]
fn weights_of_another_kind_of_model_are_not_taken_for_this_one() {
    for (family, kind, words) in [
        ("roberta", "bert", "those of another kind of model (roberta.embeddings"),
        ("bert", "roberta", "those of another kind of model (bert.embeddings"),
        ("roberta", "xlm-roberta-xl", "\"xlm-roberta-xl\", which Hone cannot train"),
        ("bert", "deberta", "\"deberta\", which Hone cannot train"),
        ("bert", "electra", "those of another kind of model (bert.embeddings"),
        ("electra", "bert", "those of another kind of model (electra.embeddings"),
        ("albert", "bert", "those of another kind of model (albert.embeddings"),
        ("bert", "deberta-v2", "bert, distilbert, roberta, xlm-roberta, camembert"),
    ] {
        let folder = configured(family, &[("model_type", json!(kind))]);
        assert_refused(kind, folder.path(), &[words]);
    }
    let folder = renamed("bert", |name, tensor| (name.replace("bert.", "electra."), tensor));
    assert_refused("electra", folder.path(), &["another kind of model (electra.embeddings"]);
    let quantised = renamed("bert", |name, tensor| match name.ends_with("query.weight") {
        true => (name, tensor.to_dtype(DType::U8).expect("converted")),
        false => (name, tensor),
    });
    assert_refused("quantised", quantised.path(), &["query.weight", "of type U8", "before it was quantised"]);
}

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
