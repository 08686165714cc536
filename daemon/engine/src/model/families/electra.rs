//! ELECTRA (Clark et al. 2020), the discriminator: BERT with embeddings that may be narrower than the hidden states,
//! and a head with GELU instead of a pooler.

use super::super::architecture::{Activation, Architecture, HeadForm};
use super::bert::{NAMES, like_bert};
use super::{Family, Fields, Kind, Names};
use hone_base::error::Result;

/// ELECTRA.
pub(super) static FAMILY: Family = Family {
    kinds: &[Kind { model_type: "electra", class: "ElectraForSequenceClassification" }],
    prefix: "electra.",
    fields: &[],
    names: Names {
        projection: "embeddings_project",
        dense: "classifier.dense",
        classifier: "classifier.out_proj",
        ..NAMES
    },
    read,
};

fn read(fields: &Fields<'_>) -> Result<Architecture> {
    let head = HeadForm { activation: Activation::Gelu, has_input_dropout: true };
    let architecture = like_bert(fields, head)?;
    let embedding_size = fields.count_or("embedding_size", 128)?;
    Ok(Architecture {
        embedding_size,
        has_projection: embedding_size != architecture.hidden_size,
        ..architecture
    })
}
