//! The CPU's network, with every instruction set: what it shares with the plain network of other devices, and what
//! options and threads change of it, and what they do not.

use hone_engine::batch::Batch;
use hone_engine::kernels::{Compute, Isa, Precision};
use hone_engine::model::backend::Platform;
use hone_engine::model::classifier::{Setup, Trainable};
use hone_engine::model::cpu::Cpu;
use hone_engine::model::declaration::{Declaration, Place};
use hone_engine::model::memory::{Memory, Workload};
use hone_engine::targets::Targets;

use crate::harness::model::{
    FAMILIES, all_bits, batch, bits, by_candle, classifier, computes, far, gradients_of, largest, learn,
    noise, on_threads, step, values_of,
};

/// Every way of computing that this processor has.
fn all_computes() -> impl Iterator<Item = Compute> {
    [Precision::Fp32, Precision::Bf16].into_iter().flat_map(computes)
}

fn simplest() -> Compute {
    Compute::new(Isa::PORTABLE, Precision::Fp32)
}

/// Four steps of two micro-batches each, with dropout.
fn train(model: &mut Trainable) {
    for position in 0..4 {
        let micro_batches = [batch(2 * position, 40), batch(2 * position + 1, 7)];
        step(model, &micro_batches, noise(position), 1e-2);
    }
}

/// The bits of all parameters after `train`.
fn trained(family: &str, setup: &Setup) -> Vec<u32> {
    let mut model = classifier(family, setup);
    train(&mut model);
    all_bits(&mut model)
}

/// Logits and gradients of two micro-batches with dropout, by candle's operations.
fn by_candle_s_operations(
    family: &str,
    micro_batches: &[(Batch, Targets); 2],
) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let mut plain = by_candle(family, &Setup::new(1, simplest()));
    let logits = |(position, micro)| learn(&mut plain, micro, noise(position), 1.0).0;
    let logits = (5..).zip(micro_batches).map(logits).collect();
    (logits, gradients_of(&mut plain))
}

/// bfloat16 has 8 bits, so that a factor is up to 2^-9 (0.2 %) off, and a gradient has gone through some fifteen
/// products: twice the largest distances that were measured, 0.036 and 0.088. ELECTRA (its logits are 0.075 away) and
/// ALBERT have a projection before their layers, and ALBERT two layers more: they may be twice as far.
#[test]
fn with_dropout_logits_and_summed_gradients_are_those_of_candle_s_operations() {
    let micro_batches = [batch(1, 9), batch(2, 4)];
    for family in FAMILIES {
        let (logits, gradients) = by_candle_s_operations(family, &micro_batches);
        for compute in all_computes() {
            let (logits_tolerance, gradient_tolerance) = match compute.precision() {
                Precision::Fp32 => (1e-5, 1e-4),
                Precision::Bf16 if ["electra", "albert"].contains(&family) => (0.15, 0.36),
                Precision::Bf16 => (0.07, 0.18),
                Precision::Int8 => unreachable!("no model learns at it"),
            };
            let mut model = classifier(family, &Setup::new(1, compute));
            for (position, (micro, expected)) in (5..).zip(micro_batches.iter().zip(&logits)) {
                let (found, _) = learn(&mut model, micro, noise(position), 1.0);
                let away = far(&found, expected);
                assert!(away < logits_tolerance, "{family}, {compute:?}: logits are {away} away");
            }
            let found = gradients_of(&mut model);
            for ((parameter, found), expected) in model.list().iter().zip(found).zip(&gradients) {
                let away = far(&found, expected) / largest(expected);
                assert!(
                    away < gradient_tolerance,
                    "{family}, {compute:?}: the gradient of {:?} is {away} of its largest value away",
                    parameter.parts
                );
            }
        }
    }
}

/// Products are rounded alike everywhere; only the order of sums differs, which seldom moves a factor to its neighbour.
#[test]
fn bfloat16_is_almost_the_same_with_every_instruction_set() {
    for family in FAMILIES {
        let gradients = |compute| {
            let mut model = classifier(family, &Setup::new(1, compute));
            learn(&mut model, &batch(1, 9), noise(5), 1.0);
            gradients_of(&mut model)
        };
        let expected = gradients(Compute::new(Isa::PORTABLE, Precision::Bf16));
        for compute in computes(Precision::Bf16) {
            for (found, expected) in gradients(compute).iter().zip(&expected) {
                let away = far(found, expected) / largest(expected);
                assert!(away < 5e-3, "{family}, {compute:?}: {away}");
            }
        }
    }
}

#[test]
fn gradient_checkpointing_gives_the_same_weights_to_the_bit_in_less_memory() {
    for compute in all_computes() {
        for family in FAMILIES {
            let keeping = Setup::new(1, compute);
            let again = Setup { checkpointing: true, ..keeping };
            assert_eq!(trained(family, &keeping), trained(family, &again), "{family}, {compute:?}");
        }
    }
    let bytes = |checkpointing| {
        let mut model = classifier("bert", &Setup { checkpointing, ..Setup::new(1, simplest()) });
        train(&mut model);
        model.memory().total()
    };
    assert!(bytes(true) < bytes(false));
}

#[test]
fn tokens_that_the_encoder_does_not_have_are_refused_with_a_reason() {
    let mut model = classifier("bert", &Setup::new(1, simplest()));
    let refused = |model: &mut Trainable, batch: &Batch| {
        let training = model.forward(batch, noise(1)).expect_err("an error");
        let answering = model.evaluate(batch).expect_err("an error");
        assert_eq!(training, answering);
        training.message().to_owned()
    };
    let (good, _) = batch(1, 2);
    model.evaluate(&good).expect("logits");
    let mut word = good.clone();
    word.ids[0] = 120;
    let error = refused(&mut model, &word);
    assert!(error.contains("number 120 where the encoder's vocab_size allows numbers below 120"), "{error}");
    let mut kind = good;
    kind.types[0] = 2;
    assert!(refused(&mut model, &kind).contains("type_vocab_size allows numbers below 2"));
    let long = Batch { ids: vec![5; 65], types: vec![0; 65], offsets: vec![0, 65] };
    assert!(refused(&mut model, &long).contains("number 64 where the encoder's max_position_embeddings"));
    let empty = Batch { ids: vec![5; 3], types: vec![0; 3], offsets: vec![0, 3, 3] };
    assert!(refused(&mut model, &empty).contains("a text has no token"));
}

#[test]
fn what_is_frozen_does_not_move_and_everything_else_has_its_gradient() {
    let freezes = [(true, 0), (false, 1), (false, 2)];
    for compute in all_computes() {
        let free = {
            let mut model = classifier("bert", &Setup::new(1, compute));
            learn(&mut model, &batch(1, 9), noise(5), 1.0);
            gradients_of(&mut model)
        };
        for (freeze_embeddings, freeze_layers) in freezes {
            let setup = Setup { freeze_embeddings, freeze_layers, ..Setup::new(1, compute) };
            let is_frozen = |place: Place| match place {
                Place::Embeddings => true,
                Place::Layer(layer) => layer < freeze_layers,
                Place::Head => false,
            };
            let mut model = classifier("bert", &setup);
            learn(&mut model, &batch(1, 9), noise(5), 1.0);
            let gradients = gradients_of(&mut model);
            for ((parameter, found), free) in model.list().iter().zip(&gradients).zip(&free) {
                if !is_frozen(parameter.place) {
                    assert_eq!(bits(found), bits(free), "{compute:?}: {:?}", parameter.parts);
                }
            }
            let before = values_of(&mut model);
            train(&mut model);
            let after = values_of(&mut model);
            for ((parameter, before), after) in model.list().iter().zip(&before).zip(&after) {
                let stays = bits(before) == bits(after);
                assert_eq!(stays, is_frozen(parameter.place), "{compute:?}: {:?}", parameter.parts);
            }
        }
    }
}

#[test]
fn layers_that_start_anew_are_new_with_the_pooler_and_others_are_not() {
    for family in FAMILIES {
        let setup = Setup::new(1, simplest());
        let mut old = classifier(family, &setup);
        let mut new = classifier(family, &Setup { reinit_layers: 1, ..setup });
        let declaration = Declaration::new(&old.config.architecture, 3);
        let (pooler, highest) = (declaration.head.dense, old.config.architecture.own_layers() - 1);
        let both = values_of(&mut old).into_iter().zip(values_of(&mut new));
        for (parameter, (old, new)) in declaration.parameters.iter().zip(both) {
            let is_pooler = parameter.id == pooler.weight || Some(parameter.id) == pooler.bias;
            let name = format!("{family}: {:?}", parameter.parts);
            if parameter.place != Place::Layer(highest) && !is_pooler {
                assert_eq!(bits(&old), bits(&new), "{name}");
                continue;
            }
            let is_bias = parameter.parts[0].ends_with("bias");
            let is_norm = parameter.shape.len() == 1 && !is_bias;
            match (is_bias, is_norm) {
                (true, _) => assert!(new.iter().all(|x| *x == 0.0), "{name}"),
                (_, true) => assert!(new.iter().all(|x| *x == 1.0), "{name}"),
                _ => {
                    assert_ne!(old, new, "{name}");
                    let square = new.iter().map(|x| f64::from(x * x)).sum::<f64>() / new.len() as f64;
                    assert!((square.sqrt() / 0.02 - 1.0).abs() < 0.2, "{name}: {}", square.sqrt());
                }
            }
        }
    }
}

#[test]
fn weights_are_the_same_to_the_bit_on_any_number_of_threads() {
    for compute in all_computes() {
        for family in ["bert", "roberta"] {
            let on = |threads| on_threads(threads, || trained(family, &Setup::new(1, compute)));
            let one = on(1);
            assert_eq!(one, on(2), "{family}, {compute:?}");
            assert_eq!(one, on(5), "{family}, {compute:?}");
        }
    }
}

#[test]
fn a_step_takes_no_more_memory_than_the_ones_before() {
    for compute in all_computes() {
        for checkpointing in [false, true] {
            let mut model = classifier("bert", &Setup { checkpointing, ..Setup::new(1, compute) });
            let mut after = Vec::new();
            for position in 0..30 {
                // The same tokens: which words a batch has decides how much their gradients take.
                let micro_batches = [batch(1, 12), batch(2, 12)];
                step(&mut model, &micro_batches, noise(position), 1e-3);
                model.evaluate(&batch(1, 12).0).expect("an answer");
                after.push(model.memory());
            }
            assert_eq!(after[2], after[29], "{compute:?}");
        }
    }
}

#[test]
fn the_estimated_memory_is_what_a_step_takes() {
    let (batch, targets) = batch(1, 40);
    let lengths: Vec<usize> = batch.lengths().collect();
    for family in FAMILIES {
        for (compute, checkpointing) in all_computes().flat_map(|compute| [(compute, false), (compute, true)])
        {
            let setup = Setup { checkpointing, ..Setup::new(1, compute) };
            let workload = Workload { checkpointing, ..Workload::plain(40) };
            let mut model = classifier(family, &setup);
            for position in 0..3 {
                let micro = [(batch.clone(), targets.clone())];
                step(&mut model, &micro, noise(position), 1e-3);
            }
            let declaration = Declaration::new(&model.config.architecture, 3);
            let expected = Cpu.estimate(&declaration, &workload, compute, &mut lengths.iter().copied());
            let found = model.memory();
            let passes = |memory: &Memory| memory.parameters + memory.gradients + memory.activations;
            let ratio = passes(&expected) as f64 / passes(&found) as f64;
            assert!((0.9..1.1).contains(&ratio), "{family}, {compute:?}, {checkpointing}: {ratio}");
            let ratio = expected.moments as f64 / found.moments as f64;
            assert!((0.99..1.01).contains(&ratio), "{family}: {ratio}");
        }
    }
}

#[test]
fn an_answer_between_two_passes_changes_nothing() {
    for compute in all_computes() {
        let gradients = |answer: bool| {
            let mut model = classifier("bert", &Setup::new(1, compute));
            learn(&mut model, &batch(1, 9), noise(1), 0.5);
            if answer {
                model.evaluate(&batch(3, 20).0).expect("an answer");
            }
            learn(&mut model, &batch(2, 5), noise(2), 0.5);
            gradients_of(&mut model).iter().map(|x| bits(x)).collect::<Vec<_>>()
        };
        assert_eq!(gradients(true), gradients(false), "{compute:?}");
    }
}
