//! The encoder of the BERT family over packed sequences.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::config::Architecture;
use super::parameters::{Parameter, Parameters};
use crate::data::batch::Batch;
use crate::kernels::attention::attention;
use crate::kernels::dropout::dropout;
use crate::kernels::embedding::{Indices, embedding};
use crate::kernels::gelu::bias_gelu;
use crate::kernels::layer_norm::LayerNorm;
use crate::kernels::linear::{linear, project};
use crate::kernels::{Dropout, Offsets};
use crate::random::{Purpose, Stream};

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
    Attention { layer: usize },
    AttentionOutput { layer: usize },
    Output { layer: usize },
    HeadInput,
    Head,
}

impl Mode {
    pub(super) fn dropout(&self, site: Site) -> Option<Dropout> {
        let Self::Train(noise) = self else { return None };
        let (number, probability) = match site {
            Site::Embeddings => (0, noise.hidden),
            Site::Head => (1, noise.head),
            // The last that a stream can have: behind those of the layers, whatever their number.
            Site::HeadInput => ((1 << 24) - 1, noise.head),
            Site::Attention { layer } => (2 + 3 * layer, noise.attention),
            Site::AttentionOutput { layer } => (3 + 3 * layer, noise.hidden),
            Site::Output { layer } => (4 + 3 * layer, noise.hidden),
        };
        Dropout::new(probability, Stream::new(noise.seed, Purpose::Dropout, noise.position, number as u32))
    }
}

/// The encoder.
#[derive(Clone, Debug)]
pub struct Bert {
    words: Tensor,
    positions: Tensor,
    types: Tensor,
    has_types: bool,
    position_offset: u32,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
struct Layer {
    heads: usize,
    qkv: Linear,
    attention_output: Linear,
    has_attention_output_dropout: bool,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    norm: LayerNorm,
}

/// A linear layer's parameters.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        linear(x, &self.weight, &self.bias)
    }
}

/// Hands out parameters in the order of their declaration.
pub(super) struct Supply<'a> {
    parameters: std::slice::Iter<'a, Parameter>,
    as_constants: bool,
}

impl<'a> Supply<'a> {
    /// With `as_constants`, operations on the parameters are not recorded for a backward pass.
    pub(super) fn new(parameters: &'a Parameters, as_constants: bool) -> Self {
        Self { parameters: parameters.iter(), as_constants }
    }

    fn next(&mut self) -> Result<Tensor> {
        let Some(parameter) = self.parameters.next() else { bail!("the model has too few parameters") };
        let value = parameter.value.as_tensor();
        Ok(if self.as_constants { value.detach() } else { value.clone() })
    }

    pub(super) fn linear(&mut self) -> Result<Linear> {
        Ok(Linear { weight: self.next()?, bias: self.next()? })
    }

    fn norm(&mut self, eps: f64) -> Result<LayerNorm> {
        Ok(LayerNorm { weight: self.next()?, bias: self.next()?, eps })
    }
}

impl Bert {
    pub(super) fn new(architecture: &Architecture, supply: &mut Supply<'_>) -> Result<Self> {
        let eps = architecture.layer_norm_eps;
        let (words, positions) = (supply.next()?, supply.next()?);
        // A family without token types adds a row of zeros, which is no parameter.
        let types = match architecture.type_vocab_size {
            0 => Tensor::zeros((1, architecture.hidden_size), words.dtype(), words.device())?,
            _ => supply.next()?,
        };
        let norm = supply.norm(eps)?;
        let layers = (0..architecture.num_hidden_layers)
            .map(|_| {
                Ok(Layer {
                    heads: architecture.num_attention_heads,
                    qkv: supply.linear()?,
                    attention_output: supply.linear()?,
                    has_attention_output_dropout: architecture.has_attention_output_dropout(),
                    attention_norm: supply.norm(eps)?,
                    intermediate: supply.linear()?,
                    output: supply.linear()?,
                    norm: supply.norm(eps)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            words,
            positions,
            types,
            has_types: architecture.has_token_types(),
            position_offset: architecture.position_offset() as u32,
            norm,
            layers,
        })
    }

    /// The last hidden states of all tokens: `[T, H]`.
    pub fn forward(&self, batch: &Batch, mode: Mode) -> Result<Tensor> {
        let offsets: Offsets = batch.offsets.as_slice().into();
        let indices = Indices {
            words: batch.ids.as_slice().into(),
            positions: positions(batch, self.position_offset),
            types: if self.has_types {
                batch.types.as_slice().into()
            } else {
                vec![0; batch.tokens()].into()
            },
        };
        let x = embedding(&indices, &self.words, &self.positions, &self.types)?;
        let x = self.norm.forward(&x)?;
        let mut x = dropout(&x, mode.dropout(Site::Embeddings))?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, &offsets, index, mode)?;
        }
        Ok(x)
    }
}

impl Layer {
    fn forward(&self, x: &Tensor, offsets: &Offsets, layer: usize, mode: Mode) -> Result<Tensor> {
        let qkv = self.qkv.forward(x)?;
        let context = attention(&qkv, offsets, self.heads, mode.dropout(Site::Attention { layer }))?;
        let context = self.attention_output.forward(&context)?;
        let site = self.has_attention_output_dropout.then_some(Site::AttentionOutput { layer });
        let x =
            self.attention_norm.forward_residual(&context, x, site.and_then(|site| mode.dropout(site)))?;
        let inner = bias_gelu(&project(&x, &self.intermediate.weight)?, &self.intermediate.bias)?;
        self.norm.forward_residual(&self.output.forward(&inner)?, &x, mode.dropout(Site::Output { layer }))
    }
}

/// A token's row of the position table, which for the first of a sequence is `offset`.
fn positions(batch: &Batch, offset: u32) -> Arc<[u32]> {
    batch.lengths().flat_map(|length| offset..offset + length as u32).collect()
}
