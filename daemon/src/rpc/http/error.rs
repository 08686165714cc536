//! Errors in plain HTTP: the one table from kinds of failures to HTTP status codes, and their JSON.

use axum::body::Body;
use serde::Serialize;
use tonic::codegen::http::header::RETRY_AFTER;
use tonic::codegen::http::{HeaderValue, Response, StatusCode};

use super::{MAX_CLASSIFY_MESSAGE, json};
use hone_base::error::{Error, Kind};

/// What names the body as what is wrong.
const BODY: &str = "body";

/// An error in JSON.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    /// The name of the kind of failure, as gRPC has it.
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

#[derive(Serialize)]
struct Failed {
    error: Failure,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            code: name(error.kind()),
            message: error.message().to_owned(),
            field: error.wrong_field().map(str::to_owned),
            retry_after_ms: error.retry().map(|time| time.as_millis() as u64),
        }
    }
}

/// The HTTP status of a failure.
pub(super) fn status(error: &Error) -> StatusCode {
    match error.kind() {
        Kind::Invalid if error.wrong_field() == Some(BODY) => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Exists | Kind::Precondition => StatusCode::CONFLICT,
        Kind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
        Kind::Deadline => StatusCode::GATEWAY_TIMEOUT,
        Kind::Cancelled | Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Corrupt | Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Invalid => "INVALID_ARGUMENT",
        Kind::NotFound => "NOT_FOUND",
        Kind::Exists => "ALREADY_EXISTS",
        Kind::Precondition => "FAILED_PRECONDITION",
        Kind::Exhausted => "RESOURCE_EXHAUSTED",
        Kind::Deadline => "DEADLINE_EXCEEDED",
        Kind::Cancelled => "CANCELLED",
        Kind::Unavailable => "UNAVAILABLE",
        Kind::Corrupt => "DATA_LOSS",
        Kind::Internal => "INTERNAL",
    }
}

/// The response that says an error.
pub(super) fn response(error: &Error) -> Response<Body> {
    told(error, &Failed { error: error.into() })
}

/// The response with an error's status, and this body.
pub(super) fn told<T: Serialize>(error: &Error, body: &T) -> Response<Body> {
    if error.kind() == Kind::Internal {
        tracing::error!(%error, "a call failed");
    }
    let mut response = json(status(error), body);
    if let Some(time) = error.retry() {
        let seconds = time.as_millis().div_ceil(1000) as u64;
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The error of a body that is longer than any may be.
pub(super) fn too_large() -> Error {
    let why = format!("the body has more than {MAX_CLASSIFY_MESSAGE} bytes; send fewer texts at once");
    Error::invalid_field(BODY, why)
}

/// The response to a request whose deadline has passed.
pub(in super::super) fn deadline_exceeded() -> Response<tonic::body::Body> {
    refused(&Error::new(Kind::Deadline, "the request's deadline has passed before it was answered"))
}

/// The response to a request that no route has seen.
pub(in super::super) fn refused(error: &Error) -> Response<tonic::body::Body> {
    response(error).map(tonic::body::Body::new)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_kind_of_failure_has_its_status() {
        for (error, number) in [
            (Error::invalid("why"), 400),
            (too_large(), 413),
            (Error::not_found("why"), 404),
            (Error::precondition("why"), 409),
            (Error::new(Kind::Exhausted, "why"), 429),
            (Error::new(Kind::Unavailable, "why"), 503),
            (Error::new(Kind::Deadline, "why"), 504),
            (Error::internal("why"), 500),
        ] {
            assert_eq!(status(&error).as_u16(), number, "{error}");
        }
    }

    #[test]
    fn a_time_to_wait_is_told_in_whole_seconds() {
        let response = response(&Error::busy(Duration::from_millis(1200), "the queue is full"));
        assert_eq!(response.status().as_u16(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }
}
