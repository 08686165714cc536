//! A daemon in a process of its own, so that its memory and processor time are its own.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use hone_base::error::{Error, Result};
use hone_daemon::config::Config;
use hone_daemon::telemetry;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// A running daemon. It stops when this is dropped.
pub(crate) struct Daemon {
    process: Child,
    address: String,
}

impl Daemon {
    /// Starts one on a free port, on this data folder. `encoder` is what jobs start from.
    ///
    /// # Errors
    ///
    /// It does not start; it says why on standard error.
    pub(crate) fn start(data: &Path, encoder: &Path, threads: Option<usize>) -> Result<Self> {
        let program =
            std::env::current_exe().map_err(|error| Error::internal(format!("this program: {error}")))?;
        let mut arguments: Vec<OsString> =
            ["daemon", "--listen", "127.0.0.1:0", "--device", "cpu", "--log", "warn", "--data-dir"]
                .map(Into::into)
                .into();
        arguments.extend([data.into(), "--model".into(), encoder.into()]);
        if let Some(threads) = threads {
            arguments.extend(["--threads".into(), threads.to_string().into()]);
        }
        let started =
            Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut process =
            started.map_err(|error| Error::internal(format!("cannot start a daemon: {error}")))?;
        let mut line = String::new();
        let read = process.stdout.take().map(|output| BufReader::new(output).read_line(&mut line));
        match line.strip_prefix("listening on ") {
            Some(address) => Ok(Self { address: format!("http://{}", address.trim()), process }),
            None => {
                let _ = process.kill();
                let _ = process.wait();
                Err(Error::internal(format!("the daemon did not start ({read:?}, {line:?})")))
            }
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It stops when its standard input ends, as it does when this process is no more.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The daemon's side: serves until standard input ends.
///
/// # Errors
///
/// The daemon cannot start or stop.
pub(crate) fn serve(config: &Config) -> Result<Value> {
    telemetry::start(&config.log)?;
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Error::internal(error.to_string()))?;
    runtime.block_on(async {
        let failed = |error: std::io::Error| Error::internal(format!("cannot listen: {error}"));
        let listener = TcpListener::bind(&config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let mut stdout = std::io::stdout();
        writeln!(stdout, "listening on {address}").and_then(|()| stdout.flush()).map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            let _ = stop.send(());
        });
        hone_daemon::run(config.clone(), listener, async {
            let _ = stopped.await;
        })
        .await
    })?;
    Ok(Value::Null)
}
