//! Which files hold a folder's weights: one safetensors file, or several with an index that says which tensor is in which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value};

use super::{read_text, size};
use crate::error::{Error, Result};
use crate::nearest::few;

/// The file of the weights.
pub const WEIGHTS: &str = "model.safetensors";

/// Says which of several files each tensor stands in.
pub const INDEX: &str = "model.safetensors.index.json";

/// The file of each tensor, by its name.
pub type Index = BTreeMap<String, String>;

/// The refusal of a folder that has neither a file of weights nor an index.
pub fn no_weights(folder: &Path) -> Error {
    Error::precondition(format!("the model folder {} has no {WEIGHTS}", folder.display()))
}

/// The names of the files, sorted, and what the index says of each tensor. As in `transformers`, one file comes before
/// several.
pub fn files_of(folder: &Path) -> Result<(Vec<String>, Option<Index>)> {
    if size(&folder.join(WEIGHTS))?.is_some() {
        return Ok((vec![WEIGHTS.to_owned()], None));
    }
    let path = folder.join(INDEX);
    let text = read_text(&path)?.ok_or_else(|| no_weights(folder))?;
    let index = parse_index(&text).map_err(|error| error.within(path.display()))?;
    let names: BTreeSet<String> = index.values().cloned().collect();
    let missing: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| !folder.join(name).exists()).collect();
    if !missing.is_empty() {
        return Err(Error::precondition(format!(
            "{} names {} files of weights, of which {} are not there: {}; fetch them again",
            path.display(),
            names.len(),
            missing.len(),
            few(missing.iter())
        )));
    }
    Ok((names.into_iter().collect(), Some(index)))
}

/// Whether every file of the weights is there.
pub fn are_there(folder: &Path) -> bool {
    files_of(folder).is_ok()
}

/// Which file each tensor is in, by the text of an index. Names of files cannot leave the folder.
pub fn parse_index(text: &str) -> Result<BTreeMap<String, String>> {
    let unusable = |why: String| Error::corrupt(format!("the index of the weights cannot be used: {why}"));
    let json: Map<String, Value> = serde_json::from_str(text).map_err(|error| unusable(error.to_string()))?;
    let map = json.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty());
    let map =
        map.ok_or_else(|| unusable("it has no \"weight_map\" with a file for each tensor".to_owned()))?;
    map.iter()
        .map(|(tensor, file)| match file.as_str().filter(|file| is_shard(file)) {
            Some(file) => Ok((tensor.clone(), file.to_owned())),
            None => {
                Err(unusable(format!("{tensor} is in {file}, which is no safetensors file of this folder")))
            }
        })
        .collect()
}

fn is_shard(name: &str) -> bool {
    name.ends_with(".safetensors")
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}
