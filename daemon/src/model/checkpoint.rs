//! The checkpoint folder: the whole interface between training and serving, in Hugging Face layout.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorView};

use super::config::{Config, Family, HeadConfig};
use super::declaration::{Place, declare};
use super::finite;
use super::parameters::Parameters;
use crate::digest;
use crate::error::{Error, Result};

/// The file of the weights.
pub const WEIGHTS: &str = "model.safetensors";

/// The longest header of a safetensors file that is read.
const MAX_HEADER: u64 = 100 << 20;

/// A folder in Hugging Face layout, its weights in memory.
pub struct Checkpoint {
    folder: PathBuf,
    config: Config,
    bytes: Vec<u8>,
}

impl Checkpoint {
    /// Reads a folder's configuration and weights.
    pub fn open(folder: &Path) -> Result<Self> {
        let config = Config::read(folder)?;
        let path = folder.join(WEIGHTS);
        let bytes = std::fs::read(&path).map_err(|error| weights_error(folder, &error))?;
        let checkpoint = Self { folder: folder.to_owned(), config, bytes };
        checkpoint.check_finite()?;
        Ok(checkpoint)
    }

    /// Of the encoder.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// SHA-256 of the weights' file, lower-case hexadecimal.
    pub fn weights_sha256(&self) -> String {
        digest::of_bytes(&self.bytes)
    }

    /// Refuses weights that are no numbers, among those that a classifier takes.
    fn check_finite(&self) -> Result<()> {
        let tensors = self.tensors()?;
        let declared = declare(&self.config.architecture, 2).into_iter().flat_map(|declared| declared.parts);
        let names = declared.flat_map(|name| spellings(&name));
        finite::check_file(&self.folder.join(WEIGHTS), &tensors, names)
    }

    fn tensors(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes)
            .map_err(|error| damaged(&self.folder.join(WEIGHTS), &error.to_string()))
    }

    /// A tensor by the name that `transformers` gives it in a classifier, in float32. The checkpoint may be that of
    /// a bare encoder (without a prefix such as `bert.`) or an old one (`gamma` and `beta` in layer norms).
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        let tensors = self.tensors()?;
        let found = spellings(name).into_iter().find_map(|name| tensors.tensor(&name).ok());
        found.map(|view| to_tensor(&view).map_err(|error| error.within(name))).transpose()
    }

    /// Tokens of a sequence at most: what training used, when the checkpoint says so.
    pub fn max_length(&self) -> Result<usize> {
        let positions = self.config.architecture.max_length();
        let path = self.folder.join("tokenizer.json");
        let Ok(text) = std::fs::read_to_string(&path) else { return Ok(positions) };
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| damaged(&path, &error.to_string()))?;
        let length = json.pointer("/truncation/max_length").and_then(serde_json::Value::as_u64);
        Ok(length.map_or(positions, |length| positions.min(length as usize)))
    }
}

/// Checks a folder without reading its weights: the configuration, that the weights' file is whole, and that it has
/// every tensor of the encoder in the right shape.
pub fn check(folder: &Path) -> Result<Config> {
    let config = Config::read(folder)?;
    let path = folder.join(WEIGHTS);
    let shapes = read_shapes(folder, &path)?;
    for declared in
        declare(&config.architecture, 2).into_iter().filter(|declared| declared.place != Place::Head)
    {
        let expected = declared.part_shape();
        for name in &declared.parts {
            match spellings(name).into_iter().find_map(|name| shapes.get(&name)) {
                Some(shape) if *shape == expected => {}
                Some(shape) => {
                    return Err(Error::precondition(format!(
                        "{}: {name} has the shape {shape:?}, but config.json asks for {expected:?}",
                        path.display()
                    )));
                }
                None => {
                    return Err(Error::precondition(format!(
                        "{}: the weights have no {name}",
                        path.display()
                    )));
                }
            }
        }
    }
    Ok(config)
}

/// Writes configuration and weights of a classifier into an existing folder, each synced to disk. Returns the
/// SHA-256 of the weights. Weights that are no numbers are refused, and nothing is written.
pub fn write(
    folder: &Path,
    config: &Config,
    head: &HeadConfig<'_>,
    parameters: &Parameters,
) -> Result<String> {
    if let Some(found) = finite::in_parameters(parameters) {
        return Err(Error::precondition(format!("the weight {found}, so the model is not kept")));
    }
    let json = format!("{:#}\n", config.classifier_json(head));
    write_file(&folder.join("config.json"), json.as_bytes())?;
    let mut tensors = Vec::new();
    for (index, parameter) in parameters.iter().enumerate() {
        tensors.extend(parameter.split(parameters.of(index))?);
    }
    let bytes = serialize(tensors)?;
    write_file(&folder.join(WEIGHTS), &bytes)?;
    Ok(digest::of_bytes(&bytes))
}

/// Tensors as the bytes of a safetensors file.
pub fn serialize(tensors: Vec<(String, Tensor)>) -> Result<Vec<u8>> {
    let tensors: HashMap<String, Tensor> = tensors
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.to_device(&Device::Cpu)?.contiguous()?)))
        .collect::<Result<_>>()?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(&tensors, Some(metadata))
        .map_err(|error| Error::internal(format!("cannot serialise the weights: {error}")))
}

/// Writes a file and waits until it is on the disk.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| Error::io("write", path, &error))
}

fn weights_error(folder: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::precondition(format!("the model folder {} has no {WEIGHTS}", folder.display()))
        }
        _ => Error::io("read", &folder.join(WEIGHTS), error),
    }
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::corrupt(format!("{} is truncated or damaged ({why}); fetch it again", path.display()))
}

fn spellings(name: &str) -> Vec<String> {
    let prefixes = [Family::Bert, Family::DistilBert, Family::Roberta].map(Family::prefix);
    let bare = prefixes.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    let mut spellings = vec![name.to_owned(), bare.to_owned()];
    if name.contains("LayerNorm") {
        for known in [name, bare] {
            spellings.push(
                known
                    .replace("LayerNorm.weight", "LayerNorm.gamma")
                    .replace("LayerNorm.bias", "LayerNorm.beta"),
            );
        }
    }
    spellings
}

fn to_tensor(view: &TensorView<'_>) -> Result<Tensor> {
    let dtype = DType::try_from(view.dtype())
        .map_err(|_| Error::precondition(format!("weights of type {:?} are not supported", view.dtype())))?;
    Ok(Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?.to_dtype(DType::F32)?)
}

/// Names and shapes from the header alone; the file's size must be what the header says.
fn read_shapes(folder: &Path, path: &Path) -> Result<HashMap<String, Vec<usize>>> {
    let mut file = File::open(path).map_err(|error| weights_error(folder, &error))?;
    let size = file.metadata().map_err(|error| Error::io("read", path, &error))?.len();
    let mut header = vec![0; 8];
    file.read_exact(&mut header).map_err(|_| damaged(path, "it is shorter than a header"))?;
    let length = header.iter().rev().fold(0u64, |sum, &byte| sum << 8 | u64::from(byte));
    if length > MAX_HEADER || length > size.saturating_sub(8) {
        return Err(damaged(path, "it is no safetensors file, or ends within its header"));
    }
    header.resize(length as usize, 0);
    file.read_exact(&mut header).map_err(|error| Error::io("read", path, &error))?;
    let metadata: Metadata =
        serde_json::from_slice(&header).map_err(|error| damaged(path, &error.to_string()))?;
    let expected = 8 + length + metadata.data_len() as u64;
    if size != expected {
        return Err(damaged(path, &format!("it has {size} bytes, its header promises {expected}")));
    }
    Ok(metadata.tensors().into_iter().map(|(name, info)| (name, info.shape.clone())).collect())
}
