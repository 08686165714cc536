//! `hone.v1.InferenceService`.

use std::pin::Pin;
use std::time::Instant;

use futures::{Stream, StreamExt as _};
use hone::v1::inference_service_server::InferenceService;
use hone::v1::{ClassifyRequest, ClassifyResponse};
use tonic::{Request, Response, Status, Streaming};

use super::convert::inference::{Question, response};
use super::convert::{Parsed as _, Wire as _};
use super::deadline;
use super::stopping::Stopping;
use crate::serve::classify::Serving;
use crate::serve::options::Options;
use hone_base::error::{Error, Result as HoneResult};

/// Requests of one stream that are computed at once.
const IN_FLIGHT: usize = 16;

/// The service.
pub struct Inference {
    pub(super) serving: Serving,
    pub(super) stopping: Stopping,
}

#[tonic::async_trait]
impl InferenceService for Inference {
    async fn classify(
        &self,
        request: Request<ClassifyRequest>,
    ) -> Result<Response<ClassifyResponse>, Status> {
        let deadline = deadline::of(request.extensions());
        Ok(Response::new(classify(&self.serving, request.into_inner(), deadline, false).await?))
    }

    type ClassifyStreamStream = Pin<Box<dyn Stream<Item = Result<ClassifyResponse, Status>> + Send>>;

    async fn classify_stream(
        &self,
        request: Request<Streaming<ClassifyRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        let (serving, stopping) = (self.serving.clone(), self.stopping.clone());
        let answers = request
            .into_inner()
            .take_until(stopping.begun())
            .map(move |request| {
                let serving = serving.clone();
                async move {
                    // Only a broken stream is one's end.
                    let request = request?;
                    let id = request.request_id.clone();
                    let failed = |error: Error| ClassifyResponse {
                        request_id: id,
                        error: Some((&error).wire()),
                        ..ClassifyResponse::default()
                    };
                    Ok(classify(&serving, request, None, true).await.unwrap_or_else(failed))
                }
            })
            .buffered(IN_FLIGHT);
        // What came before the daemon began to go down is answered.
        let end = futures::stream::once(async move { stopping.has_begun() })
            .filter_map(|begun| async move { begun.then(|| Err(Stopping::error().into())) });
        Ok(Response::new(Box::pin(until_error(answers.chain(end)))))
    }
}

async fn classify(
    serving: &Serving,
    request: ClassifyRequest,
    deadline: Option<Instant>,
    waits: bool,
) -> HoneResult<ClassifyResponse> {
    let Question { model, inputs, options, shown } = request.parsed()?;
    let answer = serving.classify(&model, inputs, &Options { deadline, waits, ..options }).await?;
    Ok(response(answer, shown))
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
