//! The services of `hone.v1`, those of other protocols that answer texts (`tei`, `open_inference`), and plain HTTP (`http`). A procedure converts, delegates and converts back; what it decides stands elsewhere.

pub mod admission;
pub mod compression;
pub mod convert;
pub mod datasets;
pub mod deadline;
pub mod draining;
pub mod framing;
pub mod health;
mod http;
pub mod inference;
pub mod lists;
pub mod models;
pub mod observe;
pub mod open_inference;
pub mod stopping;
pub mod streams;
pub mod tei;
pub mod training;
pub mod turns;

use std::sync::Arc;
use std::time::Duration;

use hone::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use hone::tei::info_server::InfoServer;
use hone::tei::predict_server::PredictServer;
use hone::v1::dataset_service_server::DatasetServiceServer;
use hone::v1::inference_service_server::InferenceServiceServer;
use hone::v1::model_service_server::ModelServiceServer;
use hone::v1::training_service_server::TrainingServiceServer;
use tonic::Status;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tower_layer::Stack;

use crate::jobs::datasets::Datasets;
use crate::jobs::registry::Registry;
use crate::jobs::trainer::Trainer;
use crate::metrics::Metrics;
use crate::serve::classify::Serving;
use crate::serve::queue::Limits;
use crate::serve::registry::Models;
use crate::trace::Tracer;
use crate::trace::call::carried;
use admission::AdmissionLayer;
use deadline::DeadlineLayer;
use draining::DrainingLayer;
use health::Health;
use hone_base::error::{Error, Result};
use hone_storage::Blobs;
use observe::ObserveLayer;
use stopping::Stopping;
use turns::Turns;

/// A message that is received, where a service does not need more.
const MAX_MESSAGE: usize = 4 << 20;

/// A request to classify: many texts, each with a limit of its own that has a better message.
const MAX_CLASSIFY_MESSAGE: usize = 32 << 20;

/// Calls at once on one connection.
const MAX_CALLS: u32 = 1024;

/// Bytes that are received ahead of their admission on one connection, for all its calls together.
const WINDOW: u32 = 1 << 20;

/// Bytes of messages that are received or wait for their call's answer, of all connections together, at most.
const MESSAGES: u64 = 256 << 20;

/// Files that are read at once, each by one thread, and those that wait.
const READING: (usize, usize) = (2, 64);

/// Dry runs that wait for the one that goes on, which has a model in memory.
const DRY_RUNS_WAITING: usize = 16;

/// Uploads at once; each has a file on the disk, and no thread.
const UPLOADS: usize = 64;

/// Downloads at once; each has a piece of a file in memory, and no thread.
const DOWNLOADS: usize = 64;

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
    pub blobs: Arc<dyn Blobs>,
    /// What a job without an encoder starts from.
    pub encoder: String,
    /// Whether the daemon is going down.
    pub stopping: Stopping,
    /// Where calls are counted.
    pub metrics: Arc<Metrics>,
    /// Where calls are traced.
    pub tracer: Tracer,
    /// What a call may take.
    pub bounds: Bounds,
    /// What answers.
    pub capacity: Capacity,
    /// Refuses calls when the daemon goes down.
    pub draining: DrainingLayer,
}

/// What answers texts, as it is told to clients that ask.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// How large batches are.
    pub batch: Limits,
    /// Threads that turn texts into tokens.
    pub threads: usize,
}

/// What calls may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// A request, an upload or a download that does not go on for so long is given up.
    pub idle: Duration,
    /// Bytes of memory that the daemon may take when it starts.
    pub memory: u64,
    /// How long a connection may last before its client is asked to open another.
    pub connection_age: Option<Duration>,
}

impl Bounds {
    /// Bytes of messages at once: an eighth of the memory, and room for a few of the largest.
    fn messages(self) -> usize {
        (self.memory / 8).clamp(2 * MAX_CLASSIFY_MESSAGE as u64, MESSAGES) as usize
    }
}

/// A server of texts: messages may be compressed in either direction, and have a bound when they are unpacked.
macro_rules! compressed {
    ($server:expr) => {
        $server
            .accept_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Gzip)
            .send_compressed(CompressionEncoding::Zstd)
            .max_decoding_message_size(MAX_CLASSIFY_MESSAGE)
    };
}

/// The services, ready to be served.
pub type HoneRouter = Router<
    Stack<
        AdmissionLayer,
        Stack<DeadlineLayer, Stack<DrainingLayer, Stack<ObserveLayer, tower_layer::Identity>>>,
    >,
>;

/// Puts all services, health and reflection together.
pub fn router(services: Services, health: &Health) -> Result<HoneRouter> {
    let Services {
        jobs,
        datasets,
        models,
        serving,
        trainer,
        blobs,
        encoder,
        stopping,
        metrics,
        tracer,
        bounds,
        capacity,
        draining,
    } = services;
    let reading = Turns::new("files to read", READING.0, READING.1);
    let training = training::Training {
        jobs,
        datasets: datasets.clone(),
        trainer,
        blobs,
        encoder,
        stopping: stopping.clone(),
        reading: reading.clone(),
        dry_runs: Turns::new("dry runs", 1, DRY_RUNS_WAITING),
    };
    let inference = inference::Inference { serving: serving.clone(), stopping: stopping.clone() };
    let open_inference =
        open_inference::OpenInference { serving: serving.clone(), stopping: stopping.clone() };
    let tei = tei::Tei { serving, stopping: stopping.clone(), capacity };
    let http = http::Http { tei: tei.clone(), stopping: stopping.clone() };
    let mut routes = Routes::default()
        .add_service(TrainingServiceServer::new(training).max_decoding_message_size(MAX_MESSAGE))
        .add_service(compressed!(InferenceServiceServer::new(inference)))
        .add_service(compressed!(GrpcInferenceServiceServer::new(open_inference)))
        .add_service(compressed!(InfoServer::new(tei.clone())))
        .add_service(compressed!(PredictServer::new(tei)))
        .add_service(
            DatasetServiceServer::new(datasets::DatasetRpc {
                datasets,
                reading,
                uploads: Turns::new("uploads", UPLOADS, 0),
                idle: bounds.idle,
            })
            .max_decoding_message_size(MAX_MESSAGE),
        )
        .add_service(
            ModelServiceServer::new(models::ModelRpc {
                models,
                downloads: Turns::new("downloads", DOWNLOADS, 0),
                idle: bounds.idle,
            })
            .max_decoding_message_size(MAX_MESSAGE),
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
    let descriptors = [
        hone::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let observe = ObserveLayer::new(metrics, tracer, &descriptors)?;
    let routes = Routes::from(http::add(routes.into_axum_router(), http));
    let mut server = Server::builder();
    if let Some(age) = bounds.connection_age {
        server = server.max_connection_age(age);
    }
    Ok(server
        .accept_http1(true)
        .layer(observe)
        .layer(draining)
        .layer(DeadlineLayer)
        .layer(AdmissionLayer::new(bounds.messages(), MAX_CLASSIFY_MESSAGE, bounds.idle))
        .initial_connection_window_size(WINDOW)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .max_concurrent_streams(MAX_CALLS)
        // A caller that gives up all its calls at once keeps its connection.
        .http2_max_pending_accept_reset_streams(Some(MAX_CALLS as usize))
        .add_routes(routes))
}

/// Runs blocking work off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> std::result::Result<T, Status> {
    match tokio::task::spawn_blocking(carried(work)).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Error::internal(format!("internal error: {error}; this is a bug in Hone")).into()),
    }
}
