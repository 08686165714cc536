//! Traces: the context that a caller sends (W3C Trace Context), the call that a task works for, and, where the operator has
//! named a collector, what is exported to it (OTLP).
//!
//! A call whose caller sent a context has a span of the log with its trace id, so that each line of the log that is written
//! for it says which trace it belongs to. A call without one has neither, and costs nothing, unless traces are exported.

pub mod call;
pub mod context;
pub mod export;

pub use call::Call;
pub use export::Tracer;
pub use opentelemetry::trace::SpanContext;
