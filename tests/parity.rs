//! The numbers agree with PyTorch and `transformers` (the fixtures that `fixtures/make.py` made, one of each
//! family) and with `candle_transformers`, with every instruction set and at both precisions.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use hone_engine::batch::Batch;
use hone_engine::kernels::{Compute, Precision};
use hone_engine::model::backend::Start;
use hone_engine::model::checkpoint::Checkpoint;
use hone_engine::model::classifier::{Setup, Trainable};
use hone_engine::model::cpu::CpuBackend;
use hone_engine::model::declaration::Declaration;
use hone_engine::model::noise::Mode;
use hone_engine::model::objective::Objective;
use hone_engine::model::optimizer::Settings;
use hone_engine::targets::Targets;
use hone_train::schedule::Schedule;
use hone_train::spec::{self, Hyperparameters, Scheduler, Warmup};
use serde_json::Value;

use crate::harness::model::{
    by_candle, classifier, computes, far, fixture, gradients_of, largest, learn, step, values_of,
};

/// How far a number may be from that of the reference.
struct Tolerance {
    logits: f64,
    loss: f64,
    /// Of the largest entry of a gradient.
    gradient: f64,
    /// Of the gradient of a key's bias, which truly is 0: it moves all scores of a row alike.
    key_bias: f64,
    /// Of each loss of a curve.
    curve: f64,
    /// Of the norm of a curve's gradients, relative.
    norm: f64,
    /// Of a parameter at the end of a curve.
    end: f64,
}

const FLOAT32: Tolerance = Tolerance {
    logits: 1e-5,
    loss: 1e-5,
    gradient: 1e-4,
    key_bias: 1e-6,
    curve: 1e-4,
    norm: 1e-4,
    end: 1e-3,
};

/// A bfloat16 has 8 bits, so that a factor is up to 2^-9 (0.2 %) off, and a gradient has gone through some fifteen
/// products: about twice the largest distances that were measured. A norm is off by most where the loss is almost 0, and
/// the rates of a curve add up to a hundredth.
const BFLOAT16: Tolerance = Tolerance {
    logits: 0.06,
    loss: 0.02,
    gradient: 0.06,
    key_bias: 1e-3,
    curve: 0.025,
    norm: 0.2,
    end: 0.01,
};

/// What computes.
#[derive(Clone, Copy, Debug)]
enum By {
    Cpu(Compute),
    Candle,
}

struct Fixture {
    tensors: HashMap<String, Tensor>,
    expected: Value,
    model: Trainable,
    /// Starts anew, with an optimizer of these settings.
    start: Box<dyn Fn(&Settings) -> Trainable>,
    tolerance: &'static Tolerance,
}

/// Makes a test of each family out of each function of a fixture.
macro_rules! of_every_family {
    ($($check:ident at $precisions:expr),* $(,)?) => {$(
        mod $check {
            use super::{Precision, check_family};

            const PRECISIONS: &[Precision] = $precisions;

            #[test]
            fn bert() {
                check_family("bert", PRECISIONS, super::$check);
            }

            #[test]
            fn distilbert() {
                check_family("distilbert", PRECISIONS, super::$check);
            }

            #[test]
            fn roberta() {
                check_family("roberta", PRECISIONS, super::$check);
            }

            #[test]
            fn xlm_roberta() {
                check_family("xlm_roberta", PRECISIONS, super::$check);
            }

            #[test]
            fn electra() {
                check_family("electra", PRECISIONS, super::$check);
            }

            #[test]
            fn albert() {
                check_family("albert", PRECISIONS, super::$check);
            }
        }
    )*};
}

of_every_family!(
    logits_and_loss_are_those_of_transformers at &[Precision::Fp32, Precision::Bf16],
    every_gradient_is_that_of_transformers at &[Precision::Fp32, Precision::Bf16],
    a_training_curve_is_that_of_pytorch at &[Precision::Fp32, Precision::Bf16],
    adam_with_gradient_accumulation_is_that_of_pytorch at &[Precision::Fp32, Precision::Bf16],
    every_parameter_moves_in_one_step at &[Precision::Fp32, Precision::Bf16],
    // A loss of rounded weights is a staircase: it has no useful differences.
    gradients_of_the_whole_model_agree_with_finite_differences at &[Precision::Fp32],
);

fn check_family(family: &str, precisions: &[Precision], check: fn(Fixture)) {
    for &precision in precisions {
        for compute in computes(precision) {
            // Shown when the check fails.
            eprintln!("{compute:?}");
            check(Fixture::new(family, By::Cpu(compute)));
        }
    }
    eprintln!("candle");
    check(Fixture::new(family, By::Candle));
}

impl Fixture {
    fn new(family: &str, by: By) -> Self {
        let text = std::fs::read_to_string(fixture(family).join("expected.json")).expect("expected.json");
        let family = family.to_owned();
        let folder = fixture(&family);
        let start = move |optimizer: &Settings| match by {
            By::Cpu(compute) => {
                classifier(&family, &Setup { optimizer: *optimizer, ..Setup::new(1, compute) })
            }
            By::Candle => by_candle(&family, &Setup { optimizer: *optimizer, ..Setup::new(1, any()) }),
        };
        Self {
            tensors: candle_core::safetensors::load(folder.join("expected.safetensors"), &Device::Cpu)
                .expect("tensors"),
            expected: serde_json::from_str(&text).expect("json"),
            model: start(&Settings::default()),
            start: Box::new(start),
            tolerance: match by {
                By::Cpu(compute) if compute.precision() == Precision::Bf16 => &BFLOAT16,
                _ => &FLOAT32,
            },
        }
    }

    fn integers(&self, name: &str) -> Vec<u32> {
        self.tensors[name].to_dtype(DType::U32).and_then(|tensor| tensor.to_vec1()).expect("integers")
    }

    fn batch(&self, index: usize) -> (Batch, Targets) {
        let part = |name: &str| self.integers(&format!("batch.{index}.{name}"));
        let batch = Batch { ids: part("ids"), types: part("token_types"), offsets: part("offsets") };
        (batch, Targets::Classes(part("labels")))
    }

    fn numbers(&self, curve: &str, name: &str) -> Vec<f64> {
        self.expected[curve][name]
            .as_array()
            .expect("a list")
            .iter()
            .map(|x| x.as_f64().expect("a number"))
            .collect()
    }

    /// Values of each parameter's shape under the names of a checkpoint.
    fn named(&self, values: &[Vec<f32>]) -> Vec<(String, Vec<f32>)> {
        let split = self.model.list().iter().zip(values).flat_map(|(parameter, values)| {
            parameter.split(values).expect("parts").into_iter().map(|(name, part)| (name, flat(&part)))
        });
        split.collect()
    }
}

/// Any way to compute, where it makes no difference.
fn any() -> Compute {
    Compute::new(hone_engine::kernels::Isa::PORTABLE, Precision::Fp32)
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|tensor| tensor.to_vec1()).expect("values")
}

fn is_key_bias(name: &str) -> bool {
    name.ends_with("key.bias") || name.ends_with("k_lin.bias")
}

fn logits_and_loss_are_those_of_transformers(mut fixture: Fixture) {
    let batch = fixture.batch(0);
    let (logits, loss) = learn(&mut fixture.model, &batch, Mode::Evaluate, 1.0);
    let away = far(&logits, &flat(&fixture.tensors["logits"]));
    assert!(away < fixture.tolerance.logits, "logits are {away} away");
    let away = (loss - f64::from(flat(&fixture.tensors["loss"])[0])).abs();
    assert!(away < fixture.tolerance.loss, "the loss is {away} away");
    assert_eq!(
        fixture.model.evaluate(&batch.0).expect("an answer"),
        logits,
        "an answer is what training sees"
    );
}

fn every_gradient_is_that_of_transformers(mut fixture: Fixture) {
    let batch = fixture.batch(0);
    learn(&mut fixture.model, &batch, Mode::Evaluate, 1.0);
    let gradients = gradients_of(&mut fixture.model);
    let mut compared = 0;
    for (name, gradient) in fixture.named(&gradients) {
        let expected = flat(&fixture.tensors[&format!("grad.{name}")]);
        let largest = largest(&expected);
        let tolerance = match is_key_bias(&name) {
            true => fixture.tolerance.key_bias,
            false => fixture.tolerance.gradient * largest,
        };
        let away = far(&gradient, &expected);
        assert!(away <= tolerance, "the gradient of {name} is {away} away, its largest value is {largest}");
        compared += 1;
    }
    assert_eq!(compared, fixture.tensors.keys().filter(|name| name.starts_with("grad.")).count());
}

fn curve(name: &str) -> (Hyperparameters, u64) {
    let fixed = Hyperparameters { weight_decay: 0.01, learning_rate: 1e-3, ..Hyperparameters::default() };
    match name {
        "adamw" => (Hyperparameters { warmup: Warmup::Steps(4), ..fixed }, 20),
        _ => {
            let adam = Hyperparameters {
                optimizer: spec::Optimizer::Adam,
                learning_rate: 5e-4,
                weight_decay: 0.0,
                scheduler: Scheduler::Constant,
                warmup: Warmup::Steps(0),
                max_grad_norm: None,
                ..fixed
            };
            (adam, 10)
        }
    }
}

fn a_training_curve_is_that_of_pytorch(mut fixture: Fixture) {
    let (hyperparameters, steps) = curve("adamw");
    let schedule = Schedule::new(&hyperparameters, steps, steps);
    fixture.model = (fixture.start)(&hyperparameters.optimizer_settings());
    let (losses, norms, rates) = (
        fixture.numbers("adamw", "losses"),
        fixture.numbers("adamw", "grad_norms"),
        fixture.numbers("adamw", "lrs"),
    );
    let tolerance = fixture.tolerance;
    for index in 0..steps as usize {
        let batch = [fixture.batch(index)];
        let rate = schedule.rate(index as u64);
        assert!((rate - rates[index]).abs() < 1e-12, "the rate of step {index} is {rate}");
        let (loss, norm) = step(&mut fixture.model, &batch, Mode::Evaluate, rate);
        let expected = losses[index];
        assert!(
            (loss - expected).abs() < tolerance.curve,
            "the loss of step {index} is {loss}, not {expected}"
        );
        let expected = norms[index];
        let away = (norm / expected - 1.0).abs();
        assert!(away < tolerance.norm, "the norm of step {index} is {norm}, not {expected}");
    }
    let end = values_of(&mut fixture.model);
    for (name, value) in fixture.named(&end) {
        // Adam blows the rounding noise of a gradient that is truly 0 up to the size of the rate.
        if !is_key_bias(&name) {
            let away = far(&value, &flat(&fixture.tensors[&format!("final.{name}")]));
            assert!(away < tolerance.end, "{name} ends {away} away");
        }
    }
}

fn adam_with_gradient_accumulation_is_that_of_pytorch(mut fixture: Fixture) {
    let (hyperparameters, steps) = curve("adam_accumulation");
    fixture.model = (fixture.start)(&hyperparameters.optimizer_settings());
    let losses = fixture.numbers("adam_accumulation", "losses");
    assert_eq!(losses.len() as u64, steps);
    for (index, expected) in losses.iter().enumerate() {
        let window = [fixture.batch(2 * index), fixture.batch(2 * index + 1)];
        let rate = hyperparameters.learning_rate;
        let (loss, _) = step(&mut fixture.model, &window, Mode::Evaluate, rate);
        let away = (loss - expected).abs();
        assert!(away < fixture.tolerance.curve, "the loss of step {index} is {loss}, not {expected}");
    }
}

fn every_parameter_moves_in_one_step(mut fixture: Fixture) {
    let before = values_of(&mut fixture.model);
    let batch = [fixture.batch(0)];
    step(&mut fixture.model, &batch, Mode::Evaluate, 1e-3);
    let after = values_of(&mut fixture.model);
    for ((parameter, before), after) in fixture.model.list().iter().zip(before).zip(after) {
        assert_ne!(before, after, "{:?} did not move", parameter.parts);
    }
}

fn gradients_of_the_whole_model_agree_with_finite_differences(mut fixture: Fixture) {
    let (batch, targets) = fixture.batch(1);
    let model = &mut fixture.model;
    let both = (batch, targets);
    learn(model, &both, Mode::Evaluate, 1.0);
    let gradients = gradients_of(model);
    for (parameter, gradient) in model.list().clone().iter().zip(gradients) {
        let norm = gradient.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        // Along the gradient itself the loss changes by the norm times the way, which is so short that DistilBERT's
        // ReLU seldom has its kink on it.
        let way = 2e-3 / norm.max(1e-3);
        let before = model.parameters().expect("parameters").values().clone();
        let mut moved = |by: f64| {
            let mut values = before.clone();
            for (value, grad) in values[parameter.range.clone()].iter_mut().zip(&gradient) {
                *value += grad * by as f32;
            }
            model.exchange(&mut values).expect("an exchange");
            let logits = model.evaluate(&both.0).expect("logits");
            Objective::default().evaluate(&logits, &both.1).mean
        };
        let numeric = (moved(way) - moved(-way)) / (2.0 * way);
        moved(0.0);
        let analytic = norm * norm;
        let tolerance = 0.02 * analytic + 2e-4 * norm;
        assert!(
            (numeric - analytic).abs() <= tolerance,
            "{:?}: {analytic} is not {numeric}",
            parameter.parts
        );
    }
}

/// Forward passes of `candle_transformers`' BERT, one sequence after the other, against the packed encoder.
fn compare_with_candle_transformers(folder: &Path, batch: &Batch) {
    use candle_transformers::models::bert::{BertModel, Config};
    let config = std::fs::read_to_string(folder.join("config.json")).expect("config.json");
    let config: Config = serde_json::from_str(&config).expect("a configuration");
    let tensors =
        candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).expect("weights");
    let builder = candle_nn::VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let oracle = BertModel::load(builder, &config).expect("the oracle");
    let mut expected = Vec::new();
    for pair in batch.offsets.windows(2) {
        let (start, end) = (pair[0] as usize, pair[1] as usize);
        let row =
            |values: &[u32]| Tensor::new(&values[start..end], &Device::Cpu).and_then(|row| row.unsqueeze(0));
        let (ids, types) = (row(&batch.ids).expect("ids"), row(&batch.types).expect("types"));
        expected.push(flat(&oracle.forward(&ids, &types, None).expect("hidden states")));
    }

    let checkpoint = Checkpoint::open(folder).expect("a checkpoint");
    let labels = ["a".to_owned(), "b".to_owned()];
    for compute in computes(Precision::Fp32) {
        let mut model = Trainable::start(&checkpoint, &labels, &Setup::new(1, compute), &Device::Cpu);
        let parameters = model.as_mut().expect("a model").parameters().expect("parameters").clone();
        let declaration = Declaration::new(&checkpoint.config().architecture, 2).into();
        let start = Start { declaration, parameters, compute, learning: None };
        let mut backend = CpuBackend::open(start).expect("a backend");
        let mut hidden = backend.hidden(batch).expect("hidden states");
        for expected in &expected {
            let (found, rest) = hidden.split_at(expected.len());
            let away = far(found, expected);
            assert!(away < 2e-5, "{compute:?}: {away} away");
            hidden = rest;
        }
    }
}

#[test]
fn hidden_states_are_those_of_candle_transformers() {
    let batch = Fixture::new("bert", By::Candle).batch(0).0;
    compare_with_candle_transformers(&fixture("bert"), &batch);
}

/// Runs on the real encoder when `HONE_TEST_ENCODER` names its folder.
#[test]
fn hidden_states_of_the_real_encoder_are_those_of_candle_transformers() {
    let Some(folder) = std::env::var_os("HONE_TEST_ENCODER").map(PathBuf::from) else {
        eprintln!("skipped: HONE_TEST_ENCODER is not set");
        return;
    };
    let mut batch = Batch { offsets: vec![0], ..Batch::default() };
    for length in [1u32, 2, 9, 33, 128, 511, 512] {
        batch.ids.extend((0..length).map(|place| 1000 + (place * 7919 + length * 104_729) % 20_000));
        batch.types.extend((0..length).map(|place| u32::from(place > length / 2)));
        batch.offsets.push(batch.ids.len() as u32);
    }
    compare_with_candle_transformers(&folder, &batch);
}
