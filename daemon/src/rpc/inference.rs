//! `hone.v1.InferenceService`.

use std::time::Instant;

use hone::v1::inference_service_server::InferenceService;
use hone::v1::{ClassifyRequest, ClassifyResponse};
use tonic::{Request, Response, Status, Streaming};

use super::compression;
use super::convert::inference::{Question, response};
use super::convert::{Parsed as _, Wire as _};
use super::deadline;
use super::stopping::Stopping;
use super::streams::{Answers, in_order};
use crate::serve::classify::Serving;
use crate::serve::options::Options;
use hone_base::error::{Error, Result as HoneResult};

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
        Ok(compression::sized(classify(&self.serving, request.into_inner(), deadline).await?))
    }

    type ClassifyStreamStream = Answers<ClassifyResponse>;

    async fn classify_stream(
        &self,
        request: Request<Streaming<ClassifyRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let serving = self.serving.for_stream();
        let answers = in_order(requests, self.stopping.clone(), move |request: ClassifyRequest| {
            let serving = serving.clone();
            async move {
                let request_id = request.request_id.clone();
                let failed = |error: Error| ClassifyResponse {
                    request_id,
                    error: Some((&error).wire()),
                    ..ClassifyResponse::default()
                };
                Ok(classify(&serving, request, None).await.unwrap_or_else(failed))
            }
        });
        Ok(compression::like(metadata.as_ref(), answers))
    }
}

async fn classify(
    serving: &Serving,
    request: ClassifyRequest,
    deadline: Option<Instant>,
) -> HoneResult<ClassifyResponse> {
    let Question { model, inputs, options, shown } = request.parsed()?;
    let answer = serving.classify(&model, inputs, &Options { deadline, ..options }).await?;
    Ok(response(answer, shown))
}
