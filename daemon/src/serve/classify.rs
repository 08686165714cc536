//! A request on its way: admitted, turned into tokens, queued, answered. An input that cannot be answered has its own error
//! and fails no other, unless the caller wants all or nothing.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Semaphore;

use super::answer::{Classified, Prediction, Timings};
use super::answer_cache::{AnswerCache, Key};
use super::dispatcher::{Answer, Content, Dispatcher, Order, Scored};
use super::input::{Input, encode, is_small, pieces};
use super::options::{Fit, Options, RETRY, Side, going_down};
use super::promotion::Route;
use super::registry::Models;
use super::worker::Ready;
use crate::lanes::Lanes;
use crate::metrics::{Classification, Stage};
use crate::workers::Workers;
use hone_base::error::{Error, Kind, Result};
use hone_data::tokenize::Tokens;
use hone_engine::kernels::calls::Calls;

/// Texts of a request at most.
pub const MAX_INPUTS: usize = 1024;

/// Text of all requests together, in KiB, that the daemon holds at most.
const ADMITTED_KIB: usize = 256 << 10;

/// Answers requests.
#[derive(Clone)]
pub struct Serving {
    pub(super) models: Arc<Models>,
    dispatcher: Arc<Dispatcher>,
    calls: Calls,
    room: Arc<Semaphore>,
    /// Turn texts into tokens.
    tokens: Workers,
    /// Answers that were given before, if they are kept.
    known: Option<Arc<AnswerCache>>,
    /// Of the requests of a stream one at a time asks for its place in the queue.
    stream: Option<Arc<Semaphore>>,
}

/// An input of a request: its answer is known, or will be kept under this key.
enum Member {
    Known(Arc<Scored>),
    Asked(Option<Key>),
}

/// What was computed for the inputs of a request, and when.
struct Computed {
    scored: Vec<Result<Scored>>,
    timings: Timings,
}

impl Serving {
    /// Answers with these models, on these threads.
    pub fn new(models: Arc<Models>, dispatcher: Arc<Dispatcher>, lanes: Lanes) -> Self {
        Self {
            models,
            dispatcher,
            room: Arc::new(Semaphore::new(ADMITTED_KIB)),
            tokens: lanes.tokens,
            calls: lanes.calls,
            known: None,
            stream: None,
        }
    }

    /// Keeps answers to texts that come again in so many bytes of memory; 0 keeps none.
    #[must_use]
    pub fn keeping(self, bytes: u64) -> Self {
        Self { known: (bytes > 0).then(|| Arc::new(AnswerCache::new(bytes))), ..self }
    }

    /// The same for the requests of one stream: each waits until there is room for it, in their order, because the stream
    /// sends no more meanwhile. It is refused only if others take the room.
    #[must_use]
    pub fn for_stream(&self) -> Self {
        Self { stream: Some(Arc::new(Semaphore::new(1))), ..self.clone() }
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
        let mut observed = self.models.metrics.models.classification();
        let answer = self.answer(reference, inputs, options, &mut observed);
        let answer = match options.deadline {
            None => answer.await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), answer).await.unwrap_or_else(|_| {
                Err(Error::new(Kind::Deadline, "the request's deadline has passed before it was answered"))
            }),
        };
        observed.ended(answer)
    }

    async fn answer(
        &self,
        reference: &str,
        inputs: Vec<Input>,
        options: &Options,
        observed: &mut Classification<'_>,
    ) -> Result<Classified> {
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
        let Route { version, shadow } = self.models.route(reference, options.routing_key.as_deref()).await?;
        // Texts that are cut in another way have no answers to compare.
        let shadow = shadow.filter(|_| options.max_length.is_none() && options.side == Side::AsModel);
        let compared = shadow.as_ref().map(|_| inputs.clone());
        observed.found(&version.name);
        let loading = Instant::now();
        let ready = self.models.cache.ready(&version).await?;
        observed.stage(Stage::Load, loading, Instant::now());
        let fit = options.fit(&*ready.tokenizer)?;
        if options.min_score.is_some() && ready.thresholds.is_some() {
            let why = "`min_score` is for models whose texts have one label; each label of this one has its own threshold";
            return Err(Error::invalid_field("min_score", why));
        }
        let together = options.all_or_nothing || count == 1;
        let (members, asked) = self.look_up(&ready, fit, inputs);
        observed.cached(members.len() - asked.len());
        let Computed { scored, timings } =
            self.compute(&ready, fit, asked, options, together, observed).await?;
        let mut scored = scored.into_iter();
        let predictions: Vec<Result<Prediction>> = members
            .into_iter()
            .map(|member| {
                let scored = match member {
                    Member::Known(scored) => scored,
                    Member::Asked(key) => {
                        let next = scored.next().ok_or_else(|| Error::internal("an answer is missing"))?;
                        let scored = Arc::new(next?);
                        if let Some((known, key)) = self.known.as_ref().zip(key) {
                            known.keep(key, scored.clone());
                        }
                        scored
                    }
                };
                Prediction::new(&ready, &scored, options.min_score)
            })
            .collect();
        if together {
            fail_as_one(predictions.iter().enumerate())?;
        }
        let answered = predictions.iter().flatten();
        observed.answered(answered.clone().count(), answered.map(|prediction| prediction.tokens).sum());
        let timings = Timings { total: start.elapsed(), ..timings };
        let answer = Classified { predictions, version, ready, timings };
        if let Some((shadow, inputs)) = shadow.zip(compared) {
            shadow.compare(inputs, &answer);
        }
        Ok(answer)
    }

    /// What is known of the inputs, and those that have to be computed, with their places.
    fn look_up(&self, ready: &Ready, fit: Fit, inputs: Vec<Input>) -> (Vec<Member>, Vec<(usize, Input)>) {
        let mut asked = Vec::with_capacity(inputs.len());
        let member = |(place, input): (usize, Input)| {
            let known = self.known.as_ref().filter(|_| !fit.refuses());
            let key = known
                .map(|_| Key::new(ready.served.id(), fit.cut(), &input.text, input.text_pair.as_deref()));
            match known.zip(key).and_then(|(known, key)| known.get(&key)) {
                Some(scored) => Member::Known(scored),
                None => {
                    asked.push((place, input));
                    Member::Asked(key)
                }
            }
        };
        (inputs.into_iter().enumerate().map(member).collect(), asked)
    }

    /// What the model says of each input.
    async fn compute(
        &self,
        ready: &Arc<Ready>,
        fit: Fit,
        inputs: Vec<(usize, Input)>,
        options: &Options,
        together: bool,
        observed: &mut Classification<'_>,
    ) -> Result<Computed> {
        if inputs.is_empty() {
            return Ok(Computed { scored: Vec::new(), timings: Timings::default() });
        }
        let bytes: Vec<usize> = inputs.iter().map(|(_, input)| input.bytes()).collect();
        let order = Order { priority: options.priority.get().into(), deadline: options.deadline };
        let admitted = match &self.stream {
            Some(turns) => {
                // It is never closed, so there is always a turn.
                let _turn = turns.acquire().await;
                self.dispatcher.admit_patiently(&ready.served, order, &bytes).await?
            }
            None => self.dispatcher.admit(&ready.served, order, &bytes)?,
        };
        let call = self.calls.enter();
        let tokenizing = Instant::now();
        let contents: Vec<Result<Content>> = if is_small(&bytes) {
            let text = |((place, input), bytes): ((usize, Input), usize)| {
                let ready = ready.clone();
                Ok(Content::Text(bytes, Box::new(move || encode(&ready, fit, &input, place))))
            };
            inputs.into_iter().zip(bytes).map(text).collect()
        } else {
            let places: Vec<usize> = inputs.iter().map(|(place, _)| *place).collect();
            let tokens = self.tokenize(ready.clone(), fit, inputs).await?;
            if together {
                fail_as_one(places.into_iter().zip(&tokens))?;
            }
            tokens.into_iter().map(|tokens| tokens.map(Content::Tokens)).collect()
        };
        let queued = Instant::now();
        let mut sequences = Vec::with_capacity(contents.len());
        let failed: Vec<Result<()>> =
            contents.into_iter().map(|content| content.map(|content| sequences.push(content))).collect();
        let count = sequences.len();
        let (scored, began, done) = match count {
            0 => (Vec::new(), queued, queued),
            _ => collect(admitted.queue(sequences, call), count).await?,
        };
        observed.stage(Stage::Tokenize, tokenizing, queued);
        observed.stage(Stage::Queue, queued, began);
        observed.stage(Stage::Compute, began, done);
        let mut scored = scored.into_iter();
        let missing = || Error::internal("an answer is missing");
        let scored = failed.into_iter().map(|of| of.and_then(|()| scored.next().ok_or_else(missing)?));
        let timings = Timings {
            tokenize: queued - tokenizing,
            queue: began.saturating_duration_since(queued),
            compute: done.saturating_duration_since(began),
            ..Timings::default()
        };
        Ok(Computed { scored: scored.collect(), timings })
    }

    /// The tokens of inputs, in order. A request with many takes a thread for a piece of it at a time, in turn with
    /// other requests.
    async fn tokenize(
        &self,
        ready: Arc<Ready>,
        fit: Fit,
        inputs: Vec<(usize, Input)>,
    ) -> Result<Vec<Result<Tokens>>> {
        let mut tokens = Vec::with_capacity(inputs.len());
        let mut begun = Vec::new();
        let call = Arc::new(self.calls.enter());
        for piece in pieces(inputs) {
            let (ready, call) = (ready.clone(), call.clone());
            let encode = move || {
                let _call = call;
                Ok(piece.iter().map(|(place, input)| encode(&ready, fit, input, *place)).collect::<Vec<_>>())
            };
            begun.push(self.tokens.start(encode).await?);
        }
        for work in begun {
            tokens.append(&mut work.result().await?);
        }
        Ok(tokens)
    }
}

/// Fails with the first error of the inputs, each with its place in the request, and names its input.
fn fail_as_one<'a, T: 'a>(members: impl IntoIterator<Item = (usize, &'a Result<T>)>) -> Result<()> {
    let mut members = members.into_iter();
    let failed = members.find_map(|(place, member)| Some((place, member.as_ref().err()?)));
    let Some((place, error)) = failed else { return Ok(()) };
    let error = error.clone();
    Err(match error.wrong_field().map(str::to_owned) {
        Some(field) => error.within(field),
        None if place > 0 || members.next().is_some() => error.within(format!("inputs[{place}]")),
        None => error,
    })
}

/// What was said of all sequences in order, when the first batch began, and when the last answer was there.
async fn collect(
    mut answers: tokio::sync::mpsc::Receiver<Answer>,
    count: usize,
) -> Result<(Vec<Result<Scored>>, Instant, Instant)> {
    let mut scored: Vec<Option<Result<Scored>>> = Vec::new();
    scored.resize_with(count, || None);
    let mut span: Option<(Instant, Instant)> = None;
    for _ in 0..count {
        let Some(answer) = answers.recv().await else {
            return Err(going_down());
        };
        if let Some(place) = scored.get_mut(answer.place) {
            *place = Some(answer.scored);
        }
        let (began, done) = span.unwrap_or((answer.began, answer.done));
        span = Some((began.min(answer.began), done.max(answer.done)));
    }
    let missing = || Err(Error::internal("an answer is missing"));
    let (began, done) = span.ok_or_else(|| Error::internal("a request without inputs was queued"))?;
    Ok((scored.into_iter().map(|scored| scored.unwrap_or_else(missing)).collect(), began, done))
}

#[cfg(test)]
mod tests;
