//! The parameters of a classifier: what the model computes with.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::declaration::{Declaration, Declared, ParameterId, Place, Role, part_shape};
use crate::kernels::Buffer;
use hone_base::error::{Error, Result};
use hone_base::random::{Purpose, Stream};

/// Each parameter starts at a multiple of this: a cache line.
const ALIGNED: usize = 16;

/// A trainable parameter: a [`Declared`] and where its values are.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Under which it is found.
    pub id: ParameterId,
    /// Names in a checkpoint, as `transformers` has them.
    pub parts: Vec<String>,
    /// The shape of all parts together.
    pub shape: Vec<usize>,
    /// Where in the model it stands.
    pub place: Place,
    /// What it does there.
    pub role: Role,
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
    /// Gives each declared parameter its value: what `stored` has for it under its parts' names, else a new one.
    ///
    /// New weights are drawn from N(0, 0.02²), new biases are 0. Fails when a parameter of the encoder is missing.
    pub fn build(
        declaration: &Declaration,
        stored: &mut dyn FnMut(ParameterId, &str) -> Result<Option<Tensor>>,
        seed: u64,
    ) -> Result<Self> {
        let mut parameters = Self::zeros(declaration);
        let list = parameters.list.clone();
        for parameter in list.iter() {
            let parts: Option<Vec<Tensor>> =
                parameter.parts.iter().map(|name| stored(parameter.id, name)).collect::<Result<_>>()?;
            match parts {
                Some(parts) => parameters.put(parameter, &parts)?,
                None if parameter.place == Place::Head => parameters.draw(parameter.id, seed),
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

    fn zeros(declaration: &Declaration) -> Self {
        let mut start = 0;
        let place = |declared: &Declared| {
            let count: usize = declared.shape.iter().product();
            let range = start..start + count;
            start = range.end.next_multiple_of(ALIGNED);
            let Declared { id, parts, shape, place, role } = declared.clone();
            Parameter { id, parts, shape, place, role, range }
        };
        let list: Arc<[Parameter]> = declaration.parameters.iter().map(place).collect();
        let values = Buffer::zeros(list.last().map_or(0, |last| last.range.end));
        Self { list, values }
    }

    /// Draws a parameter anew: weights from N(0, 0.02²), biases 0, the weight of a layer norm 1.
    pub fn draw(&mut self, id: ParameterId, seed: u64) {
        let stream = Stream::new(seed, Purpose::Initialisation, 0, id.index() as u32);
        let Some(parameter) = self.list.get(id.index()) else { return };
        for (place, value) in (0..).zip(&mut self.values[parameter.range.clone()]) {
            *value = match parameter.role {
                Role::Bias => 0.0,
                Role::Scale => 1.0,
                Role::Weight => (0.02 * stream.normal(place)) as f32,
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

    /// Values of every parameter's shape (the parameters, their moments, their average), in the places of
    /// [`Parameters::values`], from the tensors that have `prefix` before their names in a checkpoint.
    ///
    /// # Errors
    ///
    /// When one is missing or has another shape; names it.
    pub fn gather(&self, prefix: &str, tensors: &HashMap<String, Tensor>) -> Result<Buffer> {
        let mut gathered = Buffer::zeros(self.values.len());
        for parameter in self.iter() {
            let mut start = parameter.range.start;
            for name in &parameter.parts {
                let name = format!("{prefix}{name}");
                let part = tensors.get(&name).filter(|part| part.dims() == parameter.part_shape());
                let part =
                    part.ok_or_else(|| Error::corrupt(format!("there is no {name} that fits the model")))?;
                let part = part.flatten_all()?.to_vec1::<f32>()?;
                gathered[start..start + part.len()].copy_from_slice(&part);
                start += part.len();
            }
        }
        Ok(gathered)
    }

    /// The same without the values of some, which nobody reads any more; their ranges are empty.
    #[must_use]
    pub fn without(self, dropped: &[ParameterId]) -> Self {
        let mut start = 0;
        let place = |parameter: &Parameter| {
            let count = if dropped.contains(&parameter.id) { 0 } else { parameter.range.len() };
            let range = start..start + count;
            start = range.end.next_multiple_of(ALIGNED);
            Parameter { range, ..parameter.clone() }
        };
        let list: Arc<[Parameter]> = self.list.iter().map(place).collect();
        let mut values = Buffer::zeros(start);
        for (to, from) in list.iter().zip(self.list.iter()).filter(|(to, _)| !to.range.is_empty()) {
            values[to.range.clone()].copy_from_slice(&self.values[from.range.clone()]);
        }
        Self { list, values }
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

    /// The values of a parameter.
    pub fn of(&self, id: ParameterId) -> &[f32] {
        self.list.get(id.index()).map_or(&[], |parameter| &self.values[parameter.range.clone()])
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
        part_shape(&self.shape, self.parts.len())
    }

    /// Whether weight decay applies: not to biases and layer-norm parameters.
    pub fn decays(&self) -> bool {
        self.role == Role::Weight
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
