//! Encoder and head as candle's operations.

use std::sync::Arc;

use candle_core::{D, Device, Result, Tensor, Var};

use super::super::architecture::{Activation, Architecture, FeedForward};
use super::super::declaration::{Declaration, Linear, Norm, ParameterId};
use super::super::noise::{Mode, Site};
use super::super::parameters::{Parameter, Parameters};
use super::super::rows::Rows;
use crate::batch::Batch;
use crate::kernels::{Compute, Dropout, Isa, Precision};

/// The network, its parameters on a device.
#[derive(Debug)]
pub(super) struct Network {
    declaration: Arc<Declaration>,
    list: Arc<[Parameter]>,
    device: Device,
    parameters: Vec<Var>,
    /// Which rows the last batch took.
    rows: Rows,
}

/// What a pass reads parameters through.
#[derive(Clone, Copy)]
struct Supply<'a> {
    parameters: &'a [Var],
    /// Whether there is a backward pass.
    is_tracked: bool,
}

impl Supply<'_> {
    fn get(&self, id: ParameterId) -> Result<Tensor> {
        let found = self.parameters.get(id.index());
        let var = found.ok_or_else(|| candle_core::Error::msg("the model has too few parameters"))?;
        Ok(if self.is_tracked { var.as_tensor().clone() } else { var.as_detached_tensor() })
    }

    fn add(&self, x: Tensor, bias: Option<ParameterId>) -> Result<Tensor> {
        bias.map_or(Ok(x.clone()), |bias| x.broadcast_add(&self.get(bias)?))
    }

    fn linear(&self, of: Linear, x: &Tensor) -> Result<Tensor> {
        self.add(x.matmul(&self.get(of.weight)?.t()?)?, of.bias)
    }

    fn norm(&self, of: Norm, x: &Tensor, eps: f64) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
        self.add(centred.broadcast_div(&deviation)?.broadcast_mul(&self.get(of.weight)?)?, of.bias)
    }
}

impl Network {
    /// A network on a device, with these values.
    pub(super) fn new(
        declaration: &Arc<Declaration>,
        parameters: &Parameters,
        device: &Device,
    ) -> Result<Self> {
        let upload = |parameter: &Parameter| {
            let values = parameters.of(parameter.id);
            Var::from_tensor(&Tensor::from_slice(values, parameter.shape.as_slice(), device)?)
        };
        Ok(Self {
            declaration: declaration.clone(),
            list: parameters.list().clone(),
            device: device.clone(),
            parameters: parameters.iter().map(upload).collect::<Result<_>>()?,
            rows: Rows::default(),
        })
    }

    /// That of the encoder.
    pub(super) fn architecture(&self) -> &Architecture {
        &self.declaration.architecture
    }

    /// On the device, in their order.
    pub(super) fn parameters(&self) -> &[Var] {
        &self.parameters
    }

    /// Reads the parameters.
    pub(super) fn read(&self, to: &mut Parameters) -> hone_base::error::Result<()> {
        for (parameter, var) in self.list.iter().zip(&self.parameters) {
            let values = super::values_of(var.as_tensor())?;
            to.values_mut()[parameter.range.clone()].copy_from_slice(&values);
        }
        Ok(())
    }

    /// Takes the host's parameters.
    pub(super) fn write(&self, from: &Parameters) -> hone_base::error::Result<()> {
        for (parameter, var) in self.list.iter().zip(&self.parameters) {
            var.set(&Tensor::from_slice(from.of(parameter.id), parameter.shape.as_slice(), &self.device)?)?;
        }
        Ok(())
    }

    /// The logits of each sequence, `[B, labels]`; with `is_tracked`, with a backward pass.
    pub(super) fn logits(&mut self, batch: &Batch, mode: Mode, is_tracked: bool) -> Result<Tensor> {
        self.rows.take(&self.declaration.architecture, batch);
        let supply = Supply { parameters: &self.parameters, is_tracked };
        let x = self.embeddings(mode, supply)?;
        let x = self.layers(x, batch, mode, supply)?;
        let head = &self.declaration.head;
        let site = mode.dropout(Site::HeadInput).filter(|_| head.form.has_input_dropout);
        let x = supply.linear(head.dense, &self.drop_out(&x, site)?)?;
        let x = activate(head.form.activation, &x)?;
        supply.linear(head.output, &self.drop_out(&x, mode.dropout(Site::Head))?)
    }

    /// From the gradient of the logits to those of the parameters that learn.
    pub(super) fn backward(
        &self,
        logits: &Tensor,
        grad_logits: &[f32],
        learns: impl Fn(&Parameter) -> bool,
    ) -> Result<Vec<Option<Tensor>>> {
        let grad = Tensor::from_slice(grad_logits, logits.shape(), &self.device)?;
        let store = (logits * grad)?.sum_all()?.backward()?;
        let of = |(parameter, var): (&Parameter, &Var)| {
            let grad = store.get(var.as_tensor()).filter(|_| learns(parameter));
            grad.map(Tensor::detach)
        };
        Ok(self.list.iter().zip(&self.parameters).map(of).collect())
    }

    fn embeddings(&self, mode: Mode, supply: Supply<'_>) -> Result<Tensor> {
        let of = &self.declaration.embeddings;
        let eps = self.architecture().layer_norm_eps;
        let rows = |rows: &[u32], table: ParameterId| {
            supply.get(table)?.index_select(&Tensor::new(rows, &self.device)?, 0)
        };
        let mut x = rows(&self.rows.words, of.tokens)?;
        if let Some(table) = of.positions {
            x = (x + rows(&self.rows.positions, table)?)?;
        }
        if let Some(table) = of.token_types {
            x = (x + rows(&self.rows.types, table)?)?;
        }
        let x = self.drop_out(&supply.norm(of.norm, &x, eps)?, mode.dropout(Site::Embeddings))?;
        of.projection.map_or(Ok(x.clone()), |projection| supply.linear(projection, &x))
    }

    /// The last hidden states of the first token of each sequence, `[B, H]`.
    fn layers(&self, mut x: Tensor, batch: &Batch, mode: Mode, supply: Supply<'_>) -> Result<Tensor> {
        let eps = self.architecture().layer_norm_eps;
        let count = self.declaration.layers.len();
        for (index, layer) in self.declaration.layers.iter().enumerate() {
            let is_last = index + 1 == count;
            let qkv = supply.linear(layer.qkv, &x)?;
            let dropout = mode.layer(&layer.form, index);
            let context = self.attention(&qkv, batch, dropout.attention, is_last)?;
            if is_last {
                let starts = batch.offsets.get(..batch.len()).unwrap_or_default();
                x = x.index_select(&Tensor::new(starts, &self.device)?, 0)?;
            }
            let context = supply.linear(layer.attention_output, &context)?;
            let context = self.drop_out(&context, dropout.attention_output)?;
            let middle = supply.norm(layer.attention_norm, &(x + context)?, eps)?;
            let (FeedForward::Plain(activation) | FeedForward::Gated(activation)) = layer.form.feed_forward;
            let inner = activate(activation, &supply.linear(layer.intermediate, &middle)?)?;
            let inner = self.drop_out(&supply.linear(layer.output, &inner)?, dropout.output)?;
            x = supply.norm(layer.output_norm, &(middle + inner)?, eps)?;
        }
        Ok(x)
    }

    /// One sequence after the other.
    fn attention(
        &self,
        qkv: &Tensor,
        batch: &Batch,
        dropout: Option<Dropout>,
        first: bool,
    ) -> Result<Tensor> {
        let (heads, size) = (self.architecture().num_attention_heads, self.architecture().head_size());
        let width = heads * size;
        let mut probability = 0;
        let mut outputs = Vec::with_capacity(batch.len());
        for pair in batch.offsets.windows(2) {
            let (start, length) = (pair[0] as usize, (pair[1] - pair[0]) as usize);
            let queries = if first { 1 } else { length };
            let part = |which: usize, rows: usize| {
                qkv.narrow(0, start, rows)?
                    .narrow(1, which * width, width)?
                    .reshape((rows, heads, size))?
                    .transpose(0, 1)?
                    .contiguous()
            };
            let scores = (part(0, queries)?.matmul(&part(1, length)?.t()?)? / (size as f64).sqrt())?;
            let mut p = candle_nn::ops::softmax(&scores, D::Minus1)?;
            if let Some(dropout) = dropout {
                let mut mask = vec![0f32; heads * queries * length];
                for mask in mask.chunks_mut(queries * length) {
                    dropout.factors(Isa::PORTABLE, probability, mask);
                    probability += Dropout::of_head(length);
                }
                p = (&p * Tensor::from_vec(mask, p.shape(), p.device())?)?;
            }
            outputs.push(p.matmul(&part(2, length)?)?.transpose(0, 1)?.reshape((queries, width))?);
        }
        Tensor::cat(&outputs, 0)
    }

    fn drop_out(&self, x: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
        let Some(dropout) = dropout else { return Ok(x.clone()) };
        let mut factors = vec![1f32; x.elem_count()];
        dropout.apply(Compute::new(Isa::PORTABLE, Precision::Fp32), &mut factors);
        x * Tensor::from_vec(factors, x.shape(), x.device())?
    }
}

fn activate(activation: Activation, x: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
        Activation::Relu => x.relu(),
        Activation::Silu => x.silu(),
        Activation::Tanh => x.tanh(),
    }
}
