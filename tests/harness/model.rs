//! A classifier that a test drives by hand: passes, gradients and steps, computed in every way that this processor has.

use std::path::{Path, PathBuf};

use candle_core::Device;
use hone_base::random::{Purpose, Stream};
use hone_engine::batch::Batch;
use hone_engine::kernels::{Compute, Isa, Precision};
use hone_engine::model::backend::{Backend, Start};
use hone_engine::model::candle::CandleBackend;
use hone_engine::model::checkpoint::Checkpoint;
use hone_engine::model::classifier::{Setup, Trainable};
use hone_engine::model::noise::{Mode, Noise};
use hone_engine::model::objective::Objective;
use hone_engine::targets::Targets;

/// One of each family, and XLM-R, which differs from RoBERTa in its tokens.
pub(crate) const FAMILIES: [&str; 6] = ["bert", "distilbert", "roberta", "xlm_roberta", "electra", "albert"];

/// Every way of computing that this processor has at a precision.
pub(crate) fn computes(precision: Precision) -> impl Iterator<Item = Compute> {
    Isa::available().map(move |isa| Compute::new(isa, precision))
}

/// The folder of a family's fixture, a checkpoint with three labels.
pub(crate) fn fixture(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/tiny_{family}"))
}

/// The classifier of a fixture, set up in some way.
pub(crate) fn classifier(family: &str, setup: &Setup) -> Trainable {
    let checkpoint = Checkpoint::open(&fixture(family)).expect("the fixture's checkpoint");
    let labels = checkpoint.config().labels().expect("labels");
    Trainable::start(&checkpoint, &labels, setup, &Device::Cpu).expect("a classifier")
}

/// The same with candle's operations, on the CPU.
pub(crate) fn by_candle(family: &str, setup: &Setup) -> Trainable {
    let checkpoint = Checkpoint::open(&fixture(family)).expect("the fixture's checkpoint");
    let labels = checkpoint.config().labels().expect("labels");
    let open = |start: Start| {
        CandleBackend::open(&Device::Cpu, start).map(|backend| Box::new(backend) as Box<dyn Backend>)
    };
    Trainable::start_on(&checkpoint, &labels, setup, open).expect("a classifier")
}

/// Sequences of 1 to 37 tokens that a fixture of any family can read, and the class of each.
pub(crate) fn batch(seed: u64, sequences: usize) -> (Batch, Targets) {
    let stream = Stream::new(seed, Purpose::Split, 0, 0);
    let mut batch = Batch { offsets: vec![0], ..Batch::default() };
    for sequence in 0..sequences as u64 {
        let length = 1 + u64::from(stream.word(64 * sequence)) % 37;
        batch.ids.extend((1..=length).map(|place| 5 + stream.word(64 * sequence + place) % 59));
        batch.types.extend((0..length).map(|place| u32::from(place > length / 2)));
        batch.offsets.push(batch.ids.len() as u32);
    }
    let class = |sequence: u64| stream.word(64 * sequence + 63) % 3;
    (batch, Targets::Classes((0..sequences as u64).map(class).collect()))
}

/// Dropout everywhere, at a position in training.
pub(crate) fn noise(position: u64) -> Mode {
    Mode::Train(Noise { seed: 3, position, hidden: 0.1, attention: 0.15, head: 0.2 })
}

/// Logits and the mean loss of a batch; its gradients times `share` are added to those since the last step.
pub(crate) fn learn(
    model: &mut Trainable,
    (batch, targets): &(Batch, Targets),
    mode: Mode,
    share: f32,
) -> (Vec<f32>, f64) {
    let logits = model.forward(batch, mode).expect("a pass");
    let loss = Objective::default().evaluate(&logits, targets);
    let grad: Vec<f32> = loss.gradient.iter().map(|grad| grad * share).collect();
    model.backward(&grad).expect("a backward pass");
    (logits, loss.mean)
}

/// One step over micro-batches: its mean loss and its gradient's norm.
pub(crate) fn step(
    model: &mut Trainable,
    micro_batches: &[(Batch, Targets)],
    mode: Mode,
    rate: f64,
) -> (f64, f64) {
    let count = micro_batches.len();
    let mut loss = 0.0;
    for micro in micro_batches {
        loss += learn(model, micro, mode, 1.0 / count as f32).1 / count as f64;
    }
    let norm = model.step(rate);
    (loss, norm.expect("a step"))
}

/// The gradient of each parameter.
pub(crate) fn gradients_of(model: &mut Trainable) -> Vec<Vec<f32>> {
    let gradients = model.gradients().expect("gradients");
    model.list().iter().map(|parameter| gradients[parameter.range.clone()].to_vec()).collect()
}

/// The values of each parameter.
pub(crate) fn values_of(model: &mut Trainable) -> Vec<Vec<f32>> {
    let parameters = model.parameters().expect("parameters");
    parameters.iter().map(|parameter| parameters.of(parameter.id).to_vec()).collect()
}

/// The bits of all values of all parameters.
pub(crate) fn all_bits(model: &mut Trainable) -> Vec<u32> {
    bits(model.parameters().expect("parameters").values())
}

/// Bits, which are the same only if numbers are.
pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Runs `work` on a pool with this many threads.
pub(crate) fn on_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(work)
}

/// The largest absolute value.
pub(crate) fn largest(values: &[f32]) -> f64 {
    values.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max)
}

/// The largest difference.
pub(crate) fn far(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| f64::from(x - y).abs()).fold(0.0, f64::max)
}
