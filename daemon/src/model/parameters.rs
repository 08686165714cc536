//! The parameters of a classifier: what the model computes with.

use candle_core::{Device, Tensor, Var};

use super::declaration::{Declared, Place};
use crate::error::{Error, Result};
use crate::random::{Purpose, Stream};

/// A trainable parameter: a [`Declared`] that has a value.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Names in a checkpoint, as `transformers` has them.
    pub parts: Vec<String>,
    /// The value.
    pub value: Var,
    /// Whether weight decay applies: not to biases and layer-norm parameters.
    pub decays: bool,
}

/// All parameters of a classifier, in the order of the forward pass.
#[derive(Clone, Debug)]
pub struct Parameters {
    list: Vec<Parameter>,
}

impl Parameters {
    /// Gives each declared parameter its value: what `stored` has under the parts' names, else a new one.
    ///
    /// New weights are drawn from N(0, 0.02²), new biases are 0. Fails when a parameter of the encoder is missing.
    pub fn build(
        declared: Vec<Declared>,
        stored: &mut dyn FnMut(&str) -> Result<Option<Tensor>>,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let mut list = Vec::with_capacity(declared.len());
        for (site, declared) in declared.into_iter().enumerate() {
            let parts: Option<Vec<Tensor>> =
                declared.parts.iter().map(|name| stored(name)).collect::<Result<_>>()?;
            let value = match parts {
                Some(parts) => {
                    let shape = declared.part_shape();
                    for (name, part) in declared.parts.iter().zip(&parts) {
                        if part.dims() != shape {
                            return Err(Error::precondition(format!(
                                "{name} has the shape {:?}, but config.json asks for {shape:?}",
                                part.dims()
                            )));
                        }
                    }
                    Tensor::cat(&parts, 0)?
                }
                None if declared.place == Place::Head => fresh(&declared, seed, site as u32)?,
                None => {
                    return Err(Error::precondition(format!(
                        "the weights have no {}",
                        declared.parts.join(", ")
                    )));
                }
            };
            list.push(Parameter {
                decays: declared.decays,
                parts: declared.parts,
                value: Var::from_tensor(&value.to_device(device)?)?,
            });
        }
        Ok(Self { list })
    }

    /// In the order of the forward pass.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.list.iter()
    }

    /// How many numbers there are in all.
    pub fn count(&self) -> u64 {
        self.list.iter().map(|parameter| parameter.value.elem_count() as u64).sum()
    }
}

impl Parameter {
    /// A tensor of the parameter's shape (its value, its gradient, a moment) as a checkpoint has it: one by one
    /// under the parts' names.
    pub fn split(&self, tensor: &Tensor) -> candle_core::Result<Vec<(String, Tensor)>> {
        let rows = tensor.dim(0)? / self.parts.len();
        let part =
            |(index, name): (usize, &String)| Ok((name.clone(), tensor.narrow(0, index * rows, rows)?));
        self.parts.iter().enumerate().map(part).collect()
    }
}

fn fresh(declared: &Declared, seed: u64, site: u32) -> Result<Tensor> {
    let count: usize = declared.shape.iter().product();
    let stream = Stream::new(seed, Purpose::Initialisation, 0, site);
    let is_bias = declared.parts.iter().any(|name| name.ends_with("bias"));
    let value = |index| if is_bias { 0.0 } else { (0.02 * stream.normal(index)) as f32 };
    let values: Vec<f32> = (0..count as u64).map(value).collect();
    Ok(Tensor::from_vec(values, declared.shape.clone(), &Device::Cpu)?)
}
