//! Jobs as they are asked for, from the wire to the domain. Each message names the client's flag.

use super::{Parse, Parsed};
use std::num::{NonZeroU32, NonZeroU64};

use hone::v1;
use hone::v1::hyperparameters::{CheckpointEvery as WireEvery, Warmup as WireWarmup};

use super::dataset::file_name;
use super::known;
use crate::jobs::datasets::check_id;
use crate::jobs::request::{JobRequest, SourceRequest};
use crate::serve::reference::{check_name, shown};
use hone_base::error::{Error, Result};
use hone_train::spec::{
    CheckpointEvery, Hyperparameters, Keep, Metric, Optimizer, Precision, Scheduler, Truncation, Warmup,
};

/// Bytes of an encoder's name or a label at most.
pub(super) const MAX_TEXT: usize = 4096;

impl Parse<v1::JobSpec> for JobRequest {
    fn parse(wire: v1::JobSpec) -> Result<Self> {
        let name = wire.name.map(|name| check_name("--name", &name).map(|()| name)).transpose()?;
        let hyperparameters = wire.hyperparameters.unwrap_or_default().parsed()?;
        Ok(Self {
            name,
            encoder: text("--encoder", wire.encoder)?,
            train: source("--train", wire.train)?,
            validation: source("--validation", wire.validation)?,
            test: source("--test", wire.test)?,
            validation_split: number(
                "--validation-split",
                wire.validation_split,
                "greater than 0 and less than 1",
                |share| share > 0.0 && share < 1.0,
            )?
            .unwrap_or(0.2),
            columns: wire.columns.unwrap_or_default().parsed()?,
            train_limit: limit("--train-limit", wire.train_limit)?,
            validation_limit: limit("--validation-limit", wire.validation_limit)?,
            test_limit: limit("--test-limit", wire.test_limit)?,
            hyperparameters,
        })
    }
}

impl Parse<v1::Hyperparameters> for Hyperparameters {
    fn parse(wire: v1::Hyperparameters) -> Result<Self> {
        let default = Self::default();
        let optimizer = match known("--optimizer", wire.optimizer)? {
            Some(v1::Optimizer::Adam) => Optimizer::Adam,
            Some(v1::Optimizer::Adamw) => Optimizer::AdamW,
            Some(v1::Optimizer::Unspecified) | None => default.optimizer,
        };
        let scheduler = match known("--scheduler", wire.scheduler)? {
            Some(v1::Scheduler::Constant) => Scheduler::Constant,
            Some(v1::Scheduler::Linear) => Scheduler::Linear,
            Some(v1::Scheduler::Cosine) => Scheduler::Cosine,
            Some(v1::Scheduler::Unspecified) | None => default.scheduler,
        };
        let positive = |x: f64| x > 0.0;
        let not_negative = |x: f64| x >= 0.0;
        let share = |x: f64| (0.0..1.0).contains(&x);
        const SHARE: &str = "at least 0 and less than 1";
        let weight_decay = match optimizer {
            Optimizer::Adam => 0.0,
            Optimizer::AdamW => default.weight_decay,
        };
        let clip = number("--max-grad-norm", wire.max_grad_norm, "at least 0", not_negative)?;
        Ok(Self {
            optimizer,
            learning_rate: number("--lr", wire.learning_rate, "greater than 0", positive)?
                .unwrap_or(default.learning_rate),
            beta1: number("--beta1", wire.beta1, SHARE, share)?.unwrap_or(default.beta1),
            beta2: number("--beta2", wire.beta2, SHARE, share)?.unwrap_or(default.beta2),
            epsilon: number("--eps", wire.epsilon, "greater than 0", positive)?.unwrap_or(default.epsilon),
            weight_decay: number("--weight-decay", wire.weight_decay, "at least 0", not_negative)?
                .unwrap_or(weight_decay),
            scheduler,
            warmup: warmup(wire.warmup, scheduler)?,
            epochs: count("--epochs", wire.epochs, 1, 10_000)?.unwrap_or(default.epochs),
            batch_size: count("--batch-size", wire.batch_size, 1, 4096)?.unwrap_or(default.batch_size),
            gradient_accumulation: count("--gradient-accumulation", wire.gradient_accumulation, 1, 1 << 20)?
                .unwrap_or(default.gradient_accumulation),
            max_grad_norm: clip.map_or(default.max_grad_norm, |norm| Some(norm).filter(|&norm| norm > 0.0)),
            dropout: number("--dropout", wire.dropout, SHARE, share)?,
            encoder_dropout: number("--encoder-dropout", wire.encoder_dropout, SHARE, share)?,
            seed: wire.seed.unwrap_or(default.seed),
            keep: match known("--keep", wire.keep)? {
                Some(v1::Keep::Best) => Keep::Best,
                Some(v1::Keep::Last) => Keep::Last,
                Some(v1::Keep::Unspecified) | None => default.keep,
            },
            metric: match known("--metric", wire.metric)? {
                Some(v1::Metric::Loss) => Metric::Loss,
                Some(v1::Metric::Accuracy) => Metric::Accuracy,
                Some(v1::Metric::F1) => Metric::F1,
                Some(v1::Metric::Unspecified) | None => default.metric,
            },
            early_stopping: count("--early-stopping", wire.early_stopping, 1, 10_000)?,
            // Two special tokens and one of the text.
            max_length: count("--max-length", wire.max_length, 3, 1 << 20)?,
            positive_label: text("--positive-label", wire.positive_label)?,
            precision: match known("--precision", wire.precision)? {
                Some(v1::Precision::Auto) => Precision::Auto,
                Some(v1::Precision::Fp32) => Precision::Fp32,
                Some(v1::Precision::Bf16) => Precision::Bf16,
                Some(v1::Precision::Unspecified) | None => default.precision,
            },
            truncation: match known("--truncation", wire.truncation)? {
                Some(v1::Truncation::Head) => Truncation::Head,
                Some(v1::Truncation::Tail) => Truncation::Tail,
                Some(v1::Truncation::HeadTail) => Truncation::HeadTail,
                Some(v1::Truncation::Unspecified) | None => default.truncation,
            },
            checkpoint_every: checkpoint_every(wire.checkpoint_every)?,
            methods: wire.methods.unwrap_or_default().parsed()?,
        })
    }
}

fn warmup(wire: Option<WireWarmup>, scheduler: Scheduler) -> Result<Warmup> {
    Ok(match wire {
        Some(WireWarmup::WarmupSteps(steps)) => Warmup::Steps(steps),
        Some(WireWarmup::WarmupRatio(ratio)) => {
            let ratio = number("--warmup-ratio", Some(ratio), "from 0 to 1", |x| (0.0..=1.0).contains(&x))?;
            Warmup::Ratio(ratio.unwrap_or_default())
        }
        Some(WireWarmup::WarmupEpochs(epochs)) => {
            let epochs = number("--warmup-epochs", Some(epochs), "at least 0", |x| x >= 0.0)?;
            Warmup::Epochs(epochs.unwrap_or_default())
        }
        None if scheduler == Scheduler::Constant => Warmup::Steps(0),
        None => Warmup::Ratio(0.1),
    })
}

fn checkpoint_every(wire: Option<WireEvery>) -> Result<CheckpointEvery> {
    const FLAG: &str = "--checkpoint-every";
    const YEAR: u32 = 60 * 24 * 365;
    Ok(match wire {
        None | Some(WireEvery::CheckpointEpochs(false)) => CheckpointEvery::Auto,
        Some(WireEvery::CheckpointEpochs(true)) => CheckpointEvery::Epoch,
        Some(WireEvery::CheckpointSteps(steps)) => {
            limit(FLAG, Some(steps))?.map_or(CheckpointEvery::Auto, CheckpointEvery::Steps)
        }
        Some(WireEvery::CheckpointMinutes(minutes)) => {
            count(FLAG, Some(minutes), 1, YEAR)?.map_or(CheckpointEvery::Auto, CheckpointEvery::Minutes)
        }
    })
}

fn source(flag: &str, wire: Option<v1::DataSource>) -> Result<Option<SourceRequest>> {
    let Some(v1::DataSource { dataset_id, name }) = wire else { return Ok(None) };
    check_id(&dataset_id).map_err(|error| error.within(flag))?;
    let name = name.filter(|name| !name.is_empty()).map(file_name).transpose();
    Ok(Some(SourceRequest { dataset: dataset_id, name: name.map_err(|error| error.within(flag))? }))
}

/// A finite number in its range.
pub(super) fn number(
    flag: &str,
    value: Option<f64>,
    range: &str,
    right: impl Fn(f64) -> bool,
) -> Result<Option<f64>> {
    match value {
        Some(value) if !value.is_finite() || !right(value) => {
            Err(Error::invalid(format!("{flag} must be a number {range}; got {value}")))
        }
        value => Ok(value),
    }
}

fn count(flag: &str, value: Option<u32>, least: u32, most: u32) -> Result<Option<NonZeroU32>> {
    match value {
        Some(value) if !(least..=most).contains(&value) => {
            Err(Error::invalid(format!("{flag} must be a whole number from {least} to {most}; got {value}")))
        }
        value => Ok(value.and_then(NonZeroU32::new)),
    }
}

fn limit(flag: &str, value: Option<u64>) -> Result<Option<NonZeroU64>> {
    let limit = |value| {
        NonZeroU64::new(value)
            .ok_or_else(|| Error::invalid(format!("{flag} must be a whole number from 1; got 0")))
    };
    value.map(limit).transpose()
}

fn text(flag: &str, value: Option<String>) -> Result<Option<String>> {
    match value {
        Some(value) if value.is_empty() || value.len() > MAX_TEXT || value.contains('\0') => Err(
            Error::invalid(format!("{flag} must be a text of 1 to {MAX_TEXT} bytes; got {}", shown(&value))),
        ),
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Convert;
    use super::*;

    type Wire = v1::Hyperparameters;

    fn read(change: impl FnOnce(&mut Wire)) -> Result<Hyperparameters> {
        let mut wire = Wire::default();
        change(&mut wire);
        wire.parsed()
    }

    fn refused(flag: &str, change: impl FnOnce(&mut Wire)) {
        let error = read(change).unwrap_err();
        assert!(error.message().starts_with(flag), "{flag}: {error}");
        assert_eq!(error.kind(), hone_base::error::Kind::Invalid);
    }

    #[test]
    fn what_is_absent_is_its_default() {
        assert_eq!(read(|_| ()).unwrap(), Hyperparameters::default());
    }

    #[test]
    fn what_is_given_as_0_is_0() {
        let zeros = read(|h| {
            h.weight_decay = Some(0.0);
            h.dropout = Some(0.0);
            h.encoder_dropout = Some(0.0);
            h.seed = Some(0);
            h.max_grad_norm = Some(0.0);
            h.beta1 = Some(0.0);
            h.warmup = Some(WireWarmup::WarmupSteps(0));
        })
        .unwrap();
        assert_eq!((zeros.weight_decay, zeros.dropout, zeros.encoder_dropout), (0.0, Some(0.0), Some(0.0)));
        assert_eq!((zeros.seed, zeros.max_grad_norm, zeros.beta1), (0, None, 0.0));
        assert_eq!(zeros.warmup, Warmup::Steps(0));
    }

    #[test]
    fn defaults_follow_the_optimizer_and_the_scheduler() {
        let adam = read(|h| h.optimizer = Some(v1::Optimizer::Adam.into())).unwrap();
        assert_eq!(adam.weight_decay, 0.0);
        let constant = read(|h| h.scheduler = Some(v1::Scheduler::Constant.into())).unwrap();
        assert_eq!(constant.warmup, Warmup::Steps(0));
        let cosine = read(|h| h.scheduler = Some(v1::Scheduler::Cosine.into())).unwrap();
        assert_eq!(cosine.warmup, Warmup::Ratio(0.1));
    }

    #[test]
    fn a_number_that_is_not_finite_is_refused_everywhere() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            refused("--lr", |h| h.learning_rate = Some(bad));
            refused("--beta1", |h| h.beta1 = Some(bad));
            refused("--beta2", |h| h.beta2 = Some(bad));
            refused("--eps", |h| h.epsilon = Some(bad));
            refused("--weight-decay", |h| h.weight_decay = Some(bad));
            refused("--max-grad-norm", |h| h.max_grad_norm = Some(bad));
            refused("--dropout", |h| h.dropout = Some(bad));
            refused("--encoder-dropout", |h| h.encoder_dropout = Some(bad));
            refused("--warmup-ratio", |h| h.warmup = Some(WireWarmup::WarmupRatio(bad)));
            refused("--warmup-epochs", |h| h.warmup = Some(WireWarmup::WarmupEpochs(bad)));
        }
    }

    #[test]
    fn a_number_outside_its_range_is_refused() {
        for bad in [0.0, -1.0] {
            refused("--lr", |h| h.learning_rate = Some(bad));
            refused("--eps", |h| h.epsilon = Some(bad));
        }
        for bad in [-0.1, 1.0, 2.0] {
            refused("--beta1", |h| h.beta1 = Some(bad));
            refused("--beta2", |h| h.beta2 = Some(bad));
            refused("--dropout", |h| h.dropout = Some(bad));
            refused("--encoder-dropout", |h| h.encoder_dropout = Some(bad));
        }
        refused("--weight-decay", |h| h.weight_decay = Some(-0.01));
        refused("--max-grad-norm", |h| h.max_grad_norm = Some(-1.0));
        refused("--warmup-ratio", |h| h.warmup = Some(WireWarmup::WarmupRatio(1.1)));
        refused("--warmup-epochs", |h| h.warmup = Some(WireWarmup::WarmupEpochs(-1.0)));
        refused("--epochs", |h| h.epochs = Some(0));
        refused("--epochs", |h| h.epochs = Some(10_001));
        refused("--batch-size", |h| h.batch_size = Some(0));
        refused("--batch-size", |h| h.batch_size = Some(4097));
        refused("--gradient-accumulation", |h| h.gradient_accumulation = Some(0));
        refused("--early-stopping", |h| h.early_stopping = Some(0));
        refused("--max-length", |h| h.max_length = Some(2));
        refused("--checkpoint-every", |h| h.checkpoint_every = Some(WireEvery::CheckpointSteps(0)));
        for bad in [0, u32::MAX] {
            refused("--checkpoint-every", |h| {
                h.checkpoint_every = Some(WireEvery::CheckpointMinutes(bad));
            });
        }
        refused("--positive-label", |h| h.positive_label = Some(String::new()));
        let error = read(|h| h.learning_rate = Some(-1.0)).unwrap_err();
        assert_eq!(error.message(), "--lr must be a number greater than 0; got -1");
    }

    #[test]
    fn a_number_of_an_enum_that_is_not_known_is_refused() {
        refused("--optimizer", |h| h.optimizer = Some(9));
        refused("--scheduler", |h| h.scheduler = Some(-1));
        refused("--keep", |h| h.keep = Some(3));
        refused("--metric", |h| h.metric = Some(100));
        refused("--precision", |h| h.precision = Some(4));
        refused("--truncation", |h| h.truncation = Some(-1));
        assert_eq!(read(|h| h.metric = Some(0)).unwrap(), Hyperparameters::default());
    }

    #[test]
    fn the_rest_of_a_job_is_checked_too() {
        let refused = |flag: &str, spec: v1::JobSpec| {
            let error = JobRequest::parse(spec).unwrap_err();
            assert!(error.message().starts_with(flag), "{flag}: {error}");
        };
        let data = |id: &str| Some(v1::DataSource { dataset_id: id.into(), name: None });
        for bad in ["", "../up", "a/b", "a b", ".a"] {
            refused("--name", v1::JobSpec { name: Some(bad.into()), ..Default::default() });
        }
        for bad in [0.0, 1.0, -0.5, f64::NAN] {
            refused("--validation-split", v1::JobSpec { validation_split: Some(bad), ..Default::default() });
        }
        refused("--train:", v1::JobSpec { train: data("../hone.db"), ..Default::default() });
        refused("--test:", v1::JobSpec { test: data(""), ..Default::default() });
        refused("--train-limit", v1::JobSpec { train_limit: Some(0), ..Default::default() });
        refused("--validation-limit", v1::JobSpec { validation_limit: Some(0), ..Default::default() });
        refused("--test-limit", v1::JobSpec { test_limit: Some(0), ..Default::default() });
        refused("--encoder", v1::JobSpec { encoder: Some(String::new()), ..Default::default() });
    }

    #[test]
    fn an_answered_specification_can_be_sent_again() {
        let mut spec = crate::jobs::testing::spec("reviews");
        spec.hyperparameters.precision = Precision::Bf16;
        spec.hyperparameters.truncation = Truncation::HeadTail;
        spec.hyperparameters.methods.freeze_layers = 2;
        let every = |every| {
            let mut spec = spec.clone();
            spec.hyperparameters.checkpoint_every = every;
            let again = JobRequest::parse(v1::JobSpec::convert(&spec)).unwrap();
            assert_eq!(again.hyperparameters, spec.hyperparameters);
        };
        every(CheckpointEvery::Epoch);
        every(CheckpointEvery::Steps(NonZeroU64::MAX));
        every(CheckpointEvery::Minutes(NonZeroU32::MIN));
        let request = JobRequest::parse(v1::JobSpec::convert(&spec)).unwrap();
        assert_eq!(request.hyperparameters, spec.hyperparameters);
        assert_eq!(request.train.unwrap().dataset, spec.train.dataset);
        assert_eq!((request.name, request.encoder), (Some(spec.name), Some(spec.encoder)));
    }
}
