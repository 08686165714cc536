//! Arguments, logs, runtime, listener, signals, exit code. Everything else is in the library.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use hone_base::error::{Error, Kind, Result};
use hone_daemon::config::Config;
use hone_daemon::daemon::{Compute, Daemon};
use hone_daemon::telemetry;
use hone_engine::kernels::{Isa, cuda};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code of wrong arguments, as clap has it, and of an encoder (`--model`) that cannot be used.
const USAGE: u8 = 2;

/// The exit code of every other failure.
const FAILED: u8 = 1;

/// The exit code after a second Ctrl-C, as shells have it.
const INTERRUPTED: i32 = 130;

/// Threads for work that waits for a disk; more of it waits for one of them.
const BLOCKING_THREADS: usize = 64;

fn main() -> ExitCode {
    let config = Config::parse();
    let checked = telemetry::start(&config.log, config.log_format)
        .and_then(|()| Isa::chosen())
        .and_then(|_| cuda::is_chosen());
    if let Err(error) = checked {
        return failed(&error, USAGE);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&Error::internal(format!("cannot start the runtime: {error}")), FAILED),
    };
    let result = runtime.block_on(run(&config));
    // What still runs here was given its time in the library.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((error, code)) => failed(&error, code),
    }
}

fn failed(error: &Error, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::from(code)
}

/// Runs the daemon; a failure comes with its exit code.
async fn run(config: &Config) -> Result<(), (Error, u8)> {
    let fault = |error| (error, FAILED);
    let (interrupt, terminate) = (
        listen_for(SignalKind::interrupt()).map_err(fault)?,
        listen_for(SignalKind::terminate()).map_err(fault)?,
    );
    let compute = Compute::open(config).await.map_err(fault)?;
    compute.check(config).await.map_err(|error| (error, USAGE))?;
    serve(config, compute, stop(interrupt, terminate)).await.map_err(fault)
}

async fn serve(config: &Config, compute: Compute, stop: impl Future<Output = ()>) -> Result<()> {
    let listener = TcpListener::bind(&config.listen).await.map_err(|error| {
        Error::new(Kind::Unavailable, format!("cannot listen on {} (--listen): {error}", config.listen))
    })?;
    let address = listener
        .local_addr()
        .map_err(|error| Error::internal(format!("the listener has no address: {error}")))?;
    let daemon = Daemon::open_with(config, compute).await?;
    let mut stdout = std::io::stdout();
    // A closed standard output is no reason not to serve.
    let _ = writeln!(stdout, "listening on {address}").and_then(|()| stdout.flush());
    daemon.serve(listener, stop).await
}

fn listen_for(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| Error::internal(format!("cannot listen for signals: {error}")))
}

/// Waits for the first signal; the second one ends the process at once.
async fn stop(mut interrupt: Signal, mut terminate: Signal) {
    either(&mut interrupt, &mut terminate).await;
    tokio::spawn(async move {
        either(&mut interrupt, &mut terminate).await;
        std::process::exit(INTERRUPTED);
    });
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
