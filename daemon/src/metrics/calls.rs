//! Calls on the wire: how many, how they ended, how long they took.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounterVec, IntGaugeVec, Registry, Result};

use super::family::{LATENCY, counters, gauges, histograms};

/// The code of a call that went well, as gRPC names it.
pub const OK: &str = "OK";

/// The code of a call that its caller gave up.
pub const CANCELLED: &str = "CANCELLED";

/// The code of a call whose deadline has passed.
pub const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";

/// The code of a call that has failed in a way that has no code.
pub const UNKNOWN: &str = "UNKNOWN";

/// The code of a call that failed by a fault of the daemon.
pub const INTERNAL: &str = "INTERNAL";

/// Names of gRPC's status codes, in the order of their numbers.
const CODES: [&str; 17] = [
    OK,
    CANCELLED,
    UNKNOWN,
    "INVALID_ARGUMENT",
    DEADLINE_EXCEEDED,
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    INTERNAL,
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The name of a gRPC status code; `UNKNOWN` for a number that is none.
pub fn code_name(number: i32) -> &'static str {
    usize::try_from(number).ok().and_then(|number| CODES.get(number)).copied().unwrap_or(UNKNOWN)
}

/// Whether a code says that the daemon is at fault, and not the caller.
pub fn is_fault(code: &str) -> bool {
    matches!(
        code,
        UNKNOWN | DEADLINE_EXCEEDED | "UNIMPLEMENTED" | INTERNAL | "UNAVAILABLE" | "DATA_LOSS" | "500"
    )
}

/// Calls on the wire. A call with a stream of messages is one.
#[derive(Debug)]
pub struct CallMetrics {
    total: IntCounterVec,
    seconds: HistogramVec,
    running: IntGaugeVec,
}

impl CallMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self> {
        Ok(Self {
            total: counters(
                registry,
                "hone_requests_total",
                "Calls that have ended, by method, status code and model; the model is empty where a call has none, and \
                 `unknown` where it named one that does not exist.",
                &["method", "code", "model"],
            )?,
            seconds: histograms(
                registry,
                "hone_request_duration_seconds",
                "Time from a call's headers to the end of its answer; a stream is one call.",
                &["method"],
                LATENCY,
            )?,
            running: gauges(
                registry,
                "hone_requests_in_progress",
                "Calls that have begun and not ended.",
                &["method"],
            )?,
        })
    }

    /// A call of a method has begun. The method is one of a table, not what a caller wrote.
    pub fn begun(&self, method: &str) {
        self.running.with_label_values(&[method]).inc();
    }

    /// A call that has begun has ended with a code, after so long.
    pub fn ended(&self, method: &str, code: &str, model: &str, after: Duration) {
        self.running.with_label_values(&[method]).dec();
        self.total.with_label_values(&[method, code, model]).inc();
        self.seconds.with_label_values(&[method]).observe(after.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_of_the_protocol() {
        let names =
            [(0, "OK"), (4, "DEADLINE_EXCEEDED"), (16, "UNAUTHENTICATED"), (17, "UNKNOWN"), (-1, "UNKNOWN")];
        for (number, name) in names {
            assert_eq!(code_name(number), name);
        }
    }
}
