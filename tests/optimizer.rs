//! The optimizer by itself: rows of the token embeddings that wait for their updates, the global norm, and rates by layer.

use hone_engine::batch::Batch;
use hone_engine::kernels::adam::{State, Update, update};
use hone_engine::kernels::{Compute, Isa, Precision};
use hone_engine::model::backend::State as Exported;
use hone_engine::model::classifier::{Setup, Trainable};
use hone_engine::model::declaration::Place;
use hone_engine::model::noise::Mode;
use hone_engine::model::optimizer::{Rule, Settings};
use hone_engine::model::parameters::Parameter;
use hone_engine::targets::Targets;

use crate::harness::model::{
    all_bits, batch, bits, classifier, far, gradients_of, learn, noise, step, values_of,
};

/// The optimizer computes with what the process has chosen.
fn isa() -> Isa {
    Isa::chosen().expect("an instruction set")
}

fn model(optimizer: &Settings) -> Trainable {
    classifier(
        "bert",
        &Setup { optimizer: *optimizer, ..Setup::new(1, Compute::new(isa(), Precision::Fp32)) },
    )
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
    fn new(settings: &Settings, model: &mut Trainable) -> Self {
        let values = values_of(model);
        let zeros: Vec<Vec<f32>> = values.iter().map(|values| vec![0.0; values.len()]).collect();
        Self { settings: *settings, values, m: zeros.clone(), v: zeros, step: 0 }
    }

    fn step(&mut self, model: &Trainable, gradients: &[Vec<f32>], norm: f64, rate: f64) {
        let of = &self.settings;
        self.step += 1;
        for (index, parameter) in model.list().iter().enumerate() {
            let by = Update {
                rate,
                beta1: of.beta1,
                beta2: of.beta2,
                epsilon: of.epsilon,
                decay: if parameter.decays() { of.weight_decay } else { 0.0 },
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

fn assert_same_bits(model: &mut Trainable, dense: &Dense) {
    let Exported { parameters, moments: [m, v], .. } = model.state().expect("a state");
    for (index, parameter) in parameters.iter().enumerate() {
        let name = &parameter.parts;
        let of = |all: &[f32]| bits(&all[parameter.range.clone()]);
        assert_eq!(of(parameters.values()), bits(&dense.values[index]), "{name:?}");
        assert_eq!(of(m), bits(&dense.m[index]), "the first moment of {name:?}");
        assert_eq!(of(v), bits(&dense.v[index]), "the second moment of {name:?}");
    }
}

/// Words that no batch has lag behind by up to 1024 updates; the run is longer than that.
#[test]
fn words_that_wait_end_where_updating_all_of_them_ends_to_the_bit() {
    for (rule, weight_decay) in [(Rule::AdamW, 0.01), (Rule::Adam, 0.01), (Rule::Adam, 0.0)] {
        let of = Settings { rule, weight_decay, ..Settings::default() };
        let mut model = model(&of);
        let mut dense = Dense::new(&of, &mut model);
        for position in 1..=1100 {
            let micro = rarely(position);
            learn(&mut model, &micro, Mode::Evaluate, 1.0);
            let gradients = gradients_of(&mut model);
            let rate = 1e-3 / (1.0 + position as f64 / 100.0);
            let norm = model.step(rate);
            dense.step(&model, &gradients, norm.expect("a norm"), rate);
            // In the middle, too, and on both sides of the longest lag.
            if [7, 500, 1023, 1024, 1025, 1100].contains(&position) {
                if position == 500 || position == 1100 {
                    assert_same_bits(&mut model, &dense);
                }
                // Reads one row, which is brought up to date alone.
                let alone = Batch { ids: vec![70], types: vec![0], offsets: vec![0, 1] };
                model.evaluate(&alone).expect("logits");
            }
        }
        assert_same_bits(&mut model, &dense);
    }
}

#[test]
fn words_lag_by_more_than_a_thousand_updates_without_a_stop_between() {
    let of = Settings::default();
    let mut model = model(&of);
    let mut dense = Dense::new(&of, &mut model);
    for position in 1..=1030 {
        let micro = [rarely(position.min(2))];
        learn(&mut model, &micro[0], Mode::Evaluate, 1.0);
        let gradients = gradients_of(&mut model);
        let norm = model.step(1e-3);
        dense.step(&model, &gradients, norm.expect("a norm"), 1e-3);
    }
    assert_same_bits(&mut model, &dense);
}

#[test]
fn the_norm_is_that_of_all_gradients_together_before_clipping() {
    let mut model = model(&Settings::default());
    // Both micro-batches have words in common.
    for position in 1..3 {
        learn(&mut model, &batch(position, 5), noise(position), 0.5);
    }
    let gradients = gradients_of(&mut model);
    let square: f64 = gradients.iter().flatten().map(|x| f64::from(*x).powi(2)).sum();
    let norm = model.step(1e-3);
    let norm = norm.expect("a norm");
    assert!((norm / square.sqrt() - 1.0).abs() < 1e-6, "{norm} is not {}", square.sqrt());
}

#[test]
fn a_gradient_that_is_not_finite_moves_nothing() {
    let mut model = model(&Settings::default());
    let before = all_bits(&mut model);
    let (batch, _) = batch(1, 2);
    model.forward(&batch, Mode::Evaluate).expect("logits");
    model.backward(&[f32::NAN; 6]).expect("a backward pass");
    let norm = model.step(1e-3);
    assert!(norm.expect("a norm").is_nan());
    assert_eq!(all_bits(&mut model), before);
    assert_eq!(model.state().expect("a state").step, 0);
}

/// The first step of Adam moves every value by the rate, whatever its gradient is.
#[test]
fn each_layer_learns_at_its_share_of_the_rate() {
    let (decay, rate) = (0.5, 1e-3);
    let of =
        Settings { layer_decay: Some(decay), weight_decay: 0.0, max_grad_norm: None, ..Settings::default() };
    let mut model = model(&of);
    let before = values_of(&mut model);
    step(&mut model, &[batch(1, 30)], Mode::Evaluate, rate);
    let after = values_of(&mut model);
    for ((parameter, before), after) in model.list().iter().zip(&before).zip(&after) {
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
    let micro = batch(1, 9);
    learn(&mut model, &micro, Mode::Evaluate, 1.0);
    let all = gradients_of(&mut model);
    let learns = |parameter: &Parameter| !matches!(parameter.place, Place::Embeddings | Place::Layer(0));
    let square: f64 = model
        .list()
        .iter()
        .zip(&all)
        .filter(|(parameter, _)| learns(parameter))
        .flat_map(|(_, gradient)| gradient)
        .map(|x| f64::from(*x).powi(2))
        .sum();
    let norm = model.step(1e-3);
    assert!((norm.expect("a norm") / square.sqrt() - 1.0).abs() < 1e-6);
}
