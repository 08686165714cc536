//! The one error type of the daemon: a kind, which decides the status code, and a message for people.
//!
//! A message says what happened, why, and what to do, and names the offending thing: a file, a line, a column, a field.
//! Fields of requests stand in backquotes, with a value where one is meant (`learning_rate`, `metric = f1`), those of
//! `Columns` with their path (`columns.label`): any client can show that, and the command-line client makes flags of it.

use std::fmt;
use std::time::Duration;

pub use hone_message::quoted;

/// What sort of failure it is. `status` holds the one table from kinds to gRPC status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The caller's input is wrong, whatever the state of the daemon.
    Invalid,
    /// A named thing does not exist.
    NotFound,
    /// A named thing exists already.
    Exists,
    /// The input may be right, but the state of the daemon or of a file it names forbids it.
    Precondition,
    /// A queue, a limit or the device's memory is exhausted.
    Exhausted,
    /// The caller or the operator stopped it.
    Cancelled,
    /// It was not done in the time that the caller gave it.
    Deadline,
    /// The daemon is going down, or something that it needs cannot be reached for now.
    Unavailable,
    /// Stored or received bytes are damaged.
    Corrupt,
    /// A fault of the daemon or its machine.
    Internal,
}

/// A failure with its kind and a message for people, and, for programs, what of the request is wrong and when to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
    field: Option<Box<str>>,
    retry_after: Option<Duration>,
}

/// The result of everything in the daemon that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), field: None, retry_after: None }
    }

    /// The caller's input is wrong in this field of the request, such as `inputs[3].text`.
    pub fn invalid_field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(message).of_field(field)
    }

    /// Too much is asked of the daemon at once, which passes by itself: the same may succeed after this time.
    pub fn busy(retry_after: Duration, message: impl Into<String>) -> Self {
        Self::new(Kind::Exhausted, message).retry_after(retry_after)
    }

    /// The caller's input is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// A named thing does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// The state of the daemon or of a file forbids it.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(Kind::Precondition, message)
    }

    /// Stored or received bytes are damaged.
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, message)
    }

    /// A fault of the daemon or its machine.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// A file operation on `path` failed.
    pub fn io(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::StorageFull => Kind::Exhausted,
            _ => Kind::Internal,
        };
        Self::new(kind, format!("cannot {doing} {}: {error}", path.display()))
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The path of the request's field that is wrong, if it is known.
    pub fn wrong_field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// The time after which the same may succeed, if it passes by itself.
    pub fn retry(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The same failure, of a field of the request.
    #[must_use]
    pub fn of_field(self, field: impl Into<String>) -> Self {
        Self { field: Some(field.into().into_boxed_str()), ..self }
    }

    /// The same failure, which passes by itself.
    #[must_use]
    pub fn retry_after(self, time: Duration) -> Self {
        Self { retry_after: Some(time), ..self }
    }

    /// The same failure as one of a thing that the caller named and may mend: damaged, missing and unreadable are all the
    /// same to whoever has named the wrong folder.
    #[must_use]
    pub fn of_named(self) -> Self {
        match self.kind {
            Kind::Corrupt | Kind::NotFound | Kind::Internal => Self { kind: Kind::Precondition, ..self },
            _ => self,
        }
    }

    /// The same failure, its message put behind `prefix` and a colon.
    #[must_use]
    pub fn within(self, prefix: impl fmt::Display) -> Self {
        Self { message: format!("{prefix}: {}", self.message), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(feature = "candle")]
impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::internal(format!("a tensor operation failed: {error}"))
    }
}
