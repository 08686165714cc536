//! Plain HTTP for those who have no gRPC: JSON in, JSON out, on the same port. `docs/openapi.json` describes it.

mod classify;
mod error;
mod predict;

use std::pin::pin;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, post};
use futures::StreamExt as _;
use http_body::Body as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::codegen::http::header::CONTENT_TYPE;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tonic::{Code, Status};

use super::stopping::Stopping;
use super::tei::Tei;
use super::{MAX_CLASSIFY_MESSAGE, deadline};
use crate::serve::options::RETRY;
pub(super) use error::{deadline_exceeded, refused};
use hone_base::error::{Error, Kind, Result};

/// The description of what is served here.
const OPENAPI: &str = include_str!("../../../../docs/openapi.json");

/// What the routes delegate to.
#[derive(Clone)]
pub(super) struct Http {
    pub(super) tei: Tei,
    pub(super) stopping: Stopping,
}

/// Adds the routes, and an answer for every path that is none.
pub(super) fn add(routes: Router, http: Http) -> Router {
    let own = Router::new()
        .route("/v1/classify", post(classify::classify))
        .route("/predict", post(predict::predict))
        .route("/info", get(predict::info))
        .route("/health", get(health))
        .route("/openapi.json", get(openapi))
        .method_not_allowed_fallback(wrong_method)
        .with_state(http);
    routes.merge(own).fallback(nothing)
}

/// Whether headers are those of a gRPC call.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

async fn health(State(http): State<Http>) -> Response<Body> {
    match http.stopping.has_begun() {
        false => json(StatusCode::OK, &serde_json::json!({ "status": "serving" })),
        true => error::response(&Stopping::error()),
    }
}

async fn openapi() -> Response<Body> {
    with_body(StatusCode::OK, OPENAPI.to_owned())
}

async fn wrong_method() -> Response<Body> {
    let error = Error::invalid("this path takes another method; GET /openapi.json says which");
    let mut response = error::response(&error);
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response
}

async fn nothing(request: Request<Body>) -> Response<Body> {
    if is_grpc(request.headers()) {
        return Status::unimplemented("").into_http();
    }
    error::response(&Error::not_found("there is nothing at this path; GET /openapi.json lists what there is"))
}

/// When the caller of a request gives it up.
fn until(request: &Request<Body>) -> Option<Instant> {
    deadline::of(request.extensions())
}

/// What the body of a request says.
///
/// # Errors
/// `Invalid` when it is not the JSON that it should be, and what the admission of bodies refuses.
async fn body<T: DeserializeOwned>(request: Request<Body>) -> Result<T> {
    let mut body = pin!(request.into_body());
    let mut frames = futures::stream::poll_fn(|context| body.as_mut().poll_frame(context));
    let mut bytes = Vec::new();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(unreadable)?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > MAX_CLASSIFY_MESSAGE {
            return Err(error::too_large());
        }
        bytes.extend_from_slice(data);
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::invalid(format!("the body is not what it must be: {error}")))
}

/// Why a body could not be read.
fn unreadable(error: axum::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        if let Some(status) = error.downcast_ref::<Status>() {
            return match status.code() {
                Code::ResourceExhausted => Error::busy(RETRY, status.message()),
                Code::DeadlineExceeded => Error::new(Kind::Deadline, status.message()),
                Code::OutOfRange => error::too_large(),
                _ => Error::invalid(status.message()),
            };
        }
        cause = error.source();
    }
    Error::invalid(format!("the body cannot be read: {error}"))
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    match serde_json::to_string(value) {
        Ok(text) => with_body(status, text),
        Err(error) => error::response(&Error::internal(format!("an answer cannot be written: {error}"))),
    }
}

fn with_body(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
