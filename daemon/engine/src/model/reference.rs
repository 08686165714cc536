//! The same network with candle's own differentiable operations: slow and plain. It is what other devices than the
//! CPU compute with, and what the tests compare the CPU's network with.

use candle_core::{D, DType, Device, Result, Tensor, Var};

use super::config::{Activation, Architecture};
use super::gradients::Gradients;
use super::noise::{Mode, Site};
use super::parameters::Parameters;
use crate::batch::Batch;
use crate::kernels::{Compute, Dropout, Isa, Precision};

/// The network, its parameters on a device.
#[derive(Debug)]
pub struct Reference {
    architecture: Architecture,
    device: Device,
    parameters: Vec<Var>,
    is_current: bool,
    logits: Option<Tensor>,
    words: Vec<u32>,
}

/// Hands out parameters in the order of the forward pass.
struct Supply<'a>(std::slice::Iter<'a, Var>);

impl Supply<'_> {
    fn next(&mut self) -> Result<Tensor> {
        let next = self.0.next().map(|var| var.as_tensor().clone());
        next.ok_or_else(|| candle_core::Error::msg("the model has too few parameters"))
    }

    fn linear(&mut self, x: &Tensor) -> Result<Tensor> {
        x.matmul(&self.next()?.t()?)?.broadcast_add(&self.next()?)
    }

    fn norm(&mut self, x: &Tensor, eps: f64) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
        centred.broadcast_div(&deviation)?.broadcast_mul(&self.next()?)?.broadcast_add(&self.next()?)
    }
}

impl Reference {
    /// A network on a device.
    pub fn new(architecture: &Architecture, device: &Device) -> Self {
        Self {
            architecture: architecture.clone(),
            device: device.clone(),
            parameters: Vec::new(),
            is_current: false,
            logits: None,
            words: Vec::new(),
        }
    }

    /// That of the encoder.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Says that the parameters have moved since the last pass.
    pub fn moved(&mut self) {
        self.is_current = false;
    }

    fn upload(&mut self, parameters: &Parameters) -> Result<()> {
        if self.is_current {
            return Ok(());
        }
        let upload = |(index, parameter): (usize, &super::parameters::Parameter)| {
            let values = parameters.of(index);
            Var::from_tensor(&Tensor::from_slice(values, parameter.shape.as_slice(), &self.device)?)
        };
        self.parameters = parameters.iter().enumerate().map(upload).collect::<Result<_>>()?;
        self.is_current = true;
        Ok(())
    }

    /// The logits of each sequence, `[B, labels]` row by row.
    pub fn logits(&mut self, parameters: &Parameters, batch: &Batch, mode: Mode) -> Result<Vec<f32>> {
        self.upload(parameters)?;
        let mut supply = Supply(self.parameters.iter());
        let x = self.encoder(batch, mode, &mut supply, true)?;
        let head = self.architecture.head();
        let x = if head.input_dropout { self.drop_out(&x, mode.dropout(Site::HeadInput))? } else { x };
        let x = supply.linear(&x)?;
        let x = match head.activation {
            Activation::Tanh => x.tanh()?,
            Activation::Relu => x.relu()?,
        };
        let logits = supply.linear(&self.drop_out(&x, mode.dropout(Site::Head))?)?;
        let values = logits.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        self.logits = Some(logits);
        self.words.clone_from(&batch.ids);
        Ok(values)
    }

    /// From the gradient of the last pass's logits to those of the parameters, added to `gradients`.
    pub fn backward(&mut self, grad_logits: &[f32], gradients: &mut Gradients) -> Result<()> {
        gradients.clear_stored();
        let Some(logits) = self.logits.take() else { return Ok(()) };
        let grad = Tensor::from_slice(grad_logits, logits.shape(), &self.device)?;
        let store = (logits * grad)?.sum_all()?.backward()?;
        for (index, parameter) in self.parameters.iter().enumerate() {
            let Some(grad) = store.get(parameter.as_tensor()).filter(|_| gradients.is_trainable(index))
            else {
                continue;
            };
            let grad = grad.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
            if index == 0 {
                gradients.add_words(&self.words, &grad);
            } else {
                gradients.add_to(index, &grad);
            }
        }
        Ok(())
    }

    fn encoder(&self, batch: &Batch, mode: Mode, supply: &mut Supply<'_>, first: bool) -> Result<Tensor> {
        let architecture = &self.architecture;
        let eps = architecture.layer_norm_eps;
        let rows =
            |indices: Vec<u32>, table: Tensor| table.index_select(&Tensor::new(indices, &self.device)?, 0);
        let offset = architecture.position_offset() as u32;
        let positions = batch.lengths().flat_map(|length| offset..offset + length as u32).collect();
        let mut x = (rows(batch.ids.clone(), supply.next()?)? + rows(positions, supply.next()?)?)?;
        if architecture.type_vocab_size > 0 {
            let types =
                if architecture.has_token_types() { batch.types.clone() } else { vec![0; batch.tokens()] };
            x = (x + rows(types, supply.next()?)?)?;
        }
        let mut x = self.drop_out(&supply.norm(&x, eps)?, mode.dropout(Site::Embeddings))?;
        for layer in 0..architecture.num_hidden_layers {
            let is_partial = first && layer + 1 == architecture.num_hidden_layers;
            let qkv = supply.linear(&x)?;
            let dropout = mode.layer(architecture, layer);
            let context = self.attention(&qkv, batch, dropout.attention, is_partial)?;
            if is_partial {
                let starts = batch.offsets.get(..batch.len()).unwrap_or_default();
                x = x.index_select(&Tensor::new(starts, &self.device)?, 0)?;
            }
            let context = self.drop_out(&supply.linear(&context)?, dropout.attention_output)?;
            let middle = supply.norm(&(x + context)?, eps)?;
            let inner = supply.linear(&middle)?.gelu_erf()?;
            let inner = self.drop_out(&supply.linear(&inner)?, dropout.output)?;
            x = supply.norm(&(middle + inner)?, eps)?;
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
        let (heads, size) = (self.architecture.num_attention_heads, self.architecture.head_size());
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
