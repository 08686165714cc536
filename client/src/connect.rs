//! The way to the daemon: address, deadlines, limits, and statuses put into words.

use std::future::Future;
use std::time::Duration;

use hone::v1::dataset_service_client::DatasetServiceClient;
use hone::v1::inference_service_client::InferenceServiceClient;
use hone::v1::model_service_client::ModelServiceClient;
use hone::v1::training_service_client::TrainingServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};
use tonic_health::pb::health_client::HealthClient;

use crate::cli::Global;
use crate::error::{Error, root_cause};

/// The port of an address that names none.
const PORT: u16 = 50051;
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
        let url = normalize(&global.daemon)?;
        let timeout = Duration::from_secs(global.timeout);
        let endpoint = Endpoint::from_shared(url.clone())
            .and_then(|endpoint| endpoint.user_agent(concat!("hone-client/", env!("CARGO_PKG_VERSION"))))
            .map_err(|_| bad_address(&global.daemon))?
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
            Err(_) => Err(Error::timeout(&self.url, limit.as_secs())),
        }
    }

    /// A status of this daemon in words.
    pub(crate) fn error(&self, status: &Status) -> Error {
        Error::from_status(status, &self.url)
    }
}

/// Completes a bare HOST or HOST:PORT and refuses what is no address.
fn normalize(address: &str) -> Result<String, Error> {
    let address = address.trim();
    if address.starts_with("https://") {
        return Err(Error::usage(format!("this client cannot speak TLS, which {address} asks for"))
            .hint("use http://, over a network that you trust or through a tunnel"));
    }
    let url = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let parsed: tonic::transport::Uri = url.parse().map_err(|_| bad_address(address))?;
    let host = parsed.host().unwrap_or_default();
    if parsed.scheme_str() != Some("http") || host.is_empty() || !matches!(parsed.path(), "" | "/") {
        return Err(bad_address(address));
    }
    let url = url.trim_end_matches('/');
    Ok(if parsed.port().is_some() { url.to_owned() } else { format!("{url}:{PORT}") })
}

fn bad_address(address: &str) -> Error {
    Error::usage(format!("\"{address}\" is no address of a daemon"))
        .hint("write --daemon HOST:PORT or --daemon http://HOST:PORT")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_bare_address_gets_its_scheme() {
        assert_eq!(normalize("gpu:50051").as_deref(), Ok("http://gpu:50051"));
        assert_eq!(normalize("[::1]:50051").as_deref(), Ok("http://[::1]:50051"));
        assert_eq!(normalize("gpu").as_deref(), Ok("http://gpu:50051"));
        assert_eq!(normalize(" http://gpu:50051/ ").as_deref(), Ok("http://gpu:50051"));
    }

    #[test]
    fn what_is_no_address_is_refused_as_usage() {
        for address in ["", "https://gpu:50051", "ftp://gpu", "http://gpu:1/path", "a b", "http://:50051"] {
            assert_eq!(normalize(address).map_err(|error| error.kind()), Err(Kind::Usage), "{address:?}");
        }
    }
}
