//! What the tests of jobs and services share: a reader without a parser and a trainer without a model.

use std::path::Path;
use std::sync::Arc;

use super::promoter::Promoter;
use super::trainer::{Emit, Trainer};
use hone_base::cancel::Cancel;
use hone_base::digest;
use hone_base::error::{Error, Kind, Result};
use hone_data::dataset::{Format, Summary};
use hone_data::{Columns, Limits};
use hone_engine::model::memory::Memory;
pub(crate) use hone_storage::testing::*;
use hone_storage::{Blobs, Version};
use hone_train::event::{Prepared, TrainEvent};
use hone_train::spec::Spec;
use hone_train::{Control, DryRun, Finished, Outcome};

/// A reader of files that needs no parser: refuses what starts with `bad`, and counts lines.
pub(crate) fn read(
    path: &Path,
    name: &str,
    _: Option<Format>,
    columns: &Columns,
    _: Limits,
) -> Result<(Format, Summary)> {
    let text = std::fs::read_to_string(path).unwrap();
    if text.starts_with("bad") {
        return Err(Error::invalid(format!("{name} cannot be read")));
    }
    let rows = text.lines().count().saturating_sub(1) as u64;
    Ok((Format::Csv, Summary { rows, used: columns.clone(), ..dataset().summary }))
}

/// Finds every version ready but those of the model `unloadable`.
pub(crate) struct FakePromoter;

impl Promoter for FakePromoter {
    fn prepare(&self, version: &Arc<Version>) -> Result<()> {
        match version.name.as_str() {
            "unloadable" => Err(Error::corrupt("its files are damaged")),
            _ => Ok(()),
        }
    }
}

/// A trainer whose job does what the model's name says.
pub(crate) struct FakeTrainer;

impl Trainer for FakeTrainer {
    fn check_encoder(&self, _: &str) -> Result<()> {
        Ok(())
    }

    fn check(&self, spec: &Spec, _: &dyn Blobs, _: &Cancel) -> Result<()> {
        match spec.name.as_str() {
            "invalid" => Err(Error::invalid("the training file has one label only")),
            _ => Ok(()),
        }
    }

    fn dry_run(&self, spec: &Spec, data: &dyn Blobs, cancel: &Cancel) -> Result<DryRun> {
        self.check(spec, data, cancel)?;
        if spec.name == "endless" {
            loop {
                cancel.check()?;
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        let prepared = Prepared {
            splits: vec![],
            labels: vec!["negative".into(), "positive".into()],
            overlaps: vec![],
            total_steps: 100,
            steps_per_epoch: 100,
            warmup_steps: 10,
            max_length: 128,
            parameters: 7,
            device: "cpu (1 threads)".into(),
            encoder: spec.encoder.clone(),
            encoder_sha256: digest::of_bytes(b"weights"),
        };
        Ok(DryRun { prepared, memory: Memory::default(), time: None, notices: vec!["a fake".into()] })
    }

    fn train(
        &self,
        spec: &Spec,
        _: &dyn Blobs,
        workspace: &Path,
        control: Control,
        emit: &mut Emit<'_>,
    ) -> Result<Outcome> {
        let endless = spec.name == "endless";
        for number in 1.. {
            if emit(TrainEvent::Step(step_metrics(number))).is_break() || control.cancel.is_asked() {
                return Ok(Outcome::Stopped);
            }
            match spec.name.as_str() {
                "fail" => return Err(Error::new(Kind::Exhausted, "out of memory")),
                "panic" => panic!("index out of bounds"),
                _ if number == 3 && !endless => break,
                _ if endless => std::thread::sleep(std::time::Duration::from_millis(1)),
                _ => {}
            }
        }
        let folder = workspace.join("kept");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), "{}").unwrap();
        std::fs::write(folder.join("model.safetensors"), "weights").unwrap();
        if emit(TrainEvent::Epoch(epoch())).is_break() {
            return Ok(Outcome::Stopped);
        }
        let mut kept = epoch();
        if spec.name == "nan" {
            kept.validation.loss = f64::NAN;
        }
        Ok(Outcome::Finished(Box::new(Finished {
            folder,
            weights_sha256: digest::of_bytes(b"weights"),
            epoch: kept,
            test: None,
            labels: vec!["negative".into(), "positive".into()],
            max_length: 128,
        })))
    }
}
