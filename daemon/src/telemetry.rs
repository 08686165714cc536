//! Logs: lines on standard error, so that standard output stays free for the one line that scripts read.
//!
//! A line that is written for a call or job that is in a trace names it: `call{… trace_id=… span_id=…}` before the message,
//! or, as JSON, the object `span`.

use std::io::{self, IsTerminal as _};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;

use hone_base::error::{Error, Result, quoted};

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// A JSON object a line, for programs that collect logs.
    Json,
}

/// Starts to log what passes the filter.
pub fn start(filter: &str, format: LogFormat) -> Result<()> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| {
        Error::invalid(format!("--log has a filter that cannot be read ({}): {error}", quoted(filter)))
    })?;
    subscriber(filter, format, io::stderr)
        .try_init()
        .map_err(|error| Error::internal(format!("logging cannot be started: {error}")))
}

fn subscriber<W>(filter: EnvFilter, format: LogFormat, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    match format {
        LogFormat::Text => Box::new(lines.with_ansi(io::stderr().is_terminal()).finish()),
        LogFormat::Json => {
            Box::new(lines.json().flatten_event(true).with_current_span(true).with_span_list(false).finish())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::trace::{Tracer, context};
    use hone_base::panic::lock;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What the log says of a call in a trace, and then of one in none, where only warnings are let through.
    fn log(format: LogFormat) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(EnvFilter::new("warn"), format, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            let headers = [("traceparent".parse().unwrap(), PARENT.parse().unwrap())];
            let parent = context::parent(&headers.into_iter().collect());
            for parent in [parent, None] {
                let call = Arc::new(Tracer::default().call("Classify", parent));
                call.scope(|| tracing::warn!("a thing happened"));
            }
        });
        let bytes = lock(&lines.0).clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_that_is_written_for_a_call_names_its_trace() {
        let text = log(LogFormat::Text);
        let [traced, plain] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert!(traced.contains("trace_id=4bf92f3577b34da6a3ce929d0e0e4736"), "{traced}");
        assert!(!plain.contains("trace_id"), "{plain}");
    }

    #[test]
    fn as_json_too() {
        let text = log(LogFormat::Json);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["message"], "a thing happened");
        assert_eq!(lines[0]["span"]["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(lines[1].get("span"), None);
    }
}
