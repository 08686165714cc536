//! The flags of `client train`. A flag that is not given is not sent: the daemon knows the defaults.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hone::v1;
use hone::v1::hyperparameters::CheckpointEvery;

use super::methods::{MethodArgs, Precision, Truncation};
use super::values::{
    below_one, model_name, not_negative, positive, positive_u32, positive_u64, ratio, split, whole_u64,
};
use super::{ColumnArgs, Retry, checkpoint_every};

#[derive(Debug, Args)]
#[command(after_help = "\
Files are CSV, TSV or JSON Lines. A file that the daemon has already is not sent again. \
Ctrl-C detaches: the job goes on, and `client watch JOB` comes back to it. \
Exit codes: 0 succeeded or detached, 7 the job failed, 8 it was cancelled or interrupted, \
9 the connection did not come back; `client --help` lists all.")]
pub(crate) struct TrainArgs {
    /// Training data. Default: the demonstration data that the daemon carries.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub(crate) train: Option<PathBuf>,
    /// Validation data. Default: a part of the training rows is held out.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub(crate) validation: Option<PathBuf>,
    /// Share of the training rows to hold out when there is no validation file. Default: 0.2.
    #[arg(long, value_name = "RATIO", value_parser = split, allow_negative_numbers = true,
        conflicts_with = "validation", help_heading = "Data")]
    pub(crate) validation_split: Option<f64>,
    /// Test data, scored once at the end with the kept epoch. Default: none.
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub(crate) test: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) columns: ColumnArgs,
    /// Use only the first N training rows. Default: all.
    #[arg(long, value_name = "N", value_parser = positive_u64, allow_negative_numbers = true, help_heading = "Data")]
    pub(crate) train_limit: Option<u64>,
    /// Use only the first N validation rows. Default: all.
    #[arg(long, value_name = "N", value_parser = positive_u64, allow_negative_numbers = true, help_heading = "Data")]
    pub(crate) validation_limit: Option<u64>,
    /// Use only the first N test rows. Default: all.
    #[arg(long, value_name = "N", value_parser = positive_u64, allow_negative_numbers = true, help_heading = "Data")]
    pub(crate) test_limit: Option<u64>,

    /// The model that the result becomes a version of. Default: the training file's name without its ending.
    #[arg(long, value_name = "NAME", value_parser = model_name, help_heading = "Model")]
    pub(crate) name: Option<String>,
    /// The encoder to start from: a folder on the daemon's machine, or a hub id with an optional @revision.
    /// Default: the daemon's --model.
    #[arg(long, value_name = "ID_OR_FOLDER", help_heading = "Model")]
    pub(crate) encoder: Option<String>,

    #[command(flatten)]
    pub(crate) hyperparameters: HyperparameterArgs,

    /// Say what the job would need (its data, memory and time) and start nothing. The files are sent.
    #[arg(long, conflicts_with = "detach", help_heading = "Watching")]
    pub(crate) dry_run: bool,
    /// Start the job, print its id and return.
    #[arg(long, help_heading = "Watching")]
    pub(crate) detach: bool,
    #[command(flatten, next_help_heading = "Watching")]
    pub(crate) retry: Retry,
}

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct HyperparameterArgs {
    /// Tokens of a sequence, special tokens included; longer texts are cut. Default: what the encoder can take.
    #[arg(long, value_name = "N", value_parser = positive_u32, allow_negative_numbers = true, help_heading = "Model")]
    pub(crate) max_length: Option<u32>,
    /// What is kept of a text that is too long. Default: head.
    #[arg(long, value_enum, help_heading = "Model")]
    pub(crate) truncation: Option<Truncation>,
    /// What matrix products are computed in. Default: auto.
    #[arg(long, value_enum, help_heading = "Model")]
    pub(crate) precision: Option<Precision>,
    /// Dropout before the classifier. Default: what the encoder's configuration says, else 0.1.
    #[arg(long, value_name = "P", value_parser = below_one, allow_negative_numbers = true, help_heading = "Model")]
    pub(crate) dropout: Option<f64>,
    /// Dropout inside the encoder. Default: what the encoder's configuration says.
    #[arg(long, value_name = "P", value_parser = below_one, allow_negative_numbers = true, help_heading = "Model")]
    pub(crate) encoder_dropout: Option<f64>,

    /// Default: adamw.
    #[arg(long, value_enum, help_heading = "Optimizer")]
    pub(crate) optimizer: Option<Optimizer>,
    /// The peak learning rate. Default: 2e-5.
    #[arg(long, alias = "learning-rate", value_name = "RATE", value_parser = positive, allow_negative_numbers = true,
        help_heading = "Optimizer")]
    pub(crate) lr: Option<f64>,
    /// Decay of the gradient's running mean. Default: 0.9.
    #[arg(long, value_name = "B", value_parser = below_one, allow_negative_numbers = true, help_heading = "Optimizer")]
    pub(crate) beta1: Option<f64>,
    /// Decay of the squared gradient's running mean. Default: 0.999.
    #[arg(long, value_name = "B", value_parser = below_one, allow_negative_numbers = true, help_heading = "Optimizer")]
    pub(crate) beta2: Option<f64>,
    /// Added to the denominator of the update. Default: 1e-8.
    #[arg(long, value_name = "X", value_parser = positive, allow_negative_numbers = true, help_heading = "Optimizer")]
    pub(crate) eps: Option<f64>,
    /// Weight decay; never on biases and layer norms. Default: 0.01 with adamw, 0 with adam.
    #[arg(long, value_name = "X", value_parser = not_negative, allow_negative_numbers = true,
        help_heading = "Optimizer")]
    pub(crate) weight_decay: Option<f64>,
    /// Clip the gradient's norm to this; 0 switches clipping off. Default: 1.
    #[arg(long, value_name = "X", value_parser = not_negative, allow_negative_numbers = true,
        help_heading = "Optimizer")]
    pub(crate) max_grad_norm: Option<f64>,

    /// How the learning rate moves after the warm-up. Default: linear.
    #[arg(long, value_enum, help_heading = "Schedule")]
    pub(crate) scheduler: Option<Scheduler>,
    /// Warm up over this many optimizer steps. Default: a ratio of 0.1; none with the constant scheduler.
    #[arg(long, value_name = "N", value_parser = whole_u64, allow_negative_numbers = true, group = "warmup",
        help_heading = "Schedule")]
    pub(crate) warmup_steps: Option<u64>,
    /// Warm up over this share of all steps.
    #[arg(long, value_name = "RATIO", value_parser = ratio, allow_negative_numbers = true, group = "warmup",
        help_heading = "Schedule")]
    pub(crate) warmup_ratio: Option<f64>,
    /// Warm up over this many epochs, for example 0.2.
    #[arg(long, value_name = "E", value_parser = not_negative, allow_negative_numbers = true, group = "warmup",
        help_heading = "Schedule")]
    pub(crate) warmup_epochs: Option<f64>,
    /// Times to go through the training data. Default: 3.
    #[arg(long, value_name = "N", value_parser = positive_u32, allow_negative_numbers = true,
        help_heading = "Schedule")]
    pub(crate) epochs: Option<u32>,
    /// Sequences in a micro-batch. Default: 16.
    #[arg(long, value_name = "N", value_parser = positive_u32, allow_negative_numbers = true,
        help_heading = "Schedule")]
    pub(crate) batch_size: Option<u32>,
    /// Micro-batches to an optimizer step. Default: 1.
    #[arg(long, value_name = "N", value_parser = positive_u32, allow_negative_numbers = true,
        help_heading = "Schedule")]
    pub(crate) gradient_accumulation: Option<u32>,
    /// The seed of everything random. Default: 42.
    #[arg(long, value_name = "N", value_parser = whole_u64, allow_negative_numbers = true,
        help_heading = "Schedule")]
    pub(crate) seed: Option<u64>,

    /// Which epoch becomes the model. Default: best.
    #[arg(long, value_enum, help_heading = "Evaluation")]
    pub(crate) keep: Option<Keep>,
    /// The validation metric that chooses the best epoch. Default: loss.
    #[arg(long, value_enum, help_heading = "Evaluation")]
    pub(crate) metric: Option<Metric>,
    /// Stop after this many epochs without a better metric. Default: never.
    #[arg(long, value_name = "PATIENCE", value_parser = positive_u32, allow_negative_numbers = true,
        help_heading = "Evaluation")]
    pub(crate) early_stopping: Option<u32>,
    /// How often the position is saved that an interrupted job continues from: a number of optimizer steps (500), a time
    /// (10m, 2h), or epoch. Default: after each epoch and after ten minutes.
    #[arg(long, value_name = "WHEN", value_parser = checkpoint_every::parse, allow_negative_numbers = true,
        help_heading = "Schedule")]
    pub(crate) checkpoint_every: Option<CheckpointEvery>,
    /// The label that precision, recall and F1 are of, when there are two. Default: the second one.
    #[arg(long, value_name = "LABEL", allow_negative_numbers = true, help_heading = "Evaluation")]
    pub(crate) positive_label: Option<String>,

    #[command(flatten)]
    pub(crate) methods: MethodArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Optimizer {
    Adam,
    Adamw,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Scheduler {
    Constant,
    Linear,
    Cosine,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Keep {
    /// The epoch with the best validation metric.
    Best,
    /// The last epoch.
    Last,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Metric {
    Loss,
    Accuracy,
    F1,
}

impl TrainArgs {
    /// The job that the flags describe, on data that the daemon has by now.
    pub(crate) fn to_proto(
        &self,
        train: Option<v1::DataSource>,
        validation: Option<v1::DataSource>,
        test: Option<v1::DataSource>,
    ) -> v1::StartJobRequest {
        let spec = v1::JobSpec {
            name: self.name.clone(),
            encoder: self.encoder.clone(),
            train,
            validation,
            test,
            validation_split: self.validation_split,
            columns: self.columns.to_proto(),
            train_limit: self.train_limit,
            validation_limit: self.validation_limit,
            test_limit: self.test_limit,
            hyperparameters: self.hyperparameters.to_proto(),
        };
        v1::StartJobRequest { spec: Some(spec) }
    }
}

impl HyperparameterArgs {
    fn to_proto(&self) -> Option<v1::Hyperparameters> {
        use v1::hyperparameters::Warmup;
        let warmup = (self.warmup_steps.map(Warmup::WarmupSteps))
            .or(self.warmup_ratio.map(Warmup::WarmupRatio))
            .or(self.warmup_epochs.map(Warmup::WarmupEpochs));
        let optimizer = self.optimizer.map(|optimizer| match optimizer {
            Optimizer::Adam => v1::Optimizer::Adam.into(),
            Optimizer::Adamw => v1::Optimizer::Adamw.into(),
        });
        let scheduler = self.scheduler.map(|scheduler| match scheduler {
            Scheduler::Constant => v1::Scheduler::Constant.into(),
            Scheduler::Linear => v1::Scheduler::Linear.into(),
            Scheduler::Cosine => v1::Scheduler::Cosine.into(),
        });
        let keep = self.keep.map(|keep| match keep {
            Keep::Best => v1::Keep::Best.into(),
            Keep::Last => v1::Keep::Last.into(),
        });
        let metric = self.metric.map(|metric| match metric {
            Metric::Loss => v1::Metric::Loss.into(),
            Metric::Accuracy => v1::Metric::Accuracy.into(),
            Metric::F1 => v1::Metric::F1.into(),
        });
        let hyperparameters = v1::Hyperparameters {
            optimizer,
            learning_rate: self.lr,
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.eps,
            weight_decay: self.weight_decay,
            scheduler,
            warmup,
            epochs: self.epochs,
            batch_size: self.batch_size,
            gradient_accumulation: self.gradient_accumulation,
            max_grad_norm: self.max_grad_norm,
            dropout: self.dropout,
            encoder_dropout: self.encoder_dropout,
            seed: self.seed,
            keep,
            metric,
            early_stopping: self.early_stopping,
            max_length: self.max_length,
            positive_label: self.positive_label.clone(),
            precision: self.precision.map(|precision| v1::Precision::from(precision).into()),
            truncation: self.truncation.map(|truncation| v1::Truncation::from(truncation).into()),
            checkpoint_every: self.checkpoint_every,
            methods: self.methods.to_proto(),
        };
        (hyperparameters != v1::Hyperparameters::default()).then_some(hyperparameters)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn request(line: &str) -> v1::StartJobRequest {
        let words = ["client", "train"].into_iter().chain(line.split_whitespace());
        match Cli::try_parse_from(words).expect("parses").command {
            Command::Train(args) => args.to_proto(None, None, None),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_flag_that_is_not_given_is_not_sent() {
        assert_eq!(request("").spec, Some(v1::JobSpec::default()));
        let expected = v1::Hyperparameters { learning_rate: Some(2e-5), ..Default::default() };
        assert_eq!(request("--lr 2e-5").spec.and_then(|spec| spec.hyperparameters), Some(expected));
    }

    #[test]
    fn every_flag_reaches_its_field() {
        let spec = request(
            "--label-names no,yes --missing-label drop --encoding latin1 --delimiter \\t --quote none --no-header \
             --validation-split 0.25 --text-column t --text-pair-column p --label-column l --train-limit 1 \
             --validation-limit 2 --test-limit 3 --name n --encoder e@main --optimizer adam --lr 1e-5 --beta1 0.8 \
             --beta2 0.9 --eps 1e-6 --weight-decay 0 --scheduler cosine --warmup-epochs 0.2 --epochs 4 \
             --batch-size 8 --gradient-accumulation 2 --max-grad-norm 0 --dropout 0.3 --encoder-dropout 0 --seed 0 \
             --keep last --metric f1 --early-stopping 1 --max-length 256 --positive-label -1 --checkpoint-every 10m",
        )
        .spec
        .expect("a spec");
        let expected = v1::JobSpec {
            name: Some("n".into()),
            encoder: Some("e@main".into()),
            validation_split: Some(0.25),
            columns: Some(v1::Columns {
                text: Some("t".into()),
                text_pair: Some("p".into()),
                label: Some("l".into()),
                label_names: vec!["no".into(), "yes".into()],
                missing_label: v1::MissingLabel::Drop.into(),
                dialect: Some(v1::Dialect {
                    encoding: Some("windows-1252".into()),
                    delimiter: Some("\t".into()),
                    unquoted: true,
                    no_header: true,
                }),
                ..Default::default()
            }),
            train_limit: Some(1),
            validation_limit: Some(2),
            test_limit: Some(3),
            hyperparameters: Some(v1::Hyperparameters {
                optimizer: Some(v1::Optimizer::Adam.into()),
                learning_rate: Some(1e-5),
                beta1: Some(0.8),
                beta2: Some(0.9),
                epsilon: Some(1e-6),
                weight_decay: Some(0.0),
                scheduler: Some(v1::Scheduler::Cosine.into()),
                warmup: Some(v1::hyperparameters::Warmup::WarmupEpochs(0.2)),
                epochs: Some(4),
                batch_size: Some(8),
                gradient_accumulation: Some(2),
                max_grad_norm: Some(0.0),
                dropout: Some(0.3),
                encoder_dropout: Some(0.0),
                seed: Some(0),
                keep: Some(v1::Keep::Last.into()),
                metric: Some(v1::Metric::F1.into()),
                early_stopping: Some(1),
                max_length: Some(256),
                positive_label: Some("-1".into()),
                checkpoint_every: Some(CheckpointEvery::CheckpointMinutes(10)),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(spec, expected);
    }

    #[test]
    fn zero_warmup_steps_are_sent_as_zero() {
        let warmup = request("--warmup-steps 0").spec.and_then(|spec| spec.hyperparameters?.warmup);
        assert_eq!(warmup, Some(v1::hyperparameters::Warmup::WarmupSteps(0)));
    }
}
