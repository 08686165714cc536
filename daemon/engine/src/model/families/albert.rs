//! ALBERT (Lan et al. 2020): narrow embeddings behind a projection, and layers in groups that share their parameters.

use super::super::architecture::{Activation, Architecture, HeadForm, LayerForm};
use super::bert::{MOST_LAYERS, NAMES, like_bert};
use super::{Family, Fields, Kind, Names};
use hone_base::error::{Error, Result};

/// ALBERT.
pub(super) static FAMILY: Family = Family {
    kinds: &[Kind { model_type: "albert", class: "AlbertForSequenceClassification" }],
    prefix: "albert.",
    fields: &[("classifier_dropout", "classifier_dropout_prob")],
    names: Names {
        projection: "encoder.embedding_hidden_mapping_in",
        qkv: ["attention.query", "attention.key", "attention.value"],
        attention_output: "attention.dense",
        attention_norm: "attention.LayerNorm",
        intermediate: "ffn",
        output: "ffn_output",
        output_norm: "full_layer_layer_norm",
        dense: "albert.pooler",
        classifier: "classifier",
        ..NAMES
    },
    read,
};

fn read(fields: &Fields<'_>) -> Result<Architecture> {
    let architecture =
        like_bert(fields, HeadForm { activation: Activation::Tanh, has_input_dropout: false })?;
    let activation = Activation::named(fields.text_or("hidden_act", "gelu_new")?)?;
    let (groups, inner) = (fields.count_or("num_hidden_groups", 1)?, fields.count_or("inner_group_num", 1)?);
    let layers = architecture.num_hidden_layers;
    if layers > MOST_LAYERS {
        return Ok(architecture);
    }
    if groups == 0 || groups > layers {
        return Err(Error::precondition(format!(
            "num_hidden_groups is {groups}, and num_hidden_layers {layers}: each group has a layer or more"
        )));
    }
    if inner == 0 || layers.saturating_mul(inner) > MOST_LAYERS {
        return Err(Error::precondition(format!("inner_group_num is {inner}, which no model has")));
    }
    // As `transformers` has it, in floating point.
    let group = |layer: usize| (layer as f64 / (layers as f64 / groups as f64)) as usize;
    let form =
        |parameters| LayerForm { has_output_dropout: false, ..LayerForm::bert(parameters, activation) };
    let name =
        |set: usize| format!("encoder.albert_layer_groups.{}.albert_layers.{}", set / inner, set % inner);
    Ok(Architecture {
        embedding_size: fields.count_or("embedding_size", 128)?,
        has_projection: true,
        hidden_dropout_prob: fields.number_or("hidden_dropout_prob", 0.0)?,
        attention_probs_dropout_prob: fields.number_or("attention_probs_dropout_prob", 0.0)?,
        classifier_dropout: Some(fields.number_or("classifier_dropout", 0.1)?),
        layer_names: (0..groups * inner).map(name).collect(),
        layers: (0..layers)
            .flat_map(|layer| (0..inner).map(move |place| group(layer) * inner + place))
            .map(form)
            .collect(),
        ..architecture
    })
}
