//! The network on a GPU, or on its emulation, beside that of the CPU.

use candle_core::Device;

use super::*;
use crate::kernels::cuda::emulation::{emulated, package, streams};
use crate::kernels::testing::assert_close;
use crate::kernels::{Compute, Isa};
use crate::model::checkpoint::Checkpoint;
use crate::model::classifier::{Setup, Trainable};
use crate::model::declaration::Place;
use crate::model::engine::Engine;
use crate::model::memory::{Memory, Workload};
use crate::model::noise::Noise;
use crate::model::objective::Objective;
use crate::model::optimizer::{Optimizer, Settings};
use crate::model::reference::Reference;
use crate::targets::Targets;
use hone_base::error::Kind;
use hone_base::random::{Purpose, Stream as Random};

const FAMILIES: [&str; 4] = ["bert", "distilbert", "roberta", "xlm_roberta"];

fn plain() -> Setup {
    Setup::new(1, Compute::new(Isa::PORTABLE, Precision::Fp32))
}

/// The classifier of a fixture, three labels, on the CPU.
fn on_cpu(family: &str, setup: &Setup) -> Trainable {
    let folder = package().join(format!("../../tests/fixtures/tiny_{family}"));
    let checkpoint = Checkpoint::open(&folder).expect("the fixture's checkpoint");
    let labels = checkpoint.config().labels().expect("labels");
    Trainable::start(&checkpoint, &labels, setup, &Device::Cpu).expect("a classifier")
}

/// The same on a GPU.
fn on_gpu(family: &str, setup: &Setup, stream: &Stream) -> Trainable {
    let mut model = on_cpu(family, setup);
    let list = model.parameters().list().clone();
    let network = Network::new(&model.config.architecture, &list, 3, stream).expect("a network");
    *model.engine_mut() = Engine::Gpu(Box::new(network));
    model
}

/// Sequences of 1 to 37 tokens, and the class of each.
fn batch(seed: u64, sequences: u64) -> (Batch, Targets) {
    let random = Random::new(seed, Purpose::Split, 0, 0);
    let mut batch = Batch { offsets: vec![0], ..Batch::default() };
    for sequence in 0..sequences {
        let length = 1 + u64::from(random.word(64 * sequence)) % 37;
        batch.ids.extend((1..=length).map(|place| 5 + random.word(64 * sequence + place) % 59));
        batch.types.extend((0..length).map(|place| u32::from(place > length / 2)));
        batch.offsets.push(batch.ids.len() as u32);
    }
    let classes = (0..sequences).map(|sequence| random.word(64 * sequence + 63) % 3).collect();
    (batch, Targets::Classes(classes))
}

fn noise(position: u64) -> Mode {
    Mode::Train(Noise { seed: 3, position, hidden: 0.1, attention: 0.15, head: 0.2 })
}

/// The logits of a batch; its gradients times `share` are added to those since the last step.
fn learn(model: &mut Trainable, (batch, targets): &(Batch, Targets), mode: Mode, share: f32) -> Vec<f32> {
    let logits = model.forward(batch, mode).expect("a pass");
    let grad = Objective::default().evaluate(&logits, targets).gradient;
    model.backward(&grad.iter().map(|grad| grad * share).collect::<Vec<f32>>()).expect("a way back");
    logits
}

/// The gradient of each parameter, that of all words too.
fn gradients_of(model: &mut Trainable) -> Vec<Vec<f32>> {
    let list = model.parameters().list().clone();
    let trainable = (0..list.len()).map(|index| model.gradients().is_trainable(index)).collect();
    let mut read = Gradients::new(&list, trainable);
    let gradients = match model.gpu() {
        Some((network, _)) => {
            network.read_gradients(&mut read).expect("gradients");
            &read
        }
        None => model.gradients(),
    };
    let mut all: Vec<Vec<f32>> = (0..list.len()).map(|index| gradients.of(index).to_vec()).collect();
    let width = list[0].shape[1];
    all[0] = vec![0.0; list[0].range.len()];
    for (&row, values) in gradients.words().rows().iter().zip(gradients.words().values().chunks(width)) {
        all[0][row as usize * width..][..width].copy_from_slice(values);
    }
    all
}

/// Steps of two micro-batches each, with dropout.
fn train(model: &mut Trainable, optimizer: &mut Optimizer, steps: std::ops::Range<u64>) {
    for position in steps {
        for index in 0..2 {
            let micro = batch(2 * position + index, if index == 0 { 9 } else { 3 });
            optimizer.refresh(model, &micro.0.ids).expect("words");
            learn(model, &micro, noise(2 * position + index), 0.5);
        }
        assert!(optimizer.step(model, 1e-3).expect("a step") > 0.0);
    }
    optimizer.settle(model).expect("parameters");
}

fn trained(model: &mut Trainable) -> Vec<f32> {
    let mut optimizer = Optimizer::new(&Settings::default(), model.parameters());
    train(model, &mut optimizer, 0..3);
    model.parameters().values().to_vec()
}

fn every_stream() -> impl Iterator<Item = Stream> {
    [Precision::Fp32, Precision::Bf16].into_iter().flat_map(streams)
}

/// bfloat16 has 8 bits, so that a factor is up to 2^-9 (0.2 %) off, and a gradient has gone through some fifteen
/// products.
#[test]
fn with_dropout_logits_and_summed_gradients_are_those_of_the_cpu() {
    let micro_batches = [batch(1, 9), batch(2, 4)];
    for family in FAMILIES {
        let mut cpu = on_cpu(family, &plain());
        let logits = micro_batches.each_ref().map(|micro| learn(&mut cpu, micro, noise(5), 0.5));
        let gradients = gradients_of(&mut cpu);
        for stream in every_stream() {
            let (of_logits, of_gradients) = match stream.precision() {
                Precision::Fp32 => (1e-5, 1e-4),
                Precision::Bf16 => (0.05, 0.1),
            };
            let mut gpu = on_gpu(family, &plain(), &stream);
            for (micro, expected) in micro_batches.iter().zip(&logits) {
                let found = learn(&mut gpu, micro, noise(5), 0.5);
                assert_close(&found, expected, of_logits, &format!("{family}, {stream:?}: logits"));
            }
            let found = gradients_of(&mut gpu);
            let list = gpu.parameters().list().clone();
            for ((parameter, found), expected) in list.iter().zip(&found).zip(&gradients) {
                let what = format!("{family}, {stream:?}: the gradient of {:?}", parameter.parts);
                // The keys' biases, whose gradient is 0 but for rounding, are a third of one that is not.
                assert_close(found, expected, of_gradients, &what);
            }
        }
    }
}

/// What the values moved by, but for the biases of keys: their gradient is 0 but for rounding errors, and Adam divides
/// one of those by another.
fn moved(family: &str, values: &[f32]) -> Vec<f32> {
    let start = on_cpu(family, &plain());
    let mut moved: Vec<f32> =
        values.iter().zip(&**start.parameters().values()).map(|(value, start)| value - start).collect();
    for parameter in start.parameters().iter() {
        if parameter.parts.len() == 3 && parameter.shape.len() == 1 {
            let part = parameter.range.len() / 3;
            moved[parameter.range.start + part..parameter.range.end - part].fill(0.0);
        }
    }
    moved
}

/// The other way to compute on a card, which is the default. Skipped where there is none.
#[test]
fn candle_s_operations_give_the_logits_and_gradients_of_the_cpu_on_a_card_too() {
    let device = match Device::new_cuda(0) {
        Ok(device) => device,
        Err(error) => return eprintln!("skipped on a GPU, because none can be used: {error}"),
    };
    let micro = batch(1, 9);
    for family in FAMILIES {
        let (mut cpu, mut card) = (on_cpu(family, &plain()), on_cpu(family, &plain()));
        let reference = Reference::new(&card.config.architecture, &device);
        *card.engine_mut() = Engine::Device(Box::new(reference));
        let [expected, found] = [&mut cpu, &mut card].map(|model| learn(model, &micro, noise(5), 1.0));
        assert_close(&found, &expected, 1e-4, &format!("{family}: logits"));
        for (found, expected) in gradients_of(&mut card).iter().zip(&gradients_of(&mut cpu)) {
            assert_close(found, expected, 1e-3, &format!("{family}: a gradient"));
        }
    }
}

#[test]
fn steps_move_every_parameter_as_on_the_cpu() {
    for family in ["bert", "roberta"] {
        let expected = moved(family, &trained(&mut on_cpu(family, &plain())));
        for stream in every_stream() {
            let tolerance = if stream.precision() == Precision::Fp32 { 2e-3 } else { 0.3 };
            let found = moved(family, &trained(&mut on_gpu(family, &plain(), &stream)));
            assert_close(&found, &expected, tolerance, &format!("{family}, {stream:?}"));
        }
    }
}

#[test]
fn a_run_is_the_same_to_the_bit_each_time_and_with_gradient_checkpointing() {
    for stream in every_stream() {
        let values = trained(&mut on_gpu("bert", &plain(), &stream));
        assert!(values == trained(&mut on_gpu("bert", &plain(), &stream)), "{stream:?}: again");
        let checkpointing = Setup { checkpointing: true, ..plain() };
        assert!(values == trained(&mut on_gpu("bert", &checkpointing, &stream)), "{stream:?}: checkpointing");
    }
}

#[test]
fn gradient_checkpointing_takes_less_memory() {
    for stream in streams(Precision::Bf16) {
        let bytes = |checkpointing| {
            let mut model = on_gpu("bert", &Setup { checkpointing, ..plain() }, &stream);
            trained(&mut model);
            model.gpu().expect("a network").0.bytes()
        };
        assert!(bytes(true) < bytes(false), "{stream:?}");
    }
}

#[test]
fn what_is_frozen_does_not_move_and_everything_else_does() {
    for stream in streams(Precision::Fp32) {
        for (freeze_embeddings, freeze_layers) in [(true, 0), (false, 1), (false, 2)] {
            let setup = Setup { freeze_embeddings, freeze_layers, ..plain() };
            let is_frozen = |place: Place| match place {
                Place::Embeddings => true,
                Place::Layer(layer) => layer < freeze_layers,
                Place::Head => false,
            };
            let before = on_cpu("bert", &setup);
            let mut model = on_gpu("bert", &setup, &stream);
            trained(&mut model);
            for (index, parameter) in model.parameters().list().iter().enumerate() {
                let same = model.parameters().of(index) == before.parameters().of(index);
                assert_eq!(same, is_frozen(parameter.place), "{stream:?}: {:?}", parameter.parts);
            }
        }
    }
}

#[test]
fn a_run_that_was_saved_continues_to_the_same_bits() {
    let settings = Settings::default();
    for stream in every_stream() {
        let mut whole = on_gpu("bert", &plain(), &stream);
        let mut optimizer = Optimizer::new(&settings, whole.parameters());
        train(&mut whole, &mut optimizer, 0..2);
        let state = optimizer.state().expect("moments").into_iter().collect();
        let saved = whole.parameters().values().to_vec();
        train(&mut whole, &mut optimizer, 2..4);

        let mut resumed = on_gpu("bert", &plain(), &stream);
        resumed.change(false, |parameters, _| parameters.values_mut().copy_from_slice(&saved));
        let mut optimizer =
            Optimizer::restore(&settings, resumed.parameters(), 2, &state).expect("an optimizer");
        train(&mut resumed, &mut optimizer, 2..4);
        let (whole, resumed) = (whole.parameters().values(), resumed.parameters().values());
        assert!(whole[..] == resumed[..], "{stream:?}");
    }
}

#[test]
fn answers_are_those_of_the_cpu_with_the_parameters_that_were_learnt() {
    for stream in every_stream() {
        let mut gpu = on_gpu("bert", &plain(), &stream);
        trained(&mut gpu);
        let mut cpu = on_cpu("bert", &plain());
        let learnt = gpu.parameters().values().to_vec();
        cpu.change(false, |parameters, _| parameters.values_mut().copy_from_slice(&learnt));
        let tolerance = if stream.precision() == Precision::Fp32 { 1e-5 } else { 0.03 };
        // Larger and smaller than the batches before.
        for sequences in [40, 1, 12] {
            let (batch, _) = batch(7, sequences);
            let (found, expected) =
                (gpu.answer(&batch).expect("logits"), cpu.answer(&batch).expect("logits"));
            assert_close(&found, &expected, tolerance, &format!("{stream:?}: {sequences} texts"));
        }
    }
}

#[test]
fn an_encoder_without_kernels_is_refused_with_its_reason() {
    let model = on_cpu("bert", &plain());
    let mut architecture = model.config.architecture.clone();
    let stream = &streams(Precision::Fp32)[0];
    for (heads, width) in [(1, 128), (32, 2048), (3, 33)] {
        (architecture.num_attention_heads, architecture.hidden_size) = (heads, width);
        let error = Network::new(&architecture, model.parameters().list(), 3, stream).expect_err("an error");
        assert!(error.message().contains("heads of up to 64 columns"), "{error}");
    }
}

#[test]
fn a_batch_that_does_not_fit_is_an_error_that_says_what_to_lower_and_a_smaller_one_goes_on() {
    let bytes = {
        let mut model = on_gpu("bert", &plain(), &emulated(Precision::Bf16, usize::MAX).0);
        learn(&mut model, &batch(1, 9), noise(1), 1.0);
        model.gpu().expect("a network").0.bytes()
    };
    let mut model = on_gpu("bert", &plain(), &emulated(Precision::Bf16, bytes + bytes / 2).0);
    learn(&mut model, &batch(1, 9), noise(1), 1.0);
    let error = model.forward(&batch(1, 200).0, noise(1)).expect_err("an error");
    assert_eq!(error.kind(), Kind::Exhausted);
    assert!(error.message().contains("lower `batch_size` or `max_length`"), "{error}");
    learn(&mut model, &batch(2, 3), noise(2), 1.0);
}

/// What the host does for a step is bounded, so that a card need not wait for it: it launches work, and waits for the
/// logits and for the gradient's norm.
#[test]
fn a_step_in_its_steady_state_takes_no_memory_waits_twice_and_launches_35_times_a_layer() {
    let (stream, counts) = emulated(Precision::Bf16, usize::MAX);
    let mut model = on_gpu("bert", &plain(), &stream);
    let mut optimizer = Optimizer::new(&Settings::default(), model.parameters());
    let layers = model.config.architecture.num_hidden_layers;
    let largest = batch(1, 20);
    // Two arrays that change places have both grown after the second step.
    for _ in 0..3 {
        counts.take();
        learn(&mut model, &largest, noise(1), 1.0);
        optimizer.step(&mut model, 1e-3).expect("a step");
    }
    let [allocations, launches, waits] = counts.take();
    assert_eq!((allocations, waits), (0, 2));
    assert!(launches <= 35 * layers + 36, "{launches} launches for {layers} layers");
}

#[test]
fn the_memory_of_a_job_is_known_from_its_shapes() {
    for stream in every_stream() {
        for checkpointing in [false, true] {
            let workload = Workload {
                batch_size: 16,
                passes: 1,
                average: false,
                checkpointing,
                freeze_embeddings: false,
                freeze_layers: 0,
            };
            let mut model = on_gpu("bert", &Setup { checkpointing, ..plain() }, &stream);
            let mut optimizer = Optimizer::new(&Settings::default(), model.parameters());
            let largest = batch(1, 16);
            for _ in 0..2 {
                learn(&mut model, &largest, noise(1), 1.0);
                optimizer.step(&mut model, 1e-3).expect("a step");
            }
            let architecture = model.config.architecture.clone();
            let lengths = largest.0.lengths();
            let expected = Memory::on_gpu(&architecture, 3, &workload, stream.precision(), lengths).total();
            let found = model.gpu().expect("a network").0.bytes() as u64;
            let share = found as f64 / expected as f64;
            assert!((0.95..1.05).contains(&share), "{stream:?}: {found} bytes, not {expected}");
        }
    }
}
