//! The command-line client of Hone: starts training jobs, watches them, and uses what they made.
//!
//! ```text
//! main           arguments, terminal, Ctrl-C, exit code; nothing else
//! cli            what can be typed
//! connect        deadlines, message limits, statuses in words
//!   address      what names a daemon
//!   peer         who answers where no daemon does
//! commands/*     one command each: ask the daemon, hand the answer to the output
//!   follow       a job's events in order, each once, across lost connections
//!   files        local files: checked, hashed, sent if the daemon lacks them
//!   lines        texts from a file or a pipe, in batches
//!   pages        lists that come in pages
//! progress       one line that moves (a terminal) or a line now and then (a pipe)
//! output/*       text for people, JSON lines for programs; the only place that writes
//! fields         the fields that the daemon's messages name, as flags
//! plot           losses over epochs in a few characters
//! error          what went wrong in words, and the exit codes
//! ```
//!
//! Results go to standard output, notes and progress to standard error. Nothing here knows how to train: the daemon's
//! protocol, [`hone::v1`], is all that the client depends on.

mod address;
mod cli;
mod commands;
mod connect;
mod error;
mod fields;
mod files;
mod follow;
mod interrupt;
mod lines;
mod output;
mod pages;
mod peer;
mod plot;
mod progress;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::Write;

use clap::Parser as _;

pub use error::{EXIT_CODES, Error, Kind};
pub use interrupt::Interrupt;
pub use output::Terminal;

use cli::Cli;
use output::Output;

/// Runs the client as if in a pipe: no colours, no bars, no Ctrl-C. Returns the exit code.
///
/// `args` begin with the program's name.
pub async fn run_with(
    args: impl IntoIterator<Item = OsString>,
    out: &mut (dyn Write + Send),
    err: &mut (dyn Write + Send),
) -> u8 {
    run(args, out, err, Terminal::default(), Interrupt::never()).await
}

/// Runs the client. Returns the exit code; [`EXIT_CODES`] lists them.
///
/// `args` begin with the program's name.
pub async fn run(
    args: impl IntoIterator<Item = OsString>,
    out: &mut (dyn Write + Send),
    err: &mut (dyn Write + Send),
    terminal: Terminal,
    interrupt: Interrupt,
) -> u8 {
    let mut output = Output::new(out, err, terminal, false);
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return output.usage(&error),
    };
    output.set_json(cli.global.json);
    let result = commands::run(&cli, &mut output, interrupt).await;
    output.end_progress();
    match result {
        Ok(()) => 0,
        Err(error) => {
            let error = connect::explain(error).await;
            output.error(&error);
            error.kind().exit_code()
        }
    }
}
