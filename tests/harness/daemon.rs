//! A real daemon in this process, on a free loopback port, with a data folder of its own.

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use hone::v1::dataset_service_client::DatasetServiceClient;
use hone::v1::event::Kind;
use hone::v1::inference_service_client::InferenceServiceClient;
use hone::v1::model_service_client::ModelServiceClient;
use hone::v1::training_service_client::TrainingServiceClient;
use hone::v1::upload_dataset_request::Part;
use hone::v1::{
    ClassifyRequest, DataSource, Dataset, DryRunResponse, Event, GetJobRequest, Hyperparameters, Input, Job,
    JobSpec, ListJobsRequest, StartJobRequest, UploadDatasetRequest, UploadHeader, WatchJobRequest,
};
use hone_daemon::config::Config;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::Channel;

use super::encoder::tiny_encoder;
use super::toy_rows;

/// What a test asks a daemon.
pub(crate) struct Calls {
    pub(crate) address: String,
    pub(crate) channel: Channel,
}

/// A daemon under test; dropping it without `stop` leaves its task to the runtime.
pub(crate) struct Daemon {
    calls: Calls,
    data: PathBuf,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<hone_base::error::Result<()>>,
    metrics: Option<SocketAddr>,
}

impl Deref for Daemon {
    type Target = Calls;

    fn deref(&self) -> &Calls {
        &self.calls
    }
}

impl Daemon {
    /// Starts a daemon on a data folder.
    pub(crate) async fn start(data: &Path) -> Self {
        Self::start_with(data, &[]).await
    }

    /// Starts a daemon with more arguments.
    pub(crate) async fn start_with(data: &Path, more: &[&str]) -> Self {
        let config = config(data, more);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let (shutdown, stopped) = oneshot::channel();
        let daemon = hone_daemon::daemon::Daemon::open(&config).await.expect("a daemon");
        let metrics = daemon.metrics_address();
        let task = tokio::spawn(daemon.serve(listener, async move {
            let _ = stopped.await;
        }));
        let calls = Calls::to(address);
        if let Err(status) = calls.training().list(ListJobsRequest::default()).await {
            panic!("the daemon does not answer: {status}; {:?}", task.await);
        }
        Self { calls, data: data.to_owned(), shutdown, task, metrics }
    }

    /// Stops the daemon as a signal would, and waits for it.
    pub(crate) async fn stop(self) {
        let _ = self.shutdown.send(());
        drop(self.calls);
        self.task.await.expect("no panic").expect("a clean end");
    }

    /// Where its metrics are, if they have an address of their own.
    pub(crate) fn metrics(&self) -> Option<SocketAddr> {
        self.metrics
    }

    /// The data folder.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }
}

/// How the tests configure a daemon on a data folder.
pub(crate) fn config(data: &Path, more: &[&str]) -> Config {
    let mut arguments = vec!["daemon", "--listen", "127.0.0.1:0", "--threads", "2", "--device", "cpu"];
    let (folder, model) = (data.to_string_lossy(), tiny_encoder().to_string_lossy());
    arguments.extend(["--data-dir", &folder, "--model", &model]);
    arguments.extend(more);
    Config::try_parse_from(arguments).expect("arguments")
}

impl Calls {
    /// To the daemon at an address.
    pub(crate) fn to(address: String) -> Self {
        let channel = Channel::from_shared(address.clone()).expect("an address").connect_lazy();
        Self { address, channel }
    }

    pub(crate) fn datasets(&self) -> DatasetServiceClient<Channel> {
        DatasetServiceClient::new(self.channel.clone())
    }

    pub(crate) fn training(&self) -> TrainingServiceClient<Channel> {
        TrainingServiceClient::new(self.channel.clone())
    }

    pub(crate) fn inference(&self) -> InferenceServiceClient<Channel> {
        InferenceServiceClient::new(self.channel.clone()).max_encoding_message_size(64 << 20)
    }

    pub(crate) fn models(&self) -> ModelServiceClient<Channel> {
        ModelServiceClient::new(self.channel.clone())
    }

    /// Uploads bytes under a name.
    pub(crate) async fn upload(&self, name: &str, bytes: impl Into<Vec<u8>>) -> Result<Dataset, Status> {
        let header = UploadHeader { name: name.into(), ..UploadHeader::default() };
        let mut parts = vec![UploadDatasetRequest { part: Some(Part::Header(header)) }];
        for chunk in bytes.into().chunks(1000) {
            parts.push(UploadDatasetRequest { part: Some(Part::Chunk(chunk.to_vec())) });
        }
        Ok(self.datasets().upload(tokio_stream::iter(parts)).await?.into_inner())
    }

    /// A job on toy data that takes a second or so.
    pub(crate) async fn toy_spec(&self) -> JobSpec {
        let train = self.upload("toy.csv", toy_rows(400, 1)).await.expect("an upload");
        let test = self.upload("held-out.csv", toy_rows(40, 2)).await.expect("an upload");
        let source = |dataset: Dataset| Some(DataSource { dataset_id: dataset.id, name: None });
        JobSpec {
            train: source(train),
            test: source(test),
            hyperparameters: Some(Hyperparameters {
                learning_rate: Some(2e-3),
                batch_size: Some(4),
                max_length: Some(32),
                ..Hyperparameters::default()
            }),
            ..JobSpec::default()
        }
    }

    pub(crate) async fn start_job(&self, spec: JobSpec) -> Result<Job, Status> {
        Ok(self.training().start(StartJobRequest { spec: Some(spec), request_id: None }).await?.into_inner())
    }

    pub(crate) async fn dry_run(&self, spec: JobSpec) -> Result<DryRunResponse, Status> {
        Ok(self
            .training()
            .dry_run(StartJobRequest { spec: Some(spec), request_id: None })
            .await?
            .into_inner())
    }

    pub(crate) async fn job(&self, id: &str) -> Job {
        self.training().get(GetJobRequest { job_id: id.into() }).await.expect("a job").into_inner()
    }

    /// Waits for an event of a job.
    pub(crate) async fn until(&self, job_id: &str, wanted: impl Fn(&Kind) -> bool) {
        let request = WatchJobRequest { job_id: job_id.into(), after: 0 };
        let mut stream = self.training().watch(request).await.expect("a stream").into_inner();
        let mut last = None;
        while let Some(event) = stream.message().await.expect("an event") {
            if event.kind.as_ref().is_some_and(&wanted) {
                return;
            }
            last = event.kind;
        }
        panic!("the job ended before: {last:?}");
    }

    /// The events of a job after a cursor, until it ends.
    pub(crate) async fn watch(&self, job_id: &str, after: u64) -> Result<Vec<Event>, Status> {
        let request = WatchJobRequest { job_id: job_id.into(), after };
        let mut stream = self.training().watch(request).await?.into_inner();
        let mut events = Vec::new();
        while let Some(event) = stream.message().await? {
            events.push(event);
        }
        Ok(events)
    }

    /// Trains a toy model and waits until it is published.
    pub(crate) async fn train_toy(&self) -> Job {
        let job = self.start_job(self.toy_spec().await).await.expect("a job");
        self.watch(&job.id, 0).await.expect("events");
        self.job(&job.id).await
    }

    /// The labels of some texts.
    pub(crate) async fn classify(&self, model: &str, texts: &[&str]) -> Result<Vec<String>, Status> {
        let inputs = texts.iter().map(|text| Input { text: (*text).into(), text_pair: None }).collect();
        let request = ClassifyRequest { model: model.into(), inputs, ..Default::default() };
        let response = self.inference().classify(request).await?.into_inner();
        Ok(response.predictions.into_iter().map(|prediction| prediction.label).collect())
    }
}
