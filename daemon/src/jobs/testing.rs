//! What the tests of jobs and services share.

use std::num::NonZeroU32;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use super::data_dir::DataDir;
use super::store::{DatasetRecord, Store};
use super::trainer::{Emit, Trainer};
use super::{Time, Version};
use crate::data::dataset::{Format, Summary};
use crate::data::{Columns, Quantiles};
use crate::digest::{self, FileDigest};
use crate::error::{Error, Kind, Result};
use crate::train::event::{EpochMetrics, Event, Metrics, Prepared, StepMetrics};
use crate::train::memory::Memory;
use crate::train::spec::{Hyperparameters, Source, Spec};
use crate::train::{DryRun, Finished, Outcome};

/// A data folder with the data set of `spec` in it, gone at the end of the test.
pub(crate) struct Home(tempfile::TempDir);

/// A store whose folder lives as long.
pub(crate) struct TestStore {
    store: Arc<Store>,
    _home: Home,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn data(&self) -> DataDir {
        DataDir::open(self.path()).unwrap().0
    }

    /// Opens the store, again if need be.
    pub(crate) fn store(&self) -> Store {
        let store = Store::open(&self.path().join("hone.db")).unwrap();
        store.put_dataset(&dataset()).unwrap();
        store
    }
}

impl Deref for TestStore {
    type Target = Store;
    fn deref(&self) -> &Store {
        &self.store
    }
}

impl TestStore {
    pub(crate) fn shared(&self) -> Arc<Store> {
        self.store.clone()
    }
}

pub(crate) fn store() -> TestStore {
    let home = Home::new();
    TestStore { store: Arc::new(home.store()), _home: home }
}

pub(crate) fn dataset() -> DatasetRecord {
    DatasetRecord {
        id: digest::of_bytes(b"text,label\n"),
        name: "reviews.csv".into(),
        size: 11,
        created: Time(1_700_000_000_000),
        format: Format::Csv,
        columns: Columns::default(),
        summary: Summary {
            rows: 0,
            columns: vec!["text".into(), "label".into()],
            used: Columns { text: Some("text".into()), label: Some("label".into()), ..Columns::default() },
            notes: vec![],
            guess: String::new(),
            labels: vec![],
            characters: Quantiles::default(),
        },
    }
}

pub(crate) fn spec(name: &str) -> Spec {
    Spec {
        name: name.into(),
        encoder: "encoder".into(),
        train: Source { dataset: dataset().id, name: "reviews.csv".into() },
        validation: None,
        test: None,
        validation_split: 0.2,
        columns: Columns::default(),
        train_limit: None,
        validation_limit: None,
        test_limit: None,
        hyperparameters: Hyperparameters { epochs: NonZeroU32::MIN, ..Hyperparameters::default() },
    }
}

pub(crate) fn step(step: u64) -> Event {
    Event::Step(StepMetrics {
        step,
        total_steps: 100,
        epoch: 1,
        step_in_epoch: step,
        steps_per_epoch: 100,
        loss: 0.5,
        learning_rate: 2e-5,
        gradient_norm: 1.0,
        steps_per_second: 1.0,
        tokens_per_second: 1.0,
    })
}

pub(crate) fn metrics() -> Metrics {
    Metrics {
        loss: 0.25,
        accuracy: 0.9,
        f1: 0.9,
        recall: 0.9,
        precision: 0.9,
        rows: 10,
        labels: vec![],
        micro: None,
    }
}

pub(crate) fn epoch() -> EpochMetrics {
    EpochMetrics {
        epoch: 1,
        epochs: 1,
        train: metrics(),
        validation: metrics(),
        seconds: 1.0,
        train_seconds: 0.5,
        steps_per_second: 1.0,
        tokens_per_second: 1.0,
        best: true,
        validation_loss_rose: false,
        step: 100,
    }
}

pub(crate) fn version(name: &str, version: u32, job: &str) -> Version {
    Version {
        name: name.into(),
        version,
        created: Time(1_700_000_000_000),
        job: job.into(),
        epoch: 1,
        weights_sha256: digest::of_bytes(b"weights"),
        files: vec![FileDigest {
            name: "model.safetensors".into(),
            size: 7,
            sha256: digest::of_bytes(b"weights"),
        }],
        labels: vec!["negative".into(), "positive".into()],
        max_length: 128,
        validation: metrics(),
        test: None,
        encoder: "encoder".into(),
    }
}

/// A reader of files that needs no parser: refuses what starts with `bad`, and counts lines.
pub(crate) fn read(
    path: &Path,
    name: &str,
    _: Option<Format>,
    columns: &Columns,
) -> Result<(Format, Summary)> {
    let text = std::fs::read_to_string(path).unwrap();
    if text.starts_with("bad") {
        return Err(Error::invalid(format!("{name} cannot be read")));
    }
    let rows = text.lines().count().saturating_sub(1) as u64;
    Ok((Format::Csv, Summary { rows, used: columns.clone(), ..dataset().summary }))
}

/// A trainer whose job does what the model's name says.
pub(crate) struct FakeTrainer;

impl Trainer for FakeTrainer {
    fn check_encoder(&self, _: &str) -> Result<()> {
        Ok(())
    }

    fn check(&self, spec: &Spec, _: &DataDir) -> Result<()> {
        match spec.name.as_str() {
            "invalid" => Err(Error::invalid("the training file has one label only")),
            _ => Ok(()),
        }
    }

    fn dry_run(&self, spec: &Spec, data: &DataDir) -> Result<DryRun> {
        self.check(spec, data)?;
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

    fn train(&self, spec: &Spec, _: &DataDir, workspace: &Path, emit: &mut Emit<'_>) -> Result<Outcome> {
        let endless = spec.name == "endless";
        for number in 1.. {
            if emit(step(number)).is_break() {
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
        if emit(Event::Epoch(epoch())).is_break() {
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
