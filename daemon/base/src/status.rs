//! The one table from kinds of failures to gRPC status codes.

use tonic::{Code, Status};

use crate::error::{Error, Kind};

/// The status code of a kind of failure.
pub fn code(kind: Kind) -> Code {
    match kind {
        Kind::Invalid => Code::InvalidArgument,
        Kind::NotFound => Code::NotFound,
        Kind::Exists => Code::AlreadyExists,
        Kind::Precondition => Code::FailedPrecondition,
        Kind::Exhausted => Code::ResourceExhausted,
        Kind::Cancelled => Code::Cancelled,
        Kind::Unavailable => Code::Unavailable,
        Kind::Corrupt => Code::DataLoss,
        Kind::Internal => Code::Internal,
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        if error.kind() == Kind::Internal {
            tracing::error!(%error, "a call failed");
        }
        Self::new(code(error.kind()), error.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_code_of_its_own() {
        let kinds = [
            (Kind::Invalid, 3),
            (Kind::NotFound, 5),
            (Kind::Exists, 6),
            (Kind::Precondition, 9),
            (Kind::Exhausted, 8),
            (Kind::Cancelled, 1),
            (Kind::Unavailable, 14),
            (Kind::Corrupt, 15),
            (Kind::Internal, 13),
        ];
        for (kind, number) in kinds {
            let status = Status::from(Error::new(kind, "why"));
            assert_eq!((status.code() as i32, status.message()), (number, "why"));
        }
    }
}
