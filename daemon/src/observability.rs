//! What tells of a daemon beside its services: its metrics and where they are read, and its traces and where they go.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::JoinSet;

use crate::config::Config;
use crate::jobs::count::count;
use crate::metrics::Metrics;
use crate::scrape::Scrape;
use crate::trace::Tracer;
use hone_base::error::Result;
use hone_storage::Catalog;

/// What tells of a daemon.
#[derive(Debug)]
pub struct Observability {
    /// What is counted and measured.
    pub metrics: Arc<Metrics>,
    /// What begins the spans of calls and jobs.
    pub tracer: Tracer,
    scrape: Option<Scrape>,
}

impl Observability {
    /// As the operator decided.
    ///
    /// # Errors
    /// When an address cannot be listened at or is none.
    pub async fn open(config: &Config) -> Result<Self> {
        let scrape = match &config.metrics_listen {
            Some(address) => Some(Scrape::bind(address).await?),
            None => None,
        };
        let endpoint = config.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty());
        let tracer = endpoint.map(Tracer::to).transpose()?.unwrap_or_default();
        Ok(Self { metrics: Arc::new(Metrics::new()?), tracer, scrape })
    }

    /// Where the metrics are read, if they have an address of their own.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.scrape.as_ref().map(Scrape::address)
    }

    /// Answers scrapes and counts jobs until what is returned is dropped.
    pub fn start(self, store: Arc<dyn Catalog>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(count(store, self.metrics.clone()));
        if let Some(scrape) = self.scrape {
            tracing::info!(address = %scrape.address(), "metrics are served");
            tasks.spawn(scrape.serve(self.metrics));
        }
        tasks
    }
}
