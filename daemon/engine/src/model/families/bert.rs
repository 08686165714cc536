//! BERT (Devlin et al. 2019), and what its relatives share with it.

use super::super::architecture::{Activation, Architecture, HeadForm, LayerForm};
use super::{Family, Fields, Kind, Names};
use hone_base::error::{Error, Result};

/// BERT.
pub(super) static FAMILY: Family = Family {
    kinds: &[Kind { model_type: "bert", class: "BertForSequenceClassification" }],
    prefix: "bert.",
    fields: &[],
    names: NAMES,
    read,
};

pub(super) const NAMES: Names = Names {
    token_embeddings: "embeddings.word_embeddings",
    position_embeddings: "embeddings.position_embeddings",
    token_type_embeddings: "embeddings.token_type_embeddings",
    embeddings_norm: "embeddings.LayerNorm",
    projection: "",
    qkv: ["attention.self.query", "attention.self.key", "attention.self.value"],
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "output.LayerNorm",
    dense: "bert.pooler.dense",
    classifier: "classifier",
};

fn read(fields: &Fields<'_>) -> Result<Architecture> {
    like_bert(fields, HeadForm { activation: Activation::Tanh, has_input_dropout: false })
}

/// The fields of `BertConfig`, under the family's names, and layers of that form, each with parameters of its own.
pub(super) fn like_bert(fields: &Fields<'_>, head: HeadForm) -> Result<Architecture> {
    if fields.text_or("position_embedding_type", "absolute")? != "absolute" {
        return Err(Error::precondition("only absolute position embeddings are supported"));
    }
    let activation = Activation::named(fields.text_or("hidden_act", "gelu")?)?;
    let (hidden_size, layers) = (fields.count("hidden_size")?, fields.count("num_hidden_layers")?);
    let numbered = if layers <= MOST_LAYERS { layers } else { 0 };
    Ok(Architecture {
        family: fields.family,
        vocab_size: fields.count("vocab_size")?,
        embedding_size: hidden_size,
        hidden_size,
        num_hidden_layers: layers,
        num_attention_heads: fields.count("num_attention_heads")?,
        intermediate_size: fields.count("intermediate_size")?,
        max_position_embeddings: fields.count("max_position_embeddings")?,
        type_vocab_size: fields.count_or("type_vocab_size", 2)?,
        hidden_dropout_prob: fields.number_or("hidden_dropout_prob", 0.1)?,
        attention_probs_dropout_prob: fields.number_or("attention_probs_dropout_prob", 0.1)?,
        layer_norm_eps: fields.number_or("layer_norm_eps", 1e-12)?,
        classifier_dropout: fields.number("classifier_dropout")?,
        first_position: Some(0),
        has_projection: false,
        layer_names: (0..numbered).map(|layer| format!("encoder.layer.{layer}")).collect(),
        layers: (0..numbered).map(|layer| LayerForm::bert(layer, activation)).collect(),
        head,
    })
}

/// No configuration with more layers is taken ([`Architecture`]'s check says so), and none are made for it.
pub(super) const MOST_LAYERS: usize = 1 << 10;
