//! `POST /predict` and `GET /info`, as text-embeddings-inference has them.

use axum::body::Body;
use axum::extract::State;
use hone::tei;
use serde::{Deserialize, Serialize};
use tonic::codegen::http::{HeaderValue, Request, Response, StatusCode};

use super::{Http, body, error, json, until};
use crate::rpc::convert::tei::{Question, headers, metadata, predictions, sequence};
use crate::rpc::tei::model_in;
use crate::serve::answer::Classified;
use crate::serve::options;
use hone_base::error::{Error, Kind, Result};

#[derive(Debug, Deserialize)]
struct Asked {
    inputs: Inputs,
    #[serde(default)]
    truncate: bool,
    #[serde(default)]
    raw_scores: bool,
    #[serde(default)]
    truncation_direction: Side,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Inputs {
    /// A text.
    One(String),
    /// The two texts of a pair, or a single one.
    Pair(Vec<String>),
    /// A text or a pair each.
    Many(Vec<Vec<String>>),
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
enum Side {
    #[default]
    #[serde(alias = "right")]
    Right,
    #[serde(alias = "left")]
    Left,
}

#[derive(Serialize)]
struct Prediction {
    score: f32,
    label: String,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answered {
    One(Vec<Prediction>),
    Many(Vec<Vec<Prediction>>),
}

/// An error as text-embeddings-inference writes it.
#[derive(Serialize)]
struct Failed<'a> {
    error: &'a str,
    error_type: &'static str,
}

fn failed(error: &Error) -> Response<Body> {
    let error_type = match error.kind() {
        Kind::Exhausted => "overloaded",
        Kind::Unavailable => "unhealthy",
        Kind::Invalid | Kind::NotFound => "validation",
        _ => "backend",
    };
    error::told(error, &Failed { error: error.message(), error_type })
}

pub(super) async fn predict(State(http): State<Http>, request: Request<Body>) -> Response<Body> {
    match ask(&http, request).await {
        Ok(response) => response,
        Err(error) => failed(&error),
    }
}

async fn ask(http: &Http, request: Request<Body>) -> Result<Response<Body>> {
    let (model, deadline) = (model_in(request.headers()), until(&request));
    let Asked { inputs, truncate, raw_scores, truncation_direction } = body(request).await?;
    let is_one = !matches!(inputs, Inputs::Many(_));
    let inputs = match inputs {
        Inputs::One(text) => vec![sequence(vec![text])?],
        Inputs::Pair(texts) => vec![sequence(texts)?],
        Inputs::Many(many) => many.into_iter().map(sequence).collect::<Result<_>>()?,
    };
    let side = match truncation_direction {
        Side::Right => options::Side::Right,
        Side::Left => options::Side::Left,
    };
    let question = Question::new(inputs, truncate, side, raw_scores).until(deadline);
    let chars = question.chars();
    let answer = http.tei.ask(&model, question).await?;
    let mut answers = answers(&answer, raw_scores)?;
    let body = match is_one {
        true => Answered::One(answers.pop().unwrap_or_default()),
        false => Answered::Many(answers),
    };
    let mut response = json(StatusCode::OK, &body);
    for (name, number) in headers(&metadata(&answer, chars)) {
        response.headers_mut().insert(name, HeaderValue::from(number));
    }
    Ok(response)
}

fn answers(answer: &Classified, raw_scores: bool) -> Result<Vec<Vec<Prediction>>> {
    let member = |member: &Result<_>| {
        let prediction = member.as_ref().map_err(Clone::clone)?;
        let scores = predictions(answer, prediction, raw_scores).into_iter();
        Ok(scores.map(|tei::Prediction { score, label }| Prediction { score, label }).collect())
    };
    answer.predictions.iter().map(member).collect()
}

pub(super) async fn info(State(http): State<Http>, request: Request<Body>) -> Response<Body> {
    let model = model_in(request.headers());
    let found = http.tei.serving.find(&model).await;
    let (described, version) = match (http.tei.describe(&model).await, found) {
        (Ok(described), Ok((version, _))) => (described, version),
        (Err(error), _) | (_, Err(error)) => return failed(&error),
    };
    let labels = || version.labels.iter().enumerate();
    let names: serde_json::Map<_, _> =
        labels().map(|(class, label)| (class.to_string(), label.as_str().into())).collect();
    let classes: serde_json::Map<_, _> =
        labels().map(|(class, label)| (label.clone(), class.into())).collect();
    let body = serde_json::json!({
        "model_id": described.model_id,
        "model_sha": described.model_sha,
        "model_dtype": described.model_dtype,
        "model_type": { "classifier": { "id2label": names, "label2id": classes } },
        "max_concurrent_requests": described.max_concurrent_requests,
        "max_input_length": described.max_input_length,
        "max_batch_tokens": described.max_batch_tokens,
        "max_batch_requests": described.max_batch_requests,
        "max_client_batch_size": described.max_client_batch_size,
        "auto_truncate": false,
        "tokenization_workers": described.tokenization_workers,
        "version": described.version,
        "sha": null,
        "docker_label": null,
    });
    json(StatusCode::OK, &body)
}
