//! Promotions and rollbacks under load: an alias goes back and forth between two versions while callers use it. Counts what
//! must not happen: a call that fails, an answer of a version that was not live, scores that are another version's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use hone::v1::inference_service_client::InferenceServiceClient;
use hone::v1::model_service_client::ModelServiceClient;
use hone::v1::{ClassifyRequest, ClassifyResponse, Input, PromoteModelRequest};
use hone_base::error::{Error, Result};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::Channel;

use crate::daemon::Daemon;
use crate::jobs::{Job, Jobs, channel};
use crate::latency::Latencies;
use crate::process::{Process, Watch};
use crate::texts;

/// The model with two versions.
const SERVED: &str = "served";

/// The alias that is moved.
const LIVE: &str = "live";

/// The model of the jobs beside the calls.
const TRAINED: &str = "trained";

/// Scores of a text that differ by no more are the same answer.
const TOLERANCE: f32 = 1e-4;

#[derive(Args)]
pub(crate) struct Promotions {
    /// The encoder of both versions: a folder in Hugging Face layout.
    #[arg(long)]
    model: PathBuf,
    /// Threads of the daemon; default: one a core.
    #[arg(long)]
    threads: Option<usize>,
    /// Where the texts are: a labelled file as jobs read it, or one text a line (.txt).
    #[arg(long)]
    texts: PathBuf,
    /// Texts that calls ask about.
    #[arg(long, default_value_t = 64)]
    limit: u64,
    #[arg(long, default_value_t = 2)]
    texts_per_call: usize,
    /// Callers that each make one call at a time.
    #[arg(long, default_value_t = 4)]
    callers: usize,
    /// Promotions and rollbacks together.
    #[arg(long, default_value_t = 1000)]
    promotions: usize,
    /// Milliseconds between two of them.
    #[arg(long, default_value_t = 5)]
    pause_ms: u64,
    /// Seconds of calls without a promotion, before them.
    #[arg(long, default_value_t = 5)]
    quiet: u64,
    /// Jobs run beside the promotions, one after the other.
    #[arg(long)]
    train: bool,
}

/// Measures.
///
/// # Errors
///
/// The daemon or a job fails, or the two versions cannot be told apart.
pub(crate) fn measure(of: &Promotions) -> Result<Value> {
    let texts = texts::read(&of.texts, Some(of.limit))?;
    let inputs: Vec<Vec<Input>> = texts
        .chunks(of.texts_per_call.max(1))
        .map(|texts| texts.iter().map(|text| Input { text: text.text.clone(), ..Input::default() }).collect())
        .collect();
    let folder = tempfile::tempdir().map_err(|error| Error::internal(error.to_string()))?;
    let daemon = Daemon::start(folder.path(), &of.model, of.threads)?;
    // It ends, and with it its connections, before the daemon is told to stop.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal(error.to_string()))?;
    let process = Process::new(daemon.id());
    let measured = runtime.block_on(back_and_forth(of, daemon.address(), process, inputs));
    measured.map_err(|status| Error::internal(status.to_string()))
}

async fn back_and_forth(
    of: &Promotions,
    address: &str,
    process: Process,
    inputs: Vec<Vec<Input>>,
) -> Result<Value, Status> {
    let jobs = Jobs::connect(address)?;
    let (mut versions, mut expected) = (Vec::new(), Vec::new());
    for seed in [1, 2] {
        let job = Job { name: SERVED, rows: 48, epochs: 1, seed: Some(seed) };
        versions.push(jobs.run(job).await?.version);
    }
    let channel = channel(address)?;
    let mut client = InferenceServiceClient::new(channel.clone());
    for version in &versions {
        let mut answers = Vec::new();
        for inputs in &inputs {
            let request = request(&format!("{SERVED}@{version}"), inputs);
            answers.push(client.classify(request).await?.into_inner());
        }
        expected.push(answers);
    }
    let told_apart = differing_calls(&expected);
    if told_apart * 2 < inputs.len() {
        return Err(Status::internal("the two versions give the same scores"));
    }
    let mut alias = Alias { models: ModelServiceClient::new(channel.clone()), moves: Arc::default() };
    alias.point_at(&versions, 0).await?;
    let callers = Callers {
        client,
        inputs: inputs.into(),
        expected: expected.into(),
        versions: versions.clone().into(),
        moves: alias.moves.clone(),
        stop: Arc::default(),
        seen: Arc::default(),
    };

    let quiet = callers.during(of.callers, tokio::time::sleep(Duration::from_secs(of.quiet))).await.0;
    let (before, watch, begun) = (process.resident(), Watch::start(process), Instant::now());
    let (seen, moved) = callers.during(of.callers, alias.back_and_forth(of, &versions, &jobs)).await;
    let (times, ended_jobs) = moved?;
    let seconds = begun.elapsed().as_secs_f64();
    let peak = watch.peak();
    let again = callers.during(of.callers, tokio::time::sleep(Duration::from_secs(of.quiet))).await.0;
    let ratio = seen.latencies.percentile(0.99).zip(quiet.latencies.percentile(0.99));
    Ok(json!({
        "what": "promotions", "promotions": of.promotions, "seconds": seconds, "callers": of.callers,
        "texts_per_call": of.texts_per_call, "calls_told_apart": told_apart, "jobs": ended_jobs,
        "promotion_ms": times.summary(),
        "quiet": quiet.report(), "promoting": seen.report(), "afterwards": again.report(),
        "p99_ratio": ratio.map(|(with, without)| with / without),
        "resident_bytes": { "before": before, "peak": peak, "after": process.resident() },
    }))
}

fn request(model: &str, inputs: &[Input]) -> ClassifyRequest {
    let mut request = ClassifyRequest { model: model.to_owned(), ..ClassifyRequest::default() };
    request.inputs = inputs.to_vec();
    request
}

/// The alias, and how often it was moved.
struct Alias {
    models: ModelServiceClient<Channel>,
    moves: Arc<Moves>,
}

/// Moves of the alias, from 1: the one with number `n` pointed it at version `(n - 1) % 2`.
#[derive(Default)]
struct Moves {
    asked: AtomicUsize,
    answered: AtomicUsize,
}

impl Alias {
    async fn point_at(&mut self, versions: &[u32], number: usize) -> Result<(), Status> {
        let version = versions.get(number % versions.len()).copied().unwrap_or_default();
        self.moves.asked.fetch_add(1, Ordering::SeqCst);
        let mut request = PromoteModelRequest { model: format!("{SERVED}@{version}"), ..Default::default() };
        request.alias = LIVE.to_owned();
        self.models.promote(request).await?;
        self.moves.answered.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// All promotions, each with its time, and how many jobs have ended beside them.
    async fn back_and_forth(
        &mut self,
        of: &Promotions,
        versions: &[u32],
        jobs: &Jobs,
    ) -> Result<(Latencies, usize), Status> {
        let done = AtomicBool::new(false);
        let training = async {
            let mut ended = 0;
            while of.train && !done.load(Ordering::Relaxed) {
                jobs.run_and_delete(Job { name: TRAINED, rows: 200, epochs: 1, seed: None }).await?;
                ended += 1;
            }
            Ok::<_, Status>(ended)
        };
        let moving = async {
            let mut times = Latencies::default();
            for number in 1..=of.promotions {
                let begun = Instant::now();
                let moved = self.point_at(versions, number).await;
                if moved.is_err() {
                    done.store(true, Ordering::Relaxed);
                }
                moved?;
                times.push(begun.elapsed());
                tokio::time::sleep(Duration::from_millis(of.pause_ms)).await;
            }
            done.store(true, Ordering::Relaxed);
            Ok::<_, Status>(times)
        };
        let (ended, times) = tokio::join!(training, moving);
        Ok((times?, ended?))
    }
}

/// Callers of the alias.
#[derive(Clone)]
struct Callers {
    client: InferenceServiceClient<Channel>,
    inputs: Arc<[Vec<Input>]>,
    /// What each version answers to each call.
    expected: Arc<[Vec<ClassifyResponse>]>,
    versions: Arc<[u32]>,
    moves: Arc<Moves>,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
}

/// What callers have seen.
#[derive(Clone, Debug, Default)]
struct Seen {
    calls: usize,
    failed: BTreeMap<String, usize>,
    /// Answers of each version.
    versions: BTreeMap<u32, usize>,
    unknown_version: usize,
    not_live: usize,
    wrong_scores: usize,
    other_bits: usize,
    latencies: Latencies,
}

impl Callers {
    /// Calls in a loop while the work goes on.
    async fn during<T>(&self, callers: usize, work: impl Future<Output = T>) -> (Seen, T) {
        self.stop.store(false, Ordering::Relaxed);
        let mut tasks = JoinSet::new();
        for first in 0..callers {
            let caller = self.clone();
            tasks.spawn(async move {
                for number in first.. {
                    if caller.stop.load(Ordering::Relaxed) {
                        break;
                    }
                    caller.call(number % caller.inputs.len()).await;
                }
            });
        }
        let result = work.await;
        self.stop.store(true, Ordering::Relaxed);
        while tasks.join_next().await.is_some() {}
        (std::mem::take(&mut *self.seen()), result)
    }

    async fn call(&self, number: usize) {
        let Some(inputs) = self.inputs.get(number) else { return };
        let settled = self.moves.answered.load(Ordering::SeqCst);
        let begun = Instant::now();
        let answer = self.client.clone().classify(request(&format!("{SERVED}@{LIVE}"), inputs)).await;
        let elapsed = begun.elapsed();
        let asked = self.moves.asked.load(Ordering::SeqCst);
        let mut seen = self.seen();
        seen.calls += 1;
        match answer {
            Ok(answer) => {
                seen.latencies.push(elapsed);
                let answer = answer.into_inner();
                let place = self.versions.iter().position(|&version| version == answer.version);
                let expected = place.and_then(|place| self.expected.get(place)?.get(number));
                seen.judge(&answer, place, expected, live(settled, asked));
            }
            Err(status) => {
                let what = format!("{:?}: {}", status.code(), status.message());
                *seen.failed.entry(what).or_default() += 1;
            }
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of the two versions was live during the whole of a call, before which so many moves had been answered and until
/// whose end so many had been asked for; none if the alias moved meanwhile.
fn live(answered_before: usize, asked_until_end: usize) -> Option<usize> {
    (answered_before == asked_until_end).then(|| answered_before.wrapping_sub(1) % 2)
}

impl Seen {
    fn judge(
        &mut self,
        answer: &ClassifyResponse,
        place: Option<usize>,
        expected: Option<&ClassifyResponse>,
        live: Option<usize>,
    ) {
        *self.versions.entry(answer.version).or_default() += 1;
        let (Some(place), Some(expected)) = (place, expected) else {
            self.unknown_version += 1;
            return;
        };
        self.not_live += usize::from(live.is_some_and(|live| live != place));
        let difference = difference(answer, expected);
        let right = answer.weights_sha256 == expected.weights_sha256
            && difference.is_some_and(|difference| difference <= TOLERANCE);
        self.wrong_scores += usize::from(!right);
        self.other_bits += usize::from(difference != Some(0.0));
    }

    fn report(&self) -> Value {
        json!({
            "calls": self.calls, "failed": self.failed, "versions": self.versions,
            "unknown_version": self.unknown_version, "not_live": self.not_live,
            "wrong_scores": self.wrong_scores, "scores_with_other_bits": self.other_bits,
            "latency_ms": self.latencies.summary(),
        })
    }
}

/// The largest difference of a score between two answers to the same call; none if they have not the same texts and labels.
fn difference(a: &ClassifyResponse, b: &ClassifyResponse) -> Option<f32> {
    if a.predictions.len() != b.predictions.len() {
        return None;
    }
    let mut largest = 0.0_f32;
    for (a, b) in a.predictions.iter().zip(&b.predictions) {
        for score in &b.scores {
            let other = a.scores.iter().find(|other| other.label == score.label)?;
            largest = largest.max((score.score - other.score).abs());
        }
    }
    Some(largest)
}

/// Calls that the versions answer with scores which the tolerance tells apart.
fn differing_calls(expected: &[Vec<ClassifyResponse>]) -> usize {
    let [first, second] = expected else { return 0 };
    let apart = |(a, b): &(&ClassifyResponse, &ClassifyResponse)| {
        difference(a, b).is_none_or(|difference| difference > 2.0 * TOLERANCE)
    };
    first.iter().zip(second).filter(apart).count()
}

#[cfg(test)]
mod tests {
    use hone::v1::{Prediction, Score};

    use super::*;

    fn answer(version: u32, score: f32) -> ClassifyResponse {
        let scores = [("a", score), ("b", 1.0 - score)].map(|(label, score)| Score {
            label: label.to_owned(),
            score,
            ..Score::default()
        });
        let prediction = Prediction { scores: scores.into(), ..Prediction::default() };
        ClassifyResponse { predictions: vec![prediction], version, ..ClassifyResponse::default() }
    }

    fn judged(answer: &ClassifyResponse, place: Option<usize>, live: Option<usize>) -> Seen {
        let versions = [self::answer(1, 0.2), self::answer(2, 0.7)];
        let mut seen = Seen::default();
        seen.judge(answer, place, place.and_then(|place| versions.get(place)), live);
        seen
    }

    #[test]
    fn a_version_is_live_for_a_call_if_no_move_was_under_way() {
        assert_eq!(live(1, 1), Some(0));
        assert_eq!(live(2, 2), Some(1));
        assert_eq!(live(2, 3), None);
    }

    #[test]
    fn an_answer_of_the_live_version_with_its_scores_is_right() {
        let seen = judged(&answer(2, 0.7), Some(1), Some(1));
        assert_eq!((seen.unknown_version, seen.not_live, seen.wrong_scores, seen.other_bits), (0, 0, 0, 0));
    }

    #[test]
    fn an_answer_of_the_version_before_is_not_live_unless_the_alias_moved_meanwhile() {
        assert_eq!(judged(&answer(1, 0.2), Some(0), Some(1)).not_live, 1);
        assert_eq!(judged(&answer(1, 0.2), Some(0), None).not_live, 0);
    }

    #[test]
    fn scores_of_the_other_version_are_wrong_and_rounding_is_not() {
        assert_eq!(judged(&answer(2, 0.2), Some(1), Some(1)).wrong_scores, 1);
        let rounded = judged(&answer(2, 0.70001), Some(1), Some(1));
        assert_eq!((rounded.wrong_scores, rounded.other_bits), (0, 1));
    }

    #[test]
    fn an_answer_without_a_prediction_is_wrong() {
        let empty = ClassifyResponse { version: 2, ..ClassifyResponse::default() };
        assert_eq!(judged(&empty, Some(1), Some(1)).wrong_scores, 1);
    }

    #[test]
    fn a_version_that_nobody_published_is_unknown() {
        assert_eq!(judged(&answer(3, 0.2), None, Some(1)).unknown_version, 1);
    }
}
