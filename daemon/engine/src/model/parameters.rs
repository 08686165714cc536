//! The parameters of a classifier: what the model computes with.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::declaration::{Declared, Place};
use crate::kernels::Buffer;
use hone_base::error::{Error, Result};
use hone_base::random::{Purpose, Stream};

/// Each parameter starts at a multiple of this: a cache line.
const ALIGNED: usize = 16;

/// A trainable parameter: a [`Declared`] and where its values are.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Names in a checkpoint, as `transformers` has them.
    pub parts: Vec<String>,
    /// The shape of all parts together.
    pub shape: Vec<usize>,
    /// Where in the model it stands.
    pub place: Place,
    /// Whether weight decay applies: not to biases and layer-norm parameters.
    pub decays: bool,
    /// Where its values lie among those of all parameters.
    pub range: Range<usize>,
}

/// All parameters of a classifier in the order of the forward pass, float32, in one piece of memory.
#[derive(Clone, Debug)]
pub struct Parameters {
    list: Arc<[Parameter]>,
    values: Buffer,
}

impl Parameters {
    /// Gives each declared parameter its value: what `stored` has under the parts' names, else a new one.
    ///
    /// New weights are drawn from N(0, 0.02²), new biases are 0. Fails when a parameter of the encoder is missing.
    pub fn build(
        declared: Vec<Declared>,
        stored: &mut dyn FnMut(&str) -> Result<Option<Tensor>>,
        seed: u64,
    ) -> Result<Self> {
        let mut parameters = Self::zeros(declared);
        let list = parameters.list.clone();
        for (site, parameter) in list.iter().enumerate() {
            let parts: Option<Vec<Tensor>> =
                parameter.parts.iter().map(|name| stored(name)).collect::<Result<_>>()?;
            match parts {
                Some(parts) => parameters.put(parameter, &parts)?,
                None if parameter.place == Place::Head => parameters.draw(site, seed),
                None => {
                    return Err(Error::precondition(format!(
                        "the weights have no {}",
                        parameter.parts.join(", ")
                    )));
                }
            }
        }
        Ok(parameters)
    }

    fn zeros(declared: Vec<Declared>) -> Self {
        let mut start = 0;
        let place = |declared: Declared| {
            let count: usize = declared.shape.iter().product();
            let range = start..start + count;
            start = range.end.next_multiple_of(ALIGNED);
            let Declared { parts, shape, place, decays } = declared;
            Parameter { parts, shape, place, decays, range }
        };
        let list: Arc<[Parameter]> = declared.into_iter().map(place).collect();
        let values = Buffer::zeros(list.last().map_or(0, |last| last.range.end));
        Self { list, values }
    }

    /// Draws a parameter anew: weights from N(0, 0.02²), biases 0, the weight of a layer norm 1.
    pub fn draw(&mut self, index: usize, seed: u64) {
        let stream = Stream::new(seed, Purpose::Initialisation, 0, index as u32);
        let Some(parameter) = self.list.get(index) else { return };
        let is_bias = parameter.parts.iter().any(|name| name.ends_with("bias"));
        let is_norm = parameter.shape.len() == 1 && !is_bias;
        for (place, value) in (0..).zip(&mut self.values[parameter.range.clone()]) {
            *value = match (is_bias, is_norm) {
                (true, _) => 0.0,
                (_, true) => 1.0,
                _ => (0.02 * stream.normal(place)) as f32,
            };
        }
    }

    /// Replaces a parameter by the tensors of its parts.
    pub fn put(&mut self, parameter: &Parameter, parts: &[Tensor]) -> Result<()> {
        let shape = parameter.part_shape();
        let mut start = parameter.range.start;
        for (name, part) in parameter.parts.iter().zip(parts) {
            if part.dims() != shape {
                return Err(Error::precondition(format!(
                    "{name} has the shape {}, but config.json asks for {}",
                    in_words(part.dims()),
                    in_words(&shape)
                )));
            }
            let values =
                part.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
            self.values[start..start + values.len()].copy_from_slice(&values);
            start += values.len();
        }
        Ok(())
    }

    /// Replaces all parameters by the tensors under their parts' names.
    ///
    /// # Errors
    /// Fails when one is missing or has another shape.
    pub fn put_all(&mut self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        let list = self.list.clone();
        for parameter in list.iter() {
            let part = |name: &String| {
                let found = tensors.get(name).cloned();
                found.ok_or_else(|| Error::corrupt(format!("the saved position has no {name}")))
            };
            let parts: Vec<Tensor> = parameter.parts.iter().map(part).collect::<Result<_>>()?;
            self.put(parameter, &parts)?;
        }
        Ok(())
    }

    /// In the order of the forward pass.
    pub fn iter(&self) -> std::slice::Iter<'_, Parameter> {
        self.list.iter()
    }

    /// The parameters without their values; cheap to clone.
    pub fn list(&self) -> &Arc<[Parameter]> {
        &self.list
    }

    /// How many numbers there are in all.
    pub fn count(&self) -> u64 {
        self.list.iter().map(|parameter| parameter.range.len() as u64).sum()
    }

    /// The values of the parameter at a place of the list.
    pub fn of(&self, index: usize) -> &[f32] {
        self.list.get(index).map_or(&[], |parameter| &self.values[parameter.range.clone()])
    }

    /// All values; what lies between two parameters is 0.
    pub fn values(&self) -> &Buffer {
        &self.values
    }

    /// All values, to be moved.
    pub fn values_mut(&mut self) -> &mut Buffer {
        &mut self.values
    }
}

impl Parameter {
    /// The shape of each part.
    pub fn part_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first /= self.parts.len();
        }
        shape
    }

    /// Values of the parameter's shape (itself, its gradient, a moment) as a checkpoint has them: one tensor under
    /// each part's name.
    pub fn split(&self, values: &[f32]) -> candle_core::Result<Vec<(String, Tensor)>> {
        let (shape, size) = (self.part_shape(), self.range.len() / self.parts.len());
        let part = |(name, values): (&String, &[f32])| {
            Ok((name.clone(), Tensor::from_slice(values, shape.as_slice(), &Device::Cpu)?))
        };
        self.parts.iter().zip(values.chunks(size.max(1))).map(part).collect()
    }
}
/// A shape for a message: `[30522, 384]`.
pub(super) fn in_words(shape: &[usize]) -> String {
    format!("[{}]", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
}
