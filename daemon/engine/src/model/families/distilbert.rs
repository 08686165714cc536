//! DistilBERT (Sanh et al. 2019): no token types, no pooler, one dropout less in each layer.

use super::super::architecture::{Activation, Architecture, HeadForm, LayerForm};
use super::bert::like_bert;
use super::{Family, Fields, Kind, Names};
use hone_base::error::Result;

/// DistilBERT.
pub(super) static FAMILY: Family = Family {
    kinds: &[Kind { model_type: "distilbert", class: "DistilBertForSequenceClassification" }],
    prefix: "distilbert.",
    fields: &[
        ("hidden_size", "dim"),
        ("num_hidden_layers", "n_layers"),
        ("num_attention_heads", "n_heads"),
        ("intermediate_size", "hidden_dim"),
        ("hidden_dropout_prob", "dropout"),
        ("attention_probs_dropout_prob", "attention_dropout"),
        ("classifier_dropout", "seq_classif_dropout"),
        ("hidden_act", "activation"),
    ],
    names: Names {
        token_embeddings: "embeddings.word_embeddings",
        position_embeddings: "embeddings.position_embeddings",
        token_type_embeddings: "",
        embeddings_norm: "embeddings.LayerNorm",
        projection: "",
        qkv: ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
        attention_output: "attention.out_lin",
        attention_norm: "sa_layer_norm",
        intermediate: "ffn.lin1",
        output: "ffn.lin2",
        output_norm: "output_layer_norm",
        dense: "pre_classifier",
        classifier: "classifier",
    },
    read,
};

fn read(fields: &Fields<'_>) -> Result<Architecture> {
    let architecture =
        like_bert(fields, HeadForm { activation: Activation::Relu, has_input_dropout: false })?;
    let without = |form: &LayerForm| LayerForm { has_attention_output_dropout: false, ..*form };
    Ok(Architecture {
        type_vocab_size: 0,
        layer_norm_eps: 1e-12,
        classifier_dropout: Some(fields.number_or("classifier_dropout", 0.2)?),
        layer_names: (0..architecture.layers.len())
            .map(|layer| format!("transformer.layer.{layer}"))
            .collect(),
        layers: architecture.layers.iter().map(without).collect(),
        ..architecture
    })
}
