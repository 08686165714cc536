//! A request on its way: admitted, turned into tokens, queued, answered. An input that cannot be answered has its own error
//! and fails no other, unless the caller wants all or nothing.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use super::answer::{Classified, Prediction, Timings};
use super::options::{Fit, Options, RETRY};
use super::registry::Models;
use super::worker::{Answer, Ready, Refused};
use crate::lanes::Lanes;
use crate::workers::Workers;
use hone_base::error::{Error, Kind, Result};
use hone_data::tokenize::{MAX_TEXT_BYTES, Tokens};
use hone_engine::kernels::calls::Calls;

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
    pub(super) models: Arc<Models>,
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

    /// Classifies the inputs of one request. When the future is dropped, or the deadline passes, what waits is not computed.
    ///
    /// # Errors
    /// Of the request as a whole: its number of inputs, its options, its model, no room, its deadline; and the error of an
    /// input that is the only one, or the first one where all or nothing is wanted.
    pub async fn classify(
        &self,
        reference: &str,
        inputs: Vec<Input>,
        options: &Options,
    ) -> Result<Classified> {
        let answer = self.answer(reference, inputs, options);
        let Some(deadline) = options.deadline else { return answer.await };
        tokio::time::timeout_at(deadline.into(), answer).await.unwrap_or_else(|_| {
            Err(Error::new(Kind::Deadline, "the request's deadline has passed before it was answered"))
        })
    }

    async fn answer(&self, reference: &str, inputs: Vec<Input>, options: &Options) -> Result<Classified> {
        let start = Instant::now();
        let count = inputs.len();
        if count == 0 || count > MAX_INPUTS {
            let why = format!("a request has 1 to {MAX_INPUTS} inputs; this one has {count}");
            return Err(Error::invalid_field("inputs", why));
        }
        let bytes: usize = inputs.iter().map(Input::bytes).sum();
        let _room = self.room.try_acquire_many((bytes / 1024 + count) as u32).map_err(|_| {
            Error::busy(
                RETRY,
                "the daemon holds as many requests as it can; try again, or send fewer at once",
            )
        })?;
        let version = self.models.resolve(reference).await?;
        let (mut worker, ready) = self.models.cache.ready(&version).await?;
        let fit = options.fit(&*ready.tokenizer)?;
        if options.min_score.is_some() && ready.thresholds.is_some() {
            let why = "`min_score` is for models whose texts have one label; each label of this one has its own threshold";
            return Err(Error::invalid_field("min_score", why));
        }
        let tokenizing = Instant::now();
        let members = self.tokenize(ready.clone(), fit, inputs).await?;
        let tokenize = tokenizing.elapsed();
        let all_or_nothing = options.all_or_nothing || count == 1;
        if all_or_nothing {
            fail_as_one(&members)?;
        }

        let queued = Instant::now();
        let mut sequences = Vec::with_capacity(count);
        // Of each input: how many tokens it has, and whether it was cut.
        let members: Vec<Result<(usize, bool)>> = members
            .into_iter()
            .map(|tokens| {
                let tokens = tokens?;
                let fact = (tokens.ids.len(), tokens.full_length > tokens.ids.len());
                sequences.push(tokens);
                Ok(fact)
            })
            .collect();
        let waiting = sequences.len();
        let (logits, began, done) = match waiting {
            0 => (Vec::new(), queued, queued),
            _ => loop {
                match worker.submit(sequences, self.calls.enter()) {
                    Ok(answers) => break collect(answers, waiting).await?,
                    Err(Refused::Full(error)) => return Err(error),
                    // Unloaded to make room since this request came: load it again.
                    Err(Refused::Closed(back)) => sequences = back,
                }
                (worker, _) = self.models.cache.ready(&version).await?;
            },
        };
        let mut logits = logits.into_iter();
        let predict = |member: Result<(usize, bool)>| {
            let (tokens, truncated) = member?;
            let logits = logits.next().ok_or_else(|| Error::internal("an answer is missing"))??;
            Prediction::new(&ready, logits, options.min_score, tokens, truncated)
        };
        let predictions: Vec<Result<Prediction>> = members.into_iter().map(predict).collect();
        if all_or_nothing {
            fail_as_one(&predictions)?;
        }
        Ok(Classified {
            predictions,
            version,
            ready,
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
    async fn tokenize(&self, ready: Arc<Ready>, fit: Fit, inputs: Vec<Input>) -> Result<Vec<Result<Tokens>>> {
        let mut tokens = Vec::with_capacity(inputs.len());
        let (mut begun, mut first) = (Vec::new(), 0);
        let call = Arc::new(self.calls.enter());
        for piece in pieces(inputs) {
            let (ready, call, place) = (ready.clone(), call.clone(), first);
            first += piece.len();
            let encode = move || {
                let _call = call;
                Ok((place..)
                    .zip(&piece)
                    .map(|(place, input)| encode(&ready, fit, input, place))
                    .collect::<Vec<_>>())
            };
            begun.push(self.tokens.start(encode).await?);
        }
        for work in begun {
            tokens.append(&mut work.result().await?);
        }
        Ok(tokens)
    }
}

impl Input {
    fn bytes(&self) -> usize {
        self.text.len() + self.text_pair.as_ref().map_or(0, String::len)
    }
}

/// The inputs in order, a piece for each task.
fn pieces(inputs: Vec<Input>) -> Vec<Vec<Input>> {
    let mut pieces: Vec<Vec<Input>> = Vec::new();
    let mut bytes = 0;
    for input in inputs {
        let size = input.bytes();
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

/// The tokens of the input that has this place in its request.
fn encode(ready: &Ready, fit: Fit, input: &Input, place: usize) -> Result<Tokens> {
    for (field, text) in [("text", Some(&input.text)), ("text_pair", input.text_pair.as_ref())] {
        let length = text.map_or(0, String::len);
        if length > MAX_TEXT_BYTES {
            let why = format!("it has {length} bytes; a text has at most {MAX_TEXT_BYTES}");
            return Err(Error::invalid_field(format!("inputs[{place}].{field}"), why));
        }
    }
    let tokens = fit.encode(&*ready.tokenizer, &input.text, input.text_pair.as_deref());
    tokens.map_err(|error| match (error.kind(), &input.text_pair) {
        (Kind::Invalid, None) => error.of_field(format!("inputs[{place}].text")),
        (Kind::Invalid, Some(_)) => error.of_field(format!("inputs[{place}]")),
        _ => error,
    })
}

/// Fails with the first error of the inputs, which names its input.
fn fail_as_one<T>(members: &[Result<T>]) -> Result<()> {
    let failed = members.iter().enumerate().find_map(|(place, member)| Some((place, member.as_ref().err()?)));
    let Some((place, error)) = failed else { return Ok(()) };
    let error = error.clone();
    Err(match error.wrong_field().map(str::to_owned) {
        Some(field) => error.within(field),
        None if members.len() > 1 => error.within(format!("inputs[{place}]")),
        None => error,
    })
}

/// The logits of all sequences in order, when the first batch began, and when the last answer was there.
async fn collect(
    mut answers: tokio::sync::mpsc::Receiver<Answer>,
    count: usize,
) -> Result<(Vec<Result<Vec<f32>>>, Instant, Instant)> {
    let mut logits = vec![Ok(Vec::new()); count];
    let mut span: Option<(Instant, Instant)> = None;
    for _ in 0..count {
        let Some(answer) = answers.recv().await else {
            let why = "the model was unloaded before it answered; try again";
            return Err(Error::new(Kind::Unavailable, why).retry_after(RETRY));
        };
        if let Some(place) = logits.get_mut(answer.place) {
            *place = answer.logits;
        }
        let (began, done) = span.unwrap_or((answer.began, answer.done));
        span = Some((began.min(answer.began), done.max(answer.done)));
    }
    let (began, done) = span.ok_or_else(|| Error::internal("a request without inputs was queued"))?;
    Ok((logits, began, done))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;
    use std::time::Duration;

    use super::*;
    use crate::serve::options::{MinScore, Side};
    use crate::serve::testing::{Bench, MAX_LENGTH, input};

    async fn ask(serving: &Serving, reference: &str, inputs: Vec<Input>) -> Result<Classified> {
        serving.classify(reference, inputs, &Options::default()).await
    }

    /// The class of a request's only input.
    fn class(answer: Result<Classified>) -> usize {
        answer.unwrap().predictions.remove(0).unwrap().labels[0]
    }

    #[tokio::test]
    async fn a_request_is_answered_in_order_with_the_highest_score_first() {
        let bench = Bench::new();
        bench.publish("reviews");
        let serving = bench.serving();
        let inputs = (0..100).map(|i| input(if i % 3 == 0 { "good" } else { "dull film" })).collect();
        let answer = ask(&serving, "reviews", inputs).await.unwrap();
        assert_eq!((answer.version.version, answer.tokens()), (1, 34 + 2 * 66));
        for (place, prediction) in answer.predictions.into_iter().enumerate() {
            let prediction = prediction.unwrap();
            let (class, tokens) = if place % 3 == 0 { (1, 1) } else { (0, 2) };
            assert_eq!((prediction.labels.as_slice(), prediction.tokens), (&[class][..], tokens));
            assert_eq!(prediction.ranked(), [class, 1 - class]);
            assert_eq!(prediction.logits, if class == 1 { [-1.0, 1.0] } else { [1.0, -0.5] });
        }
        bench.models.shut_down();
    }

    #[tokio::test]
    async fn a_number_of_inputs_outside_the_limits_is_an_error_of_the_request() {
        let bench = Bench::new();
        bench.publish("reviews");
        let serving = bench.serving();
        for (inputs, words) in [(vec![], "has 0"), (vec![input("a"); 1025], "has 1025")] {
            let error = ask(&serving, "reviews", inputs).await.err().unwrap();
            assert_eq!((error.kind(), error.wrong_field()), (Kind::Invalid, Some("inputs")));
            assert!(error.message().contains(words), "{error}");
        }
    }

    #[tokio::test]
    async fn one_bad_input_has_its_own_error_and_fails_no_other() {
        let bench = Bench::new();
        bench.publish("reviews");
        let serving = bench.serving();
        let long = input(&"x".repeat(10 << 20));
        let inputs = || ["good", "", "fail", "panic", "good"].map(input).to_vec();
        let with_long = || [vec![long.clone()], inputs()].concat();
        let answer = ask(&serving, "", with_long()).await.unwrap();
        let [too_long, good, dull, fail, panic, last] = answer.predictions.try_into().unwrap();
        let too_long = too_long.unwrap_err();
        assert_eq!((too_long.kind(), too_long.wrong_field()), (Kind::Invalid, Some("inputs[0].text")));
        assert!(too_long.message().contains("10485760 bytes") && too_long.message().contains("1048576"));
        assert_eq!(
            (good.unwrap().labels, dull.unwrap().labels, last.unwrap().labels),
            (vec![1], vec![0], vec![1])
        );
        assert_eq!(fail.unwrap_err().kind(), Kind::Exhausted);
        assert!(panic.unwrap_err().message().contains("bug in Hone"));

        let seen = bench.seen().len();
        let together = Options { all_or_nothing: true, ..Options::default() };
        let error = serving.classify("", with_long(), &together).await.err().unwrap();
        assert!(error.message().starts_with("inputs[0].text: it has 10485760 bytes"), "{error}");
        assert_eq!(bench.seen().len(), seen, "nothing is computed for a request that fails");
        let error = serving.classify("", inputs(), &together).await.err().unwrap();
        assert_eq!((error.kind(), error.message()), (Kind::Exhausted, "inputs[2]: out of memory"));
        bench.models.shut_down();
    }

    #[tokio::test]
    async fn the_error_of_the_only_input_is_the_requests() {
        let bench = Bench::new();
        bench.publish("reviews");
        let serving = bench.serving();
        let requests = ["good", "fail", "panic", "good"].map(|text| ask(&serving, "", vec![input(text)]));
        let [a, fail, panic, b] = requests;
        let (a, fail, panic, b) = tokio::join!(a, fail, panic, b);
        assert_eq!((class(a), class(b)), (1, 1));
        assert_eq!(fail.err().unwrap().kind(), Kind::Exhausted);
        assert!(panic.err().unwrap().message().contains("bug in Hone"));
        bench.models.shut_down();
    }

    #[tokio::test]
    async fn a_caller_says_how_long_texts_are_cut() {
        let bench = Bench::new();
        bench.publish("reviews");
        let serving = bench.serving();
        let ask = async |max_length, side, texts: &[&str]| {
            let options = Options { max_length: NonZeroUsize::new(max_length), side, ..Options::default() };
            serving.classify("", texts.iter().map(|text| input(text)).collect(), &options).await
        };
        let text = "good dull dull";
        assert_eq!(class(ask(1, Side::AsModel, &[text]).await), 1);
        assert_eq!(class(ask(1, Side::Right, &[text]).await), 1);
        assert_eq!(class(ask(2, Side::Left, &[text]).await), 0);
        let answer = ask(2, Side::Left, &[text, "good"]).await.unwrap();
        let cut: Vec<(usize, bool)> =
            answer.predictions.into_iter().map(Result::unwrap).map(|it| (it.tokens, it.truncated)).collect();
        assert_eq!(cut, [(2, true), (1, false)]);

        let answer = ask(2, Side::Refuse, &["good dull", text]).await.unwrap();
        let error = answer.predictions[1].as_ref().unwrap_err();
        assert_eq!((error.kind(), error.wrong_field()), (Kind::Invalid, Some("inputs[1].text")));
        assert!(error.message().contains("3 tokens, and at most 2"), "{error}");
        assert!(answer.predictions[0].is_ok());
        let error = ask(MAX_LENGTH + 1, Side::AsModel, &["good"]).await.err().unwrap();
        assert_eq!((error.kind(), error.wrong_field()), (Kind::Invalid, Some("max_length")));
        assert!(error.message().contains("from 1 to 12"), "{error}");
        bench.models.shut_down();
    }

    #[tokio::test]
    async fn a_score_below_the_least_that_is_asked_for_is_no_label() {
        let bench = Bench::new();
        bench.publish("reviews");
        let options =
            |score| Options { min_score: Some(MinScore::new(score).unwrap()), ..Options::default() };
        for (score, labels) in [(0.5, vec![1]), (0.9, vec![])] {
            let answer = bench.serving().classify("", vec![input("good")], &options(score)).await.unwrap();
            assert_eq!(answer.predictions[0].as_ref().unwrap().labels, labels);
        }
        bench.models.shut_down();
    }

    #[tokio::test]
    async fn a_request_whose_deadline_passes_ends_then_and_is_not_computed() {
        let bench = Bench::new();
        bench.publish("reviews");
        let serving = bench.serving();
        ask(&serving, "", vec![input("good")]).await.unwrap();
        let slow = tokio::spawn({
            let serving = serving.clone();
            async move { ask(&serving, "", vec![input("slow")]).await.map(drop) }
        });
        while !bench.seen().contains(&"slow".to_owned()) {
            tokio::task::yield_now().await;
        }
        let options =
            Options { deadline: Some(Instant::now() + Duration::from_millis(20)), ..Options::default() };
        let error = serving.classify("", vec![input("gone")], &options).await.err().unwrap();
        assert_eq!(error.kind(), Kind::Deadline);
        slow.await.unwrap().unwrap();
        ask(&serving, "", vec![input("good")]).await.unwrap();
        assert!(!bench.seen().contains(&"gone".to_owned()));
        bench.models.shut_down();
    }

    #[tokio::test]
    async fn a_caller_that_went_away_costs_no_computation() {
        let bench = Bench::new();
        bench.publish("reviews");
        let serving = bench.serving();
        ask(&serving, "", vec![input("good")]).await.unwrap();
        let slow = tokio::spawn({
            let serving = serving.clone();
            async move { ask(&serving, "", vec![input("slow")]).await }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let gone = ask(&serving, "", vec![input("gone")]);
        assert!(tokio::time::timeout(Duration::from_millis(50), gone).await.is_err());
        slow.await.unwrap().unwrap();
        ask(&serving, "", vec![input("good")]).await.unwrap();
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
                        ask(&serving, &format!("reviews@{version}"), vec![input("good")]).await
                    })
                })
                .collect();
            for request in requests {
                request.await.unwrap().unwrap();
            }
        }
        assert_eq!(ask(&serving, "reviews", vec![input("good")]).await.unwrap().version.version, 21);
        bench.models.shut_down();
    }
}
