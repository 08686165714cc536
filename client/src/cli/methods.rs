//! The flags of `client train` for what is off by default, and those of precision and truncation.

use clap::{Args, ValueEnum};
use hone::v1;

use super::values::{below_one, inside_one, positive, up_to_one, whole_u32};

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MethodArgs {
    /// Compute activations again in the backward pass instead of keeping them: less memory, more time, the same
    /// weights to the bit.
    #[arg(long, help_heading = "Methods")]
    pub(crate) gradient_checkpointing: bool,
    /// Keep the lowest N layers of the encoder, and with them its embeddings, as they are. Default: 0.
    #[arg(long, value_name = "N", value_parser = whole_u32, allow_negative_numbers = true, help_heading = "Methods")]
    pub(crate) freeze_layers: Option<u32>,
    /// Keep the embeddings as they are.
    #[arg(long, help_heading = "Methods")]
    pub(crate) freeze_embeddings: bool,
    /// Each layer learns at the rate of the layer above times this, for example 0.95. Default: all at one rate.
    #[arg(long, value_name = "X", value_parser = up_to_one, allow_negative_numbers = true, help_heading = "Methods")]
    pub(crate) layer_decay: Option<f64>,
    /// Spread this share of each target over all labels, for example 0.1. Default: 0.
    #[arg(long, value_name = "X", value_parser = below_one, allow_negative_numbers = true, help_heading = "Methods")]
    pub(crate) label_smoothing: Option<f64>,
    /// How much each label counts in the loss: `balanced` (inversely to its rows), or a list such as spam=5,ham=1,
    /// where a label that is not named has weight 1. Default: all alike.
    #[arg(long, value_name = "balanced|LABEL=WEIGHT,...", value_parser = class_weights, help_heading = "Methods")]
    pub(crate) class_weights: Option<v1::ClassWeights>,
    /// Focal loss: rows that are answered well count less, for example 2. Default: plain cross-entropy.
    #[arg(long, value_name = "X", value_parser = positive, allow_negative_numbers = true, help_heading = "Methods")]
    pub(crate) focal_gamma: Option<f64>,
    /// Evaluate and keep a moving average of the weights with this decay a step, for example 0.999. Default: none.
    #[arg(long, value_name = "DECAY", value_parser = inside_one, allow_negative_numbers = true,
        help_heading = "Methods")]
    pub(crate) ema: Option<f64>,
    /// Pass every row twice with different dropout and add this times the divergence of both answers to the loss,
    /// for example 1. Default: one pass.
    #[arg(long, value_name = "X", value_parser = positive, allow_negative_numbers = true, help_heading = "Methods")]
    pub(crate) r_drop: Option<f64>,
    /// Start the highest N layers of the encoder, and with them the pooler, anew. Default: 0.
    #[arg(long, value_name = "N", value_parser = whole_u32, allow_negative_numbers = true, help_heading = "Methods")]
    pub(crate) reinit_layers: Option<u32>,
}

/// What matrix products are computed in.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Precision {
    /// bfloat16 where the device multiplies it faster, else float32.
    Auto,
    /// float32.
    Fp32,
    /// bfloat16 factors, float32 sums; weights and moments stay float32.
    Bf16,
}

/// What is kept of a text that is too long.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Truncation {
    /// Its beginning.
    Head,
    /// Its end.
    Tail,
    /// A quarter of the room for its beginning, the rest for its end.
    HeadTail,
}

impl From<Precision> for v1::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Auto => Self::Auto,
            Precision::Fp32 => Self::Fp32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

impl From<Truncation> for v1::Truncation {
    fn from(truncation: Truncation) -> Self {
        match truncation {
            Truncation::Head => Self::Head,
            Truncation::Tail => Self::Tail,
            Truncation::HeadTail => Self::HeadTail,
        }
    }
}

impl MethodArgs {
    /// The methods that were named; none when none was.
    pub(super) fn to_proto(&self) -> Option<v1::Methods> {
        let methods = v1::Methods {
            gradient_checkpointing: self.gradient_checkpointing.then_some(true),
            freeze_layers: self.freeze_layers,
            freeze_embeddings: self.freeze_embeddings.then_some(true),
            layer_decay: self.layer_decay,
            label_smoothing: self.label_smoothing,
            class_weights: self.class_weights.clone(),
            focal_gamma: self.focal_gamma,
            ema: self.ema,
            r_drop: self.r_drop,
            reinit_layers: self.reinit_layers,
        };
        (methods != v1::Methods::default()).then_some(methods)
    }
}

/// `balanced`, or labels with their weights. A label may hold '='; the last one of an entry counts.
fn class_weights(text: &str) -> Result<v1::ClassWeights, String> {
    if text == "balanced" {
        return Ok(v1::ClassWeights { balanced: true, given: Vec::new() });
    }
    let weight = |entry: &str| {
        let Some((label, weight)) = entry.rsplit_once('=') else {
            return Err(format!("\"{entry}\" is neither `balanced` nor LABEL=WEIGHT"));
        };
        let label = label.trim();
        if label.is_empty() {
            return Err(format!("\"{entry}\" has no label before the '='"));
        }
        let weight = positive(weight).map_err(|why| format!("the weight of \"{label}\": {why}"))?;
        Ok(v1::LabelWeight { label: label.to_owned(), weight })
    };
    let given: Vec<_> = text.split(',').map(weight).collect::<Result<_, _>>()?;
    for (index, entry) in given.iter().enumerate() {
        if given.iter().take(index).any(|before| before.label == entry.label) {
            return Err(format!("the label \"{}\" stands twice", entry.label));
        }
    }
    Ok(v1::ClassWeights { balanced: false, given })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn hyperparameters(line: &str) -> v1::Hyperparameters {
        let words = ["client", "train"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).expect("parses").command {
            Command::Train(args) => {
                args.to_proto(None, None, None).spec.and_then(|spec| spec.hyperparameters)
            }
            other => panic!("{other:?}"),
        }
        .expect("hyperparameters")
    }

    fn weights(given: &[(&str, f64)]) -> v1::ClassWeights {
        let weight = |&(label, weight): &(&str, f64)| v1::LabelWeight { label: label.into(), weight };
        v1::ClassWeights { balanced: false, given: given.iter().map(weight).collect() }
    }

    #[test]
    fn every_method_reaches_its_field() {
        let sent = hyperparameters(
            "--precision bf16 --truncation head-tail --gradient-checkpointing --freeze-layers 4 --freeze-embeddings \
             --layer-decay 0.95 --label-smoothing 0.1 --class-weights spam=5,ham=1 --focal-gamma 2 --ema 0.999 \
             --r-drop 1 --reinit-layers 2",
        );
        let expected = v1::Methods {
            gradient_checkpointing: Some(true),
            freeze_layers: Some(4),
            freeze_embeddings: Some(true),
            layer_decay: Some(0.95),
            label_smoothing: Some(0.1),
            class_weights: Some(weights(&[("spam", 5.0), ("ham", 1.0)])),
            focal_gamma: Some(2.0),
            ema: Some(0.999),
            r_drop: Some(1.0),
            reinit_layers: Some(2),
        };
        assert_eq!(sent.methods, Some(expected));
        assert_eq!(sent.precision(), v1::Precision::Bf16);
        assert_eq!(sent.truncation(), v1::Truncation::HeadTail);
    }

    #[test]
    fn a_method_that_is_not_named_is_not_sent() {
        assert_eq!(hyperparameters("--lr 1e-5").methods, None);
        let methods = hyperparameters("--freeze-layers 0").methods;
        assert_eq!(methods, Some(v1::Methods { freeze_layers: Some(0), ..Default::default() }));
    }

    #[test]
    fn class_weights_are_balanced_or_given_for_each_label() {
        assert_eq!(class_weights("balanced"), Ok(v1::ClassWeights { balanced: true, given: vec![] }));
        assert_eq!(class_weights("balanced=2"), Ok(weights(&[("balanced", 2.0)])));
        assert_eq!(class_weights("a=b=0.5, c d=2"), Ok(weights(&[("a=b", 0.5), ("c d", 2.0)])));
        for (text, words) in [
            ("balance", "neither `balanced` nor LABEL=WEIGHT"),
            ("", "neither `balanced` nor LABEL=WEIGHT"),
            ("=2", "no label"),
            ("a=0", "the weight of \"a\": must be greater than 0"),
            ("a=x", "the weight of \"a\": not a number"),
            ("a=1,b=2,a=3", "\"a\" stands twice"),
        ] {
            let error = class_weights(text).err().unwrap_or_default();
            assert!(error.contains(words), "{text}: {error:?}");
        }
    }
}
