//! The training methods that are off by default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
