//! The checkpoint folder: the whole interface between training and serving, in Hugging Face layout.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use super::config::{Config, HeadConfig};
use super::declaration::Declaration;
use super::finite;
use super::naming::Naming;
use super::parameters::Parameters;
use super::weights_file::{Contents, Weights};
use hone_base::digest;
use hone_base::error::{Error, Result};
use hone_base::file::Durable;
use hone_base::model_file;
pub use hone_base::model_file::index::WEIGHTS;

/// A folder in Hugging Face layout, its weights in memory.
pub struct Checkpoint {
    folder: PathBuf,
    config: Config,
    weights: Weights,
    naming: Naming,
}

impl Checkpoint {
    /// Reads a folder's configuration and weights.
    pub fn open(folder: &Path) -> Result<Self> {
        let config = Config::read(folder)?;
        let weights = Weights::read(folder)?;
        let naming = Naming::find(&config.architecture, &weights.contents)?;
        naming.check(&config.architecture, &weights.contents)?;
        let checkpoint = Self { folder: folder.to_owned(), config, weights, naming };
        checkpoint.check_finite()?;
        Ok(checkpoint)
    }

    /// Of the encoder.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// SHA-256 of the weights' file, lower-case hexadecimal; of several files, that of the lines that `sha256sum` prints
    /// for them in the order of their names.
    pub fn weights_sha256(&self) -> String {
        self.weights.sha256()
    }

    /// Refuses weights that are no numbers, among those that a classifier takes.
    fn check_finite(&self) -> Result<()> {
        let declaration = Declaration::new(&self.config.architecture, 2);
        for name in declaration.parameters.iter().flat_map(|declared| &declared.parts) {
            if let Some((name, stored)) = self.naming.get(name, &self.weights.contents) {
                self.weights.check_finite(&name, stored)?;
            }
        }
        Ok(())
    }

    /// A tensor by the name that `transformers` gives it in a classifier, in float32. The checkpoint may be that of
    /// a bare encoder (without a prefix such as `bert.`), of an encoder inside something else (`module.`), or an old one
    /// (`gamma` and `beta` in layer norms).
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>> {
        let found = self.naming.get(name, &self.weights.contents);
        found.map(|(_, stored)| self.weights.tensor(stored).map_err(|error| error.within(name))).transpose()
    }

    /// Whether it has the layer that gives the logits of so many labels.
    pub fn has_output_layer(&self, labels: usize) -> bool {
        let declaration = Declaration::new(&self.config.architecture, labels);
        let output = declaration.head.output;
        std::iter::once(output.weight).chain(output.bias).all(|id| {
            let declared = declaration.get(id);
            let found = declared.parts.first().and_then(|name| self.naming.get(name, &self.weights.contents));
            found.is_some_and(|(_, stored)| {
                stored.shape == declared.part_shape() && stored.check_type().is_ok()
            })
        })
    }

    /// Tokens of a sequence at most: what training used, when the checkpoint says so.
    pub fn max_length(&self) -> Result<usize> {
        let positions = self.config.architecture.max_length();
        let path = self.folder.join("tokenizer.json");
        let Some(text) = model_file::read_text(&path)? else { return Ok(positions) };
        let json: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| Error::corrupt(format!("{} is not JSON: {error}", path.display())))?;
        let length = json.pointer("/truncation/max_length").and_then(serde_json::Value::as_u64);
        Ok(length.map_or(positions, |length| positions.min(length as usize)))
    }
}

/// Checks a folder without reading its weights: the configuration, that the weights' files are whole, and that they
/// have every tensor of the encoder in the right shape.
pub fn check(folder: &Path) -> Result<Config> {
    let config = Config::read(folder)?;
    let contents = Contents::read(folder)?;
    Naming::find(&config.architecture, &contents)?.check(&config.architecture, &contents)?;
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
    for parameter in parameters.iter() {
        tensors.extend(parameter.split(parameters.of(parameter.id))?);
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
        let mut file = Durable::create(path)?;
        file.write_all(bytes)?;
        file.finish()
    };
    write().map_err(|error| Error::io("write", path, &error))
}
