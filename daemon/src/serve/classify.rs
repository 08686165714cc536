//! A request on its way: admitted, turned into tokens, queued, answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::registry::Models;
use super::worker::{Answer, Ready, Refused};
use crate::lanes::Lanes;
use crate::metrics::{Classification, Stage};
use crate::workers::Workers;
use hone_base::error::{Error, Kind, Result};
use hone_data::tokenize::{MAX_TEXT_BYTES, Tokens};
use hone_engine::kernels::calls::Calls;
use hone_storage::Version;

/// Texts of a request at most.
pub const MAX_INPUTS: usize = 1024;

/// Text of all requests together, in KiB, that the daemon holds at most.
const ADMITTED_KIB: usize = 256 << 10;

/// Texts that one task turns into tokens at most.
const PIECE_TEXTS: usize = 16;

/// Bytes of texts from which on a task takes no further text.
const PIECE_BYTES: usize = 64 << 10;

/// Answers requests.
#[derive(Clone)]
pub struct Serving {
    models: Arc<Models>,
    calls: Calls,
    room: Arc<Semaphore>,
    /// Turn texts into tokens.
    tokens: Workers,
}

/// A text or pair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub text_pair: Option<String>,
}

/// The answer to a request.
#[derive(Debug)]
pub struct Classified {
    /// What answered.
    pub version: Arc<Version>,
    /// One for each input, in order.
    pub predictions: Vec<Prediction>,
    /// Where the time went.
    pub timings: Timings,
}

/// The answer to an input.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Every label with its probability, the highest first.
    pub scores: Vec<Score>,
    /// The labels that the text has: the one with the highest probability, or, where a text may have several, those
    /// that reach their thresholds.
    pub labels: Vec<String>,
    /// Tokens that were computed, special tokens included.
    pub tokens: usize,
    /// Whether the input was cut.
    pub truncated: bool,
}

/// A label and how probable it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// The label.
    pub label: String,
    /// Its probability.
    pub score: f32,
    /// The score from which on it is set, where a text may have several labels.
    pub threshold: Option<f32>,
}

/// Where a request's time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Text to tokens.
    pub tokenize: Duration,
    /// From the queue's end to the first batch.
    pub queue: Duration,
    /// From the first batch to the last answer.
    pub compute: Duration,
    /// All of it, loading of the model included.
    pub total: Duration,
}

impl Serving {
    /// Answers with these models, on these threads.
    pub fn new(models: Arc<Models>, lanes: Lanes) -> Self {
        Self {
            models,
            room: Arc::new(Semaphore::new(ADMITTED_KIB)),
            tokens: lanes.tokens,
            calls: lanes.calls,
        }
    }

    /// Classifies the inputs of one request. When the future is dropped, what waits is not computed.
    pub async fn classify(&self, reference: &str, inputs: Vec<Input>) -> Result<Classified> {
        let mut observed = self.models.metrics.models.classification();
        let answer = self.answer(reference, inputs, &mut observed).await;
        observed.ended(answer)
    }

    async fn answer(
        &self,
        reference: &str,
        inputs: Vec<Input>,
        observed: &mut Classification<'_>,
    ) -> Result<Classified> {
        let start = Instant::now();
        let bytes = check(&inputs)?;
        let _room = self.room.try_acquire_many((bytes / 1024 + inputs.len()) as u32).map_err(|_| {
            Error::new(
                Kind::Exhausted,
                "the daemon holds as many requests as it can; try again, or send fewer at once",
            )
        })?;
        let version = self.models.resolve(reference).await?;
        observed.found(&version.name);
        let loading = Instant::now();
        let (mut worker, ready) = self.models.cache.ready(&version).await?;
        observed.stage(Stage::Load, loading, Instant::now());
        let tokenizing = Instant::now();
        let mut tokens = self.tokenize(ready.clone(), inputs).await?;
        let tokenize = tokenizing.elapsed();
        observed.stage(Stage::Tokenize, tokenizing, Instant::now());
        let facts: Vec<(usize, bool)> =
            tokens.iter().map(|tokens| (tokens.ids.len(), tokens.full_length > tokens.ids.len())).collect();

        let queued = Instant::now();
        let answers = loop {
            match worker.submit(tokens, self.calls.enter()) {
                Ok(answers) => break answers,
                Err(Refused::Full(error)) => return Err(error),
                // Unloaded to make room since this request came: load it again.
                Err(Refused::Closed(back)) => tokens = back,
            }
            (worker, _) = self.models.cache.ready(&version).await?;
        };
        let (scores, began, done) = collect(answers, facts.len()).await?;
        observed.stage(Stage::Queue, queued, began);
        observed.stage(Stage::Compute, began, done);
        observed.answered(facts.len(), facts.iter().map(|(tokens, _)| tokens).sum());
        let predictions = scores.into_iter().zip(facts).map(|(scores, (tokens, truncated))| {
            let scores = ranked(&ready, &scores)?;
            Ok(Prediction { labels: set(&scores), scores, tokens, truncated })
        });
        Ok(Classified {
            predictions: predictions.collect::<Result<_>>()?,
            version,
            timings: Timings {
                tokenize,
                queue: began.saturating_duration_since(queued),
                compute: done.saturating_duration_since(began),
                total: start.elapsed(),
            },
        })
    }

    /// The tokens of all inputs, in order. A request with many takes a thread for a piece of it at a time, in turn with
    /// other requests.
    async fn tokenize(&self, ready: Arc<Ready>, inputs: Vec<Input>) -> Result<Vec<Tokens>> {
        let mut tokens = Vec::with_capacity(inputs.len());
        let (mut begun, mut first) = (Vec::new(), 0);
        let call = Arc::new(self.calls.enter());
        for piece in pieces(inputs) {
            let (ready, call, place) = (ready.clone(), call.clone(), first);
            first += piece.len();
            let encode = move || {
                let _call = call;
                encode(&ready, &piece, place)
            };
            begun.push(self.tokens.start(encode).await?);
        }
        for work in begun {
            tokens.append(&mut work.result().await?);
        }
        Ok(tokens)
    }
}

/// The inputs in order, a piece for each task.
fn pieces(inputs: Vec<Input>) -> Vec<Vec<Input>> {
    let mut pieces: Vec<Vec<Input>> = Vec::new();
    let mut bytes = 0;
    for input in inputs {
        let size = input.text.len() + input.text_pair.as_ref().map_or(0, String::len);
        match pieces.last_mut().filter(|piece| piece.len() < PIECE_TEXTS && bytes < PIECE_BYTES) {
            Some(piece) => piece.push(input),
            None => {
                bytes = 0;
                pieces.push(vec![input]);
            }
        }
        bytes += size;
    }
    pieces
}

/// The tokens of inputs, the first of which has this place in its request.
fn encode(ready: &Ready, inputs: &[Input], first: usize) -> Result<Vec<Tokens>> {
    let encode = |(place, input): (usize, &Input)| {
        let tokens = ready.tokenizer.encode(&input.text, input.text_pair.as_deref());
        tokens.map_err(|error| error.within(format!("inputs[{place}]")))
    };
    (first..).zip(inputs).map(encode).collect()
}

/// Checks the inputs and counts their bytes.
fn check(inputs: &[Input]) -> Result<usize> {
    if inputs.is_empty() || inputs.len() > MAX_INPUTS {
        return Err(Error::invalid(format!(
            "a request has 1 to {MAX_INPUTS} inputs; this one has {}",
            inputs.len()
        )));
    }
    let mut bytes = 0;
    for (place, input) in inputs.iter().enumerate() {
        for (field, text) in [("text", Some(&input.text)), ("text_pair", input.text_pair.as_ref())] {
            let length = text.map_or(0, String::len);
            if length > MAX_TEXT_BYTES {
                return Err(Error::invalid(format!(
                    "inputs[{place}].{field} has {length} bytes; a text has at most {MAX_TEXT_BYTES}"
                )));
            }
            bytes += length;
        }
    }
    Ok(bytes)
}

/// The scores of all sequences in order, when the first batch began, and when the last answer was there.
async fn collect(
    mut answers: tokio::sync::mpsc::Receiver<Answer>,
    count: usize,
) -> Result<(Vec<Vec<f32>>, Instant, Instant)> {
    let mut scores = vec![Vec::new(); count];
    let mut span: Option<(Instant, Instant)> = None;
    for _ in 0..count {
        let Some(answer) = answers.recv().await else {
            return Err(Error::new(
                Kind::Unavailable,
                "the model was unloaded before it answered; try again",
            ));
        };
        let given = answer.scores.map_err(|error| match count {
            1 => error,
            _ => error.within(format!("inputs[{}]", answer.place)),
        })?;
        if let Some(place) = scores.get_mut(answer.place) {
            *place = given;
        }
        let (began, done) = span.unwrap_or((answer.began, answer.done));
        span = Some((began.min(answer.began), done.max(answer.done)));
    }
    let (began, done) = span.ok_or_else(|| Error::internal("a request without inputs was queued"))?;
    Ok((scores, began, done))
}

/// The scores with their labels, the highest first.
fn ranked(ready: &Ready, scores: &[f32]) -> Result<Vec<Score>> {
    if scores.len() != ready.labels.len() || scores.iter().any(|score| !score.is_finite()) {
        return Err(Error::internal("the model's scores are not numbers; its weights may be damaged"));
    }
    let score = |(class, (label, &score)): (usize, (&String, &f32))| {
        let threshold = ready.thresholds.as_ref().and_then(|thresholds| thresholds.get(class).copied());
        Score { label: label.clone(), score, threshold }
    };
    let mut ranked: Vec<Score> = ready.labels.iter().zip(scores).enumerate().map(score).collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    Ok(ranked)
}

/// The labels that a text with these scores has.
fn set(ranked: &[Score]) -> Vec<String> {
    let is_set = |(place, score): &(usize, &Score)| match score.threshold {
        Some(threshold) => score.score >= threshold,
        None => *place == 0,
    };
    ranked.iter().enumerate().filter(is_set).map(|(_, score)| score.label.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::{Bench, input};

    #[tokio::test]
    async fn a_request_is_answered_in_order_with_the_highest_score_first() {
        let bench = Bench::new();
        bench.publish("reviews");
        let serving = bench.serving();
        let inputs = (0..100).map(|i| input(if i % 3 == 0 { "good" } else { "dull film" })).collect();
        let answer = serving.classify("reviews", inputs).await.unwrap();
        assert_eq!(answer.version.version, 1);
        for (place, prediction) in answer.predictions.iter().enumerate() {
            let expected = if place % 3 == 0 { ("positive", 1) } else { ("negative", 2) };
            assert_eq!((prediction.scores[0].label.as_str(), prediction.tokens), expected);
            assert!(prediction.scores[0].score >= prediction.scores[1].score);
            assert_eq!(prediction.labels, [expected.0]);
        }
        bench.models.shut_down();
    }

    #[test]
    fn where_a_text_may_have_several_labels_it_has_those_that_reach_their_thresholds() {
        let score = |label: &str, score, threshold| Score { label: label.to_owned(), score, threshold };
        let scores = [("a", 0.9, 0.95), ("b", 0.6, 0.5), ("c", 0.2, 0.2)];
        let scores = scores.map(|(label, of, threshold)| score(label, of, Some(threshold)));
        assert_eq!(set(&scores), ["b", "c"]);
        assert!(set(&scores[..1]).is_empty());
        assert_eq!(set(&[score("a", 0.4, None), score("b", 0.3, None)]), ["a"]);
    }

    #[tokio::test]
    async fn inputs_outside_the_limits_are_refused_by_place() {
        let bench = Bench::new();
        bench.publish("reviews");
        let serving = bench.serving();
        let message = async |inputs| {
            let error = serving.classify("reviews", inputs).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            error.message().to_owned()
        };
        assert!(message(vec![]).await.contains("has 0"));
        assert!(message(vec![input("a"); 1025]).await.contains("has 1025"));
        let long = message(vec![input("a"), input(&"x".repeat(10 << 20))]).await;
        assert!(long.contains("inputs[1].text has 10485760 bytes") && long.contains("1048576"), "{long}");
    }

    #[tokio::test]
    async fn one_bad_member_fails_no_other_and_takes_nothing_down() {
        let bench = Bench::new();
        bench.publish("reviews");
        let serving = bench.serving();
        let requests = ["good", "fail", "panic", "good"].map(|text| serving.classify("", vec![input(text)]));
        let [a, fail, panic, b] = requests;
        let (a, fail, panic, b) = tokio::join!(a, fail, panic, b);
        assert_eq!(a.unwrap().predictions[0].scores[0].label, "positive");
        assert_eq!(fail.unwrap_err().kind(), Kind::Exhausted);
        assert!(panic.unwrap_err().message().contains("bug in Hone"));
        assert_eq!(b.unwrap().predictions[0].scores[0].label, "positive");
        bench.models.shut_down();
    }

    #[tokio::test]
    async fn a_caller_that_went_away_costs_no_computation() {
        let bench = Bench::new();
        bench.publish("reviews");
        let serving = bench.serving();
        serving.classify("", vec![input("good")]).await.unwrap();
        let slow = tokio::spawn({
            let serving = serving.clone();
            async move { serving.classify("", vec![input("slow")]).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let gone = serving.classify("", vec![input("gone")]);
        assert!(tokio::time::timeout(Duration::from_millis(50), gone).await.is_err());
        slow.await.unwrap().unwrap();
        serving.classify("", vec![input("good")]).await.unwrap();
        assert!(!bench.seen().contains(&"gone".to_owned()));
        bench.models.shut_down();
    }

    #[test]
    fn a_request_is_cut_into_pieces_of_few_texts_and_few_bytes() {
        let sizes = |texts: Vec<Input>| pieces(texts).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![input("good"); 35]), [16, 16, 3]);
        let long = input(&"x".repeat(PIECE_BYTES / 2));
        assert_eq!(sizes(vec![long; 5]), [2, 2, 1]);
        let pair = Input { text_pair: Some("x".repeat(PIECE_BYTES)), ..input("good") };
        assert_eq!(sizes(vec![pair, input("good")]), [1, 1]);
    }

    #[tokio::test]
    async fn requests_go_on_while_versions_come_and_go() {
        let bench = Bench::new();
        bench.publish("reviews");
        let serving = bench.serving();
        for round in 0..20 {
            bench.publish("reviews");
            let requests: Vec<_> = (1..=round % 6 + 1)
                .map(|version| {
                    let serving = serving.clone();
                    tokio::spawn(async move {
                        serving.classify(&format!("reviews@{version}"), vec![input("good")]).await
                    })
                })
                .collect();
            for request in requests {
                request.await.unwrap().unwrap();
            }
        }
        assert_eq!(serving.classify("reviews", vec![input("good")]).await.unwrap().version.version, 21);
        bench.models.shut_down();
    }
}
