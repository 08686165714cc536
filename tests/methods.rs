//! Runs with the methods that are off by default, and runs where rows have several labels.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{Device, Tensor};
use hone_data::tokenize::Tokenizer;
use hone_engine::batch::Batch;
use hone_engine::kernels::{Compute, Isa, Precision};
use hone_engine::model::checkpoint::Checkpoint;
use hone_engine::model::classifier::{Classifier, Setup, Trainable};
use hone_train::event::{Metrics, TrainEvent};
use hone_train::methods::{ClassWeights, Methods};
use hone_train::spec::{self, Keep, Metric, Spec};
use hone_train::{Control, Outcome, run};

use crate::harness::toy_sets;
use crate::training::{Job, newest_position};

/// Two epochs with these methods.
fn job(methods: Methods) -> Job {
    Job::new(|spec| {
        spec.hyperparameters.epochs = 2.try_into().expect("2");
        spec.hyperparameters.methods = methods;
    })
}

fn weights_of(methods: Methods) -> String {
    job(methods).finish("run", 2).0.weights_sha256
}

/// A job whose rows have any number of labels.
pub(crate) fn several(change: impl FnOnce(&mut Spec)) -> Job {
    let job = Job::new(|spec| {
        spec.columns.label_separator = Some("|".into());
        spec.hyperparameters.epochs = 16.try_into().expect("16");
        change(spec);
    });
    for (name, rows) in [("train.csv", 300), ("validation.csv", 80), ("test.csv", 80)] {
        std::fs::write(job.folder.path().join(name), toy_sets(rows, name.len() as u64)).expect("a file");
    }
    job
}

#[test]
fn every_method_of_the_objective_changes_the_run() {
    let mut digests = vec![weights_of(Methods::default())];
    for methods in [
        Methods { label_smoothing: 0.1, ..Methods::default() },
        Methods {
            class_weights: ClassWeights::Given([("positive".to_owned(), 3.0)].into()),
            ..Methods::default()
        },
        Methods { focal_gamma: Some(2.0), ..Methods::default() },
        Methods { r_drop: Some(1.0), ..Methods::default() },
    ] {
        let digest = weights_of(methods.clone());
        assert!(!digests.contains(&digest), "{methods:?}");
        digests.push(digest);
    }
}

#[test]
fn methods_at_their_neutral_values_change_no_bit() {
    let neutral = Methods {
        class_weights: ClassWeights::Given([("positive".to_owned(), 1.0)].into()),
        focal_gamma: Some(0.0),
        ..Methods::default()
    };
    assert_eq!(weights_of(neutral), weights_of(Methods::default()));
    // The toy rows are balanced.
    let balanced = Methods { class_weights: ClassWeights::Balanced, ..Methods::default() };
    assert_eq!(weights_of(balanced), weights_of(Methods::default()));
}

#[test]
fn all_methods_together_still_learn_and_report_the_plain_loss() {
    let job = Job::new(|spec| {
        spec.hyperparameters.methods = Methods {
            label_smoothing: 0.05,
            class_weights: ClassWeights::Balanced,
            focal_gamma: Some(1.0),
            r_drop: Some(0.5),
            ..Methods::default()
        };
    });
    let (finished, events) = job.finish("run", 2);
    let test = finished.test.expect("a test result").metrics;
    assert!(test.accuracy > 0.9, "accuracy {}", test.accuracy);
    let epochs: Vec<_> = events
        .iter()
        .filter_map(|event| if let TrainEvent::Epoch(epoch) = event { Some(epoch) } else { None })
        .collect();
    assert!(epochs[1].train.loss < epochs[0].train.loss);
    // Each row is counted once, although it passes twice.
    assert_eq!(epochs[0].train.rows, 200);
}

#[test]
fn methods_and_accumulation_give_the_same_weights_to_the_bit_on_any_number_of_threads() {
    for precision in [spec::Precision::Fp32, spec::Precision::Bf16] {
        let job = Job::new(|spec| {
            let of = &mut spec.hyperparameters;
            of.epochs = 1.try_into().expect("1");
            of.gradient_accumulation = 3.try_into().expect("3");
            of.precision = precision;
            of.methods = Methods {
                r_drop: Some(1.0),
                ema_decay: Some(0.9),
                layer_decay: Some(0.9),
                gradient_checkpointing: true,
                ..Methods::default()
            };
        });
        let digest = |threads: usize| job.finish(&format!("on-{threads}"), threads).0.weights_sha256;
        let one = digest(1);
        assert_eq!(one, digest(2));
        assert_eq!(one, digest(5));
    }
}

/// The tensors of a file that are parameters of a classifier, in float64.
fn weights(path: &Path) -> HashMap<String, Vec<f64>> {
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).expect("tensors");
    let is_weight = |name: &str| !["m.", "v.", "average."].iter().any(|prefix| name.starts_with(prefix));
    let values = |tensor: Tensor| -> Vec<f64> {
        let values = tensor.flatten_all().and_then(|tensor| tensor.to_vec1::<f32>()).expect("values");
        values.into_iter().map(f64::from).collect()
    };
    tensors.into_iter().filter(|(name, _)| is_weight(name)).map(|(name, x)| (name, values(x))).collect()
}

/// The weights that a job starts from.
fn first_weights(job: &Job) -> HashMap<String, Vec<f64>> {
    let checkpoint = Checkpoint::open(&job.encoder).expect("the encoder");
    let labels = ["negative", "positive"].map(str::to_owned);
    let setup = Setup::new(42, Compute::new(Isa::PORTABLE, Precision::Fp32));
    let mut model = Trainable::start(&checkpoint, &labels, &setup, &Device::Cpu).expect("a classifier");
    let parameters = model.parameters().expect("parameters");
    let mut weights = HashMap::new();
    for parameter in parameters.iter() {
        for (name, part) in parameter.split(parameters.of(parameter.id)).expect("parts") {
            let part = part.flatten_all().and_then(|part| part.to_vec1::<f32>()).expect("values");
            weights.insert(name, part.into_iter().map(f64::from).collect());
        }
    }
    weights
}

/// `average = decay * average + (1 - decay) * weights` after each step, from the first weights on, in float64.
#[test]
fn the_moving_average_of_the_weights_is_what_is_evaluated_and_kept() {
    let decay = 0.7;
    let job = Job::new(|spec| {
        let of = &mut spec.hyperparameters;
        // Every epoch is one step, so that its end shows the weights after it.
        (of.batch_size, of.epochs) = (8.try_into().expect("8"), 6.try_into().expect("6"));
        (of.keep, of.precision) = (Keep::Last, spec::Precision::Fp32);
        of.methods.ema_decay = Some(decay);
        spec.train_limit = std::num::NonZeroU64::new(8);
        spec.test = spec.validation.clone();
    });
    let workspace = job.workspace("run");
    let mut average = first_weights(&job);
    let (finished, last) = loop {
        // Stopped after each epoch, the run leaves the weights themselves.
        let plan = job.plan().expect("a plan");
        let outcome = run(plan, &Device::Cpu, &workspace, Control::default(), &mut |event| match event {
            TrainEvent::Epoch(_) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        let last = weights(&newest_position(&workspace).join("training.safetensors"));
        for (name, average) in &mut average {
            for (average, weight) in average.iter_mut().zip(&last[name]) {
                *average = decay * *average + (1.0 - decay) * weight;
            }
        }
        match outcome {
            Ok(Outcome::Finished(finished)) => break (finished, last),
            outcome => assert!(matches!(outcome, Ok(Outcome::Stopped)), "{outcome:?}"),
        }
    };
    let kept = weights(&finished.folder.join("model.safetensors"));
    assert_eq!(kept.len(), average.len());
    let far = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    for (name, average) in &average {
        let away = far(&kept[name], average);
        assert!(away < 1e-6, "{name} is {away} away");
    }
    assert!(
        average.keys().any(|name| far(&kept[name], &last[name]) > 1e-3),
        "not the last weights themselves"
    );
    // The kept weights, read again from the disk, give to the bit what the epoch's evaluation gave.
    let test = finished.test.expect("a test result").metrics;
    assert_eq!(test.loss, finished.epoch.validation.loss);
}

#[test]
fn a_weight_for_a_label_that_does_not_exist_is_refused_before_training() {
    let job = job(Methods {
        class_weights: ClassWeights::Given([("neutral".to_owned(), 2.0)].into()),
        ..Methods::default()
    });
    let error = job.plan().expect_err("an unknown label");
    assert!(
        error.message().contains("\"neutral\"") && error.message().contains("negative, positive"),
        "{error}"
    );
}

#[test]
fn rows_with_several_labels_are_learned_and_answered_with_those_that_are_set() {
    let job = several(|_| {});
    let (finished, events) = job.finish("run", 2);
    assert_eq!(finished.labels, ["blame", "food", "praise"]);
    let test = finished.test.expect("a test result").metrics;
    let micro = test.micro.expect("several labels");
    assert!(micro.f1 > 0.95 && test.f1 > 0.95 && test.accuracy > 0.9, "{test:?}");
    let Some(TrainEvent::Prepared(report)) = events.first() else { panic!("{:?}", events.first()) };
    let labelled: u64 = report.splits[0].labels.iter().map(|count| count.rows).sum();
    assert!(labelled > 300, "{labelled} labels of 300 rows");

    let classifier = Classifier::load(&finished.folder, &Device::Cpu).expect("a classifier");
    let thresholds = classifier.thresholds().expect("thresholds");
    let tokenizer = Tokenizer::from_folder(&finished.folder, 32).expect("a tokenizer");
    let tokens = ["a warm coffee and the broken thing", "it was with the thing"]
        .map(|text| tokenizer.encode(text, None).expect("tokens"));
    let scores = classifier.scores(&Batch::pack(&tokens)).expect("scores");
    let set = |row: &[f32]| row.iter().zip(thresholds).map(|(score, of)| score >= of).collect::<Vec<_>>();
    assert_eq!(set(&scores[0]), [true, true, true], "{scores:?} {thresholds:?}");
    assert_eq!(set(&scores[1]), [false, false, false], "{scores:?} {thresholds:?}");
}

#[test]
fn the_checkpoint_holds_the_thresholds_that_validation_chose_and_the_test_used() {
    // Too short a run for 0.5 to be right.
    let job = several(|spec| spec.hyperparameters.epochs = 1.try_into().expect("1"));
    let (finished, _) = job.finish("run", 2);
    let text = std::fs::read_to_string(finished.folder.join("config.json")).expect("config.json");
    let json: serde_json::Value = serde_json::from_str(&text).expect("json");
    assert_eq!(json["problem_type"], "multi_label_classification");
    let stored: Vec<f32> = serde_json::from_value(json["hone_thresholds"].clone()).expect("thresholds");
    assert!(stored.iter().any(|&threshold| threshold != 0.5), "{stored:?}");
    let of =
        |metrics: &Metrics| metrics.labels.iter().map(|label| label.threshold).collect::<Option<Vec<f32>>>();
    assert_eq!(of(&finished.epoch.validation), Some(stored.clone()));
    assert_eq!(of(&finished.test.expect("a test result").metrics), Some(stored));
}

#[test]
fn every_method_works_with_several_labels_too_and_a_part_can_be_held_out() {
    let job = several(|spec| {
        spec.validation = None;
        spec.hyperparameters.metric = Metric::F1;
        spec.hyperparameters.methods = Methods {
            label_smoothing: 0.02,
            class_weights: ClassWeights::Balanced,
            focal_gamma: Some(1.0),
            r_drop: Some(0.5),
            ..Methods::default()
        };
    });
    let (finished, _) = job.finish("run", 2);
    let test = finished.test.expect("a test result").metrics;
    assert!(test.micro.is_some_and(|micro| micro.f1 > 0.95), "{test:?}");
    assert_eq!(finished.epoch.validation.rows, 60);
}
