//! The network on a GPU, or on its emulation, beside that of the CPU.

use candle_core::Device;

use super::*;
use crate::kernels::cuda::emulation::{emulated, package, streams};
use crate::kernels::testing::assert_close;
use crate::kernels::{Compute, Isa};
use crate::model::candle::Candle;
use crate::model::checkpoint::Checkpoint;
use crate::model::classifier::{Setup, Trainable};
use crate::model::cpu::Cpu;
use crate::model::declaration::{Place, Role};
use crate::model::noise::Noise;
use crate::model::objective::Objective;
use crate::targets::Targets;
use hone_base::error::Kind;
use hone_base::random::{Purpose, Stream as Random};

const FAMILIES: [&str; 6] = ["bert", "distilbert", "roberta", "xlm_roberta", "electra", "albert"];

fn plain() -> Setup {
    Setup::new(1, Compute::new(Isa::PORTABLE, Precision::Fp32))
}

/// The classifier of a fixture, three labels, on the CPU.
fn on_cpu(family: &str, setup: &Setup) -> Trainable {
    start(family, setup, |start| Cpu.open(start))
}

fn start(family: &str, setup: &Setup, open: impl FnOnce(Start) -> Result<Box<dyn Backend>>) -> Trainable {
    let folder = package().join(format!("../../tests/fixtures/tiny_{family}"));
    let checkpoint = Checkpoint::open(&folder).expect("the fixture's checkpoint");
    let labels = checkpoint.config().labels().expect("labels");
    Trainable::start_on(&checkpoint, &labels, setup, open).expect("a classifier")
}

/// The same on a GPU.
fn on_gpu(family: &str, setup: &Setup, stream: &Stream) -> Trainable {
    start(family, setup, |start| Ok(Box::new(CudaBackend::open(stream, start)?)))
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
    model.backward(&grad.iter().map(|grad| grad * share).collect::<Vec<f32>>()).expect("a backward pass");
    logits
}

/// The gradient of each parameter.
fn gradients_of(model: &mut Trainable) -> Vec<Vec<f32>> {
    let gradients = model.gradients().expect("gradients");
    model.list().iter().map(|parameter| gradients[parameter.range.clone()].to_vec()).collect()
}

/// The values of all parameters.
fn values_of(model: &mut Trainable) -> Vec<f32> {
    model.parameters().expect("parameters").values().to_vec()
}

/// Steps of two micro-batches each, with dropout.
fn train(model: &mut Trainable, steps: std::ops::Range<u64>) {
    for position in steps {
        for index in 0..2 {
            let micro = batch(2 * position + index, if index == 0 { 9 } else { 3 });
            learn(model, &micro, noise(2 * position + index), 0.5);
        }
        assert!(model.step(1e-3).expect("a step") > 0.0);
    }
}

fn trained(model: &mut Trainable) -> Vec<f32> {
    train(model, 0..3);
    values_of(model)
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
                Precision::Fp32 | Precision::Int8 => (1e-5, 1e-4),
                Precision::Bf16 => (0.05, 0.1),
            };
            let mut gpu = on_gpu(family, &plain(), &stream);
            for (micro, expected) in micro_batches.iter().zip(&logits) {
                let found = learn(&mut gpu, micro, noise(5), 0.5);
                assert_close(&found, expected, of_logits, &format!("{family}, {stream:?}: logits"));
            }
            let found = gradients_of(&mut gpu);
            let list = gpu.list().clone();
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
    let mut start = on_cpu(family, &plain());
    let before = values_of(&mut start);
    let mut moved: Vec<f32> = values.iter().zip(before).map(|(value, before)| value - before).collect();
    for parameter in start.list().iter() {
        if parameter.parts.len() == 3 && parameter.role == Role::Bias {
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
        let mut cpu = on_cpu(family, &plain());
        let mut card = start(family, &plain(), |start| Candle::new(&device).open(start));
        let [expected, found] = [&mut cpu, &mut card].map(|model| learn(model, &micro, noise(5), 1.0));
        assert_close(&found, &expected, 1e-4, &format!("{family}: logits"));
        for (found, expected) in gradients_of(&mut card).iter().zip(&gradients_of(&mut cpu)) {
            assert_close(found, expected, 1e-3, &format!("{family}: a gradient"));
        }
    }
}

#[test]
fn steps_move_every_parameter_as_on_the_cpu() {
    for family in ["bert", "roberta", "electra", "albert"] {
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
            model.memory().total()
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
            let before = values_of(&mut on_cpu("bert", &setup));
            let mut model = on_gpu("bert", &setup, &stream);
            let after = trained(&mut model);
            for parameter in model.list().iter() {
                let same = after[parameter.range.clone()] == before[parameter.range.clone()];
                assert_eq!(same, is_frozen(parameter.place), "{stream:?}: {:?}", parameter.parts);
            }
        }
    }
}

#[test]
fn a_run_that_was_saved_continues_to_the_same_bits() {
    for stream in every_stream() {
        let mut whole = on_gpu("bert", &plain(), &stream);
        train(&mut whole, 0..2);
        let state = whole.state().expect("a state");
        let buffer = |values: &[f32]| {
            let mut buffer = Buffer::zeros(values.len());
            buffer.copy_from_slice(values);
            buffer
        };
        let (values, moments) = (buffer(state.parameters.values()), state.moments.map(buffer));
        let saved = Saved { step: state.step, values, moments };
        assert_eq!(saved.step, 2);
        train(&mut whole, 2..4);

        let mut resumed = on_gpu("bert", &plain(), &stream);
        resumed.restore(saved).expect("a state");
        train(&mut resumed, 2..4);
        assert!(values_of(&mut whole) == values_of(&mut resumed), "{stream:?}");
    }
}

#[test]
fn answers_are_those_of_the_cpu_with_the_parameters_that_were_learnt() {
    for stream in every_stream() {
        let mut gpu = on_gpu("bert", &plain(), &stream);
        trained(&mut gpu);
        let mut cpu = on_cpu("bert", &plain());
        let mut learnt = gpu.parameters().expect("parameters").values().clone();
        cpu.exchange(&mut learnt).expect("an exchange");
        let tolerance = if stream.precision() == Precision::Fp32 { 1e-5 } else { 0.03 };
        // Larger and smaller than the batches before.
        for sequences in [40, 1, 12] {
            let (batch, _) = batch(7, sequences);
            let (found, expected) =
                (gpu.evaluate(&batch).expect("logits"), cpu.evaluate(&batch).expect("logits"));
            assert_close(&found, &expected, tolerance, &format!("{stream:?}: {sequences} texts"));
        }
    }
}

#[test]
fn an_encoder_without_kernels_is_refused_with_its_reason() {
    let mut architecture = on_cpu("bert", &plain()).config.architecture;
    for (heads, width) in [(1, 128), (32, 2048), (3, 33)] {
        (architecture.num_attention_heads, architecture.hidden_size) = (heads, width);
        let error = check(&architecture).expect_err("an error");
        assert!(error.message().contains("heads of up to 64 columns"), "{error}");
    }
}

#[test]
fn a_batch_that_does_not_fit_is_an_error_that_says_what_to_lower_and_a_smaller_one_goes_on() {
    let bytes = {
        let mut model = on_gpu("bert", &plain(), &emulated(Precision::Bf16, usize::MAX).0);
        learn(&mut model, &batch(1, 9), noise(1), 1.0);
        model.memory().total()
    };
    let mut model = on_gpu("bert", &plain(), &emulated(Precision::Bf16, (bytes + bytes / 2) as usize).0);
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
    let layers = model.config.architecture.num_hidden_layers;
    let largest = batch(1, 20);
    // Two arrays that change places have both grown after the second step.
    for _ in 0..3 {
        counts.take();
        learn(&mut model, &largest, noise(1), 1.0);
        model.step(1e-3).expect("a step");
    }
    let [allocations, launches, waits] = counts.take();
    assert_eq!((allocations, waits), (0, 2));
    assert!(launches <= 35 * layers + 36, "{launches} launches for {layers} layers");
}

#[test]
fn the_memory_of_a_job_is_known_from_its_shapes() {
    for stream in every_stream() {
        for (family, checkpointing) in
            FAMILIES.into_iter().flat_map(|family| [(family, false), (family, true)])
        {
            let workload = Workload { checkpointing, ..Workload::plain(16) };
            let mut model = on_gpu(family, &Setup { checkpointing, ..plain() }, &stream);
            let largest = batch(1, 16);
            for _ in 0..2 {
                learn(&mut model, &largest, noise(1), 1.0);
                model.step(1e-3).expect("a step");
            }
            let declaration = Declaration::new(&model.config.architecture, 3);
            let mut lengths = largest.0.lengths();
            let expected =
                memory::estimate(&declaration, &workload, stream.precision(), &mut lengths).total();
            let found = model.memory().total();
            let share = found as f64 / expected as f64;
            assert!((0.95..1.05).contains(&share), "{stream:?}: {found} bytes, not {expected}");
        }
    }
}
