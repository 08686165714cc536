//! What went wrong, in words: what happened, why, and what to do. And the exit codes, which are stable.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::time::Duration;

use tonic::{Code, Status};

use crate::fields::with_flags;

/// The exit codes as `client --help` shows them. [`Kind::exit_code`] is the same table for the program.
pub const EXIT_CODES: &str = "\
Exit codes:
    0  done; also after a detach from a job that goes on
    1  another failure, or a service that is not serving (health)
    2  wrong usage, or a local file that cannot be used
    3  the daemon cannot be reached or does not answer in time
    4  not found: no such job, model, version or data set
    5  refused: the daemon does not accept the input or the state does not allow it
    6  busy: the daemon is up but cannot take the request now
    7  the job failed
    8  the job was cancelled or interrupted
    9  the connection was lost and did not come back (train, watch)
  130  stopped with Ctrl-C before the work was done";

/// The kinds of failure that a caller can tell apart by the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Everything that has no kind of its own.
    Other,
    /// The command line, or a file named in it, cannot be used.
    Usage,
    /// No daemon at the address, or no answer in time.
    Unreachable,
    /// The thing that was named does not exist.
    NotFound,
    /// The daemon does not accept the input, or the state does not allow the request.
    Refused,
    /// The daemon is up but cannot take the request now.
    Busy,
    /// The job that was watched failed.
    JobFailed,
    /// The job that was watched was cancelled or interrupted.
    JobStopped,
    /// A watched job's connection broke and could not be made again in time.
    ConnectionLost,
    /// The user stopped the command.
    Interrupted,
    /// Whoever read the output has gone; nothing is said, and it is no failure.
    OutputClosed,
}

impl Kind {
    /// The exit code of this kind of failure.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Other => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::NotFound => 4,
            Self::Refused => 5,
            Self::Busy => 6,
            Self::JobFailed => 7,
            Self::JobStopped => 8,
            Self::ConnectionLost => 9,
            Self::Interrupted => 130,
        }
    }
}

/// A failure with what happened and, where there is one, what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    doubt: Option<(Doubt, String)>,
}

/// Why it is not certain that a Hone daemon is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// The connection broke, or was none.
    Connection,
    /// No answer came in time.
    Silence,
    /// The request is not known there.
    Service,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, doubt: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub(crate) fn other(message: impl Into<String>) -> Self {
        Self::new(Kind::Other, message)
    }

    pub(crate) fn interrupted() -> Self {
        Self::new(Kind::Interrupted, "stopped")
    }

    /// Nobody answers at `url`.
    pub(crate) fn unreachable(url: &str, reason: &str) -> Self {
        let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let address = url.trim_start_matches("http://");
        let local = ["127.0.0.1:", "localhost:", "[::1]:"].iter().any(|host| address.starts_with(host));
        let start = if local {
            format!("start one with `daemon --listen {address}`")
        } else {
            "see that `daemon --listen` runs there and that nothing stands between".to_owned()
        };
        Self::new(Kind::Unreachable, format!("no daemon can be reached at {url}{reason}"))
            .hint(format!("{start}, or name another with --daemon URL or HONE_DAEMON"))
            .in_doubt(Doubt::Connection, url)
    }

    pub(crate) fn timeout(url: &str, limit: Duration) -> Self {
        let limit = limit.as_secs_f64();
        Self::new(Kind::Unreachable, format!("the daemon at {url} did not answer within {limit} s"))
            .hint("allow more time with --timeout SECONDS")
            .in_doubt(Doubt::Silence, url)
    }

    /// Something else than a daemon answers at `url`.
    pub(crate) fn no_daemon(url: &str) -> Self {
        Self::new(Kind::Unreachable, format!("{url} answers, but it is no Hone daemon"))
            .hint("name the daemon's address with --daemon URL or HONE_DAEMON")
    }

    fn in_doubt(mut self, doubt: Doubt, url: &str) -> Self {
        self.doubt = Some((doubt, url.to_owned()));
        self
    }

    /// Why somebody else than a daemon may be at the address, and the address.
    pub(crate) fn doubt(&self) -> Option<(&Doubt, &str)> {
        self.doubt.as_ref().map(|(doubt, url)| (doubt, url.as_str()))
    }

    /// Translates a status. The daemon's messages are sentences for the user and stay as they are, but that the fields
    /// that they name become flags; what the transport says about itself is put into words.
    pub(crate) fn from_status(status: &Status, url: &str) -> Self {
        if is_transport(status) {
            return Self::unreachable(url, &root_cause(status));
        }
        if is_of_no_daemon(status) {
            return Self::no_daemon(url);
        }
        let kind = match status.code() {
            Code::NotFound => Kind::NotFound,
            Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange | Code::AlreadyExists => {
                Kind::Refused
            }
            Code::Unauthenticated | Code::PermissionDenied => Kind::Refused,
            Code::ResourceExhausted | Code::Unavailable | Code::Aborted => Kind::Busy,
            Code::DeadlineExceeded => Kind::Unreachable,
            _ => Kind::Other,
        };
        let message = match (status.message(), status.code()) {
            (_, Code::Unimplemented) => {
                return Self::new(kind, format!("the daemon at {url} does not know this request"))
                    .hint("client and daemon should be of the same version")
                    .in_doubt(Doubt::Service, url);
            }
            ("", code) => format!("the daemon at {url} gave no reason ({})", describe(code)),
            (message, _) => with_flags(message),
        };
        let error = Self::new(kind, message);
        match kind {
            Kind::Busy => error.hint("try again in a moment"),
            _ => error,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a hint to errors of one kind; the others stay as they are.
    pub(crate) fn hint_if(self, kind: Kind, hint: impl Into<String>) -> Self {
        if self.kind == kind { self.hint(hint) } else { self }
    }

    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What happened.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// An error while the results were written.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Kind::OutputClosed, "the output was closed"),
            _ => Self::other(format!("the output cannot be written: {error}")),
        }
    }
}

/// True for what the connection says, false for what the daemon says.
pub(crate) fn is_transport(status: &Status) -> bool {
    status.source().is_some()
}

/// True for what the library says of an answer that is not gRPC: a web server's, or that of a proxy.
fn is_of_no_daemon(status: &Status) -> bool {
    let message = status.message();
    message.contains("grpc-status header missing")
        || message.starts_with("protocol error:")
        || status.code() == Code::Internal && message.starts_with("Missing response message")
}

/// The innermost cause, without the wrapping that only names layers of the transport.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        return match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            _ => strip_os_code(&error.to_string()).to_owned(),
        };
    }
    strip_os_code(&cause.to_string()).to_owned()
}

/// "Connection refused (os error 111)" without the number, which helps nobody.
pub(crate) fn strip_os_code(message: &str) -> &str {
    message.find(" (os error").map_or(message, |end| &message[..end])
}

fn describe(code: Code) -> &'static str {
    match code {
        Code::NotFound => "not found",
        Code::InvalidArgument => "invalid argument",
        Code::FailedPrecondition => "the state does not allow it",
        Code::ResourceExhausted => "busy",
        Code::Unavailable => "unavailable",
        Code::Unauthenticated => "not authenticated",
        Code::PermissionDenied => "not permitted",
        Code::Cancelled => "cancelled",
        Code::DeadlineExceeded => "out of time",
        Code::Internal => "internal error",
        _ => "unknown error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://127.0.0.1:50051";

    #[test]
    fn the_daemons_sentences_are_shown_untouched() {
        let status = Status::invalid_argument("the column \"txt\" does not exist in reviews.csv");
        let error = Error::from_status(&status, URL);
        assert_eq!(error.to_string(), "the column \"txt\" does not exist in reviews.csv");
        assert_eq!(error.kind(), Kind::Refused);
    }

    #[test]
    fn the_fields_that_the_daemon_names_become_flags() {
        let error = Error::from_status(&Status::invalid_argument("`learning_rate` must be a number"), URL);
        assert_eq!(error.to_string(), "--lr must be a number");
    }

    #[test]
    fn codes_become_kinds_with_stable_exit_codes() {
        let cases = [
            (Code::NotFound, 4),
            (Code::InvalidArgument, 5),
            (Code::FailedPrecondition, 5),
            (Code::AlreadyExists, 5),
            (Code::Unauthenticated, 5),
            (Code::ResourceExhausted, 6),
            (Code::Unavailable, 6),
            (Code::DeadlineExceeded, 3),
            (Code::Internal, 1),
            (Code::DataLoss, 1),
        ];
        for (code, exit) in cases {
            let error = Error::from_status(&Status::new(code, "a sentence"), URL);
            assert_eq!(error.kind().exit_code(), exit, "{code:?}");
        }
        assert_eq!(Kind::OutputClosed.exit_code(), 0);
        assert_eq!(Kind::Interrupted.exit_code(), 130);
    }

    #[test]
    fn a_broken_connection_names_the_address_and_what_to_do() {
        let mut status = Status::unavailable("error trying to connect");
        status.set_source(std::sync::Arc::new(io::Error::from_raw_os_error(111)));
        let error = Error::from_status(&status, URL);
        assert_eq!(
            error.to_string(),
            "no daemon can be reached at http://127.0.0.1:50051: connection refused"
        );
        assert_eq!(
            error.hint_text(),
            Some(
                "start one with `daemon --listen 127.0.0.1:50051`, or name another with --daemon URL or HONE_DAEMON"
            )
        );
    }

    #[test]
    fn every_exit_code_is_documented() {
        let kinds = [
            Kind::Other,
            Kind::Usage,
            Kind::Unreachable,
            Kind::NotFound,
            Kind::Refused,
            Kind::Busy,
            Kind::JobFailed,
            Kind::JobStopped,
            Kind::ConnectionLost,
            Kind::Interrupted,
            Kind::OutputClosed,
        ];
        for kind in kinds {
            let code = kind.exit_code().to_string();
            assert!(
                EXIT_CODES.lines().any(|line| line.trim_start().starts_with(&format!("{code}  "))),
                "{code} is missing"
            );
        }
    }
}
