//! The commands against a daemon of cardboard, on a port of its own.

mod classify;
mod data;
mod peers;
mod serving;
mod stub;
mod training;
mod words;

use std::ffi::OsString;

use crate::{Interrupt, Terminal};
use stub::Stub;

/// What a command wrote and how it ended.
#[derive(Debug)]
struct Ran {
    code: u8,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Vec<serde_json::Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("JSON lines only")).collect()
    }
}

/// Runs `client --daemon STUB ARGS…` as if in a pipe.
async fn client(stub: &Stub, args: &[&str]) -> Ran {
    client_with(&stub.url, args, Terminal::default(), Interrupt::never()).await
}

async fn client_with(url: &str, args: &[&str], terminal: Terminal, interrupt: Interrupt) -> Ran {
    let args: Vec<OsString> = ["client", "--daemon", url].iter().chain(args).map(OsString::from).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = crate::run(args, &mut out, &mut err, terminal, interrupt).await;
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let ran = Ran { code, out: text(out), err: text(err) };
    words::assert_plain(&ran);
    ran
}

#[tokio::test]
async fn nobody_there_is_said_with_the_address_and_what_to_do() {
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let ran = client_with(&address.to_string(), &["jobs"], Terminal::default(), Interrupt::never()).await;
    assert_eq!(ran.code, 3);
    assert_eq!(
        ran.err,
        format!(
            "error: no daemon can be reached at http://{address}: connection refused\n\
             hint: start one with `daemon --listen {address}`, or name another with --daemon URL or HONE_DAEMON\n"
        )
    );
    assert_eq!(ran.out, "");
}

#[tokio::test]
async fn a_daemon_that_never_answers_is_given_up_in_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let args = ["--timeout", "0.2", "jobs"];
    let ran = client_with(&address, &args, Terminal::default(), Interrupt::never()).await;
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.err.starts_with(&format!(
            "error: the daemon at http://{address} did not answer within 0.2 s: something"
        )),
        "{ran:?}"
    );
}

#[tokio::test]
async fn usage_errors_are_2_and_help_is_a_result() {
    let stub = Stub::start().await;
    let ran = client(&stub, &["train", "--lr", "0"]).await;
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.starts_with("error: invalid value '0' for '--lr <RATE>': must be a number greater than 0"),
        "{ran:?}"
    );
    let ran = client(&stub, &["train", "--help"]).await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.contains("--warmup-ratio") && !ran.out.contains('\x1b'), "{ran:?}");
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let stub = Stub::start().await;
    let mut err = Vec::new();
    let args = ["client", "--daemon", &stub.url, "health"].map(OsString::from);
    assert_eq!(crate::run_with(args, &mut Closed, &mut err).await, 0);
    assert_eq!(err, b"");
}

#[tokio::test]
async fn health_is_0_only_if_every_service_serves() {
    let stub = Stub::start().await;
    let ran = client(&stub, &["health", "--json"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.json()[1]["service"], "hone.v1.TrainingService");
    stub.set_serving("hone.v1.InferenceService", false).await;
    assert_eq!(client(&stub, &["health", "--json"]).await.json()[2]["status"], "not_serving");
    let ran = client(&stub, &["health"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.out.contains("hone.v1.InferenceService  not serving"), "{ran:?}");
    assert_eq!(ran.err, "error: not serving: hone.v1.InferenceService\n");
}

#[tokio::test]
async fn completions_need_no_daemon() {
    let args = ["completions", "bash"];
    let ran = client_with("127.0.0.1:1", &args, Terminal::default(), Interrupt::never()).await;
    assert_eq!(ran.code, 0);
    assert!(ran.out.contains("complete -F"), "{}", ran.out);
}
