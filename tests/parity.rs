//! The numbers agree with PyTorch and `transformers` (the fixtures that `fixtures/make.py` made, one of each
//! family) and with `candle_transformers`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use hone_daemon::data::batch::Batch;
use hone_daemon::kernels::adam::sum_of_squares;
use hone_daemon::model::bert::Mode;
use hone_daemon::model::checkpoint::Checkpoint;
use hone_daemon::model::classifier::{Trainable, to_rows};
use hone_daemon::train::optimizer::Optimizer;
use hone_daemon::train::schedule::Schedule;
use hone_daemon::train::spec::{self, Hyperparameters, Scheduler, Warmup};
use serde_json::Value;

struct Fixture {
    tensors: HashMap<String, Tensor>,
    expected: Value,
    model: Trainable,
}

/// Makes a test of each family out of each function of a fixture.
macro_rules! of_every_family {
    ($($check:ident),* $(,)?) => {$(
        mod $check {
            use super::{Result, fixture};

            #[test]
            fn bert() -> Result<()> {
                super::$check(fixture("bert"))
            }

            #[test]
            fn distilbert() -> Result<()> {
                super::$check(fixture("distilbert"))
            }

            #[test]
            fn roberta() -> Result<()> {
                super::$check(fixture("roberta"))
            }

            #[test]
            fn xlm_roberta() -> Result<()> {
                super::$check(fixture("xlm_roberta"))
            }
        }
    )*};
}

of_every_family!(
    logits_and_loss_are_those_of_transformers,
    every_gradient_is_that_of_transformers,
    a_training_curve_is_that_of_pytorch,
    adam_with_gradient_accumulation_is_that_of_pytorch,
    every_parameter_moves_in_one_step,
    gradients_of_the_whole_model_agree_with_finite_differences,
);

fn folder(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/tiny_{family}"))
}

fn fixture(family: &str) -> Fixture {
    let folder = folder(family);
    let text = std::fs::read_to_string(folder.join("expected.json")).expect("expected.json");
    let checkpoint = Checkpoint::open(&folder).expect("the fixture's checkpoint");
    let labels = checkpoint.config().labels().expect("labels");
    Fixture {
        tensors: candle_core::safetensors::load(folder.join("expected.safetensors"), &Device::Cpu)
            .expect("tensors"),
        expected: serde_json::from_str(&text).expect("json"),
        model: Trainable::start(&checkpoint, &labels, 1, &Device::Cpu).expect("a model"),
    }
}

impl Fixture {
    fn integers(&self, name: &str) -> Vec<u32> {
        self.tensors[name].to_dtype(DType::U32).and_then(|tensor| tensor.to_vec1()).expect("integers")
    }

    fn batch(&self, index: usize) -> (Batch, Arc<[u32]>) {
        let part = |name: &str| self.integers(&format!("batch.{index}.{name}"));
        let batch = Batch { ids: part("ids"), types: part("token_types"), offsets: part("offsets") };
        (batch, part("labels").into())
    }

    fn numbers(&self, curve: &str, name: &str) -> Vec<f64> {
        self.expected[curve][name]
            .as_array()
            .expect("a list")
            .iter()
            .map(|x| x.as_f64().expect("a number"))
            .collect()
    }
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().and_then(|tensor| tensor.to_vec1()).expect("values")
}

fn is_key_bias(name: &str) -> bool {
    name.ends_with("key.bias") || name.ends_with("k_lin.bias")
}

fn largest_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| f64::from((x - y).abs())).fold(0.0, f64::max)
}

fn logits_and_loss_are_those_of_transformers(fixture: Fixture) -> Result<()> {
    let (batch, classes) = fixture.batch(0);
    let (logits, loss) = fixture.model.loss(&batch, classes, Mode::Evaluate)?;
    let far = largest_difference(&flat(&logits), &flat(&fixture.tensors["logits"]));
    assert!(far < 1e-5, "logits are {far} away");
    let far = largest_difference(&flat(&loss), &flat(&fixture.tensors["loss"]));
    assert!(far < 1e-5, "the loss is {far} away");
    Ok(())
}

fn every_gradient_is_that_of_transformers(fixture: Fixture) -> Result<()> {
    let (batch, classes) = fixture.batch(0);
    let (_, loss) = fixture.model.loss(&batch, classes, Mode::Evaluate)?;
    let gradients = loss.backward()?;
    let mut compared = 0;
    for parameter in fixture.model.parameters.iter() {
        let gradient = gradients.get(parameter.value.as_tensor()).expect("a gradient for every parameter");
        for (name, gradient) in parameter.split(gradient)? {
            let expected = flat(&fixture.tensors[&format!("grad.{name}")]);
            let largest = expected.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
            // The true gradient of a key's bias is 0: it moves all scores of a row alike.
            let tolerance = if is_key_bias(&name) { 1e-6 } else { 1e-4 * largest };
            let far = largest_difference(&flat(&gradient), &expected);
            assert!(far <= tolerance, "the gradient of {name} is {far} away, its largest value is {largest}");
            compared += 1;
        }
    }
    assert_eq!(compared, fixture.tensors.keys().filter(|name| name.starts_with("grad.")).count());
    Ok(())
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

fn a_training_curve_is_that_of_pytorch(fixture: Fixture) -> Result<()> {
    let (hyperparameters, steps) = curve("adamw");
    let schedule = Schedule::new(&hyperparameters, steps, steps);
    let mut optimizer = Optimizer::new(&hyperparameters, &fixture.model.parameters);
    let (losses, norms, rates) = (
        fixture.numbers("adamw", "losses"),
        fixture.numbers("adamw", "grad_norms"),
        fixture.numbers("adamw", "lrs"),
    );
    for step in 0..steps as usize {
        let (batch, classes) = fixture.batch(step);
        let (_, loss) = fixture.model.loss(&batch, classes, Mode::Evaluate)?;
        let rate = schedule.rate(step as u64);
        assert!((rate - rates[step]).abs() < 1e-12, "the rate of step {step} is {rate}");
        let norm = optimizer.step(&fixture.model.parameters, &loss.backward()?, rate).expect("a step");
        let loss = f64::from(loss.to_scalar::<f32>()?);
        assert!(
            (loss - losses[step]).abs() < 1e-4,
            "the loss of step {step} is {loss}, not {}",
            losses[step]
        );
        assert!(
            (norm / norms[step] - 1.0).abs() < 1e-4,
            "the norm of step {step} is {norm}, not {}",
            norms[step]
        );
    }
    for parameter in fixture.model.parameters.iter() {
        for (name, value) in parameter.split(parameter.value.as_tensor())? {
            // Adam blows the rounding noise of a gradient that is truly 0 up to the size of the rate.
            if !is_key_bias(&name) {
                let far =
                    largest_difference(&flat(&value), &flat(&fixture.tensors[&format!("final.{name}")]));
                assert!(far < 1e-3, "{name} ends {far} away");
            }
        }
    }
    Ok(())
}

fn adam_with_gradient_accumulation_is_that_of_pytorch(fixture: Fixture) -> Result<()> {
    let (hyperparameters, steps) = curve("adam_accumulation");
    let mut optimizer = Optimizer::new(&hyperparameters, &fixture.model.parameters);
    let losses = fixture.numbers("adam_accumulation", "losses");
    assert_eq!(losses.len() as u64, steps);
    for (step, expected) in losses.iter().enumerate() {
        let mean = |index: usize| {
            let (batch, classes) = fixture.batch(index);
            fixture.model.loss(&batch, classes, Mode::Evaluate)?.1 / 2.0
        };
        let window = (mean(2 * step)? + mean(2 * step + 1)?)?;
        let rate = hyperparameters.learning_rate;
        optimizer.step(&fixture.model.parameters, &window.backward()?, rate).expect("a step");
        let loss = f64::from(window.to_scalar::<f32>()?);
        assert!((loss - expected).abs() < 1e-4, "the loss of step {step} is {loss}, not {expected}");
    }
    Ok(())
}

fn every_parameter_moves_in_one_step(fixture: Fixture) -> Result<()> {
    let values = || -> Vec<Vec<f32>> {
        fixture.model.parameters.iter().map(|parameter| flat(parameter.value.as_tensor())).collect()
    };
    let before = values();
    let hyperparameters = Hyperparameters::default();
    let (batch, classes) = fixture.batch(0);
    let (_, loss) = fixture.model.loss(&batch, classes, Mode::Evaluate)?;
    let mut optimizer = Optimizer::new(&hyperparameters, &fixture.model.parameters);
    optimizer.step(&fixture.model.parameters, &loss.backward()?, 1e-3).expect("a step");
    for ((parameter, before), after) in fixture.model.parameters.iter().zip(before).zip(values()) {
        assert_ne!(before, after, "{:?} did not move", parameter.parts);
    }
    Ok(())
}

fn gradients_of_the_whole_model_agree_with_finite_differences(fixture: Fixture) -> Result<()> {
    let (batch, classes) = fixture.batch(1);
    let loss = || fixture.model.loss(&batch, classes.clone(), Mode::Evaluate).map(|(_, loss)| loss);
    let gradients = loss()?.backward()?;
    for parameter in fixture.model.parameters.iter() {
        let gradient = gradients.get(parameter.value.as_tensor()).expect("a gradient");
        let norm = sum_of_squares(gradient)?.sqrt();
        // Along the gradient itself the loss changes by the norm times the way, which is so short that DistilBERT's
        // ReLU seldom has its kink on it.
        let way = 2e-3 / norm.max(1e-3);
        let value = parameter.value.as_tensor().copy()?;
        let moved = |by: f64| -> Result<f64> {
            parameter.value.set(&(&value + (gradient * by)?)?)?;
            Ok(f64::from(loss()?.to_scalar::<f32>()?))
        };
        let numeric = (moved(way)? - moved(-way)?) / (2.0 * way);
        parameter.value.set(&value)?;
        let analytic = norm * norm;
        let tolerance = 0.02 * analytic + 2e-4 * norm;
        assert!(
            (numeric - analytic).abs() <= tolerance,
            "{:?}: {analytic} is not {numeric}",
            parameter.parts
        );
    }
    Ok(())
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

    let checkpoint = Checkpoint::open(folder).expect("a checkpoint");
    let labels = ["a".to_owned(), "b".to_owned()];
    let model = Trainable::start(&checkpoint, &labels, 1, &Device::Cpu).expect("a model");
    let hidden = model.evaluation().encoder().forward(batch, Mode::Evaluate).expect("hidden states");
    let hidden = to_rows(&hidden).expect("rows");
    for pair in batch.offsets.windows(2) {
        let (start, end) = (pair[0] as usize, pair[1] as usize);
        let row =
            |values: &[u32]| Tensor::new(&values[start..end], &Device::Cpu).and_then(|row| row.unsqueeze(0));
        let (ids, types) = (row(&batch.ids).expect("ids"), row(&batch.types).expect("types"));
        let expected = oracle.forward(&ids, &types, None).expect("hidden states");
        let far = largest_difference(&hidden[start..end].concat(), &flat(&expected));
        assert!(far < 2e-5, "a sequence of {} tokens is {far} away", end - start);
    }
}

#[test]
fn hidden_states_are_those_of_candle_transformers() {
    compare_with_candle_transformers(&folder("bert"), &fixture("bert").batch(0).0);
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
