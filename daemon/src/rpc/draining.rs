//! What a daemon that goes down does with calls: those that it has begun are finished, new ones are refused with
//! UNAVAILABLE and the time after which to try again, so that no caller is left without an answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Bytes, Service};
use tower_layer::Layer;

use super::http;
use super::stopping::Stopping;

/// What is answered to the end: health, and what says which services there are.
const TO_THE_END: [&str; 3] = ["/grpc.health.", "/grpc.reflection.", "/health"];

/// Refuses calls from the moment on at which the daemon begins to go down, and knows of those that were begun before.
#[derive(Clone, Debug)]
pub struct DrainingLayer {
    stopping: Stopping,
    /// Each call has a receiver.
    running: Arc<watch::Sender<()>>,
}

impl DrainingLayer {
    /// Heeds this.
    pub fn new(stopping: Stopping) -> Self {
        Self { stopping, running: Arc::new(watch::channel(()).0) }
    }

    /// Waits until no call goes on.
    pub fn idle(&self) -> impl Future<Output = ()> + Send + use<> {
        let running = self.running.clone();
        async move { running.closed().await }
    }
}

impl<S> Layer<S> for DrainingLayer {
    type Service = Draining<S>;

    fn layer(&self, inner: S) -> Draining<S> {
        Draining { inner, layer: self.clone() }
    }
}

/// A service that refuses calls when the daemon goes down.
#[derive(Clone, Debug)]
pub struct Draining<S> {
    inner: S,
    layer: DrainingLayer,
}

impl<S> Service<Request<Body>> for Draining<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if TO_THE_END.iter().any(|path| request.uri().path().starts_with(path)) {
            return Box::pin(self.inner.call(request));
        }
        // Taken before the daemon is asked whether it goes down: whoever waits for the calls to end sees this one, or it is
        // refused.
        let running = self.layer.running.subscribe();
        if self.layer.stopping.has_begun() {
            let refused = match http::is_grpc(request.headers()) {
                true => Status::from(Stopping::error()).into_http(),
                false => http::refused(&Stopping::error()),
            };
            return Box::pin(async { Ok(refused) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Body::new(Running { body, _running: running }))) })
    }
}

/// The answer of a call that goes on until it is sent.
struct Running {
    body: Body,
    _running: watch::Receiver<()>,
}

impl http_body::Body for Running {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::FutureExt as _;

    use super::*;

    #[derive(Clone)]
    struct Slow;

    impl Service<Request<Body>> for Slow {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            std::future::ready(Ok(Response::new(Body::new(Endless))))
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

    async fn call(layer: &DrainingLayer, path: &str, kind: &str) -> Response<Body> {
        let request = Request::post(path).header("content-type", kind).body(Body::empty()).unwrap();
        layer.layer(Slow).call(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_call_goes_on_until_its_answer_is_sent_and_later_ones_are_refused() {
        let stopping = Stopping::default();
        let layer = DrainingLayer::new(stopping.clone());
        let running = call(&layer, "/hone.v1.InferenceService/Classify", "application/grpc").await;
        stopping.begin();
        assert!(layer.idle().now_or_never().is_none());
        let refused = call(&layer, "/hone.v1.InferenceService/Classify", "application/grpc").await;
        assert_eq!(refused.headers()["grpc-status"], "14");
        assert!(refused.headers().contains_key("grpc-status-details-bin"));
        let refused = call(&layer, "/v1/classify", "application/json").await;
        assert_eq!(refused.status().as_u16(), 503);
        assert_eq!(refused.headers()["retry-after"], "5");
        let health = call(&layer, "/grpc.health.v1.Health/Check", "application/grpc").await;
        assert!(!health.headers().contains_key("grpc-status"));
        drop((running, refused));
        assert!(layer.idle().now_or_never().is_some());
    }
}
