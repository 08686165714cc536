//! What clients of text-embeddings-inference ask and get.

use std::time::{Duration, Instant};

use hone::tei;

use super::Parse;
use crate::serve::answer::{Classified, Prediction};
use crate::serve::input::Input;
use crate::serve::options::{Options, Side};
use hone_base::error::{Error, Result};

/// What is asked of a text or of several.
#[derive(Debug)]
pub struct Question {
    /// The texts and pairs.
    pub inputs: Vec<Input>,
    /// What is asked for besides.
    pub options: Options,
    /// Logits instead of probabilities.
    pub raw_scores: bool,
}

impl Question {
    /// A question, which has an answer for each input or none. Without `truncate` a text that is too long is an error.
    pub fn new(inputs: Vec<Input>, truncate: bool, side: Side, raw_scores: bool) -> Self {
        let side = if truncate { side } else { Side::Refuse };
        Self { inputs, options: Options { side, all_or_nothing: true, ..Options::default() }, raw_scores }
    }

    /// The same, given up at this time.
    #[must_use]
    pub fn until(mut self, deadline: Option<Instant>) -> Self {
        self.options.deadline = deadline;
        self
    }

    /// Characters of all inputs.
    pub fn chars(&self) -> usize {
        let pair = |input: &Input| input.text_pair.as_ref().map_or(0, |pair| pair.chars().count());
        self.inputs.iter().map(|input| input.text.chars().count() + pair(input)).sum()
    }
}

impl From<tei::TruncationDirection> for Side {
    fn from(direction: tei::TruncationDirection) -> Self {
        match direction {
            tei::TruncationDirection::Right => Self::Right,
            tei::TruncationDirection::Left => Self::Left,
        }
    }
}

impl Parse<tei::PredictRequest> for Question {
    fn parse(request: tei::PredictRequest) -> Result<Self> {
        let side = request.truncation_direction().into();
        let inputs = vec![Input { text: request.inputs, text_pair: None }];
        Ok(Self::new(inputs, request.truncate, side, request.raw_scores))
    }
}

impl Parse<tei::PredictPairRequest> for Question {
    fn parse(request: tei::PredictPairRequest) -> Result<Self> {
        let side = request.truncation_direction().into();
        Ok(Self::new(vec![sequence(request.inputs)?], request.truncate, side, request.raw_scores))
    }
}

/// One text, or the two of a pair.
///
/// # Errors
/// `Invalid` for any other number of texts.
pub fn sequence(texts: Vec<String>) -> Result<Input> {
    let count = texts.len();
    let mut texts = texts.into_iter();
    match (texts.next(), texts.next(), texts.next()) {
        (Some(text), text_pair, None) => Ok(Input { text, text_pair }),
        _ => {
            let why = format!("`inputs` must be one text or the two of a pair; this one has {count}");
            Err(Error::invalid_field("inputs", why))
        }
    }
}

/// Every label of an answer with its score, the highest first.
pub fn predictions(answer: &Classified, prediction: &Prediction, raw_scores: bool) -> Vec<tei::Prediction> {
    let scores = if raw_scores { &prediction.logits } else { &prediction.probabilities };
    let score = |class: usize| tei::Prediction {
        score: scores.get(class).copied().unwrap_or_default(),
        label: answer.ready.labels.get(class).cloned().unwrap_or_default(),
    };
    prediction.ranked().into_iter().map(score).collect()
}

/// Where the time of an answer went.
pub fn metadata(answer: &Classified, chars: usize) -> tei::Metadata {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    tei::Metadata {
        compute_chars: chars as u32,
        compute_tokens: answer.tokens() as u32,
        total_time_ns: ns(answer.timings.total),
        tokenization_time_ns: ns(answer.timings.tokenize),
        queue_time_ns: ns(answer.timings.queue),
        inference_time_ns: ns(answer.timings.compute),
    }
}

/// The same as headers: times in milliseconds.
pub fn headers(metadata: &tei::Metadata) -> [(&'static str, u64); 6] {
    let ms = |ns: u64| ns / 1_000_000;
    [
        ("x-compute-characters", metadata.compute_chars.into()),
        ("x-compute-tokens", metadata.compute_tokens.into()),
        ("x-total-time", ms(metadata.total_time_ns)),
        ("x-tokenization-time", ms(metadata.tokenization_time_ns)),
        ("x-queue-time", ms(metadata.queue_time_ns)),
        ("x-inference-time", ms(metadata.inference_time_ns)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_one_text_or_two() {
        let texts = |count: usize| vec!["a".to_owned(); count];
        assert_eq!(sequence(texts(1)).unwrap().text_pair, None);
        assert_eq!(sequence(texts(2)).unwrap().text_pair.as_deref(), Some("a"));
        for count in [0, 3] {
            assert_eq!(sequence(texts(count)).unwrap_err().wrong_field(), Some("inputs"));
        }
    }

    #[test]
    fn a_text_is_cut_only_where_that_is_asked_for() {
        let side = |truncate, direction: tei::TruncationDirection| {
            let request = tei::PredictRequest {
                truncate,
                truncation_direction: direction.into(),
                ..Default::default()
            };
            Question::parse(request).unwrap().options.side
        };
        assert_eq!(side(true, tei::TruncationDirection::Left), Side::Left);
        assert_eq!(side(true, tei::TruncationDirection::Right), Side::Right);
        assert_eq!(side(false, tei::TruncationDirection::Left), Side::Refuse);
    }
}
