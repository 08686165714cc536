//! The optimizer by itself: rows of the words that wait for their updates, the global norm, and rates by layer.

use hone_engine::batch::Batch;
use hone_engine::kernels::adam::{State, Update, update};
use hone_engine::kernels::{Compute, Isa, Precision};
use hone_engine::model::classifier::{Setup, Trainable};
use hone_engine::model::declaration::Place;
use hone_engine::model::gradients::Gradients;
use hone_engine::model::noise::Mode;
use hone_engine::model::optimizer::{Optimizer, Rule, Settings};
use hone_engine::targets::Targets;

use crate::harness::model::{
    batch, bits, classifier, far, gradients_of, learn, noise, settle, step, values_of,
};

/// The optimizer computes with what the process has chosen.
fn isa() -> Isa {
    Isa::chosen().expect("an instruction set")
}

fn model() -> Trainable {
    classifier("bert", &Setup::new(1, Compute::new(isa(), Precision::Fp32)))
}

/// The same updates over every value in every step.
struct Dense {
    settings: Settings,
    values: Vec<Vec<f32>>,
    m: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
    step: u64,
}

impl Dense {
    fn new(settings: &Settings, model: &Trainable) -> Self {
        let values = values_of(model.parameters());
        let zeros: Vec<Vec<f32>> = values.iter().map(|values| vec![0.0; values.len()]).collect();
        Self { settings: *settings, values, m: zeros.clone(), v: zeros, step: 0 }
    }

    fn step(&mut self, model: &Trainable, gradients: &[Vec<f32>], norm: f64, rate: f64) {
        let of = &self.settings;
        self.step += 1;
        for (index, parameter) in model.parameters().iter().enumerate() {
            let by = Update {
                rate,
                beta1: of.beta1,
                beta2: of.beta2,
                epsilon: of.epsilon,
                decay: if parameter.decays { of.weight_decay } else { 0.0 },
                decoupled: of.rule == Rule::AdamW,
                step: self.step,
                scale: of.max_grad_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0)),
            };
            let (value, m, v) = (&mut self.values[index], &mut self.m[index], &mut self.v[index]);
            update(isa(), State { value, m, v }, &gradients[index], by.coefficients());
        }
    }
}

/// One short sequence a step. Some words come once, early or late; many never come.
fn rarely(position: u64) -> (Batch, Targets) {
    let (mut batch, targets) = batch(position, 1);
    if position % 300 == 1 {
        batch.ids[0] = 70 + (position / 300) as u32;
    }
    (batch, targets)
}

fn assert_same_bits(model: &Trainable, optimizer: &Optimizer, dense: &Dense) {
    let state = optimizer.state().expect("moments");
    let moment = |prefix: &str, name: &str| {
        let name = format!("{prefix}.{name}");
        let (_, tensor) = state.iter().find(|(found, _)| *found == name).expect("a moment");
        tensor.flatten_all().and_then(|tensor| tensor.to_vec1::<f32>()).expect("values")
    };
    for (index, parameter) in model.parameters().iter().enumerate() {
        let of = |prefix| parameter.parts.iter().flat_map(|name| moment(prefix, name)).collect::<Vec<f32>>();
        let name = &parameter.parts;
        assert_eq!(bits(model.parameters().of(index)), bits(&dense.values[index]), "{name:?}");
        assert_eq!(bits(&of("m")), bits(&dense.m[index]), "the first moment of {name:?}");
        assert_eq!(bits(&of("v")), bits(&dense.v[index]), "the second moment of {name:?}");
    }
}

/// Words that no batch has lag behind by up to 1024 updates; the run is longer than that.
#[test]
fn words_that_wait_end_where_updating_all_of_them_ends_to_the_bit() {
    for (rule, weight_decay) in [(Rule::AdamW, 0.01), (Rule::Adam, 0.01), (Rule::Adam, 0.0)] {
        let of = Settings { rule, weight_decay, ..Settings::default() };
        let mut model = model();
        let (mut lazy, mut dense) = (Optimizer::new(&of, model.parameters()), Dense::new(&of, &model));
        for position in 1..=1100 {
            let micro = rarely(position);
            lazy.refresh(&mut model, &micro.0.ids).expect("words");
            learn(&mut model, &micro, Mode::Evaluate, 1.0);
            let gradients = gradients_of(model.parameters(), model.gradients());
            let rate = 1e-3 / (1.0 + position as f64 / 100.0);
            let norm = lazy.step(&mut model, rate);
            dense.step(&model, &gradients, norm.expect("a norm"), rate);
            // In the middle, too, and on both sides of the longest lag.
            if [7, 500, 1023, 1024, 1025, 1100].contains(&position) {
                if position == 500 || position == 1100 {
                    settle(&mut model, &mut lazy);
                    assert_same_bits(&model, &lazy, &dense);
                }
                let words = model.parameters().list()[0].clone();
                lazy.refresh(&mut model, &[70]).expect("words");
                let row = 70 * words.shape[1]..71 * words.shape[1];
                assert_eq!(bits(&model.parameters().of(0)[row.clone()]), bits(&dense.values[0][row]));
            }
        }
    }
}

#[test]
fn words_lag_by_more_than_a_thousand_updates_without_a_stop_between() {
    let of = Settings::default();
    let mut model = model();
    let (mut lazy, mut dense) = (Optimizer::new(&of, model.parameters()), Dense::new(&of, &model));
    for position in 1..=1030 {
        let micro = [rarely(position.min(2))];
        lazy.refresh(&mut model, &micro[0].0.ids).expect("words");
        learn(&mut model, &micro[0], Mode::Evaluate, 1.0);
        let gradients = gradients_of(model.parameters(), model.gradients());
        let norm = lazy.step(&mut model, 1e-3);
        dense.step(&model, &gradients, norm.expect("a norm"), 1e-3);
    }
    settle(&mut model, &mut lazy);
    assert_same_bits(&model, &lazy, &dense);
}

#[test]
fn the_norm_is_that_of_all_gradients_together_before_clipping() {
    let mut model = model();
    let mut optimizer = Optimizer::new(&Settings::default(), model.parameters());
    // Both micro-batches have words in common.
    for position in 1..3 {
        learn(&mut model, &batch(position, 5), noise(position), 0.5);
    }
    let gradients = gradients_of(model.parameters(), model.gradients());
    let square: f64 = gradients.iter().flatten().map(|x| f64::from(*x).powi(2)).sum();
    let norm = optimizer.step(&mut model, 1e-3);
    let norm = norm.expect("a norm");
    assert!((norm / square.sqrt() - 1.0).abs() < 1e-6, "{norm} is not {}", square.sqrt());
}

#[test]
fn a_gradient_that_is_not_finite_moves_nothing() {
    let mut model = model();
    let mut optimizer = Optimizer::new(&Settings::default(), model.parameters());
    let before = bits(model.parameters().values());
    let (batch, _) = batch(1, 2);
    model.forward(&batch, Mode::Evaluate).expect("logits");
    model.backward(&[f32::NAN; 6]).expect("a way back");
    let norm = optimizer.step(&mut model, 1e-3);
    assert!(norm.expect("a norm").is_nan());
    assert_eq!(bits(model.parameters().values()), before);
    assert_eq!(optimizer.steps(), 0);
}

/// The first step of Adam moves every value by the rate, whatever its gradient is.
#[test]
fn each_layer_learns_at_its_share_of_the_rate() {
    let (decay, rate) = (0.5, 1e-3);
    let of =
        Settings { layer_decay: Some(decay), weight_decay: 0.0, max_grad_norm: None, ..Settings::default() };
    let mut model = model();
    let mut optimizer = Optimizer::new(&of, model.parameters());
    let before = values_of(model.parameters());
    step(&mut model, &mut optimizer, &[batch(1, 30)], Mode::Evaluate, rate);
    let after = values_of(model.parameters());
    for ((parameter, before), after) in model.parameters().iter().zip(&before).zip(&after) {
        let share = match parameter.place {
            Place::Head | Place::Layer(1) => 1.0,
            Place::Layer(_) => decay,
            Place::Embeddings => decay * decay,
        };
        let moved = far(after, before) / rate;
        assert!((moved / share - 1.0).abs() < 1e-3, "{:?} moves by {moved} of the rate", parameter.parts);
    }
}

#[test]
fn what_is_frozen_counts_in_no_norm() {
    let setup = Setup { freeze_layers: 1, ..Setup::new(1, Compute::new(isa(), Precision::Fp32)) };
    let mut model = classifier("bert", &setup);
    let mut optimizer = Optimizer::new(&Settings::default(), model.parameters());
    let micro = batch(1, 9);
    learn(&mut model, &micro, Mode::Evaluate, 1.0);
    let all = gradients_of(model.parameters(), model.gradients());
    let learning = |gradients: &Gradients, index: usize| gradients.is_trainable(index);
    let square: f64 = (0..all.len())
        .filter(|&index| learning(model.gradients(), index))
        .flat_map(|index| &all[index])
        .map(|x| f64::from(*x).powi(2))
        .sum();
    let norm = optimizer.step(&mut model, 1e-3);
    assert!((norm.expect("a norm") / square.sqrt() - 1.0).abs() < 1e-6);
}
