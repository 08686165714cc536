//! Requests to classify and their answers.

use super::{Convert, Wire};
use std::time::Duration;

use hone::v1;

use crate::serve::classify::{Classified, Input, Prediction, Score, Timings};

/// The inputs of a request.
pub fn inputs(wire: Vec<v1::Input>) -> Vec<Input> {
    wire.into_iter().map(|input| Input { text: input.text, text_pair: input.text_pair }).collect()
}

impl Convert<Classified> for v1::ClassifyResponse {
    fn convert(answer: Classified) -> Self {
        Self {
            model: answer.version.name.clone(),
            version: answer.version.version,
            weights_sha256: answer.version.weights_sha256.clone(),
            tokens: answer.predictions.iter().map(|prediction| prediction.tokens as u64).sum(),
            predictions: answer.predictions.into_iter().map(Wire::wire).collect(),
            timings: Some(answer.timings.wire()),
        }
    }
}

impl Convert<Prediction> for v1::Prediction {
    fn convert(prediction: Prediction) -> Self {
        let Prediction { scores, labels, tokens, truncated } = prediction;
        let (label, score) = scores.first().map(|top| (top.label.clone(), top.score)).unwrap_or_default();
        let scores = scores
            .into_iter()
            .map(|Score { label, score, threshold }| v1::Score { label, score, threshold })
            .collect();
        Self { label, score, scores, tokens: tokens as u32, truncated, labels }
    }
}

impl Convert<Timings> for v1::Timings {
    fn convert(timings: Timings) -> Self {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        Self {
            tokenize_ms: ms(timings.tokenize),
            queue_ms: ms(timings.queue),
            compute_ms: ms(timings.compute),
            total_ms: ms(timings.total),
        }
    }
}
