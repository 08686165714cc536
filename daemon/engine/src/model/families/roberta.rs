//! RoBERTa (Liu et al. 2019), and XLM-R (Conneau et al. 2020) and CamemBERT, which differ from it in their tokenizers
//! alone: positions start behind that of the padding token, and there is no pooler.

use super::super::architecture::{Activation, Architecture, HeadForm};
use super::bert::{NAMES, like_bert};
use super::{Family, Fields, Kind, Names};
use hone_base::error::Result;

/// RoBERTa.
pub(super) static FAMILY: Family = Family {
    kinds: &[
        Kind { model_type: "roberta", class: "RobertaForSequenceClassification" },
        Kind { model_type: "xlm-roberta", class: "XLMRobertaForSequenceClassification" },
        Kind { model_type: "camembert", class: "CamembertForSequenceClassification" },
    ],
    prefix: "roberta.",
    fields: &[],
    names: Names { dense: "classifier.dense", classifier: "classifier.out_proj", ..NAMES },
    read,
};

fn read(fields: &Fields<'_>) -> Result<Architecture> {
    let head = HeadForm { activation: Activation::Tanh, has_input_dropout: true };
    let padding = fields.count_if_given("pad_token_id", 1)?;
    Ok(Architecture { first_position: Some(padding.saturating_add(1)), ..like_bert(fields, head)? })
}
