//! The way to the daemon: deadlines, limits, and who is there when no daemon is.

use std::future::Future;
use std::time::Duration;

use hone::v1::dataset_service_client::DatasetServiceClient;
use hone::v1::inference_service_client::InferenceServiceClient;
use hone::v1::model_service_client::ModelServiceClient;
use hone::v1::training_service_client::TrainingServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::address;
use crate::cli::Global;
use crate::error::{Doubt, Error, Kind, root_cause};
use crate::peer::Peer;

/// The largest message that is accepted from the daemon.
const MAX_MESSAGE: usize = 16 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// While a call is open, a peer that answers no ping for this long is taken for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Starting a job makes the daemon read whole files.
const START_TIMEOUT: Duration = Duration::from_secs(600);

/// A connection to one daemon. It makes itself again when it breaks.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    url: String,
    timeout: Duration,
    channel: Channel,
}

impl Daemon {
    pub(crate) async fn connect(global: &Global) -> Result<Self, Error> {
        let url = address::url(&global.daemon)?;
        let timeout = global.timeout;
        let endpoint = Endpoint::from_shared(url.clone())
            .and_then(|endpoint| endpoint.user_agent(concat!("hone-client/", env!("CARGO_PKG_VERSION"))))
            .map_err(|_| address::bad(&global.daemon))?
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .tcp_nodelay(true)
            .tcp_keepalive(Some(KEEP_ALIVE))
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        match endpoint.connect().await {
            Ok(channel) => Ok(Self { url, timeout, channel }),
            Err(error) => Err(Error::unreachable(&url, &root_cause(&error))),
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn training(&self) -> TrainingServiceClient<Channel> {
        TrainingServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn inference(&self) -> InferenceServiceClient<Channel> {
        InferenceServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn datasets(&self) -> DatasetServiceClient<Channel> {
        DatasetServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn models(&self) -> ModelServiceClient<Channel> {
        ModelServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Waits for a unary call, no longer than `--timeout`.
    pub(crate) async fn call<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        self.call_within(self.timeout, call).await
    }

    /// Waits for a job to be started, which takes as long as the daemon needs to check the files.
    pub(crate) async fn call_start<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        self.call_within(self.timeout.max(START_TIMEOUT), call).await
    }

    async fn call_within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.error(&status)),
            Err(_) => Err(Error::timeout(&self.url, limit)),
        }
    }

    /// A status of this daemon in words.
    pub(crate) fn error(&self, status: &Status) -> Error {
        Error::from_status(status, &self.url)
    }
}

/// Says of an error of the connection who answers there, if it is no daemon. Others stay as they are.
pub(crate) async fn explain(error: Error) -> Error {
    let Some((doubt, url)) = error.doubt() else { return error };
    if *doubt == Doubt::Service {
        return if has_training_service(url).await { error } else { Error::no_daemon(url) };
    }
    let peer = Peer::at(url.trim_start_matches("http://")).await;
    match (peer.words(), doubt) {
        // The time is up either way; who is silent may be a daemon that hangs.
        (Some(words), Doubt::Silence) if peer == Peer::Silent => {
            let message = format!("{}: {words}", error.message());
            Error::new(Kind::Unreachable, message).hint(peer.hint())
        }
        (Some(words), _) => {
            Error::new(Kind::Unreachable, format!("no daemon can be reached at {url}: {words}"))
                .hint(peer.hint())
        }
        (None, _) => error,
    }
}

/// Whether a gRPC server knows a service of a daemon. Where it cannot be asked, it is taken for one.
async fn has_training_service(url: &str) -> bool {
    let Ok(endpoint) = Endpoint::from_shared(url.to_owned()) else { return true };
    let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(CONNECT_TIMEOUT).connect_lazy();
    let request = HealthCheckRequest { service: "hone.v1.TrainingService".to_owned() };
    match HealthClient::new(channel).check(request).await {
        Ok(_) => true,
        Err(status) => !matches!(status.code(), Code::NotFound | Code::Unimplemented),
    }
}
