//! The architecture of an encoder: the numbers that it is built from, and how its parts are put together.
//!
//! A family's file (`families`) reads it from a `config.json`; `declaration` makes parameters of it; a backend computes
//! it, or says what of it it does not compute (`needs`).

use serde_json::{Map, Value};

use super::families::{Family, Fields};
use crate::batch::Batch;
use hone_base::error::{Error, Result};

/// An encoder with its classification head, before the labels are known. Numbers have the names of `transformers`'
/// `BertConfig`, whatever the family calls them.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Architecture {
    pub family: &'static Family,
    pub vocab_size: usize,
    /// Columns of the embeddings: those of the hidden states, unless there is a projection between them.
    pub embedding_size: usize,
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
    /// What the configuration gives for the dropout of the head.
    pub classifier_dropout: Option<f64>,
    /// The row of the position table that the first token takes; the others follow. `None` where there is no table.
    pub first_position: Option<usize>,
    /// Whether a linear layer stands between the embeddings, `[T, embedding_size]`, and the first layer's input.
    pub has_projection: bool,
    /// What each set of a layer's parameters is called, behind the family's prefix: `encoder.layer.0`.
    pub layer_names: Vec<String>,
    /// The layers in the order of the forward pass; several may have one set of parameters.
    pub layers: Vec<LayerForm>,
    /// Between the first token's hidden state and the logits.
    pub head: HeadForm,
}

/// How a layer of the encoder is put together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerForm {
    /// Which set of parameters it has: its place in [`Architecture::layer_names`].
    pub parameters: usize,
    /// Where its layer norms stand.
    pub norm: NormPlace,
    /// Whether its linear layers have biases.
    pub has_biases: bool,
    /// What stands between its two linear layers.
    pub feed_forward: FeedForward,
    /// How it knows positions.
    pub positions: Positions,
    /// Which tokens a token attends to.
    pub reach: Reach,
    /// Whether the output projection of attention passes a dropout before it is added to the layer's input.
    pub has_attention_output_dropout: bool,
    /// Whether the second linear layer's result passes a dropout before it is added.
    pub has_output_dropout: bool,
}

impl LayerForm {
    /// That of BERT (Devlin et al. 2019), with its own set of parameters.
    pub fn bert(parameters: usize, activation: Activation) -> Self {
        Self {
            parameters,
            norm: NormPlace::Behind,
            has_biases: true,
            feed_forward: FeedForward::Plain(activation),
            positions: Positions::InEmbeddings,
            reach: Reach::Global,
            has_attention_output_dropout: true,
            has_output_dropout: true,
        }
    }
}

/// Where the layer norms of a layer stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// Post-norm: behind the sum with the residual.
    Behind,
    /// Pre-norm (Xiong et al. 2020): before attention and feed-forward, inside the residual.
    Before,
}

/// What stands between the two linear layers of a feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// `activation(x)`.
    Plain(Activation),
    /// `activation(x) * y`, where the first linear layer gives both (Shazeer 2020).
    Gated(Activation),
}

/// How a layer knows positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// By the embeddings alone.
    InEmbeddings,
    /// Queries and keys are turned by an angle that grows with the position (Su et al. 2021).
    Rotary {
        /// Of the angles' wavelengths.
        base: f64,
    },
    /// By embeddings of distances (Shaw et al. 2018, He et al. 2021).
    Relative {
        /// Distances that are told apart.
        distances: usize,
    },
}

/// Which tokens of its sequence a token attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All of them.
    Global,
    /// Those at most so far away.
    Local {
        /// Tokens to each side.
        distance: usize,
    },
}

/// An elementwise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Activation {
    /// `x Φ(x)` (Hendrycks and Gimpel 2016).
    Gelu,
    /// Its approximation by tanh.
    GeluTanh,
    /// `max(x, 0)`
    Relu,
    /// `x σ(x)`
    Silu,
    /// `tanh(x)`
    Tanh,
}

impl Activation {
    /// By the name that `transformers` has for it.
    pub(super) fn named(name: &str) -> Result<Self> {
        match name {
            "gelu" | "gelu_python" => Ok(Self::Gelu),
            "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Self::GeluTanh),
            "relu" => Ok(Self::Relu),
            "silu" | "swish" => Ok(Self::Silu),
            _ => Err(Error::precondition(format!(
                "the activation \"{name}\" is not supported; \"gelu\" and \"gelu_new\" are"
            ))),
        }
    }
}

/// The head between the first token's hidden state and the logits:
/// `output(dropout(activation(dense(x))))`, where `x` is the hidden state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadForm {
    /// Between the two linear layers.
    pub activation: Activation,
    /// Whether `x` passes a dropout of its own before the first linear layer.
    pub has_input_dropout: bool,
}

impl Architecture {
    /// From the fields of a `config.json` of this family; what is not given has the default of `transformers`.
    pub(super) fn parse(family: &'static Family, raw: &Map<String, Value>) -> Result<Self> {
        let fields = Fields::new(family, raw);
        fields.check_encoder()?;
        let architecture = family.read(&fields)?;
        architecture.check()?;
        Ok(architecture)
    }

    /// Columns of one attention head.
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Tokens of a sequence at most: the positions that can be used.
    pub fn max_length(&self) -> usize {
        self.max_position_embeddings - self.first_position.unwrap_or(0)
    }

    /// Layers that have parameters of their own, which can be frozen or start anew; at most those of the forward pass.
    pub fn own_layers(&self) -> usize {
        self.layer_names.len()
    }

    /// Whether a token's type makes a difference. Where the table has one row, every token takes it, whatever type
    /// the tokenizer gives the second text of a pair.
    pub fn has_token_types(&self) -> bool {
        self.type_vocab_size > 1
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
        let types = usize::from(self.family.has_token_types());
        // What is built from these numbers is built before the weights are looked at, so they have bounds.
        let sizes = [
            ("vocab_size", self.vocab_size, 1, 1 << 24),
            ("hidden_size", self.hidden_size, 1, 1 << 16),
            ("embedding_size", self.embedding_size, 1, 1 << 16),
            ("num_hidden_layers", self.num_hidden_layers, 1, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1, 1 << 20),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                self.first_position.map_or(1, |first| first.saturating_add(1)),
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
