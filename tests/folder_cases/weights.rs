//! Weights: their names, their types, and whose they are.

use candle_core::{DType, Device, Tensor};
use serde_json::json;

use super::{Tensors, WEIGHTS, assert_refused, configured, copy, encoder_values, refused, renamed, tensors};
use crate::harness::encoder::make;
use crate::harness::model::FAMILIES;
use crate::training::Job;

fn prefix(family: &str) -> &str {
    match family {
        "bert" => "bert.",
        "distilbert" => "distilbert.",
        _ => "roberta.",
    }
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
