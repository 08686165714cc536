//! How to train, between the wire and the domain. The range of each value is in [`hone::settings`].

use std::num::{NonZeroU32, NonZeroU64};

use hone::settings::{self, Unfit};
use hone::v1;
use hone::v1::hyperparameters::{CheckpointEvery as WireEvery, Warmup as WireWarmup};

use super::{Convert, Parse};
use hone_base::error::{Error, Result};
use hone_train::spec::{
    CheckpointEvery, Hyperparameters, Keep, Metric, Optimizer, Precision, Scheduler, Truncation, Warmup,
};

fn unfit(unfit: Unfit) -> Error {
    Error::invalid(unfit.to_string())
}

impl Parse<v1::Hyperparameters> for Hyperparameters {
    fn parse(wire: v1::Hyperparameters) -> Result<Self> {
        settings::check(&wire).map_err(unfit)?;
        let default = Self::default();
        let optimizer = match wire.optimizer() {
            v1::Optimizer::Adam => Optimizer::Adam,
            v1::Optimizer::Adamw => Optimizer::AdamW,
            v1::Optimizer::Unspecified => default.optimizer,
        };
        let scheduler = match wire.scheduler() {
            v1::Scheduler::Constant => Scheduler::Constant,
            v1::Scheduler::Linear => Scheduler::Linear,
            v1::Scheduler::Cosine => Scheduler::Cosine,
            v1::Scheduler::Unspecified => default.scheduler,
        };
        let keep = match wire.keep() {
            v1::Keep::Best => Keep::Best,
            v1::Keep::Last => Keep::Last,
            v1::Keep::Unspecified => default.keep,
        };
        let metric = match wire.metric() {
            v1::Metric::Loss => Metric::Loss,
            v1::Metric::Accuracy => Metric::Accuracy,
            v1::Metric::F1 => Metric::F1,
            v1::Metric::Unspecified => default.metric,
        };
        let precision = match wire.precision() {
            v1::Precision::Auto => Precision::Auto,
            v1::Precision::Fp32 => Precision::Fp32,
            v1::Precision::Bf16 => Precision::Bf16,
            v1::Precision::Unspecified => default.precision,
        };
        let truncation = match wire.truncation() {
            v1::Truncation::Head => Truncation::Head,
            v1::Truncation::Tail => Truncation::Tail,
            v1::Truncation::HeadTail => Truncation::HeadTail,
            v1::Truncation::Unspecified => default.truncation,
        };
        let weight_decay = match optimizer {
            Optimizer::Adam => 0.0,
            Optimizer::AdamW => default.weight_decay,
        };
        let warmup = match wire.warmup {
            Some(WireWarmup::WarmupSteps(steps)) => Warmup::Steps(steps),
            Some(WireWarmup::WarmupRatio(ratio)) => Warmup::Ratio(ratio),
            Some(WireWarmup::WarmupEpochs(epochs)) => Warmup::Epochs(epochs),
            None if scheduler == Scheduler::Constant => Warmup::Steps(0),
            None => default.warmup,
        };
        // Whoever says 0 wants no clipping; whoever says nothing gets the default.
        let max_grad_norm = match wire.max_grad_norm {
            Some(norm) => Some(norm).filter(|&norm| norm > 0.0),
            None => default.max_grad_norm,
        };
        let count = |value: Option<u32>| value.and_then(NonZeroU32::new);
        Ok(Self {
            optimizer,
            learning_rate: wire.learning_rate.unwrap_or(default.learning_rate),
            beta1: wire.beta1.unwrap_or(default.beta1),
            beta2: wire.beta2.unwrap_or(default.beta2),
            epsilon: wire.epsilon.unwrap_or(default.epsilon),
            weight_decay: wire.weight_decay.unwrap_or(weight_decay),
            scheduler,
            warmup,
            epochs: count(wire.epochs).unwrap_or(default.epochs),
            batch_size: count(wire.batch_size).unwrap_or(default.batch_size),
            gradient_accumulation: count(wire.gradient_accumulation).unwrap_or(default.gradient_accumulation),
            max_grad_norm,
            dropout: wire.dropout,
            encoder_dropout: wire.encoder_dropout,
            seed: wire.seed.unwrap_or(default.seed),
            keep,
            metric,
            early_stopping: count(wire.early_stopping),
            max_length: count(wire.max_length),
            positive_label: wire.positive_label,
            precision,
            truncation,
            checkpoint_every: checkpoint_every(wire.checkpoint_every)?,
            methods: wire.methods.unwrap_or_default().try_into().map_err(unfit)?,
        })
    }
}

fn checkpoint_every(wire: Option<WireEvery>) -> Result<CheckpointEvery> {
    const YEAR: u32 = 60 * 24 * 365;
    match wire {
        None | Some(WireEvery::CheckpointEpochs(false)) => Ok(CheckpointEvery::Auto),
        Some(WireEvery::CheckpointEpochs(true)) => Ok(CheckpointEvery::Epoch),
        Some(WireEvery::CheckpointSteps(steps)) => {
            let steps = NonZeroU64::new(steps).map(CheckpointEvery::Steps);
            steps.ok_or_else(|| Error::invalid("`checkpoint_steps` must be a whole number from 1; got 0"))
        }
        Some(WireEvery::CheckpointMinutes(minutes)) => {
            let fits = NonZeroU32::new(minutes).filter(|minutes| minutes.get() <= YEAR);
            fits.map(CheckpointEvery::Minutes).ok_or_else(|| {
                Error::invalid(format!(
                    "`checkpoint_minutes` must be a whole number from 1 to {YEAR}; got {minutes}"
                ))
            })
        }
    }
}

impl Convert<&Hyperparameters> for v1::Hyperparameters {
    fn convert(h: &Hyperparameters) -> Self {
        let optimizer = match h.optimizer {
            Optimizer::Adam => v1::Optimizer::Adam,
            Optimizer::AdamW => v1::Optimizer::Adamw,
        };
        let scheduler = match h.scheduler {
            Scheduler::Constant => v1::Scheduler::Constant,
            Scheduler::Linear => v1::Scheduler::Linear,
            Scheduler::Cosine => v1::Scheduler::Cosine,
        };
        let keep = match h.keep {
            Keep::Best => v1::Keep::Best,
            Keep::Last => v1::Keep::Last,
        };
        let metric = match h.metric {
            Metric::Loss => v1::Metric::Loss,
            Metric::Accuracy => v1::Metric::Accuracy,
            Metric::F1 => v1::Metric::F1,
        };
        let precision = match h.precision {
            Precision::Auto => v1::Precision::Auto,
            Precision::Fp32 => v1::Precision::Fp32,
            Precision::Bf16 => v1::Precision::Bf16,
        };
        let truncation = match h.truncation {
            Truncation::Head => v1::Truncation::Head,
            Truncation::Tail => v1::Truncation::Tail,
            Truncation::HeadTail => v1::Truncation::HeadTail,
        };
        let warmup = match h.warmup {
            Warmup::Steps(steps) => WireWarmup::WarmupSteps(steps),
            Warmup::Ratio(ratio) => WireWarmup::WarmupRatio(ratio),
            Warmup::Epochs(epochs) => WireWarmup::WarmupEpochs(epochs),
        };
        let checkpoint_every = match h.checkpoint_every {
            CheckpointEvery::Auto => None,
            CheckpointEvery::Epoch => Some(WireEvery::CheckpointEpochs(true)),
            CheckpointEvery::Steps(steps) => Some(WireEvery::CheckpointSteps(steps.get())),
            CheckpointEvery::Minutes(minutes) => Some(WireEvery::CheckpointMinutes(minutes.get())),
        };
        Self {
            optimizer: Some(optimizer.into()),
            learning_rate: Some(h.learning_rate),
            beta1: Some(h.beta1),
            beta2: Some(h.beta2),
            epsilon: Some(h.epsilon),
            weight_decay: Some(h.weight_decay),
            scheduler: Some(scheduler.into()),
            warmup: Some(warmup),
            epochs: Some(h.epochs.get()),
            batch_size: Some(h.batch_size.get()),
            gradient_accumulation: Some(h.gradient_accumulation.get()),
            max_grad_norm: Some(h.max_grad_norm.unwrap_or(0.0)),
            dropout: h.dropout,
            encoder_dropout: h.encoder_dropout,
            seed: Some(h.seed),
            keep: Some(keep.into()),
            metric: Some(metric.into()),
            early_stopping: h.early_stopping.map(Into::into),
            max_length: h.max_length.map(Into::into),
            positive_label: h.positive_label.clone(),
            precision: Some(precision.into()),
            truncation: Some(truncation.into()),
            checkpoint_every,
            methods: Some((&h.methods).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use hone::settings::{Kind, Value};

    use super::*;

    type Wire = v1::Hyperparameters;

    fn read(change: impl FnOnce(&mut Wire)) -> Result<Hyperparameters> {
        let mut wire = Wire::default();
        change(&mut wire);
        Hyperparameters::parse(wire)
    }

    fn refused(field: &str, change: impl FnOnce(&mut Wire)) {
        let error = read(change).unwrap_err();
        assert!(error.message().starts_with(field), "{field}: {error}");
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
            refused("`learning_rate`", |h| h.learning_rate = Some(bad));
            refused("`beta1`", |h| h.beta1 = Some(bad));
            refused("`beta2`", |h| h.beta2 = Some(bad));
            refused("`epsilon`", |h| h.epsilon = Some(bad));
            refused("`weight_decay`", |h| h.weight_decay = Some(bad));
            refused("`max_grad_norm`", |h| h.max_grad_norm = Some(bad));
            refused("`dropout`", |h| h.dropout = Some(bad));
            refused("`encoder_dropout`", |h| h.encoder_dropout = Some(bad));
            refused("`warmup_ratio`", |h| h.warmup = Some(WireWarmup::WarmupRatio(bad)));
            refused("`warmup_epochs`", |h| h.warmup = Some(WireWarmup::WarmupEpochs(bad)));
        }
    }

    #[test]
    fn a_number_outside_its_range_is_refused() {
        for bad in [0.0, -1.0] {
            refused("`learning_rate`", |h| h.learning_rate = Some(bad));
            refused("`epsilon`", |h| h.epsilon = Some(bad));
        }
        for bad in [-0.1, 1.0, 2.0] {
            refused("`beta1`", |h| h.beta1 = Some(bad));
            refused("`beta2`", |h| h.beta2 = Some(bad));
            refused("`dropout`", |h| h.dropout = Some(bad));
            refused("`encoder_dropout`", |h| h.encoder_dropout = Some(bad));
        }
        refused("`weight_decay`", |h| h.weight_decay = Some(-0.01));
        refused("`max_grad_norm`", |h| h.max_grad_norm = Some(-1.0));
        refused("`warmup_ratio`", |h| h.warmup = Some(WireWarmup::WarmupRatio(1.1)));
        refused("`warmup_epochs`", |h| h.warmup = Some(WireWarmup::WarmupEpochs(-1.0)));
        refused("`epochs`", |h| h.epochs = Some(0));
        refused("`epochs`", |h| h.epochs = Some(10_001));
        refused("`batch_size`", |h| h.batch_size = Some(0));
        refused("`batch_size`", |h| h.batch_size = Some(4097));
        refused("`gradient_accumulation`", |h| h.gradient_accumulation = Some(0));
        refused("`early_stopping`", |h| h.early_stopping = Some(0));
        refused("`max_length`", |h| h.max_length = Some(2));
        refused("`positive_label`", |h| h.positive_label = Some(String::new()));
        refused("`checkpoint_steps`", |h| h.checkpoint_every = Some(WireEvery::CheckpointSteps(0)));
        for bad in [0, u32::MAX] {
            refused("`checkpoint_minutes`", |h| {
                h.checkpoint_every = Some(WireEvery::CheckpointMinutes(bad));
            });
        }
        let error = read(|h| h.learning_rate = Some(-1.0)).unwrap_err();
        assert_eq!(error.message(), "`learning_rate` must be a number greater than 0; got -1");
    }

    #[test]
    fn a_number_of_an_enum_that_is_not_known_is_refused() {
        refused("`optimizer`", |h| h.optimizer = Some(9));
        refused("`scheduler`", |h| h.scheduler = Some(-1));
        refused("`keep`", |h| h.keep = Some(3));
        refused("`metric`", |h| h.metric = Some(100));
        refused("`precision`", |h| h.precision = Some(4));
        refused("`truncation`", |h| h.truncation = Some(-1));
        assert_eq!(read(|h| h.metric = Some(0)).unwrap(), Hyperparameters::default());
    }

    #[test]
    fn the_defaults_that_are_described_are_those_that_hold() {
        let given = |setting: &settings::Setting| {
            let value = setting.default_value()?;
            Some(read(|wire| setting.set(wire, value).unwrap()).unwrap())
        };
        let tried: Vec<_> =
            settings::all().filter_map(|setting| Some((setting.field, given(setting)?))).collect();
        assert!(tried.len() >= 20, "{}", tried.len());
        for (field, read) in tried {
            assert_eq!(read, Hyperparameters::default(), "{field}");
        }
    }

    /// A value that the setting can have, and another than its default where there is one.
    fn example(setting: &settings::Setting) -> Value {
        let value = match &setting.kind {
            Kind::Number(..) => Value::Number(0.25),
            Kind::Count(..) | Kind::Long(..) => Value::Whole(7),
            Kind::Switch(_) => Value::Switch(true),
            Kind::Choice(words, _) => Value::Choice(words[0].number),
            Kind::Text(_) => Value::Text("spam".into()),
        };
        setting.check(&value).unwrap();
        value
    }

    #[test]
    fn every_setting_is_read_and_answered_as_it_was_sent() {
        for setting in settings::all() {
            let mut sent = Wire::convert(&Hyperparameters::default());
            setting.set(&mut sent, example(setting)).unwrap();
            let read = Hyperparameters::parse(sent.clone()).unwrap();
            assert_eq!(Wire::convert(&read), sent, "{}", setting.field);
        }
    }
}
