//! Deadlines. Tonic ends a call whose `grpc-timeout` has passed with CANCELLED, which says that the caller gave up,
//! and lets a streamed answer go on past it. This layer stands closer to the services and ends either with
//! DEADLINE_EXCEEDED, or in plain HTTP, whose callers say `x-timeout-ms`, with 504. The services learn the deadline too ([`of`]), so that nothing is begun that cannot be done in time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Extensions, HeaderMap, Request, Response};
use tonic::codegen::{Bytes, Service};
use tower_layer::Layer;

use super::http;

/// Holds calls to their deadlines.
#[derive(Clone, Copy, Debug)]
pub struct DeadlineLayer;

/// A service whose calls have deadlines.
#[derive(Clone, Debug)]
pub struct Deadline<S>(S);

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline(inner)
    }
}

impl<S> Service<Request<Body>> for Deadline<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let is_grpc = http::is_grpc(request.headers());
        let timeout = if is_grpc { timeout(request.headers()) } else { plain_timeout(request.headers()) };
        let Some(deadline) = timeout.and_then(|timeout| Instant::now().checked_add(timeout)) else {
            return Box::pin(self.0.call(request));
        };
        let over = move || match is_grpc {
            true => exceeded().into_http(),
            false => http::deadline_exceeded(),
        };
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Box::pin(async move { Ok(over()) });
        }
        request.extensions_mut().insert(CallDeadline(deadline));
        let answer = self.0.call(request);
        Box::pin(async move {
            tokio::select! {
                biased;
                // First, so that tonic's own timer, which ends no earlier, never wins.
                () = tokio::time::sleep_until(deadline) => Ok(over()),
                // An answer in plain HTTP is no stream.
                answer = answer => Ok(answer?.map(|body| match is_grpc {
                    true => Body::new(Limited::new(body, deadline)),
                    false => body,
                })),
            }
        })
    }
}

/// When the caller gives the call up.
#[derive(Clone, Copy, Debug)]
struct CallDeadline(Instant);

/// When the caller of a request gives it up, if it said so.
pub fn of(extensions: &Extensions) -> Option<std::time::Instant> {
    extensions.get::<CallDeadline>().map(|deadline| deadline.0.into_std())
}

fn exceeded() -> Status {
    Status::deadline_exceeded("the call's deadline has passed before it was done")
}

/// A streamed answer that ends at the deadline.
struct Limited {
    body: Body,
    deadline: Pin<Box<Sleep>>,
    over: bool,
}

impl Limited {
    fn new(body: Body, deadline: Instant) -> Self {
        Self { body, deadline: Box::pin(tokio::time::sleep_until(deadline)), over: false }
    }
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let ready @ Poll::Ready(_) = Pin::new(&mut self.body).poll_frame(cx) {
            return ready;
        }
        if self.deadline.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.over = true;
        self.body = Body::empty();
        let mut trailers = HeaderMap::new();
        let added = exceeded().add_header(&mut trailers);
        Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the header `x-timeout-ms` says, which plain HTTP has instead.
fn plain_timeout(headers: &HeaderMap) -> Option<Duration> {
    headers.get("x-timeout-ms")?.to_str().ok()?.parse().ok().map(Duration::from_millis)
}

/// What the header `grpc-timeout` says: at most eight digits and a unit.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::StreamExt as _;
    use http_body::Body as _;
    use tonic::codegen::http::HeaderValue;

    use super::*;

    /// Answers after a while, with a body that never ends.
    #[derive(Clone)]
    struct Slow(Duration);

    impl Service<Request<Body>> for Slow {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let wait = self.0;
            Box::pin(async move {
                tokio::time::sleep(wait).await;
                Ok(Response::new(Body::new(Endless)))
            })
        }
    }

    struct Endless;

    impl http_body::Body for Endless {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Pending
        }
    }

    async fn call(wait: u64, timeout: &'static str) -> Response<Body> {
        let mut request = Request::new(Body::empty());
        request.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static(timeout));
        DeadlineLayer.layer(Slow(Duration::from_millis(wait))).call(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_call_past_its_deadline_ends_with_that_status() {
        let response = call(60_000, "20m").await;
        assert_eq!(response.headers().get("grpc-status").unwrap(), "4");
    }

    #[tokio::test]
    async fn a_stream_past_its_deadline_ends_with_that_status() {
        let mut body = call(1, "200m").await.into_body();
        let mut frames = futures::stream::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let trailers = frames.next().await.unwrap().unwrap().into_trailers().ok().unwrap();
        assert_eq!(trailers.get("grpc-status").unwrap(), "4");
        assert!(frames.next().await.is_none());
    }

    #[test]
    fn the_header_is_a_number_with_a_unit() {
        let parse = |text: &'static str| {
            timeout(&HeaderMap::from_iter([(
                "grpc-timeout".parse().unwrap(),
                HeaderValue::from_static(text),
            )]))
        };
        assert_eq!(parse("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        for bad in ["", "S", "1", "1s", "-1S", "+1S", "123456789S", "1 S"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
