//! A classifier that a test drives by hand: passes, gradients and steps, computed in every way that this processor has.

use std::path::{Path, PathBuf};

use candle_core::Device;
use hone_base::random::{Purpose, Stream};
use hone_engine::batch::Batch;
use hone_engine::kernels::{Compute, Isa, Precision};
use hone_engine::model::checkpoint::Checkpoint;
use hone_engine::model::classifier::{Setup, Trainable};
use hone_engine::model::gradients::Gradients;
use hone_engine::model::noise::{Mode, Noise};
use hone_engine::model::objective::Objective;
use hone_engine::model::optimizer::Optimizer;
use hone_engine::model::parameters::Parameters;
use hone_engine::targets::Targets;

/// One of each family, and XLM-R, which differs from RoBERTa in its tokens.
pub(crate) const FAMILIES: [&str; 4] = ["bert", "distilbert", "roberta", "xlm_roberta"];

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
    model.backward(&grad).expect("a way back");
    (logits, loss.mean)
}

/// One step over micro-batches: its mean loss and its gradient's norm.
pub(crate) fn step(
    model: &mut Trainable,
    optimizer: &mut Optimizer,
    micro_batches: &[(Batch, Targets)],
    mode: Mode,
    rate: f64,
) -> (f64, f64) {
    let count = micro_batches.len();
    let mut loss = 0.0;
    for micro in micro_batches {
        optimizer.refresh(model, &micro.0.ids).expect("words");
        loss += learn(model, micro, mode, 1.0 / count as f32).1 / count as f64;
    }
    let norm = optimizer.step(model, rate);
    (loss, norm.expect("a step"))
}

/// Brings the words that the optimizer left behind up to date.
pub(crate) fn settle(model: &mut Trainable, optimizer: &mut Optimizer) {
    optimizer.settle(model).expect("words");
}

/// The gradient of each parameter, that of all words too.
pub(crate) fn gradients_of(parameters: &Parameters, gradients: &Gradients) -> Vec<Vec<f32>> {
    let mut all: Vec<Vec<f32>> =
        (0..parameters.list().len()).map(|index| gradients.of(index).to_vec()).collect();
    let words = &parameters.list()[0];
    let width = words.shape[1];
    all[0] = vec![0.0; words.range.len()];
    for (&row, values) in gradients.words().rows().iter().zip(gradients.words().values().chunks(width)) {
        all[0][row as usize * width..][..width].copy_from_slice(values);
    }
    all
}

/// The values of each parameter.
pub(crate) fn values_of(parameters: &Parameters) -> Vec<Vec<f32>> {
    (0..parameters.list().len()).map(|index| parameters.of(index).to_vec()).collect()
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
