//! The flags of `client train`. A flag that is not given is not sent: the daemon knows the defaults.

use std::path::PathBuf;

use clap::Args;
use hone::settings::METHODS;
use hone::v1;
use hone::v1::hyperparameters::CheckpointEvery;

use super::class_weights::class_weights;
use super::settings::SettingArgs;
use super::values::{model_name, positive_u64, split};
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

    /// Point an alias at the result when this holds, for example "accuracy >= current" or "f1 > current+0.01 and loss < 0.4":
    /// metrics beside numbers or those of the version that the alias points at. Default: never.
    #[arg(long, value_name = "CONDITION", help_heading = "Model")]
    pub(crate) promote_if: Option<String>,
    /// The alias. Default: live.
    #[arg(long, value_name = "ALIAS", requires = "promote_if", help_heading = "Model")]
    pub(crate) promote_alias: Option<String>,

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

/// How to train: the settings of one value, and what is more than one.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct HyperparameterArgs {
    #[command(flatten)]
    settings: SettingArgs,
    /// How often the position is saved that an interrupted job continues from: a number of optimizer steps (500), a time
    /// (10m, 2h), or epoch. Default: after each epoch and after ten minutes.
    #[arg(long, value_name = "WHEN", value_parser = checkpoint_every::parse, allow_negative_numbers = true,
        help_heading = "Schedule")]
    checkpoint_every: Option<CheckpointEvery>,
    /// How much each label counts in the loss: `balanced` (inversely to its rows), or a list such as spam=5,ham=1,
    /// where a label that is not named has weight 1. Default: all alike.
    #[arg(long, value_name = "balanced|LABEL=WEIGHT,...", value_parser = class_weights, help_heading = METHODS)]
    class_weights: Option<v1::ClassWeights>,
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
            promote_if: self.promote_if.clone(),
            promote_alias: self.promote_alias.clone(),
        };
        v1::StartJobRequest { spec: Some(spec), request_id: None }
    }
}

impl HyperparameterArgs {
    /// The settings that were named; none when none was.
    fn to_proto(&self) -> Option<v1::Hyperparameters> {
        let mut hyperparameters =
            v1::Hyperparameters { checkpoint_every: self.checkpoint_every, ..self.settings.0.clone() };
        if let Some(weights) = &self.class_weights {
            hyperparameters.methods.get_or_insert_default().class_weights = Some(weights.clone());
        }
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
             --keep last --metric f1 --early-stopping 1 --max-length 256 --positive-label -1 --checkpoint-every 10m \
             --promote-if accuracy>=current --promote-alias best",
        )
        .spec
        .expect("a spec");
        let expected = v1::JobSpec {
            name: Some("n".into()),
            encoder: Some("e@main".into()),
            promote_if: Some("accuracy>=current".into()),
            promote_alias: Some("best".into()),
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

    fn hyperparameters(line: &str) -> v1::Hyperparameters {
        request(line).spec.and_then(|spec| spec.hyperparameters).expect("hyperparameters")
    }

    fn weights(given: &[(&str, f64)]) -> v1::ClassWeights {
        let weight = |&(label, weight): &(&str, f64)| v1::LabelWeight { label: label.into(), weight };
        v1::ClassWeights { balanced: false, given: given.iter().map(weight).collect() }
    }

    #[test]
    fn every_method_reaches_its_field() {
        let sent = hyperparameters(
            "--precision bf16 --truncation head-tail --gradient-checkpointing --freeze-layers 4 --freeze-embeddings \
             --layer-decay 0.95 --label-smoothing 0.1 --class-weights spam=5,ham=1 --focal-gamma 2 --ema 0.999 \
             --r-drop 1 --reinit-layers 2",
        );
        let expected = v1::Methods {
            gradient_checkpointing: Some(true),
            freeze_layers: Some(4),
            freeze_embeddings: Some(true),
            layer_decay: Some(0.95),
            label_smoothing: Some(0.1),
            class_weights: Some(weights(&[("spam", 5.0), ("ham", 1.0)])),
            focal_gamma: Some(2.0),
            ema: Some(0.999),
            r_drop: Some(1.0),
            reinit_layers: Some(2),
        };
        assert_eq!(sent.methods, Some(expected));
        assert_eq!(sent.precision(), v1::Precision::Bf16);
        assert_eq!(sent.truncation(), v1::Truncation::HeadTail);
    }

    #[test]
    fn a_method_that_is_not_named_is_not_sent() {
        assert_eq!(hyperparameters("--lr 1e-5").methods, None);
        let methods = hyperparameters("--freeze-layers 0").methods;
        assert_eq!(methods, Some(v1::Methods { freeze_layers: Some(0), ..Default::default() }));
    }

    #[test]
    fn zero_warmup_steps_are_sent_as_zero() {
        let warmup = request("--warmup-steps 0").spec.and_then(|spec| spec.hyperparameters?.warmup);
        assert_eq!(warmup, Some(v1::hyperparameters::Warmup::WarmupSteps(0)));
    }
}
