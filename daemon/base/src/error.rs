//! The one error type of the daemon: a kind, which decides the status code, and a message for people.
//!
//! A message says what happened, why, and what to do, and names the offending thing (file, line, column, flag).

use std::fmt;

pub use hone::message::quoted;

/// What sort of failure it is. `rpc::status` holds the one table from kinds to gRPC status codes.
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
    /// The daemon is going down, or something that it needs cannot be reached for now.
    Unavailable,
    /// Stored or received bytes are damaged.
    Corrupt,
    /// A fault of the daemon or its machine.
    Internal,
}

/// A failure with its kind and a message for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    message: String,
}

/// The result of everything in the daemon that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
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
        Self { kind: self.kind, message: format!("{prefix}: {}", self.message) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::internal(format!("a tensor operation failed: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// The folder of the GPU, because an error of its driver has no other form.
    const ESCAPING: [&str; 1] = ["cuda"];

    fn debug_formats(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !ESCAPING.contains(&name.as_str()) {
                    debug_formats(&path, found);
                }
            } else if name.ends_with(".rs") && !["tests.rs", "testing.rs"].contains(&name.as_str()) {
                let text = std::fs::read_to_string(&path).unwrap();
                let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
                let lines =
                    text[..end].lines().filter(|line| line.contains(":?}") && !line.contains("assert"));
                found.extend(lines.map(|line| format!("{}: {}", path.display(), line.trim())));
            }
        }
    }

    #[test]
    fn no_message_is_written_in_the_debug_form() {
        let mut found = Vec::new();
        debug_formats(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        assert_eq!(found, [""; 0], "quote names with `error::quoted`");
    }
}
