//! What came of the calls of a phase.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tonic::{Code, Status};

use super::wire::{Answer, Stages};
use crate::latency::Latencies;

/// Answers, refusals and errors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    calls: usize,
    texts: usize,
    timely_texts: usize,
    labelled: usize,
    right: usize,
    codes: BTreeMap<&'static str, usize>,
    messages: BTreeMap<String, usize>,
    answered: Latencies,
    refused: Latencies,
    stages: Vec<Stages>,
}

/// Different messages of errors that are kept.
const MESSAGES: usize = 8;

impl Tally {
    /// Counts a call whose texts have these labels where they are known, and that was answered after so long, counted from
    /// when it was meant to begin.
    pub(crate) fn count(
        &mut self,
        labels: &[Option<String>],
        answer: Result<Answer, Status>,
        latency: Duration,
        deadline: Option<Duration>,
    ) {
        self.calls += 1;
        let code = match &answer {
            Ok(_) => Code::Ok,
            Err(status) => code_of(status, latency, deadline),
        };
        *self.codes.entry(name(code)).or_default() += 1;
        match answer {
            Ok(answer) => {
                self.texts += labels.len();
                if deadline.is_none_or(|deadline| latency <= deadline) {
                    self.timely_texts += labels.len();
                }
                for (label, predicted) in labels.iter().zip(&answer.labels) {
                    if let Some(label) = label {
                        self.labelled += 1;
                        self.right += usize::from(label == predicted);
                    }
                }
                self.answered.push(latency);
                self.stages.extend(answer.stages);
            }
            Err(status) => {
                if code == Code::ResourceExhausted {
                    self.refused.push(latency);
                }
                if self.messages.len() < MESSAGES || self.messages.contains_key(status.message()) {
                    *self.messages.entry(status.message().to_owned()).or_default() += 1;
                }
            }
        }
    }

    /// Latencies of the calls that were answered.
    pub(crate) fn answered(&self) -> &Latencies {
        &self.answered
    }

    /// Calls that were answered.
    pub(crate) fn answers(&self) -> usize {
        self.codes.get("OK").copied().unwrap_or(0)
    }

    /// All of it, over so many seconds.
    pub(crate) fn report(&self, seconds: f64) -> Value {
        let rate = |count: usize| count as f64 / seconds;
        json!({
            "seconds": seconds,
            "calls": self.calls,
            "answered": self.answers(),
            "texts": self.texts,
            "answered_calls_per_second": rate(self.answers()),
            "texts_per_second": rate(self.texts),
            "goodput_texts_per_second": rate(self.timely_texts),
            "accuracy": (self.labelled > 0).then(|| self.right as f64 / self.labelled as f64),
            "codes": self.codes,
            "errors": self.messages,
            "latency_ms": self.answered.summary(),
            "histogram_ms": self.answered.histogram(),
            "refused_ms": self.refused.summary(),
            "stages_ms": self.stages(),
        })
    }

    /// What the server says of where the time went, for each stage the median and the p99.
    fn stages(&self) -> Value {
        let of = |stage: fn(&Stages) -> f64| {
            let mut all = Latencies::default();
            self.stages.iter().for_each(|one| all.push(Duration::from_secs_f64(stage(one).max(0.0) / 1e3)));
            json!({ "p50": all.percentile(0.5), "p99": all.percentile(0.99) })
        };
        json!({
            "tokenize": of(|one| one.tokenize), "queue": of(|one| one.queue), "compute": of(|one| one.compute),
            "total": of(|one| one.total),
        })
    }
}

/// The code of a failure. This program's own end of a call at its deadline counts as what every client calls it.
fn code_of(status: &Status, latency: Duration, deadline: Option<Duration>) -> Code {
    match status.code() {
        Code::Cancelled if deadline.is_some_and(|deadline| latency >= deadline) => Code::DeadlineExceeded,
        code => code,
    }
}

/// A code as the specification of gRPC writes it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_millis(100);

    fn labels(labels: &[&str]) -> Vec<Option<String>> {
        labels.iter().map(|label| Some((*label).to_owned())).collect()
    }

    fn answer(predicted: &[&str]) -> Result<Answer, Status> {
        Ok(Answer { labels: predicted.iter().map(|&label| label.to_owned()).collect(), stages: None })
    }

    fn count(tally: &mut Tally, answer: Result<Answer, Status>, milliseconds: u64) {
        tally.count(&labels(&["a", "b"]), answer, Duration::from_millis(milliseconds), Some(DEADLINE));
    }

    #[test]
    fn goodput_counts_only_texts_that_were_answered_within_their_deadline() {
        let mut tally = Tally::default();
        count(&mut tally, answer(&["a", "b"]), 100);
        count(&mut tally, answer(&["a", "b"]), 101);
        count(&mut tally, Err(Status::resource_exhausted("full")), 1);
        let report = tally.report(2.0);
        assert_eq!(
            (&report["texts_per_second"], &report["goodput_texts_per_second"]),
            (&json!(2.0), &json!(1.0))
        );
        assert_eq!((&report["calls"], &report["answered"]), (&json!(3), &json!(2)));
    }

    #[test]
    fn errors_are_told_by_code_and_message_and_have_no_part_in_the_latency_of_answers() {
        let mut tally = Tally::default();
        count(&mut tally, answer(&["a", "b"]), 10);
        count(&mut tally, Err(Status::resource_exhausted("full")), 1);
        count(&mut tally, Err(Status::resource_exhausted("full")), 3);
        count(&mut tally, Err(Status::unavailable("gone")), 50);
        let report = tally.report(1.0);
        assert_eq!(report["codes"], json!({ "OK": 1, "RESOURCE_EXHAUSTED": 2, "UNAVAILABLE": 1 }));
        assert_eq!(report["errors"], json!({ "full": 2, "gone": 1 }));
        assert_eq!(report["latency_ms"]["max"], json!(10.0));
        assert_eq!(report["refused_ms"]["max"], json!(3.0));
    }

    #[test]
    fn a_call_that_ends_here_at_its_deadline_is_a_deadline_exceeded() {
        let mut tally = Tally::default();
        count(&mut tally, Err(Status::cancelled("Timeout expired")), 100);
        count(&mut tally, Err(Status::cancelled("by the server")), 20);
        assert_eq!(tally.report(1.0)["codes"], json!({ "CANCELLED": 1, "DEADLINE_EXCEEDED": 1 }));
    }

    #[test]
    fn accuracy_is_over_texts_whose_label_is_known_and_that_were_answered() {
        let mut tally = Tally::default();
        count(&mut tally, answer(&["a", "a"]), 1);
        count(&mut tally, Err(Status::resource_exhausted("full")), 1);
        tally.count(&[None], answer(&["a"]), Duration::ZERO, None);
        assert_eq!(tally.report(1.0)["accuracy"], json!(0.5));
        assert_eq!(Tally::default().report(1.0)["accuracy"], Value::Null);
    }

    #[test]
    fn messages_of_errors_are_bounded() {
        let mut tally = Tally::default();
        (0..100).for_each(|number| count(&mut tally, Err(Status::internal(number.to_string())), 1));
        assert_eq!(tally.report(1.0)["errors"].as_object().unwrap().len(), MESSAGES);
        assert_eq!(tally.report(1.0)["codes"]["INTERNAL"], json!(100));
    }
}
