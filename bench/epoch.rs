//! One epoch as a job trains it.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hone_base::cancel::Cancel;
use hone_base::error::{Error, Result};
use hone_train::event::TrainEvent;
use hone_train::spec::{Hyperparameters, Source, Spec};
use hone_train::{Control, Outcome, Plan, run};
use serde_json::{Value, json};

use crate::{Common, median, peak_memory};

/// Trains as a job does.
pub(crate) fn measure(
    common: &Common,
    hyperparameters: Hyperparameters,
    train: &Path,
    limit: Option<u64>,
    [validation, test]: [Option<&Path>; 2],
    save: Option<&Path>,
) -> Result<Value> {
    let source = |path: &Path| {
        let name = path.display().to_string();
        Source { dataset: name.clone(), name }
    };
    let spec = Spec {
        name: "bench".into(),
        encoder: common.model.display().to_string(),
        train: source(train),
        // Something must be validated; two rows do not count.
        validation: Some(source(validation.unwrap_or(train))),
        test: test.map(source),
        validation_split: 0.2,
        columns: Default::default(),
        train_limit: limit.and_then(std::num::NonZeroU64::new),
        validation_limit: if validation.is_some() { None } else { std::num::NonZeroU64::new(2) },
        test_limit: None,
        hyperparameters,
        promotion: None,
    };
    let plan = Plan::new(spec, &common.model, &|path| PathBuf::from(path), &Cancel::default())?;
    let workspace = tempfile::tempdir().map_err(|error| Error::internal(error.to_string()))?;
    let (mut epochs, mut memory) = (Vec::new(), Vec::new());
    let (device, _) = common.open()?;
    let (rows, steps) = (plan.train.examples.len() as f64, plan.total_steps());
    let outcome = run(plan, &device, workspace.path(), Control::default(), &mut |event| {
        if let TrainEvent::Epoch(epoch) = event {
            epochs.push(epoch);
            memory.push(peak_memory());
        }
        ControlFlow::Continue(())
    })?;
    let Outcome::Finished(finished) = outcome else { return Err(Error::internal("the run was stopped")) };
    if let Some(save) = save {
        copy(&finished.folder, save).map_err(|error| Error::io("copy the checkpoint to", save, &error))?;
    }
    let seconds: Vec<f64> = epochs.iter().map(|epoch| epoch.train_seconds).collect();
    let tokens: Vec<f64> = epochs.iter().map(|epoch| epoch.tokens_per_second * epoch.train_seconds).collect();
    Ok(json!({
        "what": "epoch", "rows": rows, "tokens": tokens.first().map(|tokens| tokens.round()),
        "samples_per_second": rows / median(&seconds), "seconds": median(&seconds),
        "seconds_of_each_epoch": seconds, "steps": steps,
        "peak_rss_bytes_after_each_epoch": memory,
        "validation_accuracy": epochs.iter().map(|epoch| epoch.validation.accuracy).collect::<Vec<_>>(),
        "test_accuracy": finished.test.map(|test| test.metrics.accuracy),
    }))
}

/// Copies the files of a folder into a new one.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for file in std::fs::read_dir(from)? {
        let file = file?;
        std::fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}
