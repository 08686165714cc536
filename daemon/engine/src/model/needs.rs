//! What an architecture asks of a backend beyond BERT, and the one place where a backend that does not compute it says
//! so.

use std::fmt;

use super::architecture::{Activation, Architecture, FeedForward, NormPlace, Positions, Reach};
use hone_base::error::{Error, Result};

/// Something that not every backend computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// A linear layer between the embeddings and the first layer.
    Projection,
    /// Layers that have the same parameters.
    SharedLayers,
    /// An activation in the layers.
    Activation(Activation),
    /// An activation in the head.
    HeadActivation(Activation),
    /// Layer norms before attention and feed-forward.
    PreNorm,
    /// A feed-forward network with a gate.
    Gate,
    /// Linear layers without a bias.
    NoBias,
    /// Rotary positions.
    Rotary,
    /// Relative positions.
    Relative,
    /// Attention to near tokens alone.
    LocalAttention,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |activation: &Activation| match activation {
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_new",
            Activation::Relu => "relu",
            Activation::Silu => "silu",
            Activation::Tanh => "tanh",
        };
        match self {
            Self::Projection => f.write_str("a projection of the embeddings"),
            Self::SharedLayers => f.write_str("layers that share their parameters"),
            Self::Activation(activation) => write!(f, "the activation \"{}\"", name(activation)),
            Self::HeadActivation(activation) => {
                write!(f, "the activation \"{}\" in the head", name(activation))
            }
            Self::PreNorm => f.write_str("layer norms before attention (pre-norm)"),
            Self::Gate => f.write_str("a gated feed-forward network"),
            Self::NoBias => f.write_str("linear layers without a bias"),
            Self::Rotary => f.write_str("rotary positions"),
            Self::Relative => f.write_str("relative positions"),
            Self::LocalAttention => f.write_str("local attention"),
        }
    }
}

impl Architecture {
    /// What it asks of a backend, each once.
    pub fn needs(&self) -> Vec<Need> {
        let mut needs = vec![Need::HeadActivation(self.head.activation)];
        let mut add = |asked: bool, need: Need| {
            if asked {
                needs.push(need);
            }
        };
        add(self.has_projection, Need::Projection);
        add(self.layers.len() > self.layer_names.len(), Need::SharedLayers);
        for form in &self.layers {
            let (FeedForward::Plain(activation) | FeedForward::Gated(activation)) = form.feed_forward;
            add(true, Need::Activation(activation));
            add(matches!(form.feed_forward, FeedForward::Gated(_)), Need::Gate);
            add(form.norm == NormPlace::Before, Need::PreNorm);
            add(!form.has_biases, Need::NoBias);
            add(matches!(form.positions, Positions::Rotary { .. }), Need::Rotary);
            add(matches!(form.positions, Positions::Relative { .. }), Need::Relative);
            add(matches!(form.reach, Reach::Local { .. }), Need::LocalAttention);
        }
        needs.sort_unstable();
        needs.dedup();
        needs
    }

    /// Fails when it asks for something that a backend does not compute.
    pub(super) fn check_needs(&self, backend: &str, computes: &[Need]) -> Result<()> {
        match self.needs().into_iter().find(|need| !computes.contains(need)) {
            None => Ok(()),
            Some(need) => Err(Error::precondition(format!(
                "the encoder has {need}, which {backend} cannot compute yet; choose another encoder"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::*;

    const BERT: &str = r#"{"model_type":"bert","vocab_size":9,"hidden_size":8,"num_hidden_layers":2,
        "num_attention_heads":2,"intermediate_size":16,"max_position_embeddings":32}"#;

    #[test]
    fn what_a_backend_does_not_compute_is_refused_by_its_name() {
        let bert = Config::parse(BERT).expect("a configuration").architecture;
        let computes = bert.needs();
        assert_eq!(computes, [Need::Activation(Activation::Gelu), Need::HeadActivation(Activation::Tanh)]);
        type Change = fn(&mut Architecture);
        let changes: [(Change, &str); 9] = [
            (|of| of.has_projection = true, "a projection"),
            (|of| of.layer_names.truncate(1), "share their parameters"),
            (|of| of.layers[1].feed_forward = FeedForward::Plain(Activation::Silu), "\"silu\""),
            (|of| of.layers[1].feed_forward = FeedForward::Gated(Activation::Gelu), "a gated"),
            (|of| of.layers[0].norm = NormPlace::Before, "pre-norm"),
            (|of| of.layers[0].has_biases = false, "without a bias"),
            (|of| of.layers[0].positions = Positions::Rotary { base: 1e4 }, "rotary positions"),
            (|of| of.layers[0].positions = Positions::Relative { distances: 256 }, "relative positions"),
            (|of| of.layers[1].reach = Reach::Local { distance: 64 }, "local attention"),
        ];
        for (change, expected) in changes {
            let mut architecture = bert.clone();
            change(&mut architecture);
            let error = architecture.check_needs("the backend of this test", &computes).unwrap_err();
            let message = error.message();
            assert!(message.contains(expected) && message.contains("the backend of this test"), "{message}");
        }
        assert!(bert.check_needs("any", &computes).is_ok());
    }
}
