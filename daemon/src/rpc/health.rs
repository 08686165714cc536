//! Health of the daemon and of each service, by `grpc.health.v1`.

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService};

use super::stopping::Stopping;

/// The daemon as a whole, and its services.
const NAMES: [&str; 8] = [
    "",
    "hone.v1.TrainingService",
    "hone.v1.InferenceService",
    "hone.v1.DatasetService",
    "hone.v1.ModelService",
    "inference.GRPCInferenceService",
    "tei.v1.Info",
    "tei.v1.Predict",
];

/// What is told of the daemon's health.
#[derive(Clone, Debug)]
pub struct Health(HealthReporter);

impl Health {
    /// Nothing serves yet.
    pub async fn new() -> Self {
        let health = Self(HealthReporter::new());
        health.set(false).await;
        health
    }

    /// Says of the daemon and all its services whether they serve.
    pub async fn set(&self, serving: bool) {
        let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in NAMES {
            self.0.set_service_status(name, status).await;
        }
    }

    /// The service that tells it.
    pub fn server(&self, stopping: Stopping) -> HealthServer<impl health_server::Health> {
        HealthServer::new(Ending { inner: HealthService::from_health_reporter(self.0.clone()), stopping })
    }
}

/// Ends watches when the daemon goes down, which would otherwise hold it up.
struct Ending {
    inner: HealthService,
    stopping: Stopping,
}

#[tonic::async_trait]
impl health_server::Health for Ending {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.inner.check(request).await
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let watched = Box::pin(self.inner.watch(request).await?.into_inner());
        let begun = Box::pin(self.stopping.begun());
        Ok(Response::new(Box::pin(futures::stream::unfold(
            (watched, begun),
            |(mut watched, mut begun)| async {
                // The change to NOT_SERVING is set before the daemon begins to stop, and comes before the end.
                let update = tokio::select! {
                    biased;
                    update = watched.next() => update?,
                    () = &mut begun => return None,
                };
                Some((update, (watched, begun)))
            },
        ))))
    }
}
