//! A run by itself, without a daemon: what it learns, keeps, emits and repeats.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use hone_base::cancel::Cancel;
use hone_base::error::{Kind, Result};
use hone_data::tokenize::Tokenizer;
use hone_engine::batch::Batch;
use hone_engine::kernels::{self, Isa, fastest_precision};
use hone_engine::model::classifier::Classifier;
use hone_train::event::{Split, TrainEvent};
use hone_train::spec::{Hyperparameters, Keep, Precision, Source, Spec};
use hone_train::{Control, Finished, Outcome, Plan, run};

use crate::harness::encoder::tiny_encoder;
use crate::harness::toy_rows;

pub(crate) struct Job {
    pub(crate) folder: Arc<tempfile::TempDir>,
    spec: Spec,
    pub(crate) encoder: PathBuf,
}

impl Job {
    /// A job on toy data that a tiny encoder learns in a few epochs.
    pub(crate) fn new(change: impl FnOnce(&mut Spec)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, rows) in [("train.csv", 200), ("validation.csv", 40), ("test.csv", 40)] {
            std::fs::write(folder.path().join(name), toy_rows(rows, name.len() as u64)).expect("a file");
        }
        let source = |name: &str| Source { dataset: name.to_owned(), name: name.to_owned() };
        let hyperparameters = Hyperparameters {
            learning_rate: 3e-3,
            batch_size: 8.try_into().expect("8"),
            epochs: 4.try_into().expect("4"),
            max_length: std::num::NonZeroU32::new(32),
            ..Hyperparameters::default()
        };
        let mut spec = Spec {
            name: "toy".into(),
            encoder: "tiny".into(),
            train: source("train.csv"),
            validation: Some(source("validation.csv")),
            test: Some(source("test.csv")),
            validation_split: 0.2,
            columns: Default::default(),
            train_limit: None,
            validation_limit: None,
            test_limit: None,
            hyperparameters,
        };
        change(&mut spec);
        Self { folder: folder.into(), spec, encoder: tiny_encoder().to_owned() }
    }

    /// Another job on the same files.
    pub(crate) fn with(&self, change: impl FnOnce(&mut Spec)) -> Self {
        let mut spec = self.spec.clone();
        change(&mut spec);
        Self { folder: self.folder.clone(), spec, encoder: self.encoder.clone() }
    }

    pub(crate) fn workspace(&self, name: &str) -> PathBuf {
        let workspace = self.folder.path().join(name);
        std::fs::create_dir_all(&workspace).expect("a workspace");
        workspace
    }

    pub(crate) fn plan(&self) -> Result<Plan> {
        self.plan_until(&Cancel::default())
    }

    pub(crate) fn plan_until(&self, cancel: &Cancel) -> Result<Plan> {
        let path_of = |dataset: &str| self.folder.path().join(dataset);
        Plan::new(self.spec.clone(), &self.encoder, &path_of, cancel)
    }

    /// Runs on so many threads to the end.
    pub(crate) fn run(&self, workspace: &Path, threads: usize) -> (Result<Outcome>, Vec<TrainEvent>) {
        let mut events = Vec::new();
        let outcome = self.run_with(workspace, threads, Control::default(), &mut |event| {
            events.push(event);
            ControlFlow::Continue(())
        });
        (outcome, events)
    }

    /// Runs on so many threads under a control.
    pub(crate) fn run_with(
        &self,
        workspace: &Path,
        threads: usize,
        control: Control,
        emit: &mut (dyn FnMut(TrainEvent) -> ControlFlow<()> + Send),
    ) -> Result<Outcome> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let plan = self.plan().expect("a plan");
        pool.install(|| run(plan, &Device::Cpu, workspace, control, emit))
    }

    pub(crate) fn finish(&self, name: &str, threads: usize) -> (Finished, Vec<TrainEvent>) {
        match self.run(&self.workspace(name), threads) {
            (Ok(Outcome::Finished(finished)), events) => (*finished, events),
            (other, _) => panic!("the run ended with {other:?}"),
        }
    }
}

/// The folder of the last position that was saved in a workspace.
pub(crate) fn newest_position(workspace: &Path) -> PathBuf {
    let entries = std::fs::read_dir(workspace.join("state")).expect("positions");
    let number = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("an entry").file_name().to_str().and_then(|name| name.parse::<u64>().ok())
    };
    let newest = entries.filter_map(number).max().expect("a position");
    workspace.join(format!("state/{newest}"))
}

#[test]
fn a_run_learns_and_its_checkpoint_answers() {
    let job = Job::new(|_| {});
    let (finished, events) = job.finish("run", 2);
    let epochs: Vec<_> = events
        .iter()
        .filter_map(|event| if let TrainEvent::Epoch(epoch) = event { Some(epoch) } else { None })
        .collect();
    assert_eq!(epochs.len(), 4);
    assert!(epochs[3].train.loss < epochs[0].train.loss);
    let test = finished.test.expect("a test result");
    assert!(test.metrics.accuracy > 0.9, "accuracy {}", test.metrics.accuracy);

    let classifier = Classifier::load(&finished.folder, &Device::Cpu).expect("a classifier");
    assert_eq!(classifier.labels(), ["negative", "positive"]);
    assert_eq!(classifier.max_length(), 32);
    let tokenizer = Tokenizer::from_folder(&finished.folder, 32).expect("a tokenizer");
    let tokens = ["a truly splendid thing", "a truly dreadful thing"]
        .map(|text| tokenizer.encode(text, None).expect("tokens"));
    let scores = classifier.scores(&Batch::pack(&tokens)).expect("scores");
    assert!(scores[0][1] > 0.5 && scores[1][0] > 0.5, "{scores:?}");
    assert!(scores.iter().all(|row| (row.iter().sum::<f32>() - 1.0).abs() < 1e-5));
}

#[test]
fn a_seed_gives_the_same_weights_to_the_bit_on_any_number_of_threads() {
    let job = Job::new(|spec| spec.hyperparameters.epochs = 2.try_into().expect("2"));
    let digest = |name: &str, threads| job.finish(name, threads).0.weights_sha256;
    let one = digest("one", 1);
    assert_eq!(one, digest("again", 1));
    assert_eq!(one, digest("two", 2));
    assert_eq!(one, digest("five", 5));
    let other = Job::new(|spec| {
        spec.hyperparameters.epochs = 2.try_into().expect("2");
        spec.hyperparameters.seed = 43;
    });
    assert_ne!(one, other.finish("other", 1).0.weights_sha256);
}

#[test]
fn the_automatic_precision_is_the_fastest_of_the_processor() {
    let digest = |precision| {
        let job = Job::new(|spec| {
            spec.hyperparameters.epochs = 1.try_into().expect("1");
            spec.hyperparameters.precision = precision;
        });
        job.finish("run", 2).0.weights_sha256
    };
    let (auto, fp32, bf16) = (digest(Precision::Auto), digest(Precision::Fp32), digest(Precision::Bf16));
    assert_ne!(fp32, bf16);
    let fastest = match fastest_precision(Isa::chosen().expect("an instruction set")) {
        kernels::Precision::Fp32 => fp32,
        kernels::Precision::Bf16 => bf16,
        kernels::Precision::Int8 => unreachable!("no model learns at it"),
    };
    assert_eq!(auto, fastest);
}

#[test]
fn two_micro_batches_of_a_step_weigh_as_much_as_one_batch_of_both() {
    let epoch = |batch_size: u32, accumulation: u32| {
        let job = Job::new(|spec| {
            let of = &mut spec.hyperparameters;
            (of.dropout, of.encoder_dropout) = (Some(0.0), Some(0.0));
            of.batch_size = batch_size.try_into().expect("a size");
            of.gradient_accumulation = accumulation.try_into().expect("a number");
            of.max_grad_norm = None;
            of.epochs = 1.try_into().expect("1");
        });
        let (finished, events) = job.finish("run", 2);
        // The last step of an epoch is always told. Adam does not see the gradient's size, but clipping does.
        let norm = events.iter().rev().find_map(|event| {
            if let TrainEvent::Step(step) = event { Some(step.gradient_norm) } else { None }
        });
        (finished.epoch, norm.expect("a step"))
    };
    let ((whole, whole_norm), (halves, halves_norm)) = (epoch(8, 1), epoch(4, 2));
    assert!((whole_norm / halves_norm - 1.0).abs() < 0.02, "{whole_norm} {halves_norm}");
    assert_eq!(whole.step, halves.step);
    assert!(
        (whole.train.loss - halves.train.loss).abs() < 1e-4,
        "{} {}",
        whole.train.loss,
        halves.train.loss
    );
    let (whole, halves) = (whole.validation.loss, halves.validation.loss);
    assert!((whole - halves).abs() < 1e-3, "{whole} {halves}");
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_names_the_step() {
    let job = Job::new(|spec| {
        spec.hyperparameters.learning_rate = 1e30;
        spec.hyperparameters.max_grad_norm = None;
    });
    let error = job.run(&job.workspace("run"), 2).0.expect_err("a diverging run");
    assert_eq!(error.kind(), Kind::Precondition);
    assert!(error.message().contains("step ") && error.message().contains("`learning_rate`"), "{error}");
}

#[test]
fn keep_last_keeps_the_last_epoch_and_keep_best_the_best() {
    for keep in [Keep::Best, Keep::Last] {
        let job = Job::new(|spec| {
            spec.hyperparameters.keep = keep;
            spec.hyperparameters.learning_rate = 0.02;
            spec.hyperparameters.epochs = 4.try_into().expect("4");
        });
        let (finished, events) = job.finish("run", 2);
        let epochs: Vec<_> = events
            .iter()
            .filter_map(|event| if let TrainEvent::Epoch(epoch) = event { Some(epoch.clone()) } else { None })
            .collect();
        let best =
            epochs.iter().min_by(|a, b| a.validation.loss.total_cmp(&b.validation.loss)).expect("an epoch");
        let expected = if keep == Keep::Best { best.epoch } else { 4 };
        assert_eq!(finished.epoch.epoch, expected);
        assert_eq!(
            std::fs::read_dir(finished.folder.parent().expect("a workspace"))
                .expect("a folder")
                .filter(|entry| {
                    entry
                        .as_ref()
                        .is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("epoch-"))
                })
                .count(),
            1
        );
    }
}

#[test]
fn early_stopping_ends_the_run_after_epochs_without_gain() {
    let job = Job::new(|spec| {
        // Weights that do not move: the second epoch cannot be better than the first.
        spec.hyperparameters.learning_rate = 1e-30;
        spec.hyperparameters.epochs = 9.try_into().expect("9");
        spec.hyperparameters.early_stopping = std::num::NonZeroU32::new(2);
    });
    let (finished, events) = job.finish("run", 2);
    assert_eq!(events.iter().filter(|event| matches!(event, TrainEvent::Epoch(_))).count(), 3);
    assert_eq!(finished.epoch.epoch, 1);
}

#[test]
fn what_the_data_hide_is_reported_before_training() {
    let job = Job::new(|_| {});
    let train = "text,label\ngood,positive\nbad,negative\ngood,positive\ngood,negative\n,negative\n";
    let long = format!("{} {},positive\n", "word ".repeat(60), "end");
    std::fs::write(job.folder.path().join("train.csv"), format!("{train}{long}")).expect("a file");
    std::fs::write(job.folder.path().join("validation.csv"), "text,label\ngood,positive\nfine,positive\n")
        .expect("a file");
    let (_, events) = job.finish("run", 2);
    let Some(TrainEvent::Prepared(report)) = events.first() else { panic!("{:?}", events.first()) };
    let split = &report.splits[0];
    assert_eq!((split.split, split.rows), (Split::Train, 6));
    assert_eq!((split.empty_texts, split.duplicates, split.contradictions, split.truncated), (1, 1, 1, 1));
    assert_eq!(report.max_length, 32);
    let overlap =
        report.overlaps.iter().find(|overlap| overlap.second == Split::Validation).expect("an overlap");
    assert_eq!((overlap.first, overlap.rows), (Split::Train, 1));
    let counts: HashMap<_, _> = split.labels.iter().map(|count| (count.label.as_str(), count.rows)).collect();
    assert_eq!(counts, HashMap::from([("negative", 3), ("positive", 3)]));
}

#[test]
fn hone_json_holds_the_whole_story() {
    let job = Job::new(|_| {});
    let (finished, _) = job.finish("run", 2);
    let text = std::fs::read_to_string(finished.folder.join("hone.json")).expect("hone.json");
    let json: serde_json::Value = serde_json::from_str(&text).expect("json");
    assert_eq!(json["job"]["hyperparameters"]["learning_rate"], 3e-3);
    assert_eq!(json["job"]["train"]["dataset"], "train.csv");
    assert_eq!(json["weights_sha256"], finished.weights_sha256);
    assert_eq!(json["epochs"].as_array().map(Vec::len), Some(4));
    assert!(json["test"]["metrics"]["accuracy"].is_number() && json["hone_version"].is_string());
}
