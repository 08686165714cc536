//! A daemon of cardboard: it says what the test told it to say, and remembers what it was asked.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use hone::v1;
use hone::v1::dataset_service_server::{DatasetService, DatasetServiceServer};
use hone::v1::inference_service_server::{InferenceService, InferenceServiceServer};
use hone::v1::model_service_server::{ModelService, ModelServiceServer};
use hone::v1::training_service_server::{TrainingService, TrainingServiceServer};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::server::HealthReporter;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What one call of Watch does after the events that it gives.
#[derive(Debug, Clone)]
pub(super) enum Then {
    End,
    Fail(Status),
    Hang,
}

#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) job: v1::Job,
    /// The whole log; a call gives what its cursor has not seen, up to its limit.
    pub(super) events: Vec<v1::Event>,
    /// The highest number that each call gives, and what it does then. Afterwards: everything, then the end.
    pub(super) watches: VecDeque<(u64, Then)>,
    pub(super) start: Option<Status>,
    /// Requests to start a job that get no answer before the others do.
    pub(super) silent_starts: usize,
    /// The list of jobs, by pages; empty for the one job.
    pub(super) pages: Vec<v1::ListJobsResponse>,
    pub(super) dry_run: v1::DryRunResponse,
    pub(super) datasets: Vec<v1::Dataset>,
    pub(super) models: Vec<v1::Model>,
    pub(super) moves: Vec<v1::AliasMove>,
    /// The last request to promote.
    pub(super) promoted: Option<v1::PromoteModelRequest>,
    pub(super) files: Vec<(String, Vec<u8>)>,

    pub(super) cursors: Vec<u64>,
    pub(super) started: Vec<v1::JobSpec>,
    /// The id of each request to start a job.
    pub(super) request_ids: Vec<Option<String>>,
    pub(super) asked_pages: Vec<String>,
    pub(super) dry_runs: Vec<v1::JobSpec>,
    pub(super) uploads: Vec<(v1::UploadHeader, usize)>,
    pub(super) batches: Vec<usize>,
}

#[derive(Clone)]
pub(super) struct Stub {
    pub(super) url: String,
    script: Arc<Mutex<Script>>,
    health: HealthReporter,
}

impl Stub {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (health, health_service) = tonic_health::server::health_reporter();
        let stub = Self { url, script: Arc::default(), health };
        for service in ["Training", "Inference", "Dataset", "Model"] {
            stub.set_serving(&format!("hone.v1.{service}Service"), true).await;
        }
        let router = tonic::transport::Server::builder()
            .add_service(health_service)
            .add_service(TrainingServiceServer::new(stub.clone()))
            .add_service(InferenceServiceServer::new(stub.clone()))
            .add_service(DatasetServiceServer::new(stub.clone()))
            .add_service(ModelServiceServer::new(stub.clone()));
        tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
        stub
    }

    /// The model that a reference names.
    fn named(&self, reference: &str) -> Result<Response<v1::Model>, Status> {
        let name = reference.split('@').next().unwrap_or_default();
        let found = self.script().models.iter().find(|model| model.name == name).cloned();
        found.map(Response::new).ok_or_else(|| Status::not_found(format!("there is no model \"{name}\"")))
    }

    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("not poisoned")
    }

    pub(super) async fn set_serving(&self, service: &str, serving: bool) {
        use tonic_health::ServingStatus::{NotServing, Serving};
        self.health.set_service_status(service, if serving { Serving } else { NotServing }).await;
    }

    fn job(&self, id: &str) -> Result<Response<v1::Job>, Status> {
        let job = self.script().job.clone();
        if job.id == id {
            Ok(Response::new(job))
        } else {
            Err(Status::not_found(format!("there is no job {id}")))
        }
    }
}

#[tonic::async_trait]
impl TrainingService for Stub {
    type WatchStream = Answers<v1::Event>;

    async fn start(&self, request: Request<v1::StartJobRequest>) -> Result<Response<v1::Job>, Status> {
        let request = request.into_inner();
        let is_silent = {
            let mut script = self.script();
            script.started.push(request.spec.unwrap_or_default());
            script.request_ids.push(request.request_id);
            script.silent_starts.checked_sub(1).map(|left| script.silent_starts = left).is_some()
        };
        if is_silent {
            std::future::pending::<()>().await;
        }
        let script = self.script();
        match &script.start {
            Some(status) => Err(status.clone()),
            None => Ok(Response::new(script.job.clone())),
        }
    }

    async fn dry_run(
        &self,
        request: Request<v1::StartJobRequest>,
    ) -> Result<Response<v1::DryRunResponse>, Status> {
        let mut script = self.script();
        script.dry_runs.push(request.into_inner().spec.unwrap_or_default());
        match &script.start {
            Some(status) => Err(status.clone()),
            None => Ok(Response::new(script.dry_run.clone())),
        }
    }

    async fn watch(
        &self,
        request: Request<v1::WatchJobRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        self.job(&request.job_id)?;
        let mut script = self.script();
        script.cursors.push(request.after);
        let (last, then) = script.watches.pop_front().unwrap_or((u64::MAX, Then::End));
        // One that was seen before comes along, as from a daemon that counts from another end.
        let events: Vec<_> = script
            .events
            .iter()
            .filter(|event| event.number >= request.after.max(1) && event.number <= last)
            .cloned()
            .map(Ok)
            .collect();
        let events = tokio_stream::iter(events);
        Ok(Response::new(match then {
            Then::End => Box::pin(events),
            Then::Fail(status) => Box::pin(events.chain(tokio_stream::once(Err(status)))),
            Then::Hang => Box::pin(events.chain(tokio_stream::pending())),
        }))
    }

    async fn get(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::Job>, Status> {
        self.job(&request.into_inner().job_id)
    }

    async fn list(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let token = request.into_inner().page_token;
        let mut script = self.script();
        let page = script.pages.iter().position(|page| page.next_page_token == token && !token.is_empty());
        let page = script.pages.get(page.map_or(0, |before| before + 1)).cloned();
        script.asked_pages.push(token);
        Ok(Response::new(page.unwrap_or_else(|| v1::ListJobsResponse {
            jobs: vec![script.job.clone()],
            ..Default::default()
        })))
    }

    async fn cancel(&self, request: Request<v1::CancelJobRequest>) -> Result<Response<v1::Job>, Status> {
        self.job(&request.into_inner().job_id)
    }

    async fn pause(&self, request: Request<v1::PauseJobRequest>) -> Result<Response<v1::Job>, Status> {
        self.job(&request.into_inner().job_id)
    }

    async fn resume(&self, request: Request<v1::ResumeJobRequest>) -> Result<Response<v1::Job>, Status> {
        self.job(&request.into_inner().job_id)
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteJobRequest>,
    ) -> Result<Response<v1::DeleteJobResponse>, Status> {
        self.job(&request.into_inner().job_id)?;
        Ok(Response::new(v1::DeleteJobResponse {}))
    }
}

/// The label is the text's first word, so that a test sees which answer belongs to which text.
fn classify(request: &v1::ClassifyRequest) -> Result<v1::ClassifyResponse, Status> {
    if request.model == "absent" {
        return Err(Status::not_found("there is no model \"absent\""));
    }
    let threshold = (request.model == "several").then_some(0.4);
    let refusal = |place: usize| v1::Error {
        code: Code::InvalidArgument.into(),
        message: "it has 9 tokens, and at most 7 are taken".into(),
        field: format!("inputs[{place}].text"),
        retry_after: None,
    };
    let refused = |input: &v1::Input| input.text == "refused" && request.truncation_side != 0;
    if let [only] = request.inputs.as_slice()
        && refused(only)
    {
        let error = Some(refusal(0));
        return Ok(v1::ClassifyResponse { error, ..Default::default() });
    }
    let logit = request.return_logits.then_some(1.5);
    let answer = |input: &v1::Input| v1::Prediction {
        labels: input
            .text
            .split(' ')
            .filter(|word| threshold.is_some() && *word != "film")
            .map(str::to_owned)
            .collect(),
        label: input.text.split(' ').next().unwrap_or_default().to_owned(),
        score: 0.98,
        scores: vec![
            v1::Score { label: "positive".into(), score: 0.98, threshold, logit },
            v1::Score { label: "negative".into(), score: 0.02, threshold, logit },
        ],
        tokens: 7,
        truncated: input.text.contains("endless"),
        error: None,
    };
    let predictions = request.inputs.iter().enumerate().map(|(place, input)| match refused(input) {
        true => v1::Prediction { error: Some(refusal(place)), ..Default::default() },
        false => answer(input),
    });
    Ok(v1::ClassifyResponse {
        request_id: request.request_id.clone(),
        predictions: predictions.collect(),
        model: "reviews".into(),
        version: 3,
        weights_sha256: "abc".into(),
        ..Default::default()
    })
}

#[tonic::async_trait]
impl InferenceService for Stub {
    type ClassifyStreamStream = Answers<v1::ClassifyResponse>;

    async fn classify(
        &self,
        request: Request<v1::ClassifyRequest>,
    ) -> Result<Response<v1::ClassifyResponse>, Status> {
        let request = request.into_inner();
        self.script().batches.push(request.inputs.len());
        classify(&request).map(Response::new)
    }

    async fn classify_stream(
        &self,
        request: Request<Streaming<v1::ClassifyRequest>>,
    ) -> Result<Response<Self::ClassifyStreamStream>, Status> {
        let stub = self.clone();
        Ok(Response::new(Box::pin(request.into_inner().map(move |request| {
            let request = request?;
            stub.script().batches.push(request.inputs.len());
            classify(&request)
        }))))
    }
}

#[tonic::async_trait]
impl DatasetService for Stub {
    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadDatasetRequest>>,
    ) -> Result<Response<v1::Dataset>, Status> {
        use v1::upload_dataset_request::Part;
        let mut parts = request.into_inner();
        let Some(Part::Header(header)) = parts.message().await?.and_then(|first| first.part) else {
            return Err(Status::invalid_argument("the header comes first"));
        };
        if header.name == "bad.csv" {
            return Err(Status::invalid_argument("bad.csv: line 3 has 5 columns and line 1 has 2"));
        }
        let (mut hasher, mut chunks, mut size) = (Sha256::new(), 0, 0);
        while let Some(part) = parts.message().await? {
            let Some(Part::Chunk(chunk)) = part.part else {
                return Err(Status::invalid_argument("chunks follow the header"));
            };
            assert!(chunk.len() <= 1 << 20);
            hasher.update(&chunk);
            chunks += 1;
            size += chunk.len() as u64;
        }
        let id = crate::output::format::hex(&hasher.finalize());
        if header.sha256.as_ref() != Some(&id) {
            return Err(Status::data_loss("the file arrived damaged"));
        }
        let summary = v1::DatasetSummary {
            rows: 2,
            used: Some(v1::Columns {
                text: Some("text".into()),
                label: Some("label".into()),
                ..Default::default()
            }),
            guess: "the column \"text\" is taken for the text".into(),
            ..Default::default()
        };
        let dataset = v1::Dataset {
            id,
            name: header.name.clone(),
            size_bytes: size,
            summary: Some(summary),
            ..Default::default()
        };
        let mut script = self.script();
        script.uploads.push((header, chunks));
        script.datasets.push(dataset.clone());
        Ok(Response::new(dataset))
    }

    async fn list(
        &self,
        _: Request<v1::ListDatasetsRequest>,
    ) -> Result<Response<v1::ListDatasetsResponse>, Status> {
        Ok(Response::new(v1::ListDatasetsResponse {
            datasets: self.script().datasets.clone(),
            ..Default::default()
        }))
    }

    async fn get(&self, request: Request<v1::GetDatasetRequest>) -> Result<Response<v1::Dataset>, Status> {
        let id = request.into_inner().id;
        let found = self.script().datasets.iter().find(|dataset| dataset.id == id).cloned();
        found.map(Response::new).ok_or_else(|| Status::not_found(format!("there is no data set {id}")))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteDatasetRequest>,
    ) -> Result<Response<v1::DeleteDatasetResponse>, Status> {
        let id = request.into_inner().id;
        Err(Status::failed_precondition(format!("the queued job j needs the data set {id}")))
    }
}

#[tonic::async_trait]
impl ModelService for Stub {
    type DownloadStream = Answers<v1::DownloadModelResponse>;

    async fn list(
        &self,
        _: Request<v1::ListModelsRequest>,
    ) -> Result<Response<v1::ListModelsResponse>, Status> {
        Ok(Response::new(v1::ListModelsResponse {
            models: self.script().models.clone(),
            ..Default::default()
        }))
    }

    async fn get(&self, request: Request<v1::GetModelRequest>) -> Result<Response<v1::Model>, Status> {
        self.named(&request.into_inner().name)
    }

    async fn promote(
        &self,
        request: Request<v1::PromoteModelRequest>,
    ) -> Result<Response<v1::Model>, Status> {
        let request = request.into_inner();
        self.script().promoted = Some(request.clone());
        let version = request.model.split_once('@').and_then(|(_, version)| version.parse().ok());
        let version = version.ok_or_else(|| Status::invalid_argument("a version is needed"))?;
        let aliases = vec![v1::Alias { name: request.alias, version, ..Default::default() }];
        Ok(Response::new(v1::Model { name: "reviews".into(), aliases, ..Default::default() }))
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackModelRequest>,
    ) -> Result<Response<v1::Model>, Status> {
        let request = request.into_inner();
        let aliases = vec![v1::Alias { name: request.alias, version: 1, ..Default::default() }];
        Ok(Response::new(v1::Model { name: request.name, aliases, ..Default::default() }))
    }

    async fn history(
        &self,
        _: Request<v1::ModelHistoryRequest>,
    ) -> Result<Response<v1::ModelHistoryResponse>, Status> {
        Ok(Response::new(v1::ModelHistoryResponse { moves: self.script().moves.clone() }))
    }

    async fn load(&self, request: Request<v1::LoadModelRequest>) -> Result<Response<v1::Model>, Status> {
        self.named(&request.into_inner().model)
    }

    async fn unload(&self, request: Request<v1::UnloadModelRequest>) -> Result<Response<v1::Model>, Status> {
        self.named(&request.into_inner().model)
    }

    async fn pin(&self, request: Request<v1::PinModelRequest>) -> Result<Response<v1::Model>, Status> {
        self.named(&request.into_inner().model)
    }

    async fn set(&self, request: Request<v1::SetModelRequest>) -> Result<Response<v1::Model>, Status> {
        self.named(&request.into_inner().name)
    }

    async fn ready(
        &self,
        _: Request<v1::ModelReadyRequest>,
    ) -> Result<Response<v1::ModelReadyResponse>, Status> {
        Ok(Response::new(v1::ModelReadyResponse::default()))
    }

    async fn delete(
        &self,
        _: Request<v1::DeleteModelRequest>,
    ) -> Result<Response<v1::DeleteModelResponse>, Status> {
        Ok(Response::new(v1::DeleteModelResponse {}))
    }

    async fn download(
        &self,
        _: Request<v1::DownloadModelRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        use v1::download_model_response::Part;
        let mut parts = Vec::new();
        for (name, bytes) in &self.script().files {
            let file = v1::DownloadedFile {
                name: name.clone(),
                size_bytes: bytes.len() as u64,
                sha256: crate::output::format::hex(&Sha256::digest(bytes)),
            };
            parts.push(Part::File(file));
            parts.extend(bytes.chunks(3).map(|chunk| Part::Chunk(chunk.to_vec())));
        }
        let parts = parts.into_iter().map(|part| Ok(v1::DownloadModelResponse { part: Some(part) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(parts.collect::<Vec<_>>()))))
    }
}
