//! The parameters of a classifier: what the model computes with, and the names that `transformers` gives them.

use candle_core::{Device, Tensor, Var};

use super::config::Architecture;
use crate::error::{Error, Result};
use crate::random::{Purpose, Stream};

/// A trainable parameter.
///
/// Query, key and value of a layer are one parameter here, so that they are one matrix product, and three in a
/// checkpoint: `parts` are their names there, along the first dimension.
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

/// The name and the shape of a parameter before it has a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Names in a checkpoint.
    pub parts: Vec<String>,
    /// The shape of all parts together.
    pub shape: Vec<usize>,
    /// Whether it belongs to the head (pooler and classifier), which an encoder may lack.
    pub head: bool,
}

/// Every parameter of a classifier with this many labels, in the order of the forward pass.
pub fn declare(architecture: &Architecture, labels: usize) -> Vec<Declared> {
    let (hidden, inner) = (architecture.hidden_size, architecture.intermediate_size);
    let mut list = Vec::new();
    let mut add = |parts: Vec<String>, shape: &[usize], head: bool| {
        list.push(Declared { parts, shape: shape.to_vec(), head });
    };
    let mut layer = |names: &[String], outputs: usize, inputs: Option<usize>, head: bool| {
        let of = |suffix: &str| names.iter().map(|name| format!("{name}.{suffix}")).collect();
        match inputs {
            Some(inputs) => add(of("weight"), &[outputs, inputs], head),
            None => add(of("weight"), &[outputs], head),
        }
        add(of("bias"), &[outputs], head);
    };
    let embeddings = "bert.embeddings";
    let mut tables = Vec::new();
    for (name, rows) in [
        ("word_embeddings", architecture.vocab_size),
        ("position_embeddings", architecture.max_position_embeddings),
        ("token_type_embeddings", architecture.type_vocab_size),
    ] {
        let parts = vec![format!("{embeddings}.{name}.weight")];
        tables.push(Declared { parts, shape: vec![rows, hidden], head: false });
    }
    layer(&[format!("{embeddings}.LayerNorm")], hidden, None, false);
    for index in 0..architecture.num_hidden_layers {
        let at = |name: &str| format!("bert.encoder.layer.{index}.{name}");
        let attention = ["query", "key", "value"].map(|name| at(&format!("attention.self.{name}")));
        layer(&attention, 3 * hidden, Some(hidden), false);
        layer(&[at("attention.output.dense")], hidden, Some(hidden), false);
        layer(&[at("attention.output.LayerNorm")], hidden, None, false);
        layer(&[at("intermediate.dense")], inner, Some(hidden), false);
        layer(&[at("output.dense")], hidden, Some(inner), false);
        layer(&[at("output.LayerNorm")], hidden, None, false);
    }
    layer(&["bert.pooler.dense".into()], hidden, Some(hidden), true);
    layer(&["classifier".into()], labels, Some(hidden), true);
    tables.extend(list);
    tables
}

impl Declared {
    /// The shape of each part.
    pub fn part_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first /= self.parts.len();
        }
        shape
    }
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
                None if declared.head => fresh(&declared, seed, site as u32)?,
                None => {
                    return Err(Error::precondition(format!(
                        "the weights have no {}",
                        declared.parts.join(", ")
                    )));
                }
            };
            list.push(Parameter {
                decays: declared
                    .parts
                    .iter()
                    .all(|name| !name.ends_with("bias") && !name.contains("LayerNorm")),
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
