//! The context of a trace as callers send it: the headers `traceparent` and `tracestate` of W3C Trace Context, level 1.

use std::str::FromStr as _;

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use tonic::codegen::http::HeaderMap;

/// Bytes of a `tracestate` at most. The specification asks for 512 at least; a longer one is left out as a whole.
const STATE: usize = 4096;

/// The context that a call's headers have; `None` where there is none or it is malformed, as the specification says:
/// whoever cannot read it begins a trace of their own.
pub fn parent(headers: &HeaderMap) -> Option<SpanContext> {
    let mut parents = headers.get_all("traceparent").iter();
    let parent = parents.next()?.to_str().ok()?;
    if parents.next().is_some() {
        return None;
    }
    let (trace, span, flags) = parse(parent)?;
    Some(SpanContext::new(trace, span, flags, true, state(headers)))
}

/// `00-<trace id>-<span id>-<flags>` in lower-case hexadecimal. A later version may have more behind it.
fn parse(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let mut fields = text.split('-');
    let mut field = |digits: usize| {
        let field = fields.next()?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (field.len() == digits && field.bytes().all(is_hex)).then_some(field)
    };
    let (version, trace, span, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    if version == "ff" || version == "00" && fields.next().is_some() {
        return None;
    }
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    // Of the flags, this version knows one.
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    (trace != TraceId::INVALID && span != SpanId::INVALID).then_some((trace, span, flags))
}

/// What vendors put beside the context; empty where it is malformed.
fn state(headers: &HeaderMap) -> TraceState {
    let parts: Vec<&str> =
        headers.get_all("tracestate").iter().filter_map(|part| part.to_str().ok()).collect();
    let text = parts.join(",");
    if text.len() > STATE {
        return TraceState::NONE;
    }
    TraceState::from_str(&text).unwrap_or(TraceState::NONE)
}

#[cfg(test)]
mod tests {
    use tonic::codegen::http::{HeaderName, HeaderValue};

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(headers: &[(&'static str, &str)]) -> Option<SpanContext> {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers.iter().map(pair) {
            map.append(name, value);
        }
        parent(&map)
    }

    #[test]
    fn a_context_is_read_with_its_state() {
        let state = [("tracestate", "congo=t61rcWkgMzE"), ("tracestate", "rojo=00f067aa0ba902b7")];
        let context = read(&[("traceparent", PARENT), state[0], state[1]]).unwrap();
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(context.trace_state().header(), "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7");
        let unsampled = read(&[("traceparent", &PARENT.replace("-01", "-fe"))]).unwrap();
        assert!(!unsampled.is_sampled());
    }

    #[test]
    fn a_malformed_context_is_none() {
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
        ] {
            assert_eq!(read(&[("traceparent", bad)]), None, "{bad}");
        }
        assert_eq!(read(&[("traceparent", PARENT), ("traceparent", PARENT)]), None);
        assert_eq!(read(&[("tracestate", "a=b")]), None);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known_and_a_malformed_state_is_left_out() {
        let later = PARENT.replace("00-4b", "01-4b") + "-more";
        let context = read(&[("traceparent", &later), ("tracestate", "no equals sign")]).unwrap();
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        assert_eq!(context.trace_state().header(), "");
    }
}
