//! The command line: what can be typed, and what is refused before anything is sent.

mod checkpoint_every;
mod class_weights;
mod classify;
mod settings;
mod train;
mod values;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use hone::text_file::Encoding;
use hone::v1;

pub(crate) use classify::Wishes;
pub(crate) use train::TrainArgs;

use crate::error::EXIT_CODES;

const FIRST_STEPS: &str = "\
First steps:
  client train                                     train on the demonstration data of the daemon
  client train --train reviews.csv --epochs 2      train on a file of yours
  client classify --model reviews \"a warm film\"    use what was trained";

/// Trains text classifiers on a Hone daemon and uses them.
#[derive(Debug, Parser)]
#[command(name = "client", version, arg_required_else_help = true, after_help = FIRST_STEPS,
    after_long_help = format!("{FIRST_STEPS}\n\n{EXIT_CODES}"))]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The daemon's address; a bare HOST:PORT means http://HOST:PORT, and a bare HOST has the port 50051.
    #[arg(
        long,
        value_name = "URL",
        env = "HONE_DAEMON",
        default_value = "http://127.0.0.1:50051",
        global = true,
        help_heading = "Connection"
    )]
    pub(crate) daemon: String,
    /// Write one JSON object a line to standard output; notes for people go to standard error.
    #[arg(long, global = true, help_heading = "Connection")]
    pub(crate) json: bool,
    /// Seconds to wait for an answer, or with a unit: 500ms, 2s, 1m. Starting a job may take 10 minutes in any case,
    /// since files are checked.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value = "60",
        global = true,
        value_parser = values::patience,
        allow_negative_numbers = true,
        help_heading = "Connection"
    )]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model and watch it; Ctrl-C detaches, and the job goes on.
    Train(Box<TrainArgs>),
    /// Show a job's events from the first one on and follow it to its end.
    Watch(WatchArgs),
    /// List the jobs, the newest first, or delete one.
    Jobs(JobsArgs),
    /// Show everything about a job.
    Show(JobArg),
    /// End a job before its time.
    Cancel(JobArg),
    /// Stop a job for a while: it gives the device to others and keeps its place in the training.
    Pause(JobArg),
    /// Continue a paused or interrupted job from where it stopped.
    Resume(JobArg),
    /// Compare jobs: what changed from one to the next, and what it did to the test accuracy.
    Compare(CompareArgs),
    /// Classify texts with a trained model.
    Classify(ClassifyArgs),
    /// List, show, promote, delete and download models.
    Models(ModelsArgs),
    /// List, show, upload and delete data sets.
    Datasets(DatasetsArgs),
    /// Ask whether the daemon and its services are serving; exit code 0 only if all are.
    Health,
    /// Write the completion script of a shell, for example `client completions bash`.
    Completions {
        /// The shell that the script is for.
        shell: Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct JobArg {
    /// The job's id, as `client jobs` lists it.
    #[arg(value_name = "JOB")]
    pub(crate) job: String,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The job's id, as `client jobs` lists it.
    #[arg(value_name = "JOB")]
    pub(crate) job: String,
    /// Leave out the events up to this number. Default: show everything.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) after: u64,
    #[command(flatten)]
    pub(crate) retry: Retry,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Retry {
    /// Give up after this many seconds without a connection, or with a unit: 30s, 10m, 2h.
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = values::period,
        allow_negative_numbers = true)]
    pub(crate) retry_for: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Two or more job ids, in the order of the experiment.
    #[arg(value_name = "JOB", num_args = 2.., required = true)]
    pub(crate) jobs: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
With --file or '-', each line is one text and gives one answer, in order, so that the output can be pasted \
beside the input. A line that cannot be classified (empty, no UTF-8, longer than 1 MiB, refused by the daemon) keeps its place: its label is \
'-' (with --json: null, and \"error\" says why), the rest goes on, and the exit code is 5 at the end. \
A text may contain the model's own special tokens: \"[SEP]\" (or \"</s>\") in it separates, as in the Python library. \
Into a pipe each answer is LABEL, SCORE and TEXT with tabs between them; a model that was trained with --multi-label \
gives every label that is set, and their scores, with '|' between them (with --json: \"labels\").")]
pub(crate) struct ClassifyArgs {
    /// The model: NAME, NAME@VERSION or NAME@ALIAS. Default: the daemon's only model.
    #[arg(long, short, value_name = "NAME[@VERSION|@ALIAS]")]
    pub(crate) model: Option<String>,
    /// The texts; a single '-' reads them from standard input, one a line.
    #[arg(value_name = "TEXT", required_unless_present = "file", conflicts_with = "file")]
    pub(crate) texts: Vec<String>,
    /// Read the texts from a file, one a line; '-' is standard input.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// The encoding of the file or of standard input, for example windows-1252. Default: UTF-8, or UTF-16 where it is
    /// recognised, which is told.
    #[arg(long, value_name = "NAME", value_parser = values::encoding)]
    pub(crate) encoding: Option<Encoding>,
    /// The second text of the pair, for a model that was trained on pairs; takes exactly one TEXT.
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    pub(crate) text_pair: Option<String>,
    #[command(flatten)]
    pub(crate) wishes: Wishes,
}

#[derive(Debug, Args)]
pub(crate) struct JobsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<JobsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// List the jobs, the newest first (the default).
    List,
    /// Delete a job that neither waits nor runs, or whose record is damaged, with its log; the model that it made stays.
    Delete {
        /// The job's id.
        job: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ModelsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List the models (the default).
    List,
    /// Show a model with its versions and aliases.
    Show {
        /// The model's name.
        name: String,
    },
    /// Point an alias at a version: it is loaded, checked and warm first, so no call waits or fails.
    Promote {
        /// The version: NAME@VERSION or NAME@ALIAS.
        #[arg(value_name = "NAME@VERSION")]
        model: String,
        /// The alias that shall point at it. Default: live
        #[arg(value_name = "ALIAS", conflicts_with = "alias")]
        to: Option<String>,
        /// The same as a flag.
        #[arg(long, value_name = "ALIAS")]
        alias: Option<String>,
        /// The alias stays, and the version answers this share of its callers; 0 ends that. A caller with a routing key
        /// always gets the same version.
        #[arg(long, value_name = "SHARE", value_parser = values::part_of_callers, allow_negative_numbers = true,
            conflicts_with = "shadow")]
        canary: Option<f64>,
        /// The alias stays, and the version answers beside it, for comparison alone; `off` ends that.
        #[arg(long, value_name = "on|off", num_args = 0..=1, default_missing_value = "on", require_equals = true)]
        shadow: Option<OnOff>,
    },
    /// Point an alias back at the version that it pointed at before.
    Rollback {
        /// The model's name.
        name: String,
        /// The alias.
        #[arg(long, value_name = "ALIAS", default_value = "live")]
        alias: String,
    },
    /// Show who moved which alias when.
    History {
        /// The model's name.
        name: String,
    },
    /// Load a version before somebody calls it.
    Load {
        /// NAME, NAME@VERSION or NAME@ALIAS.
        #[arg(value_name = "NAME[@VERSION|@ALIAS]")]
        model: String,
    },
    /// Unload a version, or all of a model, once the calls in it are answered; the next call loads it again.
    Unload {
        /// NAME, NAME@VERSION or NAME@ALIAS.
        #[arg(value_name = "NAME[@VERSION|@ALIAS]")]
        model: String,
    },
    /// Keep a version loaded, also after the daemon's next start.
    Pin {
        /// NAME, NAME@VERSION or NAME@ALIAS.
        #[arg(value_name = "NAME[@VERSION|@ALIAS]")]
        model: String,
    },
    /// Let a pinned version go when others need the room.
    Unpin {
        /// NAME, NAME@VERSION or NAME@ALIAS.
        #[arg(value_name = "NAME[@VERSION|@ALIAS]")]
        model: String,
    },
    /// Decide how a model is served.
    Set {
        /// The model's name.
        name: String,
        /// What it answers in; `default` leaves it to the daemon.
        #[arg(long, value_name = "PRECISION")]
        precision: ServePrecision,
    },
    /// Delete a version or a whole model.
    Delete {
        /// NAME@VERSION deletes one version, NAME all of them; NAME@ALIAS only an alias that points at no version.
        #[arg(value_name = "NAME[@VERSION]")]
        model: String,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
    /// Download a version as a folder in Hugging Face layout.
    Download {
        /// NAME, NAME@VERSION or NAME@ALIAS.
        #[arg(value_name = "NAME[@VERSION|@ALIAS]")]
        model: String,
        /// The folder to make. Default: NAME-VERSION in the current folder.
        #[arg(long, value_name = "FOLDER")]
        to: Option<PathBuf>,
    },
}

/// Whether something begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum OnOff {
    On,
    Off,
}

/// What a model answers in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ServePrecision {
    Default,
    Auto,
    Fp32,
    Bf16,
    Int8,
}

#[derive(Debug, Args)]
pub(crate) struct DatasetsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<DatasetsCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DatasetsCommand {
    /// List the data sets, the newest first (the default).
    List,
    /// Show a data set: rows, labels, lengths.
    Show {
        /// The data set's id.
        id: String,
        #[command(flatten)]
        columns: ColumnArgs,
    },
    /// Send a file to the daemon; a file that it has already is not sent again.
    Upload {
        /// A CSV, TSV or JSON Lines file.
        file: PathBuf,
        #[command(flatten)]
        columns: ColumnArgs,
    },
    /// Delete a data set.
    Delete {
        /// The data set's id.
        id: String,
    },
}

/// Which columns hold what.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ColumnArgs {
    /// The column of the text. Default: guessed, and the guess is told.
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    pub(crate) text_column: Option<String>,
    /// The column of the second text of a pair. Default: none.
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    pub(crate) text_pair_column: Option<String>,
    /// The column of the label. Default: guessed, and the guess is told.
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    pub(crate) label_column: Option<String>,
    /// A row may have any number of labels, none included; the model gives each text every label that fits.
    #[arg(long, help_heading = "Data")]
    pub(crate) multi_label: bool,
    /// What stands between the labels of a row; JSON Lines may have a list instead. Default: |
    #[arg(long, value_name = "TEXT", requires = "multi_label", allow_hyphen_values = true, value_parser = values::separator,
        help_heading = "Data")]
    pub(crate) label_separator: Option<String>,
    /// A column for each label, with a 0 or a 1 in each row, instead of one column of labels.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', conflicts_with_all = ["label_column", "label_separator"],
        help_heading = "Data")]
    pub(crate) label_columns: Vec<String>,
    /// Names for labels that are written as 0, 1, … or as lists of 0 and 1, in this order.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', help_heading = "Data")]
    pub(crate) label_names: Vec<String>,
    /// Rows whose label is empty, or a word such as NaN, null or N/A: refuse the file, leave them out, or keep the word
    /// as a label. Default: error
    #[arg(long, value_name = "WHAT", help_heading = "Data")]
    pub(crate) missing_label: Option<MissingLabel>,
    /// The encoding of all files, such as windows-1252 or gbk. Default: UTF-8; UTF-16 is recognised
    #[arg(long, value_name = "NAME", value_parser = values::encoding, help_heading = "Data")]
    pub(crate) encoding: Option<Encoding>,
    /// The character between fields; \t is a tab. Default: found from the beginning of the file
    #[arg(long, value_name = "CHAR", allow_hyphen_values = true, value_parser = values::delimiter, help_heading = "Data")]
    pub(crate) delimiter: Option<char>,
    /// Whether fields may stand in double quotes. Default: double
    #[arg(long, value_name = "HOW", help_heading = "Data")]
    pub(crate) quote: Option<Quote>,
    /// The first line is a row; columns are named by their numbers: --text-column 1 --label-column 2
    #[arg(long, help_heading = "Data")]
    pub(crate) no_header: bool,
}

/// What becomes of a row whose label is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum MissingLabel {
    Error,
    Drop,
    Keep,
}

/// Whether fields may stand in quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Quote {
    Double,
    None,
}

impl ColumnArgs {
    /// The columns that were named; none when none was.
    pub(crate) fn to_proto(&self) -> Option<v1::Columns> {
        let columns = v1::Columns {
            text: self.text_column.clone(),
            text_pair: self.text_pair_column.clone(),
            label: self.label_column.clone(),
            label_separator: self.multi_label.then(|| self.label_separator.clone().unwrap_or("|".into())),
            label_columns: self.label_columns.clone(),
            label_names: self.label_names.clone(),
            missing_label: match self.missing_label {
                Some(MissingLabel::Drop) => v1::MissingLabel::Drop,
                Some(MissingLabel::Keep) => v1::MissingLabel::Keep,
                Some(MissingLabel::Error) | None => v1::MissingLabel::Unspecified,
            }
            .into(),
            dialect: Some(v1::Dialect {
                encoding: self.encoding.map(|encoding| encoding.name().to_owned()),
                delimiter: self.delimiter.map(String::from),
                unquoted: self.quote == Some(Quote::None),
                no_header: self.no_header,
            })
            .filter(|dialect| *dialect != v1::Dialect::default()),
        };
        (columns != v1::Columns::default()).then_some(columns)
    }
}

#[cfg(test)]
mod tests;
