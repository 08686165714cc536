//! `POST /v1/classify`: the messages of `Classify` as JSON.

use axum::body::Body;
use axum::extract::State;
use hone::v1;
use serde::{Deserialize, Serialize};
use tonic::codegen::http::{Request, Response, StatusCode};

use super::error::Failure;
use super::{Http, body, error, json, until};
use crate::rpc::convert::Parsed as _;
use crate::rpc::convert::inference::{Question, Shown};
use crate::serve::answer::{Classified, Prediction};
use crate::serve::options::Options;
use hone_base::error::{Error, Result};

/// A request. The fields are those of `hone.v1.ClassifyRequest`; `texts` stands for inputs without a second text.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    model: String,
    inputs: Vec<Input>,
    texts: Vec<String>,
    top_k: u32,
    return_logits: bool,
    max_length: u32,
    truncation_side: Option<Side>,
    min_score: Option<f32>,
    request_id: String,
    priority: i32,
    routing_key: String,
    all_or_nothing: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    text: String,
    text_pair: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Side {
    Right,
    Left,
    None,
}

impl From<Asked> for v1::ClassifyRequest {
    fn from(asked: Asked) -> Self {
        let input = |input: Input| v1::Input { text: input.text, text_pair: input.text_pair };
        let text = |text| v1::Input { text, text_pair: None };
        let side = match asked.truncation_side {
            Option::None => v1::TruncationSide::Unspecified,
            Some(Side::Right) => v1::TruncationSide::Right,
            Some(Side::Left) => v1::TruncationSide::Left,
            Some(Side::None) => v1::TruncationSide::None,
        };
        Self {
            model: asked.model,
            inputs: asked.inputs.into_iter().map(input).chain(asked.texts.into_iter().map(text)).collect(),
            top_k: asked.top_k,
            return_logits: asked.return_logits,
            max_length: asked.max_length,
            truncation_side: side.into(),
            min_score: asked.min_score,
            request_id: asked.request_id,
            priority: asked.priority,
            routing_key: asked.routing_key,
            all_or_nothing: asked.all_or_nothing,
        }
    }
}

/// An answer, in the names of `hone.v1.ClassifyResponse`.
#[derive(Serialize)]
struct Answered<'a> {
    predictions: Vec<Member<'a>>,
    model: &'a str,
    version: u32,
    weights_sha256: &'a str,
    tokens: usize,
    timings: Timings,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Member<'a> {
    Answer {
        /// Null where no label reaches `min_score`.
        label: Option<&'a str>,
        score: f32,
        labels: Vec<&'a str>,
        scores: Vec<Score<'a>>,
        tokens: usize,
        truncated: bool,
    },
    Error {
        error: Failure,
    },
}

#[derive(Serialize)]
struct Score<'a> {
    label: &'a str,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logit: Option<f32>,
}

#[derive(Serialize)]
struct Timings {
    tokenize_ms: f64,
    queue_ms: f64,
    compute_ms: f64,
    total_ms: f64,
}

pub(super) async fn classify(State(http): State<Http>, request: Request<Body>) -> Response<Body> {
    match ask(&http, request).await {
        Ok((answer, shown)) => json(StatusCode::OK, &answered(&answer, &shown)),
        Err(error) => error::response(&error),
    }
}

async fn ask(http: &Http, request: Request<Body>) -> Result<(Classified, Shown)> {
    let deadline = until(&request);
    let asked: Asked = body(request).await?;
    if !asked.texts.is_empty() && !asked.inputs.is_empty() {
        return Err(Error::invalid_field("texts", "send `texts` or `inputs`, not both"));
    }
    let Question { model, inputs, options, shown } = v1::ClassifyRequest::from(asked).parsed()?;
    let answer = http.tei.serving.classify(&model, inputs, &Options { deadline, ..options }).await?;
    Ok((answer, shown))
}

fn answered<'a>(answer: &'a Classified, shown: &'a Shown) -> Answered<'a> {
    let Classified { version, ready, predictions, timings } = answer;
    let label = |class: usize| ready.labels.get(class).map_or("", String::as_str);
    let thresholds = ready.thresholds.as_deref();
    let prediction = |prediction: &'a Prediction| {
        let ranked = prediction.ranked();
        let number = |of: &[f32], class: usize| of.get(class).copied();
        let score = |class: usize| Score {
            label: label(class),
            score: number(&prediction.probabilities, class).unwrap_or_default(),
            threshold: thresholds.and_then(|thresholds| number(thresholds, class)),
            logit: number(&prediction.logits, class).filter(|_| shown.logits),
        };
        let top = ranked.first().copied();
        let has_label = thresholds.is_some() || !prediction.labels.is_empty();
        Member::Answer {
            label: top.filter(|_| has_label).map(label),
            score: top.and_then(|class| number(&prediction.probabilities, class)).unwrap_or_default(),
            labels: prediction.labels.iter().map(|&class| label(class)).collect(),
            scores: ranked.iter().take(shown.most(ranked.len())).map(|&class| score(class)).collect(),
            tokens: prediction.tokens,
            truncated: prediction.truncated,
        }
    };
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    Answered {
        predictions: predictions
            .iter()
            .map(|member| match member {
                Ok(member) => prediction(member),
                Err(error) => Member::Error { error: error.into() },
            })
            .collect(),
        model: &version.name,
        version: version.version,
        weights_sha256: &version.weights_sha256,
        tokens: answer.tokens(),
        timings: Timings {
            tokenize_ms: ms(timings.tokenize),
            queue_ms: ms(timings.queue),
            compute_ms: ms(timings.compute),
            total_ms: ms(timings.total),
        },
        request_id: &shown.request_id,
    }
}
