//! What the tests of this folder and of its users share: a data folder that goes away, and one record of each kind.

use std::num::NonZeroU32;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use hone_base::digest::{self, FileDigest};
use hone_data::dataset::{Format, Summary};
use hone_data::{Columns, Quantiles};
use hone_train::event::{EpochMetrics, Metrics, StepMetrics};
use hone_train::spec::{Hyperparameters, Source, Spec};

use crate::{Catalog, Cause, DataDir, DatasetRecord, JobEvent, Mover, Store, Time, Version};

/// Somebody who promotes.
pub const PROMOTED: Mover<'static> = Mover { cause: Cause::Promoted, by: "me" };

/// A data folder with the data set of `spec` in it, gone at the end of the test.
#[derive(Debug)]
pub struct Home(tempfile::TempDir);

/// A store whose folder lives as long.
#[derive(Debug)]
pub struct TestStore {
    store: Arc<dyn Catalog>,
    _home: Home,
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    /// A new folder.
    ///
    /// # Panics
    ///
    /// When the folder cannot be created, like all functions of this module.
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The folder as a data folder; the lock on it is let go.
    pub fn data(&self) -> DataDir {
        DataDir::open(self.path()).unwrap().0
    }

    /// Opens the store, again if need be.
    pub fn store(&self) -> Arc<dyn Catalog> {
        let store: Arc<dyn Catalog> = Arc::new(Store::open(&self.path().join("hone.db")).unwrap());
        store.put_dataset(&dataset()).unwrap();
        store
    }
}

impl Deref for TestStore {
    type Target = dyn Catalog;
    fn deref(&self) -> &Self::Target {
        &*self.store
    }
}

impl TestStore {
    /// The store, to be kept by several; its folder goes with `self` all the same.
    pub fn shared(&self) -> Arc<dyn Catalog> {
        self.store.clone()
    }
}

/// A store in a folder of its own.
pub fn store() -> TestStore {
    let home = Home::new();
    TestStore { store: home.store(), _home: home }
}

/// The record of a data set that `spec` trains on.
pub fn dataset() -> DatasetRecord {
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

/// What a job shall do: one epoch on the data set of `dataset`.
pub fn spec(name: &str) -> Spec {
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

/// The event of a step.
pub fn step(step: u64) -> JobEvent {
    JobEvent::Step(step_metrics(step))
}

/// Metrics of a step.
pub fn step_metrics(step: u64) -> StepMetrics {
    StepMetrics {
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
    }
}

/// Metrics of a pass.
pub fn metrics() -> Metrics {
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

/// Metrics of an epoch.
pub fn epoch() -> EpochMetrics {
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

/// A version whose one file holds `weights`.
pub fn version(name: &str, version: u32, job: &str) -> Version {
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
