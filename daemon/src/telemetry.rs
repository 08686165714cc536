//! Logs: lines on standard error, so that standard output stays free for the one line that scripts read.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use hone_base::error::{Error, Result, quoted};

/// Starts to log what passes the filter.
pub fn start(filter: &str) -> Result<()> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        Error::invalid(format!("--log has a filter that cannot be read ({}): {error}", quoted(filter)))
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init()
        .map_err(|error| Error::internal(format!("logging cannot be started: {error}")))
}
