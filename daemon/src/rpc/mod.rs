//! The services of `hone.v1`. A procedure converts, delegates and converts back; what it decides stands elsewhere.

pub mod convert;
pub mod datasets;
pub mod deadline;
pub mod health;
pub mod inference;
pub mod models;
pub mod stopping;
pub mod training;

use std::sync::Arc;
use std::time::Duration;

use hone::v1::dataset_service_server::DatasetServiceServer;
use hone::v1::inference_service_server::InferenceServiceServer;
use hone::v1::model_service_server::ModelServiceServer;
use hone::v1::training_service_server::TrainingServiceServer;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tower_layer::Stack;

use crate::jobs::datasets::Datasets;
use crate::jobs::registry::Registry;
use crate::jobs::trainer::Trainer;
use crate::serve::classify::Serving;
use crate::serve::registry::Models;
use deadline::DeadlineLayer;
use health::Health;
use hone_base::error::{Error, Result};
use hone_storage::DataDir;
use stopping::Stopping;

/// A message that is received, where a service does not need more.
const MAX_MESSAGE: usize = 4 << 20;

/// A request to classify: many texts, each with a limit of its own that has a better message.
const MAX_CLASSIFY_MESSAGE: usize = 32 << 20;

/// Calls at once on one connection.
const MAX_CALLS: u32 = 1024;

/// What the services delegate to.
pub struct Services {
    /// Jobs.
    pub jobs: Arc<Registry>,
    /// Data sets.
    pub datasets: Arc<Datasets>,
    /// Models.
    pub models: Arc<Models>,
    /// Answers to texts.
    pub serving: Serving,
    /// Checks of jobs.
    pub trainer: Arc<dyn Trainer>,
    /// Where data sets lie.
    pub data: DataDir,
    /// What a job without an encoder starts from.
    pub encoder: String,
    /// Whether the daemon is going down.
    pub stopping: Stopping,
}

/// The services, ready to be served.
pub type HoneRouter = Router<Stack<DeadlineLayer, tower_layer::Identity>>;

/// Puts all services, health and reflection together.
pub fn router(services: Services, health: &Health) -> Result<HoneRouter> {
    let Services { jobs, datasets, models, serving, trainer, data, encoder, stopping } = services;
    let training = training::Training {
        jobs,
        datasets: datasets.clone(),
        trainer,
        data,
        encoder,
        stopping: stopping.clone(),
        dry_runs: Arc::new(tokio::sync::Semaphore::new(1)),
    };
    let inference = inference::Inference { serving, stopping: stopping.clone() };
    let mut routes = Routes::default()
        .add_service(TrainingServiceServer::new(training).max_decoding_message_size(MAX_MESSAGE))
        .add_service(InferenceServiceServer::new(inference).max_decoding_message_size(MAX_CLASSIFY_MESSAGE))
        .add_service(
            DatasetServiceServer::new(datasets::DatasetRpc { datasets })
                .max_decoding_message_size(MAX_MESSAGE),
        )
        .add_service(
            ModelServiceServer::new(models::ModelRpc { models }).max_decoding_message_size(MAX_MESSAGE),
        )
        .add_service(health.server(stopping));
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(hone::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let failed = |error| Error::internal(format!("the reflection service cannot be built: {error}"));
    routes = routes.add_service(reflection().build_v1().map_err(failed)?);
    routes = routes.add_service(reflection().build_v1alpha().map_err(failed)?);
    Ok(Server::builder()
        .layer(DeadlineLayer)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .max_concurrent_streams(MAX_CALLS)
        .add_routes(routes))
}

/// Runs blocking work off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> std::result::Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Error::internal(format!("internal error: {error}; this is a bug in Hone")).into()),
    }
}
