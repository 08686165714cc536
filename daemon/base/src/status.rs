//! The one table from kinds of failures to gRPC status codes, and what a status says to programs: google.rpc.BadRequest
//! names the field that is wrong, google.rpc.RetryInfo the time after which the same may succeed.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

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
        Kind::Deadline => Code::DeadlineExceeded,
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
        let mut details = ErrorDetails::new();
        if let Some(field) = error.wrong_field() {
            details.add_bad_request_violation(field, error.message());
        }
        if let Some(time) = error.retry() {
            details.set_retry_info(Some(time));
        }
        match (error.wrong_field(), error.retry()) {
            (None, None) => Self::new(code(error.kind()), error.message()),
            _ => Self::with_error_details(code(error.kind()), error.message(), details),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
            (Kind::Deadline, 4),
            (Kind::Unavailable, 14),
            (Kind::Corrupt, 15),
            (Kind::Internal, 13),
        ];
        for (kind, number) in kinds {
            let status = Status::from(Error::new(kind, "why"));
            assert_eq!((status.code() as i32, status.message()), (number, "why"));
            assert!(status.details().is_empty());
        }
    }

    #[test]
    fn a_wrong_field_and_a_time_to_wait_are_details() {
        let status = Status::from(Error::invalid_field("inputs[3].text", "it is too long"));
        let details = status.get_details_bad_request().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument);
        let violation = &details.field_violations[0];
        assert_eq!(
            (violation.field.as_str(), violation.description.as_str()),
            ("inputs[3].text", "it is too long")
        );
        let status = Status::from(Error::busy(Duration::from_millis(1500), "the queue is full"));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_millis(1500)));
    }
}
