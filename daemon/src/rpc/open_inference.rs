//! `inference.GRPCInferenceService`: the Open Inference Protocol, with Triton's streams and model repository.

use std::time::Instant;

use hone::inference as wire;
use hone::inference::grpc_inference_service_server::GrpcInferenceService;
use hone::inference::model_metadata_response::TensorMetadata;
use hone::inference::repository_index_response::ModelIndex;
use tonic::{Request, Response, Status, Streaming};

use super::compression;
use super::convert::open_inference::{Output, Question, TEXT, reference};
use super::convert::tensors::response;
use super::deadline;
use super::stopping::Stopping;
use super::streams::{Answers, in_order};
use crate::serve::classify::Serving;
use crate::serve::loaded::Loading;
use hone_base::error::{Error, Kind, Result as HoneResult};

/// Parts of Triton's protocol that are there beside the one that is open.
const EXTENSIONS: [&str; 3] = ["classification", "model_repository", "schedule_policy"];

/// The service.
pub struct OpenInference {
    pub(super) serving: Serving,
    pub(super) stopping: Stopping,
}

/// Answers a request, which is given up at its deadline or at the call's.
async fn infer(
    serving: &Serving,
    request: wire::ModelInferRequest,
    deadline: Option<Instant>,
) -> HoneResult<wire::ModelInferResponse> {
    let Question { model, inputs, mut options, outputs, id, is_raw } =
        Question::parse(request, Instant::now())?;
    options.deadline = [options.deadline, deadline].into_iter().flatten().min();
    let answer = serving.classify(&model, inputs, &options).await?;
    response(&answer, &outputs, id, is_raw)
}

#[tonic::async_trait]
impl GrpcInferenceService for OpenInference {
    async fn server_live(
        &self,
        _: Request<wire::ServerLiveRequest>,
    ) -> Result<Response<wire::ServerLiveResponse>, Status> {
        Ok(Response::new(wire::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<wire::ServerReadyRequest>,
    ) -> Result<Response<wire::ServerReadyResponse>, Status> {
        Ok(Response::new(wire::ServerReadyResponse { ready: !self.stopping.has_begun() }))
    }

    async fn model_ready(
        &self,
        request: Request<wire::ModelReadyRequest>,
    ) -> Result<Response<wire::ModelReadyResponse>, Status> {
        let request = request.into_inner();
        let ready = match self.serving.load(&reference(&request.name, &request.version)?).await {
            Ok(()) => true,
            // Whoever asks again may be told otherwise.
            Err(error) if error.retry().is_some() => return Err(error.into()),
            Err(_) => false,
        };
        Ok(Response::new(wire::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<wire::ServerMetadataRequest>,
    ) -> Result<Response<wire::ServerMetadataResponse>, Status> {
        Ok(Response::new(wire::ServerMetadataResponse {
            name: "hone".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: EXTENSIONS.map(str::to_owned).to_vec(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<wire::ModelMetadataRequest>,
    ) -> Result<Response<wire::ModelMetadataResponse>, Status> {
        let request = request.into_inner();
        let (version, model) = self.serving.find(&reference(&request.name, &request.version)?).await?;
        let labels = version.labels.len() as i64;
        let tensor = |name: &str, datatype: &str, shape| TensorMetadata {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape,
        };
        let output = |output: Output| {
            let shape = if output.is_by_label() { vec![-1, labels] } else { vec![-1] };
            tensor(output.name(), output.datatype(), shape)
        };
        Ok(Response::new(wire::ModelMetadataResponse {
            name: model.name,
            versions: model.versions.iter().map(|version| version.version.to_string()).collect(),
            platform: "hone".to_owned(),
            inputs: vec![tensor(TEXT, "BYTES", vec![-1])],
            outputs: Output::ALL.map(output).to_vec(),
        }))
    }

    async fn model_infer(
        &self,
        request: Request<wire::ModelInferRequest>,
    ) -> Result<Response<wire::ModelInferResponse>, Status> {
        let deadline = deadline::of(request.extensions());
        Ok(compression::sized(infer(&self.serving, request.into_inner(), deadline).await?))
    }

    type ModelStreamInferStream = Answers<wire::ModelStreamInferResponse>;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<wire::ModelInferRequest>>,
    ) -> Result<Response<Self::ModelStreamInferStream>, Status> {
        let serving = self.serving.for_stream();
        let (metadata, _, requests) = request.into_parts();
        let answers = in_order(requests, self.stopping.clone(), move |request| {
            let serving = serving.clone();
            async move { Ok(answer_in_stream(&serving, request).await) }
        });
        Ok(compression::like(metadata.as_ref(), answers))
    }

    async fn repository_index(
        &self,
        request: Request<wire::RepositoryIndexRequest>,
    ) -> Result<Response<wire::RepositoryIndexResponse>, Status> {
        let request = request.into_inner();
        only_repository(&request.repository_name)?;
        let model = |(version, loading): (std::sync::Arc<hone_storage::Version>, Loading)| {
            let (state, reason) = match loading {
                Loading::Done => ("READY", String::new()),
                Loading::Begun => ("LOADING", String::new()),
                Loading::No => ("UNAVAILABLE", "not loaded; the next call loads it".to_owned()),
                Loading::Failed(why) => ("UNAVAILABLE", why),
            };
            let (name, number) = (version.name.clone(), version.version.to_string());
            ModelIndex { name, version: number, state: state.to_owned(), reason }
        };
        let index = self.serving.index().await?.into_iter();
        let wanted = index.filter(|(_, loading)| !request.ready || *loading == Loading::Done);
        Ok(Response::new(wire::RepositoryIndexResponse { models: wanted.map(model).collect() }))
    }

    async fn repository_model_load(
        &self,
        request: Request<wire::RepositoryModelLoadRequest>,
    ) -> Result<Response<wire::RepositoryModelLoadResponse>, Status> {
        let request = request.into_inner();
        only_repository(&request.repository_name)?;
        if let Some(name) = request.parameters.keys().next() {
            let why =
                format!("`parameters.{name}`: a model is loaded as it was published, without parameters");
            return Err(Error::invalid_field(format!("parameters.{name}"), why).into());
        }
        self.serving.load(&request.model_name).await?;
        Ok(Response::new(wire::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<wire::RepositoryModelUnloadRequest>,
    ) -> Result<Response<wire::RepositoryModelUnloadResponse>, Status> {
        let request = request.into_inner();
        only_repository(&request.repository_name)?;
        self.serving.unload(&request.model_name).await?;
        Ok(Response::new(wire::RepositoryModelUnloadResponse {}))
    }
}

/// The answer to a request of a stream, or its error in its place.
async fn answer_in_stream(
    serving: &Serving,
    request: wire::ModelInferRequest,
) -> wire::ModelStreamInferResponse {
    let (id, model_name) = (request.id.clone(), request.model_name.clone());
    match infer(serving, request, None).await {
        Ok(answer) => wire::ModelStreamInferResponse { infer_response: Some(answer), ..Default::default() },
        Err(error) => wire::ModelStreamInferResponse {
            error_message: in_words(&error),
            infer_response: Some(wire::ModelInferResponse { id, model_name, ..Default::default() }),
        },
    }
}

/// An error where only words can say what it is: the message, and whether it passes by itself.
fn in_words(error: &Error) -> String {
    match (error.kind(), error.retry()) {
        (Kind::Exhausted | Kind::Unavailable, Some(time)) => {
            format!("{} (retry after {} ms)", error.message(), time.as_millis())
        }
        _ => error.message().to_owned(),
    }
}

fn only_repository(name: &str) -> HoneResult<()> {
    match name {
        "" => Ok(()),
        _ => Err(Error::not_found("there is one repository of models; leave `repository_name` empty")
            .of_field("repository_name")),
    }
}
