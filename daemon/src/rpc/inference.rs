//! `hone.v1.InferenceService`.

use crate::rpc::convert::Wire;
use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use hone::v1::inference_service_server::InferenceService;
use hone::v1::{ClassifyRequest, ClassifyResponse};
use tonic::{Request, Response, Status, Streaming};

use super::convert::inference::inputs;
use super::stopping::Stopping;
use crate::serve::classify::Serving;

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
        Ok(Response::new(classify(&self.serving, request.into_inner()).await?))
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
                async move { classify(&serving, request?).await }
            })
            .buffered(IN_FLIGHT);
        // What came before the daemon began to go down is answered.
        let end = futures::stream::once(async move { stopping.has_begun() })
            .filter_map(|begun| async move { begun.then(|| Err(Stopping::error().into())) });
        Ok(Response::new(Box::pin(until_error(answers.chain(end)))))
    }
}

async fn classify(serving: &Serving, request: ClassifyRequest) -> Result<ClassifyResponse, Status> {
    Ok(serving.classify(&request.model, inputs(request.inputs)).await?.wire())
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
