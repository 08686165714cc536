//! Requests to classify and their answers.

use std::num::NonZeroUsize;
use std::time::Duration;

use hone::v1;

use super::{Convert, Parse, Wire as _};
use crate::serve::answer::{Classified, Prediction, Timings};
use crate::serve::input::Input;
use crate::serve::options::{MAX_KEY, MinScore, Options, Priority, Side};
use hone_base::error::{Error, Result, quoted};
use hone_base::status;

/// A request as it came: what is asked, and how the answer shall look.
#[derive(Debug)]
pub struct Question {
    /// The model.
    pub model: String,
    /// The inputs.
    pub inputs: Vec<Input>,
    /// What is asked for besides.
    pub options: Options,
    /// How the answer looks.
    pub shown: Shown,
}

/// How an answer looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Scores of each text at most; `None` is all of them.
    pub top_k: Option<NonZeroUsize>,
    /// Each score comes with its logit.
    pub logits: bool,
    /// The request's id.
    pub request_id: String,
}

impl Parse<v1::ClassifyRequest> for Question {
    fn parse(request: v1::ClassifyRequest) -> Result<Self> {
        let side = match request.truncation_side() {
            v1::TruncationSide::Unspecified if request.truncation_side != 0 => {
                let number = request.truncation_side;
                let why = format!("`truncation_side` is {number}, which this daemon does not know");
                return Err(Error::invalid_field("truncation_side", why));
            }
            v1::TruncationSide::Unspecified => Side::AsModel,
            v1::TruncationSide::Right => Side::Right,
            v1::TruncationSide::Left => Side::Left,
            v1::TruncationSide::None => Side::Refuse,
        };
        let options = Options {
            max_length: NonZeroUsize::new(request.max_length as usize),
            side,
            min_score: request.min_score.map(MinScore::new).transpose()?,
            all_or_nothing: request.all_or_nothing,
            priority: Priority::new(request.priority.into())?,
            routing_key: key("routing_key", request.routing_key)?.map(String::into_boxed_str),
            ..Options::default()
        };
        let shown = Shown {
            top_k: NonZeroUsize::new(request.top_k as usize),
            logits: request.return_logits,
            request_id: key("request_id", request.request_id)?.unwrap_or_default(),
        };
        let input = |input: v1::Input| Input { text: input.text, text_pair: input.text_pair };
        Ok(Self {
            model: request.model,
            inputs: request.inputs.into_iter().map(input).collect(),
            options,
            shown,
        })
    }
}

/// A key of a caller's own making; none when it is empty.
fn key(field: &str, key: String) -> Result<Option<String>> {
    if key.len() > MAX_KEY {
        let beginning: String = key.chars().take(16).collect();
        let why =
            format!("`{field}` has {} bytes; it may have {MAX_KEY} ({}…)", key.len(), quoted(&beginning));
        return Err(Error::invalid_field(field, why));
    }
    Ok(Some(key).filter(|key| !key.is_empty()))
}

/// The answer to a request.
pub fn response(answer: Classified, shown: Shown) -> v1::ClassifyResponse {
    let Classified { version, ready, predictions, timings } = &answer;
    let label = |class: usize| ready.labels.get(class).cloned().unwrap_or_default();
    let score = |prediction: &Prediction, class: usize| v1::Score {
        label: label(class),
        score: prediction.probabilities.get(class).copied().unwrap_or_default(),
        threshold: ready.thresholds.as_ref().and_then(|thresholds| thresholds.get(class).copied()),
        logit: prediction.logits.get(class).copied().filter(|_| shown.logits),
    };
    let prediction = |prediction: &Prediction| {
        let ranked = prediction.ranked();
        let most = shown.top_k.map_or(ranked.len(), NonZeroUsize::get);
        let top = ranked.first().map(|&class| score(prediction, class)).unwrap_or_default();
        let has_label = ready.thresholds.is_some() || !prediction.labels.is_empty();
        v1::Prediction {
            label: if has_label { top.label } else { String::new() },
            score: top.score,
            scores: ranked.iter().take(most).map(|&class| score(prediction, class)).collect(),
            tokens: prediction.tokens as u32,
            truncated: prediction.truncated,
            labels: prediction.labels.iter().map(|&class| label(class)).collect(),
            error: None,
        }
    };
    let failed = |error: &Error| v1::Prediction { error: Some(error.wire()), ..v1::Prediction::default() };
    v1::ClassifyResponse {
        predictions: predictions
            .iter()
            .map(|member| member.as_ref().map_or_else(failed, prediction))
            .collect(),
        model: version.name.clone(),
        version: version.version,
        weights_sha256: version.weights_sha256.clone(),
        tokens: answer.tokens() as u64,
        timings: Some(timings.wire()),
        request_id: shown.request_id,
        error: None,
    }
}

impl Convert<&Error> for v1::Error {
    fn convert(error: &Error) -> Self {
        Self {
            code: status::code(error.kind()) as i32,
            message: error.message().to_owned(),
            field: error.wrong_field().unwrap_or_default().to_owned(),
            retry_after: error.retry().and_then(|time| time.try_into().ok()),
        }
    }
}

impl Convert<&Timings> for v1::Timings {
    fn convert(timings: &Timings) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Self {
            tokenize_ms: ms(timings.tokenize),
            queue_ms: ms(timings.queue),
            compute_ms: ms(timings.compute),
            total_ms: ms(timings.total),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_request_may_have_is_an_error_of_its_field() {
        let long = || "k".repeat(MAX_KEY + 1);
        for (request, field) in [
            (v1::ClassifyRequest { truncation_side: 9, ..Default::default() }, "truncation_side"),
            (v1::ClassifyRequest { min_score: Some(1.5), ..Default::default() }, "min_score"),
            (v1::ClassifyRequest { priority: 101, ..Default::default() }, "priority"),
            (v1::ClassifyRequest { request_id: long(), ..Default::default() }, "request_id"),
            (v1::ClassifyRequest { routing_key: long(), ..Default::default() }, "routing_key"),
        ] {
            let error = Question::parse(request).unwrap_err();
            assert_eq!(error.wrong_field(), Some(field), "{error}");
            assert!(error.message().contains(&format!("`{field}`")), "{error}");
        }
    }

    #[test]
    fn a_plain_request_asks_for_nothing_out_of_the_ordinary() {
        let question = Question::parse(v1::ClassifyRequest::default()).unwrap();
        assert_eq!((question.options, question.shown), (Options::default(), Shown::default()));
    }
}
