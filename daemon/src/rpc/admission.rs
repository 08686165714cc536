//! Messages are admitted before they are received: a message says how long it is before it comes, and room for all of it is
//! taken then. What finds no room is refused, so that no number of calls and connections fills the memory with messages
//! that are half there.
//!
//! The room of a message is held until the call is answered, or, where a call sends any number of messages, until its next
//! one is asked for: then the service has counted what it keeps of the one before.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{Bytes, Service};
use tower_layer::Layer;

use crate::serve::options::RETRY;
use hone_base::error::Error;
use hone_base::panic::lock;

/// The bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Calls that send any number of messages; all others send one.
const STREAMS: [&str; 4] = [
    "/hone.v1.DatasetService/Upload",
    "/hone.v1.InferenceService/ClassifyStream",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// Bytes of a message that counts as small. Small and large ones have rooms of their own, so that a few large ones that
/// are slow to come keep no small one out.
const SMALL: usize = 1 << 20;

/// The share of the room that small messages have.
const SMALL_SHARE: usize = 4;

/// Admits the messages of all calls together.
#[derive(Clone, Debug)]
pub struct AdmissionLayer {
    /// For small messages, in KiB.
    small: Arc<Semaphore>,
    /// For large messages, in KiB.
    large: Arc<Semaphore>,
    /// The longest message that any service takes; a longer one is refused by the service.
    longest: usize,
    idle: Duration,
}

impl AdmissionLayer {
    /// Room for so many bytes of messages. A message whose next bytes do not come for `idle` ends its call.
    pub fn new(bytes: usize, longest: usize, idle: Duration) -> Self {
        let small = (bytes >> 10) / SMALL_SHARE;
        let large = (bytes >> 10) - small;
        Self { small: Arc::new(Semaphore::new(small)), large: Arc::new(Semaphore::new(large)), longest, idle }
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner, layer: self.clone() }
    }
}

/// A service whose messages are admitted.
#[derive(Clone, Debug)]
pub struct Admission<S> {
    inner: S,
    layer: AdmissionLayer,
}

impl<S> Service<Request<Body>> for Admission<S>
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
        let held = Held::default();
        let is_stream = STREAMS.contains(&request.uri().path());
        let (layer, of_body) = (self.layer.clone(), held.clone());
        let answer = self.inner.call(request.map(|body| {
            Body::new(Admitted {
                body,
                layer,
                held: of_body,
                is_stream,
                message: Message::default(),
                idle: None,
            })
        }));
        Box::pin(async move {
            let answer = answer.await;
            if !is_stream {
                held.release();
            }
            answer
        })
    }
}

/// The room of messages that were admitted, shared by the call and its body.
#[derive(Clone, Debug, Default)]
struct Held(Arc<Mutex<Vec<OwnedSemaphorePermit>>>);

impl Held {
    fn add(&self, permit: OwnedSemaphorePermit) {
        lock(&self.0).push(permit);
    }

    fn release(&self) {
        lock(&self.0).clear();
    }
}

/// Where in its messages a body stands.
#[derive(Debug, Default)]
struct Message {
    prefix: [u8; PREFIX],
    /// Bytes of the prefix that came.
    came: usize,
    /// Bytes of the message that are to come.
    left: usize,
}

impl Message {
    /// Goes through the next bytes; `begin` learns the length of each message that begins in them.
    fn pass(
        &mut self,
        mut bytes: &[u8],
        mut begin: impl FnMut(usize) -> Result<(), Status>,
    ) -> Result<(), Status> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = self.left.min(bytes.len());
                self.left -= taken;
                bytes = bytes.get(taken..).unwrap_or_default();
                continue;
            }
            let taken = (PREFIX - self.came).min(bytes.len());
            let (of_prefix, rest) = bytes.split_at(taken);
            for (to, from) in self.prefix.iter_mut().skip(self.came).zip(of_prefix) {
                *to = *from;
            }
            bytes = rest;
            self.came += taken;
            if self.came == PREFIX {
                let [_, length @ ..] = self.prefix;
                self.came = 0;
                self.left = u32::from_be_bytes(length) as usize;
                begin(self.left)?;
            }
        }
        Ok(())
    }

    /// Whether a message has begun and not ended.
    fn is_open(&self) -> bool {
        self.came > 0 || self.left > 0
    }
}

/// A body whose messages are admitted as they begin.
struct Admitted {
    body: Body,
    layer: AdmissionLayer,
    held: Held,
    is_stream: bool,
    message: Message,
    /// Runs while the next bytes of a message are waited for.
    idle: Option<Pin<Box<Sleep>>>,
}

impl Admitted {
    fn admit(&mut self, bytes: &Bytes) -> Result<(), Status> {
        let Self { layer, held, message, .. } = self;
        message.pass(bytes, |length| {
            if length > layer.longest {
                return Ok(());
            }
            let kib = length.div_ceil(1 << 10) as u32;
            let room = if length <= SMALL { &layer.small } else { &layer.large };
            let permit = room.clone().try_acquire_many_owned(kib).map_err(|_| {
                Error::busy(
                    RETRY,
                    "the daemon receives as many messages as it can hold; try again, or send fewer or smaller ones at once",
                )
            })?;
            held.add(permit);
            Ok(())
        })
    }

    /// Whether the next bytes were waited for too long.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let idle = self.layer.idle;
        let sleep =
            self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + idle)));
        sleep.as_mut().poll(cx).is_ready()
    }
}

impl http_body::Body for Admitted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_stream && !self.message.is_open() {
            self.held.release();
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.idle = None;
                let refused = match &frame {
                    Some(Ok(frame)) => frame.data_ref().and_then(|bytes| self.admit(bytes).err()),
                    _ => None,
                };
                Poll::Ready(match refused {
                    Some(status) => Some(Err(status)),
                    None => frame,
                })
            }
            // A stream may be quiet between two messages for as long as it likes.
            Poll::Pending if self.is_stream && !self.message.is_open() => Poll::Pending,
            Poll::Pending if self.is_late(cx) => {
                let seconds = self.layer.idle.as_secs();
                Poll::Ready(Some(Err(Status::deadline_exceeded(format!(
                    "nothing more of the request has come for {seconds} s; send it again"
                )))))
            }
            Poll::Pending => Poll::Pending,
        }
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

    use futures::StreamExt as _;
    use http_body::Body as _;

    use super::*;

    /// Frames that come one after the other, and then nothing for ever.
    struct Frames(std::collections::VecDeque<Vec<u8>>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            match self.0.pop_front() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes.into())))),
                None => Poll::Pending,
            }
        }
    }

    fn message(length: usize) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend((length as u32).to_be_bytes());
        bytes.extend(vec![7; length]);
        bytes
    }

    /// A service that gives its body back.
    #[derive(Clone)]
    struct Echo;

    impl Service<Request<Body>> for Echo {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            std::future::ready(Ok(Response::new(request.into_body())))
        }
    }

    /// The body of a call as its service sees it, and the call, which is not answered before it is awaited.
    async fn body(layer: &AdmissionLayer, path: &str, frames: Vec<Vec<u8>>) -> Body {
        let request = Request::builder().uri(path).body(Body::new(Frames(frames.into()))).unwrap();
        layer.layer(Echo).call(request).await.unwrap().into_body()
    }

    async fn frames(mut body: Body, count: usize) -> (Vec<usize>, Body) {
        let mut lengths = Vec::new();
        let mut frames = futures::stream::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        for _ in 0..count {
            match frames.next().await.unwrap() {
                Ok(frame) => lengths.push(frame.into_data().unwrap().len()),
                Err(status) => lengths.push(status.code() as usize),
            }
        }
        drop(frames);
        (lengths, body)
    }

    fn free(layer: &AdmissionLayer) -> usize {
        layer.small.available_permits()
    }

    fn room_for_small(kib: usize) -> AdmissionLayer {
        AdmissionLayer::new((kib << 10) * SMALL_SHARE, 8 << 20, LATER)
    }

    const ONE: &str = "/hone.v1.InferenceService/Classify";
    const STREAM: &str = "/hone.v1.InferenceService/ClassifyStream";
    const LATER: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn a_message_is_admitted_by_the_length_that_it_says_before_its_bytes_come() {
        let layer = room_for_small(8);
        let whole = message(5000);
        let beginning = vec![whole[..3].to_vec(), whole[3..6].to_vec()];
        let (_, first) = frames(body(&layer, ONE, beginning.clone()).await, 2).await;
        assert_eq!(free(&layer), 3);
        let (lengths, second) = frames(body(&layer, ONE, beginning).await, 2).await;
        assert_eq!(lengths, [3, tonic::Code::ResourceExhausted as usize]);
        assert_eq!(free(&layer), 3);
        drop((first, second));
        assert_eq!(free(&layer), 8);
    }

    #[tokio::test]
    async fn a_stream_gives_the_room_of_a_message_back_when_it_asks_for_the_next() {
        let layer = room_for_small(8);
        let two_and_a_beginning = [message(1000), message(3000), message(1000)[..9].to_vec()].concat();
        let sent = vec![two_and_a_beginning, message(1000)[9..].to_vec()];
        let (_, body) = frames(body(&layer, STREAM, sent).await, 1).await;
        assert_eq!(free(&layer), 8 - 1 - 3 - 1);
        let (_, mut body) = frames(body, 1).await;
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut body).poll_frame(&mut context).is_pending());
        assert_eq!(free(&layer), 8);
    }

    #[tokio::test]
    async fn a_message_that_no_service_takes_is_left_to_the_service() {
        let layer = AdmissionLayer { longest: 4 << 10, ..room_for_small(8) };
        let (lengths, _) = frames(body(&layer, ONE, vec![message(100 << 10)[..9].to_vec()]).await, 1).await;
        assert_eq!((lengths, free(&layer)), (vec![9], 8));
    }

    #[tokio::test]
    async fn large_messages_keep_no_small_one_out() {
        let layer = AdmissionLayer::new(8 << 20, 8 << 20, LATER);
        let large = || vec![message(5 << 20)[..9].to_vec()];
        let (_, _slow) = frames(body(&layer, ONE, large()).await, 1).await;
        let (refused, _) = frames(body(&layer, ONE, large()).await, 1).await;
        assert_eq!(refused, [tonic::Code::ResourceExhausted as usize]);
        let (lengths, _) = frames(body(&layer, ONE, vec![message(1000)]).await, 1).await;
        assert_eq!(lengths, [1005]);
    }

    #[tokio::test]
    async fn a_message_that_does_not_go_on_ends_its_call_and_a_quiet_stream_does_not() {
        let layer = AdmissionLayer { idle: Duration::from_millis(5), ..room_for_small(8) };
        let late = tonic::Code::DeadlineExceeded as usize;
        for (path, sent) in [(ONE, vec![]), (ONE, vec![message(9)]), (STREAM, vec![message(9)[..7].to_vec()])]
        {
            let count = sent.len() + 1;
            let (lengths, _) = frames(body(&layer, path, sent).await, count).await;
            assert_eq!(lengths[count - 1], late);
        }
        let (_, mut quiet) = frames(body(&layer, STREAM, vec![message(9)]).await, 1).await;
        let mut context = Context::from_waker(std::task::Waker::noop());
        for _ in 0..2 {
            assert!(Pin::new(&mut quiet).poll_frame(&mut context).is_pending());
            tokio::time::sleep(2 * layer.idle).await;
        }
    }

    #[test]
    fn every_call_that_sends_any_number_of_messages_is_known() {
        use prost::Message as _;
        let files = prost_types::FileDescriptorSet::decode(hone::DESCRIPTORS).unwrap().file;
        let mut streams = Vec::new();
        for file in &files {
            for service in &file.service {
                let of_client = service.method.iter().filter(|method| method.client_streaming());
                streams.extend(
                    of_client
                        .map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name())),
                );
            }
        }
        streams.sort();
        let known: Vec<&str> = STREAMS.into_iter().filter(|path| path.starts_with("/hone.")).collect();
        assert_eq!(streams, known);
    }
}
