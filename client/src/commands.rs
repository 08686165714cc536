//! One module a command: ask the daemon, hand the answer to the output.

mod classify;
mod compare;
mod datasets;
mod download;
mod health;
mod jobs;
mod models;
mod train;
mod watch;

use clap::CommandFactory as _;
use hone::v1;

use crate::cli::{Cli, Command, Global};
use crate::connect::Daemon;
use crate::error::{Error, Kind};
use crate::interrupt::Interrupt;
use crate::output::Output;

/// Runs the command that was typed.
pub(crate) async fn run(cli: &Cli, output: &mut Output<'_>, interrupt: Interrupt) -> Result<(), Error> {
    let global = &cli.global;
    match &cli.command {
        // Only these two can be left without stopping the work.
        Command::Train(args) => train::run(global, args, output, &interrupt).await,
        Command::Watch(args) => watch::run(global, args, output, &interrupt).await,
        command => interrupt.or_stop(run_to_the_end(global, command, output)).await,
    }
}

async fn run_to_the_end(global: &Global, command: &Command, output: &mut Output<'_>) -> Result<(), Error> {
    match command {
        Command::Train(_) | Command::Watch(_) => Ok(()),
        Command::Jobs(args) => jobs::run(global, args.command.as_ref(), output).await,
        Command::Show(args) => jobs::show(global, &args.job, output).await,
        Command::Cancel(args) => jobs::cancel(global, &args.job, output).await,
        Command::Pause(args) => jobs::pause(global, &args.job, output).await,
        Command::Resume(args) => jobs::resume(global, &args.job, output).await,
        Command::Compare(args) => compare::run(global, args, output).await,
        Command::Classify(args) => classify::run(global, args, output).await,
        Command::Models(args) => models::run(global, args.command.as_ref(), output).await,
        Command::Datasets(args) => datasets::run(global, args.command.as_ref(), output).await,
        Command::Health => health::run(global, output).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "client", &mut script);
            output.raw(&script)
        }
    }
}

/// One job, with words about where to find the others.
async fn get_job(daemon: &Daemon, id: &str) -> Result<v1::Job, Error> {
    let request = v1::GetJobRequest { job_id: id.to_owned() };
    daemon.call(daemon.training().get(request)).await.map_err(hint_at_jobs)
}

fn hint_at_jobs(error: Error) -> Error {
    error.hint_if(Kind::NotFound, "`client jobs` lists the jobs")
}

fn hint_at_models(error: Error) -> Error {
    error.hint_if(Kind::NotFound, "`client models` lists the models with their versions and aliases")
}

/// The epoch that a job kept, or would keep as of now.
fn kept_epoch(job: &v1::Job) -> Option<&v1::EpochMetrics> {
    match &job.model {
        Some(model) => job.epochs.iter().find(|epoch| epoch.epoch == model.epoch),
        None => job.epochs.iter().rev().find(|epoch| epoch.best),
    }
}

/// How the user calls this client for this daemon, so that a command that is shown can be pasted.
fn client(global: &Global, daemon: &Daemon) -> String {
    let from_environment = std::env::var("HONE_DAEMON").is_ok_and(|url| url == global.daemon);
    if from_environment || daemon.url() == "http://127.0.0.1:50051" {
        "client".to_owned()
    } else {
        format!("client --daemon {}", daemon.url())
    }
}
