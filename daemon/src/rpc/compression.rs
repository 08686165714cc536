//! Compressed messages: taken in gzip and zstd, and sent where that is worth its time. Most clients say that they accept
//! gzip, so that what decides is the size of an answer.

use prost::Message;
use tonic::Response;
use tonic::codegen::http::HeaderMap;

/// Bytes from which on an answer is compressed for a client that accepts it.
const WORTH: usize = 32 << 10;

/// An answer, which is compressed only if it is large.
pub fn sized<M: Message>(answer: M) -> Response<M> {
    let is_small = answer.encoded_len() < WORTH;
    let mut response = Response::new(answer);
    if is_small {
        response.disable_compression();
    }
    response
}

/// A stream of answers, which is compressed only if that of requests is.
pub fn like<S>(request: &HeaderMap, answers: S) -> Response<S> {
    let mut response = Response::new(answers);
    if !request.contains_key("grpc-encoding") {
        response.disable_compression();
    }
    response
}
