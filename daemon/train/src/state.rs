//! The position of a run on disk: what continuing it bit for bit needs.
//!
//! `state/` in the job's workspace holds `position.json` (counters and metrics so far) and `training.safetensors`
//! (parameters and both moments in float32). It becomes visible by a rename after everything in it is synced.
//! Random numbers need no state: they are functions of the position.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::event::EpochMetrics;
use super::metrics::Tally;
use super::spec::Spec;
use hone_base::error::{Error, Result};
use hone_engine::model::average::Average;
use hone_engine::model::checkpoint::{serialize, write_file};
use hone_engine::model::classifier::Trainable;
use hone_engine::model::optimizer::Optimizer;
use hone_engine::model::parameters::Parameters;

/// The version of the format.
const FORMAT: u32 = 1;
const POSITION: &str = "position.json";
const TENSORS: &str = "training.safetensors";

/// Where a run stands, between two optimizer steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Position {
    format: u32,
    /// What is run.
    pub(super) spec: Spec,
    /// The epoch under way, from 0.
    pub(super) epoch: u32,
    /// Optimizer steps done in this epoch.
    pub(super) step_in_epoch: u64,
    /// Optimizer steps done.
    pub(super) step: u64,
    /// What was counted in this epoch.
    pub(super) tally: Tally,
    /// Every epoch that has ended.
    pub(super) epochs: Vec<EpochMetrics>,
    /// The epoch whose checkpoint is kept so far, from 1.
    pub(super) kept: Option<u32>,
}

impl Position {
    /// Before the first step.
    pub(super) fn start(spec: &Spec, tally: Tally) -> Self {
        Self {
            format: FORMAT,
            spec: spec.clone(),
            epoch: 0,
            step_in_epoch: 0,
            step: 0,
            tally,
            epochs: Vec::new(),
            kept: None,
        }
    }
}

/// Saves the position of a run.
pub(super) fn save(
    workspace: &Path,
    position: &Position,
    parameters: &Parameters,
    optimizer: &Optimizer,
    average: Option<&Average>,
) -> Result<()> {
    let (folder, fresh) = (workspace.join("state"), workspace.join("state.new"));
    let failed = |doing: &'static str| move |error: std::io::Error| Error::io(doing, workspace, &error);
    let _ = std::fs::remove_dir_all(&fresh);
    std::fs::create_dir_all(&fresh).map_err(failed("create a folder in"))?;
    let json = serde_json::to_vec_pretty(position).map_err(|error| Error::internal(error.to_string()))?;
    write_file(&fresh.join(POSITION), &json)?;
    let mut tensors = optimizer.state()?;
    if let Some(average) = average {
        tensors.extend(average.state(parameters)?);
    }
    for (index, parameter) in parameters.iter().enumerate() {
        tensors.extend(parameter.split(parameters.of(index))?);
    }
    write_file(&fresh.join(TENSORS), &serialize(tensors)?)?;
    let sync = |folder: &Path| File::open(folder).and_then(|folder| folder.sync_all());
    sync(&fresh).map_err(failed("sync a folder in"))?;
    let old = workspace.join("state.old");
    if folder.exists() {
        // A crash may have left an old position beside the newer one; a folder cannot be renamed onto it.
        let _ = std::fs::remove_dir_all(&old);
        std::fs::rename(&folder, &old).map_err(failed("rename a folder in"))?;
    }
    std::fs::rename(&fresh, &folder).map_err(failed("rename a folder in"))?;
    sync(workspace).map_err(failed("sync"))?;
    let _ = std::fs::remove_dir_all(&old);
    Ok(())
}

/// The saved position of a run, if there is one, its parameters put into `model`.
pub(super) fn load(
    workspace: &Path,
    spec: &Spec,
    model: &mut Trainable,
) -> Result<Option<(Position, Optimizer, Option<Average>)>> {
    let folder =
        ["state", "state.old"].map(|name| workspace.join(name)).into_iter().find(|folder| folder.exists());
    let Some(folder) = folder else { return Ok(None) };
    let path = folder.join(POSITION);
    let text = std::fs::read(&path).map_err(|error| Error::io("read", &path, &error))?;
    let position: Position = serde_json::from_slice(&text)
        .map_err(|error| Error::corrupt(format!("{} is damaged: {error}", path.display())))?;
    if position.format != FORMAT || position.spec != *spec {
        return Err(Error::precondition(format!("{} belongs to another job or version", path.display())));
    }
    let path = folder.join(TENSORS);
    let tensors: HashMap<String, Tensor> = candle_core::safetensors::load(&path, &Device::Cpu)
        .map_err(|error| Error::corrupt(format!("{} is damaged: {error}", path.display())))?;
    model.change(true, |parameters, _| {
        let list = parameters.list().clone();
        for parameter in list.iter() {
            let part = |name: &String| {
                let found = tensors.get(name).cloned();
                found.ok_or_else(|| Error::corrupt(format!("{} has no {name}", path.display())))
            };
            let parts: Vec<Tensor> = parameter.parts.iter().map(part).collect::<Result<_>>()?;
            parameters.put(parameter, &parts)?;
        }
        Ok::<_, Error>(())
    })?;
    let optimizer = Optimizer::restore(
        &spec.hyperparameters.optimizer_settings(),
        model.parameters(),
        position.step,
        &tensors,
    )?;
    let decay = spec.hyperparameters.methods.ema_decay;
    let average = decay.map(|decay| Average::restore(decay, model.parameters(), &tensors)).transpose()?;
    Ok(Some((position, optimizer, average)))
}
