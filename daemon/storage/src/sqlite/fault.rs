//! What goes wrong inside a transaction: SQLite's errors and Hone's, so that `?` takes both.

use rusqlite::ErrorCode;

use hone_base::error::{Error, Kind};

/// A failure inside this folder; outside it is an [`Error`].
#[derive(Debug)]
pub(super) enum Fault {
    /// Of a statement.
    Sql(rusqlite::Error),
    /// Of what a statement said.
    Hone(Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Hone(error)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let error = match fault {
            Fault::Hone(error) => return error,
            Fault::Sql(error) => error,
        };
        let kind = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Kind::Exhausted,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Kind::Corrupt,
            _ => Kind::Internal,
        };
        Self::new(kind, format!("a database operation failed: {error}"))
    }
}
