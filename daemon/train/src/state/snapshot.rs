//! The numbers of a run at a position, copied.

use std::io::{self, Write};
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Map, Value, json};

use super::position::Position;
use hone_base::error::{Error, Result};
use hone_engine::kernels::Buffer;
use hone_engine::model::parameters::Parameter;

/// Values that one task copies, and that are turned into bytes at once.
const PIECE: usize = 1 << 14;

/// The numbers of a run, up to date: float32 values that lie as `list` says.
pub(crate) struct Numbers<'a> {
    /// What each range of the values is.
    pub(crate) list: &'a Arc<[Parameter]>,
    /// Each with what the names of its tensors start with in a file.
    pub(crate) sections: Vec<(&'static str, &'a [f32])>,
}

/// A position with a copy of the numbers that belong to it. Its memory is used again.
#[derive(Default)]
pub(crate) struct Snapshot {
    position: Option<Position>,
    list: Option<Arc<[Parameter]>>,
    sections: Vec<(&'static str, Buffer)>,
}

impl Snapshot {
    /// Copies, on the current rayon pool.
    pub(super) fn take(&mut self, position: &Position, numbers: &Numbers<'_>) {
        self.position = Some(position.clone());
        self.copy(numbers);
    }

    fn copy(&mut self, numbers: &Numbers<'_>) {
        self.list = Some(numbers.list.clone());
        self.sections.resize_with(numbers.sections.len(), Default::default);
        for ((name, copy), (given, values)) in self.sections.iter_mut().zip(&numbers.sections) {
            *name = given;
            let copy = copy.reserve(values.len()).par_chunks_mut(PIECE);
            copy.zip(values.par_chunks(PIECE)).for_each(|(copy, values)| copy.copy_from_slice(values));
        }
    }

    /// The position that was taken.
    pub(super) fn position(&self) -> Result<&Position> {
        self.position.as_ref().ok_or_else(|| Error::internal("a snapshot was written before it was taken"))
    }

    /// Writes the numbers as a safetensors file: the length of the header in eight bytes, the header in JSON with the type,
    /// the shape and the place of each tensor, and the values, all little-endian.
    pub(super) fn write_tensors(&self, to: &mut dyn Write) -> io::Result<()> {
        let list = self.list.as_deref().unwrap_or_default();
        let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ "format": "pt" }))]);
        let mut start = 0;
        for (section, _) in &self.sections {
            for parameter in list {
                let (shape, size) =
                    (parameter.part_shape(), 4 * parameter.range.len() / parameter.parts.len());
                for name in &parameter.parts {
                    let place = [start, start + size];
                    let tensor = json!({ "dtype": "F32", "shape": shape, "data_offsets": place });
                    header.insert(format!("{section}{name}"), tensor);
                    start += size;
                }
            }
        }
        let mut header = Value::Object(header).to_string();
        // The values start at a multiple of eight bytes.
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        to.write_all(&(header.len() as u64).to_le_bytes())?;
        to.write_all(header.as_bytes())?;
        let mut bytes = Vec::with_capacity(4 * PIECE);
        for (_, values) in &self.sections {
            for values in list.iter().flat_map(|parameter| values[parameter.range.clone()].chunks(PIECE)) {
                bytes.clear();
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                to.write_all(&bytes)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use candle_core::{DType, Device, Tensor};

    use super::*;
    use hone_engine::model::config::Config;
    use hone_engine::model::declaration::{Declaration, ParameterId};
    use hone_engine::model::parameters::Parameters;

    /// Those of a very small classifier with three labels, of which no two have the same values.
    pub(in super::super) fn parameters() -> Parameters {
        let config = r#"{"model_type":"bert","vocab_size":1,"hidden_size":2,"num_hidden_layers":1,
            "num_attention_heads":1,"intermediate_size":1,"max_position_embeddings":1,"type_vocab_size":1}"#;
        let declaration = Declaration::new(&Config::parse(config).unwrap().architecture, 3);
        let mut first = 0;
        let mut stored = |id: ParameterId, _: &str| {
            first += 100;
            let shape = declaration.get(id).part_shape();
            let values: Vec<f32> = (first..).take(shape.iter().product()).map(|value| value as f32).collect();
            Ok(Some(Tensor::from_vec(values, shape, &Device::Cpu)?))
        };
        Parameters::build(&declaration, &mut stored, 7).unwrap()
    }

    #[test]
    fn what_is_written_is_a_safetensors_file_with_each_tensor_under_its_name() {
        let parameters = parameters();
        let twice: Vec<f32> = parameters.values().iter().map(|value| 2.0 * value).collect();
        let sections = vec![("", &**parameters.values()), ("m.", &twice)];
        let mut snapshot = Snapshot::default();
        for _ in 0..2 {
            // A second time, into the same memory.
            snapshot.sections.iter_mut().for_each(|(_, values)| values.fill(9.0));
            let numbers = Numbers { list: parameters.list(), sections: sections.clone() };
            snapshot.copy(&numbers);
        }
        let mut file = Vec::new();
        snapshot.write_tensors(&mut file).unwrap();
        let tensors = candle_core::safetensors::load_buffer(&file, &Device::Cpu).unwrap();
        let mut names: Vec<&str> = tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        let parts = parameters.iter().flat_map(|parameter| parameter.parts.iter().cloned());
        let mut expected: Vec<String> = parts.flat_map(|name| [format!("m.{name}"), name]).collect();
        expected.sort_unstable();
        assert_eq!(names, expected);
        for parameter in parameters.iter() {
            for (name, expected) in parameter.split(parameters.of(parameter.id)).unwrap() {
                assert_eq!((tensors[&name].dims(), tensors[&name].dtype()), (expected.dims(), DType::F32));
                let values =
                    |tensor: &candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(values(&tensors[&name]), values(&expected));
                let doubled: Vec<f32> = values(&expected).iter().map(|value| 2.0 * value).collect();
                assert_eq!(values(&tensors[&format!("m.{name}")]), doubled);
            }
        }
    }
}
