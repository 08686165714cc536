//! The settings of [`v1::Hyperparameters`](crate::v1::Hyperparameters).

use super::{Counts, Kind, Place, Range, Setting, Word};
use crate::v1;
use crate::v1::hyperparameters::Warmup;

pub(super) const MODEL: &[Setting] = &[
    // Two special tokens and one of the text.
    Setting::count("max_length", "max-length", "N", Counts::between(3, 1 << 20), |h| &mut h.max_length)
        .help("Tokens of a sequence, special tokens included; longer texts are cut")
        .default("what the encoder can take"),
    Setting::choice("truncation", "truncation", "TRUNCATION", TRUNCATIONS, |h| &mut h.truncation)
        .help("What is kept of a text that is too long")
        .default("head")
        .absent("head"),
    Setting::choice("precision", "precision", "PRECISION", PRECISIONS, |h| &mut h.precision)
        .help("What matrix products are computed in")
        .default("auto")
        .absent("auto"),
    Setting::number("dropout", "dropout", "P", Range::FROM_0_BELOW_1, |h| &mut h.dropout)
        .help("Dropout before the classifier")
        .default("what the encoder's configuration says, else 0.1"),
    Setting::number("encoder_dropout", "encoder-dropout", "P", Range::FROM_0_BELOW_1, |h| {
        &mut h.encoder_dropout
    })
    .help("Dropout inside the encoder")
    .default("what the encoder's configuration says"),
];

pub(super) const OPTIMIZER: &[Setting] = &[
    Setting::choice("optimizer", "optimizer", "OPTIMIZER", OPTIMIZERS, |h| &mut h.optimizer)
        .help("Which update rule")
        .default("adamw")
        .source("Kingma and Ba 2015; Loshchilov and Hutter 2019"),
    Setting::number("learning_rate", "lr", "RATE", Range::ABOVE_0, |h| &mut h.learning_rate)
        .alias("learning-rate")
        .help("The peak learning rate")
        .default("2e-5"),
    Setting::number("beta1", "beta1", "B", Range::FROM_0_BELOW_1, |h| &mut h.beta1)
        .help("Decay of the gradient's running mean")
        .default("0.9"),
    Setting::number("beta2", "beta2", "B", Range::FROM_0_BELOW_1, |h| &mut h.beta2)
        .help("Decay of the squared gradient's running mean")
        .default("0.999"),
    Setting::number("epsilon", "eps", "X", Range::ABOVE_0, |h| &mut h.epsilon)
        .titled("eps")
        .help("Added to the denominator of the update")
        .default("1e-8"),
    Setting::number("weight_decay", "weight-decay", "X", Range::FROM_0, |h| &mut h.weight_decay)
        .help("Weight decay; never on biases and layer norms")
        .default("0.01 with adamw, 0 with adam"),
    Setting::number("max_grad_norm", "max-grad-norm", "X", Range::FROM_0, |h| &mut h.max_grad_norm)
        .help("Clip the gradient's norm to this; 0 switches clipping off")
        .default("1"),
];

pub(super) const SCHEDULE: &[Setting] = &[
    Setting::choice("scheduler", "scheduler", "SCHEDULER", SCHEDULERS, |h| &mut h.scheduler)
        .help("How the learning rate moves after the warm-up")
        .default("linear"),
    Setting::new("warmup_steps", "warmup-steps", "N", Kind::Long(Counts::ANY_LONG, WARMUP_STEPS))
        .titled("warm-up")
        .help("Warm up over this many optimizer steps")
        .default("a ratio of 0.1; none with the constant scheduler")
        .one_of("warmup", "steps"),
    Setting::new("warmup_ratio", "warmup-ratio", "RATIO", Kind::Number(Range::FROM_0_TO_1, WARMUP_RATIO))
        .titled("warm-up")
        .help("Warm up over this share of all steps")
        .one_of("warmup", "of all steps"),
    Setting::new("warmup_epochs", "warmup-epochs", "E", Kind::Number(Range::FROM_0, WARMUP_EPOCHS))
        .titled("warm-up")
        .help("Warm up over this many epochs, for example 0.2")
        .one_of("warmup", "epochs"),
    Setting::count("epochs", "epochs", "N", Counts::between(1, 10_000), |h| &mut h.epochs)
        .help("Times to go through the training data")
        .default("3"),
    Setting::count("batch_size", "batch-size", "N", Counts::between(1, 4096), |h| &mut h.batch_size)
        .help("Sequences in a micro-batch")
        .default("16"),
    Setting::count("gradient_accumulation", "gradient-accumulation", "N", Counts::between(1, 1 << 20), |h| {
        &mut h.gradient_accumulation
    })
    .help("Micro-batches to an optimizer step")
    .default("1"),
    Setting::new("seed", "seed", "N", Kind::Long(Counts::ANY_LONG, Place::Field(|h| &mut h.seed)))
        .help("The seed of everything random")
        .default("42"),
];

pub(super) const EVALUATION: &[Setting] = &[
    Setting::choice("keep", "keep", "KEEP", KEEPS, |h| &mut h.keep)
        .help("Which epoch becomes the model")
        .default("best"),
    Setting::choice("metric", "metric", "METRIC", METRICS, |h| &mut h.metric)
        .help("The validation metric that chooses the best epoch")
        .default("loss"),
    Setting::count("early_stopping", "early-stopping", "PATIENCE", Counts::between(1, 10_000), |h| {
        &mut h.early_stopping
    })
    .help("Stop after this many epochs without a better metric")
    .default("never")
    .absent("never"),
    Setting::new(
        "positive_label",
        "positive-label",
        "LABEL",
        Kind::Text(Place::Field(|h| &mut h.positive_label)),
    )
    .help("The label that precision, recall and F1 are of, when there are two")
    .default("the second one"),
];

const WARMUP_STEPS: Place<u64> = Place::OneOf {
    get: |h| match h.warmup {
        Some(Warmup::WarmupSteps(steps)) => Some(steps),
        _ => None,
    },
    set: |h, steps| h.warmup = Some(Warmup::WarmupSteps(steps)),
};

const WARMUP_RATIO: Place<f64> = Place::OneOf {
    get: |h| match h.warmup {
        Some(Warmup::WarmupRatio(ratio)) => Some(ratio),
        _ => None,
    },
    set: |h, ratio| h.warmup = Some(Warmup::WarmupRatio(ratio)),
};

const WARMUP_EPOCHS: Place<f64> = Place::OneOf {
    get: |h| match h.warmup {
        Some(Warmup::WarmupEpochs(epochs)) => Some(epochs),
        _ => None,
    },
    set: |h, epochs| h.warmup = Some(Warmup::WarmupEpochs(epochs)),
};

const fn word(word: &'static str, number: i32, help: &'static str) -> Word {
    Word { word, number, help }
}

const OPTIMIZERS: &[Word] =
    &[word("adam", v1::Optimizer::Adam as i32, ""), word("adamw", v1::Optimizer::Adamw as i32, "")];

const SCHEDULERS: &[Word] = &[
    word("constant", v1::Scheduler::Constant as i32, ""),
    word("linear", v1::Scheduler::Linear as i32, ""),
    word("cosine", v1::Scheduler::Cosine as i32, ""),
];

const KEEPS: &[Word] = &[
    word("best", v1::Keep::Best as i32, "The epoch with the best validation metric"),
    word("last", v1::Keep::Last as i32, "The last epoch"),
];

const METRICS: &[Word] = &[
    word("loss", v1::Metric::Loss as i32, ""),
    word("accuracy", v1::Metric::Accuracy as i32, ""),
    word("f1", v1::Metric::F1 as i32, ""),
];

const PRECISIONS: &[Word] = &[
    word("auto", v1::Precision::Auto as i32, "bfloat16 where the device multiplies it faster, else float32"),
    word("fp32", v1::Precision::Fp32 as i32, "float32"),
    word(
        "bf16",
        v1::Precision::Bf16 as i32,
        "bfloat16 factors, float32 sums; weights and moments stay float32",
    ),
];

const TRUNCATIONS: &[Word] = &[
    word("head", v1::Truncation::Head as i32, "Its beginning"),
    word("tail", v1::Truncation::Tail as i32, "Its end"),
    word(
        "head-tail",
        v1::Truncation::HeadTail as i32,
        "A quarter of the room for its beginning, the rest for its end",
    ),
];
