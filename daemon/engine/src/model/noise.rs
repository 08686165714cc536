//! Where dropout stands in the model, and whether it is on.

use super::architecture::LayerForm;
use crate::kernels::Dropout;
use hone_base::random::{Purpose, Stream};

/// Whether dropout is on, and where in training the pass stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// No dropout.
    Evaluate,
    /// Dropout with masks that are a function of these numbers.
    Train(Noise),
}

/// The dropout of one training pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// The job's seed.
    pub seed: u64,
    /// Micro-batches done since the start of the job.
    pub position: u64,
    /// On the embeddings and on the output projections of each layer.
    pub hidden: f64,
    /// On the attention probabilities.
    pub attention: f64,
    /// In the head, at each of its dropouts.
    pub head: f64,
}

/// Where in the model a dropout stands; no two places share a mask.
#[derive(Clone, Copy, Debug)]
pub(super) enum Site {
    Embeddings,
    Attention {
        layer: usize,
    },
    AttentionOutput {
        layer: usize,
    },
    Output {
        layer: usize,
    },
    /// Before the head's first layer, in families that have one there.
    HeadInput,
    Head,
}

/// The dropouts of one layer of the encoder.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerDropout {
    /// Of the attention's probabilities.
    pub(super) attention: Option<Dropout>,
    /// Of the attention's output projection, in families that have one there.
    pub(super) attention_output: Option<Dropout>,
    /// Of the layer's output projection, in families that have one there.
    pub(super) output: Option<Dropout>,
}

impl Mode {
    /// Those of layer `layer` of the forward pass, from 0.
    pub(super) fn layer(&self, form: &LayerForm, layer: usize) -> LayerDropout {
        LayerDropout {
            attention: self.dropout(Site::Attention { layer }),
            attention_output: self
                .dropout(Site::AttentionOutput { layer })
                .filter(|_| form.has_attention_output_dropout),
            output: self.dropout(Site::Output { layer }).filter(|_| form.has_output_dropout),
        }
    }

    pub(super) fn dropout(&self, site: Site) -> Option<Dropout> {
        let Self::Train(noise) = self else { return None };
        let (number, probability) = match site {
            Site::Embeddings => (0, noise.hidden),
            Site::Head => (1, noise.head),
            Site::HeadInput => (2, noise.head),
            Site::Attention { layer } => (3 + 3 * layer, noise.attention),
            Site::AttentionOutput { layer } => (4 + 3 * layer, noise.hidden),
            Site::Output { layer } => (5 + 3 * layer, noise.hidden),
        };
        Dropout::new(probability, Stream::new(noise.seed, Purpose::Dropout, noise.position, number as u32))
    }
}
