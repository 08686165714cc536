//! Runs that go wrong, or learn nothing, as people have met them: what is told, and what is refused.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::Path;

use candle_core::{Device, Tensor};
use hone_base::error::Kind;
use hone_engine::model::checkpoint::Checkpoint;
use hone_train::event::{EpochMetrics, StepMetrics, TrainEvent};
use hone_train::spec::{Hyperparameters, Metric, Spec, Warmup};

use crate::harness::encoder::make;
use crate::harness::toy_rows;
use crate::training::Job;

fn count(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("a count")
}

/// A job on so many rows; without a test file unless `change` says otherwise.
fn job(rows: u64, change: impl FnOnce(&mut Spec)) -> Job {
    let job = Job::new(|spec| {
        spec.test = None;
        change(spec);
    });
    std::fs::write(job.folder.path().join("train.csv"), toy_rows(rows, 1)).expect("a file");
    job
}

fn notices(events: &[TrainEvent]) -> Vec<&str> {
    events
        .iter()
        .filter_map(
            |event| if let TrainEvent::Notice { message } = event { Some(message.as_str()) } else { None },
        )
        .collect()
}

fn epochs(events: &[TrainEvent]) -> Vec<&EpochMetrics> {
    events
        .iter()
        .filter_map(|event| if let TrainEvent::Epoch(epoch) = event { Some(epoch) } else { None })
        .collect()
}

fn steps(events: &[TrainEvent]) -> Vec<&StepMetrics> {
    events
        .iter()
        .filter_map(|event| if let TrainEvent::Step(step) = event { Some(step) } else { None })
        .collect()
}

#[track_caller]
fn assert_told(events: &[TrainEvent], words: &[&str]) {
    let told = notices(events);
    assert!(
        told.iter().any(|notice| words.iter().all(|word| notice.contains(word))),
        "no {words:?} in {told:#?}"
    );
}

/// The tiny encoder with one value of its word embeddings replaced.
fn make_damaged(folder: &Path, row: usize, value: f32) {
    make(folder);
    let (path, name) = (folder.join("model.safetensors"), "embeddings.word_embeddings.weight");
    let mut tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(&path, &Device::Cpu).expect("weights");
    let words = tensors.get(name).expect("words");
    let (shape, mut values) =
        (words.dims().to_vec(), words.flatten_all().expect("values").to_vec1::<f32>().expect("values"));
    values[row * shape[1] + 3] = value;
    tensors.insert(name.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor"));
    candle_core::safetensors::save(&tensors, &path).expect("weights");
}

#[test]
fn weights_that_overflow_in_the_last_step_fail_the_run_and_nothing_is_kept() {
    for (name, rate, ema) in [("plain", 1e30, None), ("large", 1e39, None), ("averaged", 1e39, Some(0.5))] {
        let job = job(40, |spec| {
            let of = &mut spec.hyperparameters;
            (of.epochs, of.batch_size, of.learning_rate) = (count(1), count(64), rate);
            of.methods.ema_decay = ema;
        });
        let workspace = job.workspace(name);
        let (outcome, events) = job.run(&workspace, 2);
        let error = outcome.expect_err("divergence");
        assert_eq!(error.kind(), Kind::Precondition);
        for word in ["training diverged; lower `learning_rate`", "epoch 1"] {
            assert!(error.message().contains(word), "{name}: {error}");
        }
        assert!(epochs(&events).is_empty());
        assert!(!workspace.join("epoch-1").exists(), "{name}");
    }
}

#[test]
fn an_encoder_with_a_weight_that_is_no_number_is_refused_by_tensor_and_row() {
    let folder = tempfile::tempdir().expect("a folder");
    for (value, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "infinity")] {
        make_damaged(folder.path(), 17, value);
        let error = Checkpoint::open(folder.path()).err().expect("a refusal");
        assert_eq!(error.kind(), Kind::Precondition);
        let expected = format!("embeddings.word_embeddings.weight has {word} in row 17");
        assert!(error.message().contains(&expected), "{error}");
        assert!(
            error.message().contains("model.safetensors") && !error.message().contains("`learning_rate`"),
            "{error}"
        );
    }
}

#[test]
fn nine_rows_in_windows_of_four_give_three_whole_epochs_and_the_few_steps_are_told() {
    let job = job(9, |spec| {
        let of = &mut spec.hyperparameters;
        (of.epochs, of.batch_size, of.gradient_accumulation) = (count(3), count(2), count(2));
    });
    let (_, events) = job.finish("run", 2);
    let last = steps(&events).last().copied().expect("a step");
    assert_eq!((last.step, last.total_steps), (9, 9));
    assert_eq!(epochs(&events).iter().map(|epoch| epoch.train.rows).collect::<Vec<_>>(), [9, 9, 9]);
    assert_told(
        &events,
        &["only 9 optimizer steps", "`epochs`", "`batch_size`", "`gradient_accumulation` (now 2)"],
    );
}

#[test]
fn a_warm_up_longer_than_the_run_is_told_and_not_cut() {
    let job = job(9, |spec| {
        let of = &mut spec.hyperparameters;
        (of.epochs, of.batch_size, of.warmup) = (count(3), count(3), Warmup::Steps(500));
        of.learning_rate = 2e-5;
    });
    let (_, events) = job.finish("run", 2);
    assert_told(&events, &["the rate never reaches 0.00002", "ends at 3.20e-7", "`warmup_steps`"]);
    let last = steps(&events).last().copied().expect("a step");
    assert!((last.learning_rate - 2e-5 * 8.0 / 500.0).abs() < 1e-12, "{last:?}");
}

#[test]
fn a_run_of_one_step_learns_with_the_default_warm_up() {
    for (name, rows, batch, accumulation) in
        [("batch", 26, 512, 1), ("windows", 26, 1, 64), ("few", 4, 16, 1)]
    {
        let job = job(rows, |spec| {
            let of = &mut spec.hyperparameters;
            *of = Hyperparameters { max_length: of.max_length, ..Hyperparameters::default() };
            (of.epochs, of.batch_size, of.gradient_accumulation) =
                (count(1), count(batch), count(accumulation));
        });
        let (_, events) = job.finish(name, 2);
        let only = steps(&events);
        assert_eq!((only.len(), only[0].learning_rate), (1, 2e-5), "{name}");
        assert_told(&events, &["only 1 optimizer step,"]);
    }
}

#[test]
fn a_run_whose_every_rate_is_zero_is_refused_before_it_starts() {
    let job = job(9, |spec| {
        let of = &mut spec.hyperparameters;
        (of.epochs, of.batch_size, of.warmup) = (count(1), count(16), Warmup::Steps(5));
    });
    let error = job.plan().expect_err("a refusal");
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.message().contains("`warmup_steps = 0`"), "{error}");
}

#[test]
fn a_model_that_always_answers_the_larger_label_is_told_with_the_label_that_it_never_predicts() {
    let job = Job::new(|spec| {
        spec.test = None;
        let of = &mut spec.hyperparameters;
        (of.epochs, of.learning_rate) = (count(1), 1e-3);
    });
    for (file, rows) in [("train.csv", 120), ("validation.csv", 50)] {
        let label = |row: usize| if row % 25 == 7 { "rare" } else { "ok" };
        let rows: String = (0..rows).map(|row| format!("the thing number {row},{}\n", label(row))).collect();
        std::fs::write(job.folder.path().join(file), format!("text,label\n{rows}")).expect("a file");
    }
    let (_, events) = job.finish("run", 2);
    assert_told(&events, &["answers 'ok' for all 50 validation rows", "'rare' (2 rows)", "96%"]);
}

#[test]
fn a_rate_far_too_high_fails_the_run_or_is_told() {
    for rate in [1.0, 10.0] {
        let job = job(200, |spec| {
            let of = &mut spec.hyperparameters;
            (of.epochs, of.learning_rate) = (count(2), rate);
        });
        let (outcome, events) = job.run(&job.workspace(&format!("{rate}")), 2);
        match outcome {
            Err(error) => assert!(error.message().contains("`learning_rate`"), "{error}"),
            Ok(_) => assert_told(&events, &["lower `learning_rate`"]),
        }
    }
}

#[test]
fn a_loss_that_never_leaves_that_of_guessing_is_told() {
    let job = job(200, |spec| {
        let of = &mut spec.hyperparameters;
        (of.epochs, of.learning_rate) = (count(3), 1e-12);
    });
    let (_, events) = job.finish("run", 2);
    assert_told(&events, &["nothing was learned so far", "ln 2", "`learning_rate`"]);
}

#[test]
fn of_equal_epochs_the_first_is_kept_and_marked() {
    let job = job(40, |spec| {
        let of = &mut spec.hyperparameters;
        (of.epochs, of.learning_rate, of.metric) = (count(4), 1e-12, Metric::Accuracy);
    });
    let (finished, events) = job.finish("run", 2);
    assert_eq!(finished.epoch.epoch, 1);
    assert_eq!(
        epochs(&events).iter().map(|epoch| epoch.best).collect::<Vec<_>>(),
        [true, false, false, false]
    );
}
