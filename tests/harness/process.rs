//! A real daemon in a process of its own, which can be killed: this program, started a second time.

use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Deref;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::net::TcpListener;

use super::daemon::{Calls, config};

/// Set for the second process: its arguments, a line each, the data folder and the address first.
const ARGUMENTS: &str = "HONE_TEST_DAEMON_ARGUMENTS";

/// What the second process says when it listens.
const LISTENING: &str = "listening on ";

/// A daemon in another process; killed when it is dropped.
pub(crate) struct Process {
    calls: Calls,
    child: Child,
}

impl Deref for Process {
    type Target = Calls;

    fn deref(&self) -> &Calls {
        &self.calls
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Process {
    /// Starts a daemon on a data folder, on any free port.
    pub(crate) async fn start(data: &Path, more: &[&str]) -> Self {
        Self::start_at(data, "127.0.0.1:0", more).await
    }

    /// Starts a daemon at an address.
    pub(crate) async fn start_at(data: &Path, address: &str, more: &[&str]) -> Self {
        let arguments = [&[&*data.to_string_lossy(), address], more].concat().join("\n");
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "harness::process::the_second_process_is_a_daemon", "--nocapture"])
            .env(ARGUMENTS, arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let out = BufReader::new(child.stdout.take().expect("its output"));
        let address = tokio::task::spawn_blocking(move || {
            let mut lines = out.lines().map(|line| line.expect("a line"));
            lines.find_map(|line| Some(line.split_once(LISTENING)?.1.to_owned()))
        });
        let address = address.await.expect("no panic").expect("the daemon listens");
        let calls = Calls::to(format!("http://{address}"));
        calls.training().list(hone::v1::ListJobsRequest::default()).await.expect("the daemon answers");
        Self { calls, child }
    }

    /// Where it listens, as another one can after it.
    pub(crate) fn place(&self) -> String {
        self.calls.address.trim_start_matches("http://").to_owned()
    }

    /// Ends the process as a crash would (SIGKILL).
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test of anything, but the daemon of those that start a process.
#[tokio::test(flavor = "multi_thread")]
async fn the_second_process_is_a_daemon() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let arguments: Vec<&str> = arguments.lines().collect();
    let [data, address, more @ ..] = arguments.as_slice() else { panic!("a data folder and an address") };
    let listener = TcpListener::bind(address).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut out = std::io::stdout();
    writeln!(out, "\n{LISTENING}{address}").and_then(|()| out.flush()).expect("written");
    let config = config(Path::new(data), more);
    hone_daemon::run(config, listener, std::future::pending()).await.expect("a daemon");
}
