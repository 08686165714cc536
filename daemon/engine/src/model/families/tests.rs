//! What a `config.json` of each family becomes, and what cannot be built.

use serde_json::{Value, json};

use super::*;
use crate::model::architecture::{Activation, FeedForward, HeadForm as Head, LayerForm};
use hone_base::error::Error;

fn bert() -> Value {
    json!({"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 32})
}

fn distilbert() -> Value {
    json!({"vocab_size": 9, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16,
        "max_position_embeddings": 32})
}

fn parse(family: &'static Family, mut fields: Value, changes: &[(&str, Value)]) -> Result<Architecture> {
    for (name, value) in changes {
        match value {
            Value::Null => fields.as_object_mut().and_then(|fields| fields.remove(*name)),
            value => fields.as_object_mut().and_then(|fields| fields.insert((*name).into(), value.clone())),
        };
    }
    Architecture::parse(family, fields.as_object().unwrap())
}

#[test]
fn what_is_not_given_has_the_default_of_transformers() -> Result<()> {
    let bert = parse(&bert::FAMILY, bert(), &[])?;
    assert_eq!((bert.type_vocab_size, bert.layer_norm_eps, bert.max_length()), (2, 1e-12, 32));
    assert_eq!((bert.hidden_dropout_prob, bert.classifier_dropout), (0.1, None));
    let distilbert = parse(&distilbert::FAMILY, distilbert(), &[])?;
    assert_eq!((distilbert.type_vocab_size, distilbert.layer_norm_eps), (0, 1e-12));
    assert_eq!((distilbert.hidden_dropout_prob, distilbert.classifier_dropout), (0.1, Some(0.2)));
    Ok(())
}

#[test]
fn distilbert_is_bert_under_other_names() -> Result<()> {
    let changes = [("attention_dropout", json!(0.3)), ("dropout", json!(0.4))];
    let distilbert = parse(&distilbert::FAMILY, distilbert(), &changes)?;
    let bert = parse(&bert::FAMILY, bert(), &[])?;
    let form = LayerForm { has_attention_output_dropout: false, ..bert.layers[0] };
    let expected = Architecture {
        family: &distilbert::FAMILY,
        type_vocab_size: 0,
        attention_probs_dropout_prob: 0.3,
        hidden_dropout_prob: 0.4,
        classifier_dropout: Some(0.2),
        layer_names: vec!["transformer.layer.0".to_owned()],
        layers: vec![form],
        head: Head { activation: Activation::Relu, has_input_dropout: false },
        ..bert
    };
    assert_eq!(distilbert, expected);
    Ok(())
}

#[test]
fn positions_of_roberta_start_behind_that_of_the_padding_token() -> Result<()> {
    for (padding, offset) in [(json!(1), 2), (json!(0), 1), (Value::Null, 2)] {
        let architecture = parse(&roberta::FAMILY, bert(), &[("pad_token_id", padding)])?;
        assert_eq!((architecture.first_position, architecture.max_length()), (Some(offset), 32 - offset));
    }
    assert_eq!(parse(&bert::FAMILY, bert(), &[("pad_token_id", json!(3))])?.first_position, Some(0));
    assert!(parse(&roberta::FAMILY, bert(), &[("pad_token_id", json!(31))]).is_err());
    Ok(())
}

#[test]
fn dropout_stands_where_the_family_has_it() -> Result<()> {
    let head = |family, fields, changes: &[(&str, Value)]| {
        let architecture = parse(family, fields, changes)?;
        Ok::<_, Error>((architecture.head, architecture.head_dropout()))
    };
    let tanh = Head { activation: Activation::Tanh, has_input_dropout: false };
    assert_eq!(head(&bert::FAMILY, bert(), &[("hidden_dropout_prob", json!(0.3))])?, (tanh, 0.3));
    assert_eq!(head(&bert::FAMILY, bert(), &[("classifier_dropout", json!(0.4))])?, (tanh, 0.4));
    let relu = Head { activation: Activation::Relu, has_input_dropout: false };
    assert_eq!(head(&distilbert::FAMILY, distilbert(), &[("dropout", json!(0.3))])?, (relu, 0.2));
    assert_eq!(head(&roberta::FAMILY, bert(), &[])?, (Head { has_input_dropout: true, ..tanh }, 0.1));
    let gelu = Head { activation: Activation::Gelu, has_input_dropout: true };
    assert_eq!(head(&electra::FAMILY, bert(), &[])?, (gelu, 0.1));
    assert_eq!(head(&albert::FAMILY, bert(), &[("classifier_dropout_prob", json!(0.3))])?, (tanh, 0.3));
    let dropouts = |family, fields| -> Result<[bool; 2]> {
        let form = parse(family, fields, &[])?.layers[0];
        Ok([form.has_attention_output_dropout, form.has_output_dropout])
    };
    assert_eq!(dropouts(&roberta::FAMILY, bert())?, [true, true]);
    assert_eq!(dropouts(&distilbert::FAMILY, distilbert())?, [false, true]);
    assert_eq!(dropouts(&albert::FAMILY, bert())?, [true, false]);
    Ok(())
}

#[test]
fn embeddings_of_electra_are_projected_where_they_are_narrow_and_those_of_albert_always() -> Result<()> {
    for (family, size, projected) in
        [(&electra::FAMILY, 4, true), (&electra::FAMILY, 8, false), (&albert::FAMILY, 8, true)]
    {
        let architecture = parse(family, bert(), &[("embedding_size", json!(size))])?;
        assert_eq!((architecture.embedding_size, architecture.has_projection), (size, projected));
    }
    // What `transformers` takes where nothing is given.
    assert_eq!(parse(&electra::FAMILY, bert(), &[])?.embedding_size, 128);
    Ok(())
}

#[test]
fn layers_of_albert_share_parameters_by_groups_and_have_its_activation() -> Result<()> {
    let sets = |layers: u32, groups: u32, inner: u32| -> Result<Vec<usize>> {
        let changes = [
            ("num_hidden_layers", json!(layers)),
            ("num_hidden_groups", json!(groups)),
            ("inner_group_num", json!(inner)),
        ];
        let architecture = parse(&albert::FAMILY, bert(), &changes)?;
        assert_eq!(architecture.own_layers(), (groups * inner) as usize);
        Ok(architecture.layers.iter().map(|form| form.parameters).collect())
    };
    assert_eq!(sets(3, 1, 1)?, [0, 0, 0]);
    assert_eq!(sets(4, 2, 1)?, [0, 0, 1, 1]);
    assert_eq!(sets(2, 1, 2)?, [0, 1, 0, 1]);
    assert_eq!(sets(5, 2, 1)?, [0, 0, 0, 1, 1]);
    assert!(sets(2, 3, 1).is_err() && sets(2, 0, 1).is_err() && sets(2, 1, 0).is_err());
    let architecture = parse(&albert::FAMILY, bert(), &[])?;
    assert_eq!(architecture.layers[0].feed_forward, FeedForward::Plain(Activation::GeluTanh));
    assert_eq!((architecture.hidden_dropout_prob, architecture.head_dropout()), (0.0, 0.1));
    Ok(())
}

#[test]
fn what_cannot_be_built_is_refused_under_the_name_that_its_family_uses() {
    for (family, fields, name, value, expected) in [
        (&bert::FAMILY, bert(), "hidden_size", json!(9), "num_attention_heads"),
        (&bert::FAMILY, bert(), "hidden_size", json!(0), "hidden_size is 0"),
        (&bert::FAMILY, bert(), "vocab_size", Value::Null, "vocab_size"),
        (&bert::FAMILY, bert(), "type_vocab_size", json!(0), "type_vocab_size is 0"),
        (&bert::FAMILY, bert(), "hidden_act", json!("mish"), "mish"),
        (&bert::FAMILY, bert(), "position_embedding_type", json!("relative_key"), "absolute"),
        (&roberta::FAMILY, bert(), "classifier_dropout", json!(1), "classifier_dropout is 1"),
        (&roberta::FAMILY, bert(), "max_position_embeddings", json!(2), "max_position_embeddings is 2"),
        (&distilbert::FAMILY, distilbert(), "dim", json!(9), "dim 9 is not a multiple of n_heads 2"),
        (&distilbert::FAMILY, distilbert(), "n_layers", json!(0), "n_layers is 0"),
        (&distilbert::FAMILY, distilbert(), "hidden_dim", Value::Null, "hidden_dim"),
        (&distilbert::FAMILY, distilbert(), "seq_classif_dropout", json!(-1), "seq_classif_dropout is -1"),
        (&distilbert::FAMILY, distilbert(), "activation", json!("mish"), "mish"),
        (&bert::FAMILY, bert(), "is_decoder", json!(true), "is_decoder is true"),
        (&bert::FAMILY, bert(), "num_hidden_layers", json!(1_000_000), "num_hidden_layers is 1000000"),
        (&bert::FAMILY, bert(), "vocab_size", json!(1e300), "vocab_size is 1e+300, which is no whole"),
        (&bert::FAMILY, bert(), "hidden_size", json!("8"), "hidden_size is \"8\""),
        (&bert::FAMILY, bert(), "hidden_size", json!(-8), "hidden_size is -8"),
        (&bert::FAMILY, bert(), "layer_norm_eps", json!(-1), "layer_norm_eps is -1"),
        (&distilbert::FAMILY, distilbert(), "dropout", json!("0.1"), "dropout is \"0.1\""),
    ] {
        let error = parse(family, fields, &[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
