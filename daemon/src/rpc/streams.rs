//! Streams of requests, each of which is answered in its turn.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use tonic::{Status, Streaming};

use super::stopping::Stopping;

/// Requests of one stream that are computed at once.
const IN_FLIGHT: usize = 16;

/// Answers on their way.
pub type Answers<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

/// An answer for each request, in their order, up to the first error. What came before the daemon begins to go down is
/// answered; then the stream ends.
pub fn in_order<Q, A, F>(
    requests: Streaming<Q>,
    stopping: Stopping,
    answer: impl Fn(Q) -> F + Send + 'static,
) -> Answers<A>
where
    Q: Send + 'static,
    A: Send + 'static,
    F: Future<Output = Result<A, Status>> + Send + 'static,
{
    let answers = requests
        .take_until(stopping.begun())
        .map(move |request| {
            let answer = request.map(&answer);
            async move { answer?.await }
        })
        .buffered(IN_FLIGHT);
    let end = futures::stream::once(async move { stopping.has_begun() })
        .filter_map(|begun| async move { begun.then(|| Err(Stopping::error().into())) });
    Box::pin(until_error(answers.chain(end)))
}

/// The stream up to its first error, and that.
fn until_error<T: Send + 'static>(
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> impl Stream<Item = Result<T, Status>> + Send + 'static {
    futures::stream::unfold(Some(Box::pin(stream)), |stream| async move {
        let mut stream = stream?;
        let item = stream.next().await?;
        let rest = item.is_ok().then_some(stream);
        Some((item, rest))
    })
}
