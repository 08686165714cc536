//! The families of encoders, one a file: which kinds of model a `config.json` may name, how its fields become an
//! [`Architecture`], what a checkpoint calls the weights, and the head.
//!
//! A further family is a file here, its line in [`ALL`], and the operations that no backend computes yet.

mod albert;
mod bert;
mod distilbert;
mod electra;
mod fields;
mod roberta;

use std::fmt;

pub use fields::Fields;

use super::architecture::Architecture;
use hone_base::error::Result;

/// Every family.
pub static ALL: [&Family; 5] =
    [&bert::FAMILY, &distilbert::FAMILY, &roberta::FAMILY, &electra::FAMILY, &albert::FAMILY];

/// A family of encoders.
pub struct Family {
    /// The kinds of model that belong to it.
    kinds: &'static [Kind],
    /// What the names of the encoder's weights start with in a classifier, and lack in a bare encoder: `bert.`.
    prefix: &'static str,
    /// What it calls fields of `BertConfig`, where it has other names: ours, and its own.
    fields: &'static [(&'static str, &'static str)],
    names: Names,
    read: fn(&Fields<'_>) -> Result<Architecture>,
}

/// What a `config.json` calls a kind of model, and the class of its classifier in `transformers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// `model_type`.
    pub model_type: &'static str,
    /// The class of its classifier.
    pub class: &'static str,
}

/// What a checkpoint calls the weights, as `transformers` does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    /// Behind the family's prefix.
    pub(super) token_embeddings: &'static str,
    /// Behind the family's prefix.
    pub(super) position_embeddings: &'static str,
    /// Behind the family's prefix; empty in families without token types.
    pub(super) token_type_embeddings: &'static str,
    /// Behind the family's prefix.
    pub(super) embeddings_norm: &'static str,
    /// Behind the family's prefix; empty in families without a projection.
    pub(super) projection: &'static str,
    /// Query, key and value. This and what follows stands behind a layer's name.
    pub(super) qkv: [&'static str; 3],
    pub(super) attention_output: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) intermediate: &'static str,
    pub(super) output: &'static str,
    pub(super) output_norm: &'static str,
    /// The first layer of the head, its whole name.
    pub(super) dense: &'static str,
    /// The layer that gives the logits, its whole name: the only one whose size depends on the labels.
    pub(super) classifier: &'static str,
}

impl Family {
    /// The kinds of model that belong to it.
    pub fn kinds(&self) -> &'static [Kind] {
        self.kinds
    }

    /// What the names of the encoder's weights start with in a classifier, and lack in a bare encoder.
    pub(super) fn prefix(&self) -> &'static str {
        self.prefix
    }

    /// What a checkpoint calls the weights.
    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Whether there is a table of token types.
    pub(super) fn has_token_types(&self) -> bool {
        !self.names.token_type_embeddings.is_empty()
    }

    /// What its `config.json` calls a field of `BertConfig`.
    pub(super) fn field(&self, name: &'static str) -> &'static str {
        self.fields.iter().find(|(ours, _)| *ours == name).map_or(name, |(_, own)| own)
    }

    /// The architecture that a `config.json` of this family describes, its numbers not checked yet.
    pub(super) fn read(&self, fields: &Fields<'_>) -> Result<Architecture> {
        (self.read)(fields)
    }
}

impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        self.prefix == other.prefix
    }
}

impl Eq for Family {}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Family({})", self.prefix.trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests;
