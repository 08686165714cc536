//! `tei.v1.Info` and `tei.v1.Predict`, for clients of text-embeddings-inference. Such a daemon has one model; here the
//! metadata `x-model` names it where there are several.

use std::time::Instant;

use hone::tei;
use hone::tei::info_server::Info;
use hone::tei::predict_server::Predict;
use tonic::codegen::http::HeaderMap;
use tonic::metadata::{AsciiMetadataKey, MetadataMap};
use tonic::{Request, Response, Status, Streaming};

use super::compression;
use super::convert::tei::{Question, headers, metadata, predictions};
use super::convert::{Parse, Parsed as _};
use super::deadline;
use super::stopping::Stopping;
use super::streams::{Answers, in_order};
use super::{Capacity, MAX_CALLS};
use crate::serve::answer::Classified;
use crate::serve::classify::{MAX_INPUTS, Serving};
use crate::serve::precision::Precision;
use hone_base::error::{Error, Kind, Result as HoneResult};

/// The metadata, or header, that names the model.
pub(super) const MODEL: &str = "x-model";

/// Both services.
#[derive(Clone)]
pub struct Tei {
    pub(super) serving: Serving,
    pub(super) stopping: Stopping,
    pub(super) capacity: Capacity,
}

/// The model that the metadata of a call names; empty where it names none.
fn model_of(metadata: &MetadataMap) -> String {
    model_in(metadata.as_ref())
}

/// The model that headers name; empty where they name none.
pub(super) fn model_in(headers: &HeaderMap) -> String {
    headers.get(MODEL).and_then(|name| name.to_str().ok()).unwrap_or_default().to_owned()
}

/// The error of a call that names no model where there are several says where to name it.
fn of_header(model: &str, error: Error) -> Error {
    match (model.is_empty(), error.kind(), error.wrong_field()) {
        (true, Kind::Invalid, None) => {
            error.within(format!("the header `{MODEL}` is missing")).of_field(MODEL)
        }
        _ => error,
    }
}

impl Tei {
    /// Answers all inputs of a question.
    pub(super) async fn ask(&self, model: &str, question: Question) -> HoneResult<Classified> {
        let Question { inputs, options, .. } = question;
        self.serving.classify(model, inputs, &options).await.map_err(|error| of_header(model, error))
    }

    /// What serves, and its limits.
    pub(super) async fn describe(&self, model: &str) -> HoneResult<tei::InfoResponse> {
        let (version, _) = self.serving.find(model).await.map_err(|error| of_header(model, error))?;
        Ok(tei::InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            sha: None,
            docker_label: None,
            model_id: format!("{}@{}", version.name, version.version),
            model_sha: Some(version.weights_sha256.clone()),
            model_dtype: match self.serving.precision(&version) {
                Some(Precision::Int8) => "int8",
                Some(Precision::Bf16) => "bfloat16",
                Some(Precision::Fp32) | None => "float32",
            }
            .to_owned(),
            model_type: tei::ModelType::Classifier.into(),
            max_concurrent_requests: MAX_CALLS,
            max_input_length: version.max_length,
            max_batch_tokens: self.capacity.batch.tokens as u32,
            max_batch_requests: Some(self.capacity.batch.count as u32),
            max_client_batch_size: MAX_INPUTS as u32,
            tokenization_workers: self.capacity.threads as u32,
        })
    }

    /// Answers the only input of a question.
    async fn predict_one(
        &self,
        model: &str,
        question: HoneResult<Question>,
        deadline: Option<Instant>,
    ) -> Result<tei::PredictResponse, Status> {
        let question = question?.until(deadline);
        let (chars, raw_scores) = (question.chars(), question.raw_scores);
        let answer = self.ask(model, question).await?;
        let predictions = match answer.predictions.first() {
            Some(Ok(prediction)) => predictions(&answer, prediction, raw_scores),
            Some(Err(error)) => return Err(error.clone().into()),
            None => Vec::new(),
        };
        Ok(tei::PredictResponse { predictions, metadata: Some(metadata(&answer, chars)) })
    }

    async fn unary<Q>(&self, request: Request<Q>) -> Result<Response<tei::PredictResponse>, Status>
    where
        Question: Parse<Q>,
    {
        let (model, deadline) = (model_of(request.metadata()), deadline::of(request.extensions()));
        let answer = self.predict_one(&model, request.into_inner().parsed(), deadline).await?;
        let told = answer.metadata.as_ref().map(headers);
        let mut response = compression::sized(answer);
        for (name, number) in told.into_iter().flatten() {
            response.metadata_mut().insert(AsciiMetadataKey::from_static(name), number.into());
        }
        Ok(response)
    }

    fn stream<Q>(&self, request: Request<Streaming<Q>>) -> Response<Answers<tei::PredictResponse>>
    where
        Q: Send + 'static,
        Question: Parse<Q>,
    {
        let tei = Self { serving: self.serving.for_stream(), ..self.clone() };
        let model = model_of(request.metadata());
        let (metadata, _, requests) = request.into_parts();
        let answers = in_order(requests, self.stopping.clone(), move |request: Q| {
            let (tei, model, question) = (tei.clone(), model.clone(), request.parsed());
            async move { tei.predict_one(&model, question, None).await }
        });
        compression::like(metadata.as_ref(), answers)
    }
}

#[tonic::async_trait]
impl Info for Tei {
    async fn info(&self, request: Request<tei::InfoRequest>) -> Result<Response<tei::InfoResponse>, Status> {
        Ok(Response::new(self.describe(&model_of(request.metadata())).await?))
    }
}

#[tonic::async_trait]
impl Predict for Tei {
    async fn predict(
        &self,
        request: Request<tei::PredictRequest>,
    ) -> Result<Response<tei::PredictResponse>, Status> {
        self.unary(request).await
    }

    async fn predict_pair(
        &self,
        request: Request<tei::PredictPairRequest>,
    ) -> Result<Response<tei::PredictResponse>, Status> {
        self.unary(request).await
    }

    type PredictStreamStream = Answers<tei::PredictResponse>;

    async fn predict_stream(
        &self,
        request: Request<Streaming<tei::PredictRequest>>,
    ) -> Result<Response<Self::PredictStreamStream>, Status> {
        Ok(self.stream(request))
    }

    type PredictPairStreamStream = Answers<tei::PredictResponse>;

    async fn predict_pair_stream(
        &self,
        request: Request<Streaming<tei::PredictPairRequest>>,
    ) -> Result<Response<Self::PredictPairStreamStream>, Status> {
        Ok(self.stream(request))
    }
}
