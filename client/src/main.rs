//! The binary: adapts the operating system to [`hone_client::run`].

use std::io::IsTerminal as _;
use std::process::ExitCode;

use hone_client::{Interrupt, Terminal};

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the system gives this program no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let terminal = terminal();
    let code = runtime.block_on(async {
        hone_client::run(std::env::args_os(), &mut out, &mut err, terminal, Interrupt::on_ctrl_c()).await
    });
    // A thread that still waits for standard input must not hold the exit up.
    runtime.shutdown_background();
    ExitCode::from(code)
}

fn terminal() -> Terminal {
    let columns = |term: console::Term| Some(usize::from(term.size().1));
    // A dumb terminal cannot move a line: it gets plain lines, as a log does.
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    Terminal {
        out: std::io::stdout().is_terminal().then(console::Term::stdout).and_then(columns),
        err: (!is_dumb && std::io::stderr().is_terminal()).then(console::Term::stderr).and_then(columns),
        color: !is_dumb && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}
