//! What the daemon counts and measures of itself, for Prometheus. Each daemon has its own; whoever does something holds a
//! handle and adds to atomic numbers, so nothing waits for a scrape and a scrape waits for nothing.
//!
//! Labels are bounded: methods and codes stand in tables, and a model's name becomes a label only once the model was found,
//! so no caller can make a series. The names are a contract with dashboards and alerts (`docs/observability.md`).

mod calls;
mod family;
mod jobs;
mod models;
mod process;

use prometheus::{IntGaugeVec, Registry, TextEncoder};

use family::gauges;
use hone_base::error::{Error, Result};

pub use calls::{CANCELLED, CallMetrics, DEADLINE_EXCEEDED, INTERNAL, OK, UNKNOWN, code_name, is_fault};
pub use jobs::{JobsMetrics, RunningJob};
pub use models::{Classification, Loaded, ModelMetrics, ModelsMetrics, Queued, Stage};

/// The content type of what [`Metrics::render`] returns.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Everything that one daemon counts and measures.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Calls on the wire.
    pub calls: CallMetrics,
    /// Models and what they answer.
    pub models: ModelsMetrics,
    /// Jobs.
    pub jobs: JobsMetrics,
}

impl Metrics {
    /// Nothing is counted yet.
    ///
    /// # Errors
    /// `Internal` if two metrics have one name.
    pub fn new() -> Result<Self> {
        let registry = Registry::new();
        Self::register(registry)
            .map_err(|error| Error::internal(format!("the metrics cannot be made: {error}")))
    }

    fn register(registry: Registry) -> prometheus::Result<Self> {
        let info: IntGaugeVec =
            gauges(&registry, "hone_build_info", "The daemon's version; always 1.", &["version"])?;
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(process::Process::new()?))?;
        Ok(Self {
            calls: CallMetrics::new(&registry)?,
            models: ModelsMetrics::new(&registry)?,
            jobs: JobsMetrics::new(&registry)?,
            registry,
        })
    }

    /// All values in Prometheus' text format. Reads a few files of `/proc` and otherwise memory alone.
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|error| {
            tracing::error!(%error, "the metrics cannot be written");
            String::new()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_daemon_counts_for_itself() {
        let (one, other) = (Metrics::new().unwrap(), Metrics::new().unwrap());
        one.models.model("reviews").answered(3, 40);
        assert!(one.render().contains("hone_texts_total{model=\"reviews\"} 3\n"));
        assert!(!other.render().contains("reviews"));
    }

    #[test]
    fn every_metric_has_a_help_and_a_type() {
        let text = Metrics::new().unwrap().render();
        let names = |word: &str| {
            text.lines().filter_map(|line| line.strip_prefix(word)?.split(' ').next()).collect::<Vec<_>>()
        };
        assert!(names("# TYPE ").contains(&"hone_build_info"));
        assert_eq!(names("# HELP "), names("# TYPE "));
    }
}
