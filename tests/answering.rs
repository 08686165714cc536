//! The CPU's network of a model that only answers, at each precision and with every instruction set.

use std::sync::{Arc, RwLock};

use candle_core::Device;
use hone_engine::batch::Batch;
use hone_engine::kernels::{Compute, Isa, Precision};
use hone_engine::model::backend::{Backend, Inference, Platform, Start, Threads};
use hone_engine::model::candle::Candle;
use hone_engine::model::checkpoint::Checkpoint;
use hone_engine::model::classifier::{Classifier, Setup, Trainable};
use hone_engine::model::cpu::{Cpu, CpuBackend};
use hone_engine::model::declaration::Declaration;
use hone_engine::model::parameters::Parameters;

use crate::harness::model::{FAMILIES, batch, bits, by_candle, computes, far, fixture, largest, on_threads};

const PRECISIONS: [Precision; 3] = [Precision::Fp32, Precision::Bf16, Precision::Int8];

/// A family's fixture, opened to answer.
fn answering(family: &str, compute: Compute) -> CpuBackend {
    let checkpoint = Checkpoint::open(&fixture(family)).expect("the fixture's checkpoint");
    let declaration = Declaration::new(&checkpoint.config().architecture, 3);
    let parameters =
        Parameters::build(&declaration, &mut |_, name| checkpoint.tensor(name), 1).expect("parameters");
    let start = Start { declaration: Arc::new(declaration), parameters, compute, learning: None };
    CpuBackend::open(start).expect("a backend")
}

/// One sequence of a batch.
fn alone(batch: &Batch, sequence: usize) -> Batch {
    let (start, end) = (batch.offsets[sequence] as usize, batch.offsets[sequence + 1] as usize);
    Batch {
        ids: batch.ids[start..end].to_vec(),
        types: batch.types[start..end].to_vec(),
        offsets: vec![0, (end - start) as u32],
    }
}

/// bfloat16 as in training. An 8-bit integer is a step of a 255th of a row's range, so that a value is up to 0.2 % of it off;
/// twice the largest distance that was measured is allowed.
#[test]
fn logits_are_those_of_candle_s_operations_within_the_precision_s_tolerance() {
    let batch = batch(1, 40).0;
    for family in FAMILIES {
        let plain = Setup::new(1, Compute::new(Isa::PORTABLE, Precision::Fp32));
        let expected = by_candle(family, &plain).evaluate(&batch).expect("logits");
        for compute in PRECISIONS.into_iter().flat_map(computes) {
            let found = answering(family, compute).evaluate(&batch).expect("logits");
            let away = far(&found, &expected) / largest(&expected);
            let tolerance = match compute.precision() {
                Precision::Fp32 => 1e-5,
                Precision::Bf16 => 0.1,
                Precision::Int8 => 0.1,
            };
            assert!(away < tolerance, "{family}, {compute:?}: logits are {away} of the largest away");
        }
    }
}

#[test]
fn a_text_has_the_same_logits_to_the_bit_alone_in_any_batch_and_on_any_number_of_threads() {
    let all = batch(7, 60).0;
    for family in ["bert", "albert"] {
        for compute in PRECISIONS.into_iter().flat_map(computes) {
            let logits = |threads: usize, batch: &Batch| {
                let mut backend = answering(family, compute);
                bits(&on_threads(threads, || backend.evaluate(batch).expect("logits")))
            };
            let expected = logits(1, &all);
            // Threads share the products of few sequences, and have groups of many.
            for threads in [2, 16] {
                assert_eq!(logits(threads, &all), expected, "{family}, {compute:?} on {threads} threads");
            }
            for sequence in [0, 31, 59] {
                for threads in [1, 2] {
                    let found = logits(threads, &alone(&all, sequence));
                    assert_eq!(found, expected[sequence * 3..][..3], "{family}, {compute:?}: {sequence}");
                }
            }
        }
    }
}

#[test]
fn threads_that_compute_side_by_side_have_the_logits_of_all_of_them_together() {
    let all = batch(7, 60).0;
    for family in FAMILIES {
        for compute in PRECISIONS.into_iter().flat_map(computes) {
            let model: &dyn Inference = &RwLock::new(answering(family, compute));
            let together = on_threads(2, || model.logits(&all, Threads::All).expect("logits"));
            std::thread::scope(|scope| {
                for first in [0, 1, 2] {
                    let (all, together) = (&all, &together);
                    scope.spawn(move || {
                        for sequence in (first..60).step_by(3) {
                            let logits =
                                model.logits(&alone(all, sequence), Threads::Calling).expect("logits");
                            let expected = &together[sequence * 3..][..3];
                            assert_eq!(bits(&logits), bits(expected), "{family}, {compute:?}: {sequence}");
                        }
                    });
                }
            });
        }
    }
    let unknown = Batch { ids: vec![u32::MAX], types: vec![0], offsets: vec![0, 1] };
    let model = RwLock::new(answering("bert", Compute::new(Isa::PORTABLE, Precision::Fp32)));
    assert!(model.logits(&unknown, Threads::Calling).is_err());
}

#[test]
fn only_a_model_that_answers_has_8_bit_integers_and_only_on_the_cpu() {
    let checkpoint = Checkpoint::open(&fixture("bert")).expect("the fixture's checkpoint");
    let setup = Setup::new(1, Compute::new(Isa::PORTABLE, Precision::Int8));
    let labels = ["a".to_owned(), "b".to_owned()];
    let error = Trainable::start(&checkpoint, &labels, &setup, &Device::Cpu).unwrap_err();
    assert!(error.message().contains("cannot learn in 8-bit integers"), "{error}");
    let declaration = Declaration::new(&checkpoint.config().architecture, 2);
    assert!(Cpu.check(&declaration, Precision::Int8).is_ok());
    let error = Candle::new(&Device::Cpu).check(&declaration, Precision::Int8).unwrap_err();
    assert!(error.message().contains("8-bit integers are for the CPU alone"), "{error}");
}

#[test]
fn a_width_whose_sums_would_not_fit_is_refused_at_8_bits() {
    let checkpoint = Checkpoint::open(&fixture("bert")).expect("the fixture's checkpoint");
    let mut architecture = checkpoint.config().architecture.clone();
    architecture.intermediate_size = (1 << 16) + 4;
    let declaration = Declaration::new(&architecture, 2);
    let error = Cpu.check(&declaration, Precision::Int8).unwrap_err();
    assert!(error.message().contains("65540 inputs"), "{error}");
    assert!(Cpu.check(&declaration, Precision::Fp32).is_ok());
}

#[test]
fn a_model_that_answers_holds_its_weights_once() {
    let checkpoint = Checkpoint::open(&fixture("bert")).expect("the fixture's checkpoint");
    let declaration = Declaration::new(&checkpoint.config().architecture, 3);
    let products = declaration.products();
    let of_products = declaration.count(|declared| products.contains(&declared.id));
    let rest = declaration.count(|_| true) - of_products;
    let held = |isa, precision| {
        let mut backend = answering("bert", Compute::new(isa, precision));
        assert!(backend.parameters().is_err(), "it has no weights to give");
        backend.memory().parameters
    };
    // Panels are whole, and a parameter begins at a cache line.
    let slack = 4 * (of_products / 8 + 16 * declaration.parameters.len() as u64);
    let fp32 = held(Isa::PORTABLE, Precision::Fp32);
    assert!((4 * (rest + of_products)..4 * (rest + of_products) + slack).contains(&fp32), "{fp32}");
    let classifier =
        Classifier::load_at(&fixture("bert"), &Device::Cpu, Precision::Int8).expect("a classifier");
    assert_eq!(classifier.precision(), Precision::Int8);
    let isa = Isa::chosen().expect("an instruction set");
    assert_eq!(classifier.bytes(), held(isa, Precision::Int8));
}
