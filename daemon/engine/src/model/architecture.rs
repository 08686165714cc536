//! The architecture of an encoder: its family, and the numbers that it is built from.
//!
//! The families are one network. They differ in the names of their weights (`declaration`), in where positions start,
//! in whether there are token types, in one dropout, and in the head.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::batch::Batch;
use hone_base::error::{Error, Result};

/// A family of encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Devlin et al. 2019.
    Bert,
    /// Sanh et al. 2019: no token types, no pooler.
    DistilBert,
    /// Liu et al. 2019, and XLM-R (Conneau et al. 2020), which differs in its tokenizer alone: positions start behind
    /// that of the padding token, no pooler.
    Roberta,
}

/// The head between the first token's hidden state and the logits:
/// `output(dropout(activation(dense(x))))`, where `x` is the hidden state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Between the two linear layers.
    pub activation: Activation,
    /// Whether `x` passes a dropout of its own before the first linear layer.
    pub input_dropout: bool,
}

/// The activation of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Activation {
    Tanh,
    Relu,
}

/// The numbers that the model is built from, under the names of `transformers`' `BertConfig`, whatever the family
/// calls them.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Architecture {
    pub family: Family,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    /// Rows of the position table; see [`Architecture::max_length`] for how many can be used.
    pub max_position_embeddings: usize,
    /// Rows of the token-type table: 0 when there is none.
    pub type_vocab_size: usize,
    pub hidden_dropout_prob: f64,
    pub attention_probs_dropout_prob: f64,
    pub layer_norm_eps: f64,
    /// DistilBERT's `seq_classif_dropout`.
    pub classifier_dropout: Option<f64>,
    /// The row of the position table that the first token takes.
    position_offset: usize,
}

impl Architecture {
    /// From the fields of a `config.json` of this family; what is not given has the default of `transformers`.
    pub(super) fn parse(family: Family, fields: &Map<String, Value>) -> Result<Self> {
        let not_usable = |error| Error::precondition(format!("not a usable model configuration: {error}"));
        check_kinds(family, fields)?;
        let fields = Value::Object(fields.clone());
        let (architecture, activation, positions) = match family {
            Family::Bert | Family::Roberta => {
                let given: BertFields = serde_json::from_value(fields).map_err(not_usable)?;
                given.into_architecture(family)
            }
            Family::DistilBert => {
                let given: DistilBertFields = serde_json::from_value(fields).map_err(not_usable)?;
                given.into_architecture()
            }
        };
        // Two names of one function; the others are approximations of it.
        if !["gelu", "gelu_python"].contains(&activation.as_str()) {
            return Err(Error::precondition(format!(
                "the activation \"{activation}\" is not supported, only \"gelu\" is"
            )));
        }
        if positions.is_some_and(|kind| kind != "absolute") {
            return Err(Error::precondition("only absolute position embeddings are supported"));
        }
        architecture.check()?;
        Ok(architecture)
    }

    /// Columns of one attention head.
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// The row of the position table that the first token of a sequence takes; the others follow. RoBERTa's table
    /// begins with rows for the padding token, which a packed batch does not have.
    pub fn position_offset(&self) -> usize {
        self.position_offset
    }

    /// Tokens of a sequence at most: the positions that can be used.
    pub fn max_length(&self) -> usize {
        self.max_position_embeddings - self.position_offset
    }

    /// Whether a token's type makes a difference. Where the table has one row, every token takes it, whatever type
    /// the tokenizer gives the second text of a pair.
    pub fn has_token_types(&self) -> bool {
        self.type_vocab_size > 1
    }

    /// Whether the output projection of attention passes a dropout before it is added to the layer's input.
    pub fn has_attention_output_dropout(&self) -> bool {
        self.family != Family::DistilBert
    }

    /// The classification head.
    pub fn head(&self) -> Head {
        match self.family {
            Family::Bert => Head { activation: Activation::Tanh, input_dropout: false },
            Family::DistilBert => Head { activation: Activation::Relu, input_dropout: false },
            Family::Roberta => Head { activation: Activation::Tanh, input_dropout: true },
        }
    }

    /// The dropout of the head, unless a job sets another.
    pub fn head_dropout(&self) -> f64 {
        self.classifier_dropout.unwrap_or(self.hidden_dropout_prob)
    }

    /// Fails when a batch has tokens, types or positions that the tables have no row for, or a sequence without a token,
    /// which has no first one to answer with: its tokenizer then belongs to another encoder.
    pub fn admit(&self, batch: &Batch) -> Result<()> {
        if batch.lengths().any(|length| length == 0) {
            return Err(Error::precondition(
                "a text has no token, not even a special one: its tokenizer belongs to another encoder",
            ));
        }
        let longest = batch.lengths().max().unwrap_or(0);
        let types = if self.has_token_types() { batch.types.iter().max() } else { None };
        let asked = [
            ("vocab_size", batch.ids.iter().max().map(|&id| id as usize), self.vocab_size),
            ("type_vocab_size", types.map(|&id| id as usize), self.type_vocab_size),
            ("max_position_embeddings", longest.checked_sub(1), self.max_length()),
        ];
        for (name, most, count) in asked {
            if let Some(most) = most.filter(|most| *most >= count) {
                return Err(Error::precondition(format!(
                    "a text has number {most} where the encoder's {name} allows numbers below {count}: its tokenizer \
                     belongs to another encoder"
                )));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let types = usize::from(self.family != Family::DistilBert);
        // What is built from these numbers is built before the weights are looked at, so they have bounds.
        let sizes = [
            ("vocab_size", self.vocab_size, 1, 1 << 24),
            ("hidden_size", self.hidden_size, 1, 1 << 16),
            ("num_hidden_layers", self.num_hidden_layers, 1, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1, 1 << 20),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                self.position_offset.saturating_add(1),
                1 << 24,
            ),
            ("type_vocab_size", self.type_vocab_size, types, 1 << 16),
        ];
        for (name, size, smallest, largest) in sizes {
            if !(smallest..=largest).contains(&size) {
                let name = self.family.field(name);
                return Err(Error::precondition(format!("{name} is {size}, which no model has")));
            }
        }
        if !(0.0..1.0).contains(&self.layer_norm_eps) {
            return Err(Error::precondition(format!(
                "layer_norm_eps is {}; it must be at least 0 and less than 1",
                self.layer_norm_eps
            )));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let [hidden, heads] = ["hidden_size", "num_attention_heads"].map(|name| self.family.field(name));
            return Err(Error::precondition(format!(
                "{hidden} {} is not a multiple of {heads} {}",
                self.hidden_size, self.num_attention_heads
            )));
        }
        let probabilities = [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
            ("classifier_dropout", self.classifier_dropout.unwrap_or(0.0)),
        ];
        if let Some((name, p)) = probabilities.into_iter().find(|(_, p)| !(0.0..1.0).contains(p)) {
            let name = self.family.field(name);
            return Err(Error::precondition(format!("{name} is {p}; it must be at least 0 and less than 1")));
        }
        Ok(())
    }
}

/// Names the field that is of the wrong kind, which a parser of the whole does not; and refuses decoders, whose tokens
/// see only those before them.
fn check_kinds(family: Family, fields: &Map<String, Value>) -> Result<()> {
    let given = |name| {
        let name = family.field(name);
        fields.get(name).map(|value| (name, value))
    };
    for name in [
        "vocab_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "max_position_embeddings",
        "type_vocab_size",
    ] {
        if let Some((name, value)) = given(name).filter(|(_, value)| value.as_u64().is_none()) {
            return Err(Error::precondition(format!(
                "{name} is {value}, which is no whole number from 0 on"
            )));
        }
    }
    for name in ["hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps"] {
        if let Some((name, value)) = given(name).filter(|(_, value)| value.as_f64().is_none()) {
            return Err(Error::precondition(format!("{name} is {value}, which is no number")));
        }
    }
    let set = |name: &&&str| fields.get(**name).is_some_and(|value| value == true);
    match ["is_decoder", "add_cross_attention"].iter().find(set) {
        Some(name) => Err(Error::precondition(format!("{name} is true, but only encoders can be trained"))),
        None => Ok(()),
    }
}

impl Family {
    /// What the family's `config.json` calls a field of `BertConfig`.
    pub(super) fn field(self, name: &'static str) -> &'static str {
        match (self, name) {
            (Self::DistilBert, "hidden_size") => "dim",
            (Self::DistilBert, "num_hidden_layers") => "n_layers",
            (Self::DistilBert, "num_attention_heads") => "n_heads",
            (Self::DistilBert, "intermediate_size") => "hidden_dim",
            (Self::DistilBert, "hidden_dropout_prob") => "dropout",
            (Self::DistilBert, "attention_probs_dropout_prob") => "attention_dropout",
            (Self::DistilBert, "classifier_dropout") => "seq_classif_dropout",
            _ => name,
        }
    }
}

/// An architecture before it is checked, its activation, and its kind of position embeddings.
type Given = (Architecture, String, Option<String>);

/// `BertConfig`, `RobertaConfig`, `XLMRobertaConfig`.
#[derive(Deserialize)]
struct BertFields {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "two")]
    type_vocab_size: usize,
    #[serde(default = "tenth")]
    hidden_dropout_prob: f64,
    #[serde(default = "tenth")]
    attention_probs_dropout_prob: f64,
    #[serde(default = "default_eps")]
    layer_norm_eps: f64,
    classifier_dropout: Option<f64>,
    pad_token_id: Option<u32>,
    #[serde(default = "gelu")]
    hidden_act: String,
    position_embedding_type: Option<String>,
}

/// `DistilBertConfig`.
#[derive(Deserialize)]
struct DistilBertFields {
    vocab_size: usize,
    dim: usize,
    n_layers: usize,
    n_heads: usize,
    hidden_dim: usize,
    max_position_embeddings: usize,
    #[serde(default = "tenth")]
    dropout: f64,
    #[serde(default = "tenth")]
    attention_dropout: f64,
    #[serde(default = "fifth")]
    seq_classif_dropout: f64,
    #[serde(default = "gelu")]
    activation: String,
}

fn two() -> usize {
    2
}

fn tenth() -> f64 {
    0.1
}

fn fifth() -> f64 {
    0.2
}

fn default_eps() -> f64 {
    1e-12
}

fn gelu() -> String {
    "gelu".into()
}

impl BertFields {
    fn into_architecture(self, family: Family) -> Given {
        let position_offset = match family {
            Family::Roberta => self.pad_token_id.unwrap_or(1) as usize + 1,
            Family::Bert | Family::DistilBert => 0,
        };
        let architecture = Architecture {
            family,
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            intermediate_size: self.intermediate_size,
            max_position_embeddings: self.max_position_embeddings,
            type_vocab_size: self.type_vocab_size,
            hidden_dropout_prob: self.hidden_dropout_prob,
            attention_probs_dropout_prob: self.attention_probs_dropout_prob,
            layer_norm_eps: self.layer_norm_eps,
            classifier_dropout: self.classifier_dropout,
            position_offset,
        };
        (architecture, self.hidden_act, self.position_embedding_type)
    }
}

impl DistilBertFields {
    fn into_architecture(self) -> Given {
        let architecture = Architecture {
            family: Family::DistilBert,
            vocab_size: self.vocab_size,
            hidden_size: self.dim,
            num_hidden_layers: self.n_layers,
            num_attention_heads: self.n_heads,
            intermediate_size: self.hidden_dim,
            max_position_embeddings: self.max_position_embeddings,
            type_vocab_size: 0,
            hidden_dropout_prob: self.dropout,
            attention_probs_dropout_prob: self.attention_dropout,
            layer_norm_eps: default_eps(),
            classifier_dropout: Some(self.seq_classif_dropout),
            position_offset: 0,
        };
        (architecture, self.activation, None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bert() -> Value {
        json!({"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "max_position_embeddings": 32})
    }

    fn distilbert() -> Value {
        json!({"vocab_size": 9, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16,
            "max_position_embeddings": 32})
    }

    fn parse(family: Family, mut fields: Value, changes: &[(&str, Value)]) -> Result<Architecture> {
        for (name, value) in changes {
            match value {
                Value::Null => fields.as_object_mut().and_then(|fields| fields.remove(*name)),
                value => {
                    fields.as_object_mut().and_then(|fields| fields.insert((*name).into(), value.clone()))
                }
            };
        }
        Architecture::parse(family, fields.as_object().unwrap())
    }

    #[test]
    fn what_is_not_given_has_the_default_of_transformers() -> Result<()> {
        let bert = parse(Family::Bert, bert(), &[])?;
        assert_eq!((bert.type_vocab_size, bert.layer_norm_eps, bert.max_length()), (2, 1e-12, 32));
        assert_eq!((bert.hidden_dropout_prob, bert.classifier_dropout), (0.1, None));
        let distilbert = parse(Family::DistilBert, distilbert(), &[])?;
        assert_eq!((distilbert.type_vocab_size, distilbert.layer_norm_eps), (0, 1e-12));
        assert_eq!((distilbert.hidden_dropout_prob, distilbert.classifier_dropout), (0.1, Some(0.2)));
        Ok(())
    }

    #[test]
    fn distilbert_is_bert_under_other_names() -> Result<()> {
        let changes = [("attention_dropout", json!(0.3)), ("dropout", json!(0.4))];
        let distilbert = parse(Family::DistilBert, distilbert(), &changes)?;
        let expected = Architecture {
            family: Family::DistilBert,
            type_vocab_size: 0,
            attention_probs_dropout_prob: 0.3,
            hidden_dropout_prob: 0.4,
            classifier_dropout: Some(0.2),
            ..parse(Family::Bert, bert(), &[])?
        };
        assert_eq!(distilbert, expected);
        Ok(())
    }

    #[test]
    fn positions_of_roberta_start_behind_that_of_the_padding_token() -> Result<()> {
        for (padding, offset) in [(json!(1), 2), (json!(0), 1), (Value::Null, 2)] {
            let architecture = parse(Family::Roberta, bert(), &[("pad_token_id", padding)])?;
            assert_eq!((architecture.position_offset(), architecture.max_length()), (offset, 32 - offset));
        }
        assert_eq!(parse(Family::Bert, bert(), &[("pad_token_id", json!(3))])?.position_offset(), 0);
        assert!(parse(Family::Roberta, bert(), &[("pad_token_id", json!(31))]).is_err());
        Ok(())
    }

    #[test]
    fn dropout_stands_where_the_family_has_it() -> Result<()> {
        let head = |family, fields, changes: &[(&str, Value)]| {
            let architecture = parse(family, fields, changes)?;
            Ok::<_, Error>((architecture.head(), architecture.head_dropout()))
        };
        let tanh = Head { activation: Activation::Tanh, input_dropout: false };
        assert_eq!(head(Family::Bert, bert(), &[("hidden_dropout_prob", json!(0.3))])?, (tanh, 0.3));
        assert_eq!(head(Family::Bert, bert(), &[("classifier_dropout", json!(0.4))])?, (tanh, 0.4));
        let relu = Head { activation: Activation::Relu, input_dropout: false };
        assert_eq!(head(Family::DistilBert, distilbert(), &[("dropout", json!(0.3))])?, (relu, 0.2));
        assert_eq!(head(Family::Roberta, bert(), &[])?, (Head { input_dropout: true, ..tanh }, 0.1));
        assert!(parse(Family::Roberta, bert(), &[])?.has_attention_output_dropout());
        assert!(!parse(Family::DistilBert, distilbert(), &[])?.has_attention_output_dropout());
        Ok(())
    }

    #[test]
    fn what_cannot_be_built_is_refused_under_the_name_that_its_family_uses() {
        for (family, fields, name, value, expected) in [
            (Family::Bert, bert(), "hidden_size", json!(9), "num_attention_heads"),
            (Family::Bert, bert(), "hidden_size", json!(0), "hidden_size is 0"),
            (Family::Bert, bert(), "vocab_size", Value::Null, "vocab_size"),
            (Family::Bert, bert(), "type_vocab_size", json!(0), "type_vocab_size is 0"),
            (Family::Bert, bert(), "hidden_act", json!("relu"), "relu"),
            (Family::Bert, bert(), "position_embedding_type", json!("relative_key"), "absolute"),
            (Family::Roberta, bert(), "classifier_dropout", json!(1), "classifier_dropout is 1"),
            (Family::Roberta, bert(), "max_position_embeddings", json!(2), "max_position_embeddings is 2"),
            (Family::DistilBert, distilbert(), "dim", json!(9), "dim 9 is not a multiple of n_heads 2"),
            (Family::DistilBert, distilbert(), "n_layers", json!(0), "n_layers is 0"),
            (Family::DistilBert, distilbert(), "hidden_dim", Value::Null, "hidden_dim"),
            (Family::DistilBert, distilbert(), "seq_classif_dropout", json!(-1), "seq_classif_dropout is -1"),
            (Family::DistilBert, distilbert(), "activation", json!("relu"), "relu"),
            (Family::Bert, bert(), "hidden_act", json!("gelu_new"), "gelu_new"),
            (Family::Bert, bert(), "is_decoder", json!(true), "is_decoder is true"),
            (Family::Bert, bert(), "num_hidden_layers", json!(1_000_000), "num_hidden_layers is 1000000"),
            (Family::Bert, bert(), "vocab_size", json!(1e300), "vocab_size is 1e+300, which is no whole"),
            (Family::Bert, bert(), "hidden_size", json!("8"), "hidden_size is \"8\""),
            (Family::Bert, bert(), "hidden_size", json!(-8), "hidden_size is -8"),
            (Family::Bert, bert(), "layer_norm_eps", json!(-1), "layer_norm_eps is -1"),
            (Family::DistilBert, distilbert(), "dropout", json!("0.1"), "dropout is \"0.1\""),
        ] {
            let error = parse(family, fields, &[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
