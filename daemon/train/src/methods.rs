//! The training methods that are off by default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use hone_base::error::{Error, Result};

/// What a job does besides plain fine-tuning. The default is none of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Methods {
    /// Computes activations again in the backward pass instead of keeping them (Chen et al. 2016): the same weights to
    /// the bit, less memory, more time.
    pub gradient_checkpointing: bool,
    /// Lowest layers of the encoder that stay as they are; with one or more, so do the embeddings.
    pub freeze_layers: u32,
    /// The embeddings stay as they are.
    pub freeze_embeddings: bool,
    /// The rate of each layer is that of the layer above times this (Sun et al. 2019): the head and the top layer learn
    /// at the full rate, layer `l` of `L` (from 0) at `decay^(L - 1 - l)` of it, the embeddings at `decay^L`.
    pub layer_decay: Option<f64>,
    /// Share of the target that is spread over all labels (Szegedy et al. 2016).
    pub label_smoothing: f64,
    /// How much each label counts in the loss.
    pub class_weights: ClassWeights,
    /// Focal loss (Lin et al. 2017): the loss of a row times `(1 - p)^gamma`.
    pub focal_gamma: Option<f64>,
    /// An exponential moving average of the weights, with this decay a step, is what is evaluated and kept.
    pub ema_decay: Option<f64>,
    /// R-Drop (Wu et al. 2021): every row passes twice with different dropout, and this times the divergence of both
    /// answers is added to the loss.
    pub r_drop: Option<f64>,
    /// Highest layers of the encoder that start anew (Zhang et al. 2021), the pooler with them.
    pub reinit_layers: u32,
}

/// How much each label counts in the loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeights {
    /// All alike.
    #[default]
    None,
    /// Inversely to its rows: `rows / (labels * rows of the label)`, as scikit-learn's `balanced`.
    Balanced,
    /// Given; a label that is not named has weight 1.
    Given(BTreeMap<String, f64>),
}

impl Methods {
    /// Checks what only an encoder of so many layers can tell.
    pub fn check(&self, layers: usize) -> Result<()> {
        let too_many = |flag: &str, count: u32| {
            Err(Error::invalid(format!(
                "{flag} is {count}, but the encoder has only {layers} layers; use at most {layers}"
            )))
        };
        let (frozen, anew) = (self.freeze_layers, self.reinit_layers);
        if frozen as usize > layers {
            return too_many("--freeze-layers", frozen);
        }
        if anew as usize > layers {
            return too_many("--reinit-layers", anew);
        }
        if frozen as usize + anew as usize > layers {
            return Err(Error::invalid(format!(
                "--freeze-layers {frozen} and --reinit-layers {anew} overlap in an encoder of {layers} layers, and a \
                 layer that starts anew has to learn; together use at most {layers}"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(methods: Methods) -> String {
        methods.check(6).unwrap_err().message().to_owned()
    }

    #[test]
    fn no_more_layers_than_there_are_can_be_frozen_or_start_anew() {
        let frozen = |freeze_layers| Methods { freeze_layers, ..Methods::default() };
        let anew = |reinit_layers| Methods { reinit_layers, ..Methods::default() };
        assert!(frozen(6).check(6).is_ok() && anew(6).check(6).is_ok());
        assert_eq!(
            refusal(frozen(7)),
            "--freeze-layers is 7, but the encoder has only 6 layers; use at most 6"
        );
        assert!(refusal(anew(u32::MAX)).starts_with("--reinit-layers is 4294967295"));
    }

    #[test]
    fn a_layer_is_not_frozen_and_new_at_once() {
        let both =
            |freeze_layers, reinit_layers| Methods { freeze_layers, reinit_layers, ..Methods::default() };
        assert!(both(4, 2).check(6).is_ok());
        assert!(refusal(both(4, 3)).starts_with("--freeze-layers 4 and --reinit-layers 3 overlap"));
    }
}
