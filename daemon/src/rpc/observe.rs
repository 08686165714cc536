//! Counts calls and puts them into traces. This layer stands outside all others, so that it sees each answer as its caller does: refused, past its
//! deadline, or given up.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body::{Frame, SizeHint};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{Bytes, Service};
use tower_layer::Layer;

use super::deadline;
use crate::metrics::{CANCELLED, DEADLINE_EXCEEDED, INTERNAL, Metrics, UNKNOWN, code_name, is_fault};
use crate::trace::call::within;
use crate::trace::{Call, Tracer, context};
use hone_base::error::{Error, Result};

/// The method of calls that no service has.
const OTHER: &str = "other";

/// Paths of plain HTTP.
const HTTP: [&str; 4] = ["/health", "/metrics", "/predict", "/v1/classify"];

/// Observes all calls.
#[derive(Clone, Debug)]
pub struct ObserveLayer {
    metrics: Arc<Metrics>,
    tracer: Tracer,
    /// Paths, and the methods they are counted as.
    methods: Arc<HashMap<String, Arc<str>>>,
}

impl ObserveLayer {
    /// Counts the methods that these compiled descriptors have, and those of plain HTTP; all others are counted as one.
    ///
    /// # Errors
    /// When the descriptors cannot be read.
    pub fn new(metrics: Arc<Metrics>, tracer: Tracer, descriptors: &[&[u8]]) -> Result<Self> {
        let mut methods: HashMap<String, Arc<str>> = HTTP.map(|path| (path.to_owned(), path.into())).into();
        for bytes in descriptors {
            let set = FileDescriptorSet::decode(*bytes);
            let set = set.map_err(|error| Error::internal(format!("descriptors cannot be read: {error}")))?;
            for file in &set.file {
                for service in &file.service {
                    for method in &service.method {
                        let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                        methods.insert(format!("/{name}"), name.into());
                    }
                }
            }
        }
        Ok(Self { metrics, tracer, methods: Arc::new(methods) })
    }

    fn begin(&self, request: &Request<Body>) -> Observed {
        let method = self.methods.get(request.uri().path()).cloned().unwrap_or_else(|| OTHER.into());
        self.metrics.calls.begun(&method);
        Observed {
            metrics: self.metrics.clone(),
            call: Arc::new(self.tracer.call(&method, context::parent(request.headers()))),
            method,
            start: Instant::now(),
            timeout: deadline::timeout(request.headers()),
            code: None,
        }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { inner, layer: self.clone() }
    }
}

/// A service whose calls are observed.
#[derive(Clone, Debug)]
pub struct Observe<S> {
    inner: S,
    layer: ObserveLayer,
}

impl<S> Service<Request<Body>> for Observe<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let observed = self.layer.begin(&request);
        let call = observed.call.clone();
        let answer = call.scope(|| self.inner.call(request));
        Box::pin(async move {
            let response = match within(Some(call), answer).await {
                Ok(response) => response,
                Err(error) => {
                    observed.end(INTERNAL);
                    return Err(error);
                }
            };
            let kind = Kind::of(&response);
            if let Kind::Grpc(Some(code)) = kind {
                // The answer is this status and no message.
                observed.end(code);
                return Ok(response);
            }
            Ok(response.map(|body| Body::new(Answer { body, kind, observed: Some(observed) })))
        })
    }
}

/// How an answer tells its code.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// gRPC: by the headers, where they have one, else by the trailers.
    Grpc(Option<&'static str>),
    /// Plain HTTP: by its status, which counts once the body is through.
    Http(u16),
}

impl Kind {
    fn of(response: &Response<Body>) -> Self {
        let content = response.headers().get("content-type").map(|value| value.as_bytes());
        match content {
            Some(content) if content.starts_with(b"application/grpc") => {
                Self::Grpc(grpc_status(response.headers()))
            }
            _ => Self::Http(response.status().as_u16()),
        }
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<&'static str> {
    let number = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    Some(code_name(number))
}

/// A call that has begun. It is counted when this is dropped.
struct Observed {
    metrics: Arc<Metrics>,
    call: Arc<Call>,
    method: Arc<str>,
    start: Instant,
    timeout: Option<Duration>,
    /// Until it is known, the call would have been given up.
    code: Option<&'static str>,
}

impl Observed {
    fn end(mut self, code: &'static str) {
        self.code = Some(code);
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        let took = self.start.elapsed();
        let code = self.code.unwrap_or_else(|| {
            // A caller ends a call itself when its deadline passes, and may be faster than we are.
            let is_late = self.timeout.is_some_and(|timeout| took >= timeout);
            if is_late { DEADLINE_EXCEEDED } else { CANCELLED }
        });
        self.call.end(code, is_fault(code));
        self.metrics.calls.ended(&self.method, code, self.call.model().unwrap_or_default(), took);
    }
}

/// The body of an answer, which ends the call.
struct Answer {
    body: Body,
    kind: Kind,
    /// Until it has ended.
    observed: Option<Observed>,
}

impl Answer {
    fn end(&mut self, code: &'static str) {
        if let Some(observed) = self.observed.take() {
            observed.end(code);
        }
    }

    /// The code of an answer whose body came through and had no trailers.
    fn through(&mut self) {
        match self.kind {
            Kind::Grpc(code) => self.end(code.unwrap_or(UNKNOWN)),
            Kind::Http(status) => self.end(http_name(status)),
        }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let call = self.observed.as_ref().map(|observed| observed.call.clone());
        let body = Pin::new(&mut self.body);
        let polled = match call {
            Some(call) => call.scope(|| body.poll_frame(cx)),
            None => body.poll_frame(cx),
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(code) = frame.trailers_ref().and_then(grpc_status) {
                    self.end(code);
                }
            }
            Poll::Ready(Some(Err(status))) => self.end(code_name(status.code() as i32)),
            Poll::Ready(None) => self.through(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // A body of known length may be read to its end and never be asked for more.
        if http_body::Body::is_end_stream(&self.body) {
            self.through();
        }
    }
}

/// A status of HTTP as a label; the few that this daemon sends.
fn http_name(status: u16) -> &'static str {
    match status {
        200 => "200",
        400 => "400",
        404 => "404",
        405 => "405",
        408 => "408",
        413 => "413",
        415 => "415",
        422 => "422",
        424 => "424",
        429 => "429",
        500 => "500",
        503 => "503",
        504 => "504",
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const PATH: &str = "/hone.v1.InferenceService/Classify";

    /// Answers with what a function makes.
    #[derive(Clone)]
    struct With(fn() -> Response<Body>);

    impl Service<Request<Body>> for With {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            crate::trace::call::names(&"reviews".into());
            std::future::ready(Ok((self.0)()))
        }
    }

    fn layer() -> (Arc<Metrics>, ObserveLayer) {
        let metrics = Arc::new(Metrics::new().unwrap());
        (metrics.clone(), ObserveLayer::new(metrics, Tracer::default(), &[hone::DESCRIPTORS]).unwrap())
    }

    fn request(path: &str) -> Request<Body> {
        Request::builder().uri(path).body(Body::empty()).unwrap()
    }

    async fn answer(path: &str, with: fn() -> Response<Body>) -> (Arc<Metrics>, Response<Body>) {
        let (metrics, layer) = layer();
        let response = layer.layer(With(with)).call(request(path)).await.unwrap();
        (metrics, response)
    }

    fn has(metrics: &Metrics, method: &str, code: &str) {
        let line =
            format!("hone_requests_total{{code=\"{code}\",method=\"{method}\",model=\"reviews\"}} 1\n");
        let text = metrics.render();
        assert!(text.contains(&line), "{text}");
        assert!(text.contains(&format!("hone_requests_in_progress{{method=\"{method}\"}} 0\n")), "{text}");
    }

    /// A message, and then trailers, if any.
    struct Stream(Vec<Frame<Bytes>>);

    impl http_body::Body for Stream {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop().map(Ok))
        }
    }

    fn grpc(frames: Vec<Frame<Bytes>>) -> Response<Body> {
        let response = Response::builder().header("content-type", "application/grpc");
        response.body(Body::new(Stream(frames))).unwrap()
    }

    fn trailers() -> Frame<Bytes> {
        let mut trailers = HeaderMap::new();
        Status::data_loss("why").add_header(&mut trailers).unwrap();
        Frame::trailers(trailers)
    }

    async fn frame(body: &mut Body) -> Option<Frame<Bytes>> {
        let next = std::future::poll_fn(|cx| http_body::Body::poll_frame(Pin::new(&mut *body), cx));
        next.await.map(|frame| frame.unwrap())
    }

    #[tokio::test]
    async fn a_call_that_is_refused_is_counted_with_its_code() {
        let (metrics, _) = answer(PATH, || Status::invalid_argument("why").into_http()).await;
        has(&metrics, "hone.v1.InferenceService/Classify", "INVALID_ARGUMENT");
    }

    #[tokio::test]
    async fn a_stream_is_counted_by_its_trailers_and_not_before() {
        let (metrics, response) = answer(PATH, || grpc(vec![trailers()])).await;
        let mut body = response.into_body();
        assert!(!metrics.render().contains("hone_requests_total{"));
        assert!(frame(&mut body).await.unwrap().is_trailers());
        has(&metrics, "hone.v1.InferenceService/Classify", "DATA_LOSS");
        drop(body);
        has(&metrics, "hone.v1.InferenceService/Classify", "DATA_LOSS");
    }

    #[tokio::test]
    async fn an_answer_that_is_dropped_before_its_trailers_was_cancelled() {
        let (metrics, response) =
            answer(PATH, || grpc(vec![trailers(), Frame::data(Bytes::from_static(b"x"))])).await;
        let mut body = response.into_body();
        assert!(frame(&mut body).await.unwrap().is_data());
        drop(body);
        has(&metrics, "hone.v1.InferenceService/Classify", "CANCELLED");
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_past_its_deadline_has_exceeded_it() {
        let (metrics, layer) = layer();
        let mut late = request(PATH);
        late.headers_mut().insert("grpc-timeout", "1n".parse().unwrap());
        let response = layer.layer(With(|| grpc(vec![]))).call(late).await.unwrap();
        drop(response);
        has(&metrics, "hone.v1.InferenceService/Classify", "DEADLINE_EXCEEDED");
    }

    #[tokio::test]
    async fn plain_http_is_counted_by_its_status_once_the_body_is_through() {
        let (metrics, response) = answer("/predict", || Response::new(Body::empty())).await;
        drop(response);
        has(&metrics, "/predict", "200");
        let (metrics, response) =
            answer("/predict", || Response::new(Body::new(Stream(vec![trailers()])))).await;
        drop(response);
        has(&metrics, "/predict", "CANCELLED");
    }

    #[tokio::test]
    async fn a_path_that_a_caller_made_up_makes_no_series() {
        let (metrics, _) = answer("/made.up/Name", || Status::unimplemented("no").into_http()).await;
        has(&metrics, OTHER, "UNIMPLEMENTED");
        assert!(!metrics.render().contains("made.up"));
    }
}
