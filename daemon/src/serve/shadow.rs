//! A version that answers beside another one, for comparison alone: on a thread of its own, behind everything that
//! somebody waits for. What comes while it is busy is dropped, so a call is never held up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::answer::{Classified, labels, probabilities};
use super::engine::Loaded;
use super::input::Input;
use super::load::Checked;
use super::worker::Ready;
use hone_base::error::{Error, Result};
use hone_base::panic::{guarded, lock};
use hone_data::tokenize::Tokens;
use hone_engine::batch::Batch;
use hone_engine::kernels::lane::Lane;
use hone_engine::model::backend::Threads;
use hone_storage::Version;

/// Calls that wait to be compared at most.
const WAITING: usize = 8;

/// Texts of a call that are compared at most.
const MAX_TEXTS: usize = 64;

/// Tokens of a batch at most: small, so that it gives way soon.
const TOKENS: usize = 1024;

/// A version that answers beside an alias's.
pub struct Shadow {
    version: Arc<Version>,
    /// Until the thread shall end.
    calls: Mutex<Option<SyncSender<Answered>>>,
    tally: Arc<Mutex<Tally>>,
    /// Calls for which there was no time.
    dropped: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A call that was answered by the version that the alias points at.
struct Answered {
    inputs: Vec<Input>,
    /// What answered.
    ready: Arc<Ready>,
    /// The probability of each of its labels, for each input.
    probabilities: Vec<Vec<f32>>,
}

/// How two versions compare.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Calls that were compared.
    pub calls: u64,
    /// Texts that were compared.
    pub texts: u64,
    /// Those of them with the same labels from both.
    pub agreed: u64,
    /// The differences of all scores, added up.
    difference: f64,
    scores: u64,
    /// The largest of them.
    pub largest_difference: f64,
    /// Why the last call could not be compared.
    pub error: Option<Error>,
}

impl Tally {
    /// The mean difference of a score; 0 before there is any.
    pub fn mean_difference(&self) -> f64 {
        if self.scores == 0 { 0.0 } else { self.difference / self.scores as f64 }
    }

    /// Counts the answers of two versions to one text, by their labels. What only one of them has counts as 0 in the
    /// other.
    fn add(&mut self, first: &Answer<'_>, second: &Answer<'_>) {
        self.texts += 1;
        self.agreed += u64::from(first.called() == second.called());
        let mut add = |one: f32, other: f32| {
            let difference = f64::from(one - other).abs();
            self.difference += difference;
            self.scores += 1;
            self.largest_difference = self.largest_difference.max(difference);
        };
        if first.labels == second.labels {
            return first.scores.iter().zip(second.scores).for_each(|(one, other)| add(*one, *other));
        }
        let only = second.labels.iter().filter(|label| !first.labels.contains(label));
        first.labels.iter().chain(only).for_each(|label| add(first.score(label), second.score(label)));
    }

    /// Adds what was counted of one more call.
    fn add_call(&mut self, call: &Self) {
        self.calls += 1;
        self.texts += call.texts;
        self.agreed += call.agreed;
        self.difference += call.difference;
        self.scores += call.scores;
        self.largest_difference = self.largest_difference.max(call.largest_difference);
        self.error = None;
    }
}

/// The answer of a version to a text.
struct Answer<'a> {
    labels: &'a [String],
    scores: &'a [f32],
    thresholds: Option<&'a [f32]>,
}

impl Answer<'_> {
    fn score(&self, label: &str) -> f32 {
        let place = self.labels.iter().position(|known| known == label);
        place.and_then(|place| self.scores.get(place).copied()).unwrap_or(0.0)
    }

    /// The labels that the text has, by their names.
    fn called(&self) -> Vec<&str> {
        let called = labels(self.scores, self.thresholds, None);
        let mut called: Vec<&str> =
            called.into_iter().filter_map(|class| self.labels.get(class).map(String::as_str)).collect();
        called.sort_unstable();
        called
    }
}

impl Shadow {
    /// Starts the thread, which loads the version with `load` and computes on `lane`.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started.
    pub(super) fn start(
        version: Arc<Version>,
        lane: Arc<Lane>,
        load: impl FnOnce() -> Result<Checked> + Send + 'static,
    ) -> Result<Self> {
        let (calls, taken) = sync_channel(WAITING);
        let tally = Arc::new(Mutex::new(Tally::default()));
        let told = tally.clone();
        let thread = std::thread::Builder::new().name("shadow".into()).spawn(move || match guarded(load) {
            Ok(Checked { loaded, .. }) => answer(&taken, loaded, &lane, &told),
            Err(error) => {
                tracing::warn!(%error, "a shadow cannot be loaded");
                lock(&told).error = Some(error);
            }
        });
        let thread = thread
            .map_err(|error| Error::internal(format!("cannot start a thread for a shadow: {error}")))?;
        Ok(Self {
            version,
            calls: Mutex::new(Some(calls)),
            tally,
            dropped: AtomicU64::new(0),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The version that answers beside.
    pub fn version(&self) -> &Arc<Version> {
        &self.version
    }

    /// How the two compare so far.
    pub fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    /// Calls that were not compared, because there was no time.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Has a call compared that was answered, or drops it when there is no time. Never waits. Texts that have an error
    /// instead of an answer are left out.
    pub fn compare(&self, inputs: Vec<Input>, answer: &Classified) {
        let answered = inputs.into_iter().zip(&answer.predictions);
        let answered = answered.filter_map(|(input, prediction)| {
            prediction.as_ref().ok().map(|prediction| (input, prediction.probabilities.clone()))
        });
        let (inputs, probabilities) = answered.take(MAX_TEXTS).unzip();
        let call = Answered { inputs, ready: answer.ready.clone(), probabilities };
        let taken = lock(&self.calls).as_ref().is_some_and(|calls| calls.try_send(call).is_ok());
        if !taken {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends the thread after the call that it computes, and waits for it. Blocking.
    pub(super) fn stop(&self) {
        drop(lock(&self.calls).take());
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("a shadow's thread panicked");
        }
    }
}

/// Answers calls until there are no more.
fn answer(calls: &Receiver<Answered>, loaded: Loaded, lane: &Lane, tally: &Mutex<Tally>) {
    let Loaded { tokenizer, model, .. } = loaded;
    let (names, thresholds) = (model.labels().to_vec(), model.thresholds().map(<[f32]>::to_vec));
    let thresholds = thresholds.as_deref();
    for Answered { inputs, ready, probabilities: first } in calls {
        let computed = guarded(|| {
            let cut = tokenizer.cut();
            let encode = |input: &Input| tokenizer.encode(&input.text, input.text_pair.as_deref(), cut);
            let tokens = lane.run(|| inputs.iter().map(encode).collect::<Result<Vec<Tokens>>>())?;
            let mut logits = Vec::new();
            let (mut batch, mut filled) = (Vec::new(), 0);
            for (place, sequence) in tokens.iter().enumerate() {
                batch.push(sequence);
                filled += sequence.ids.len();
                if filled >= TOKENS || place + 1 == tokens.len() {
                    let packed = Batch::pack(batch.drain(..));
                    logits.extend(lane.run(|| model.logits(&packed, Threads::All))?);
                    filled = 0;
                }
            }
            let row = |logits: &[f32]| probabilities(logits, thresholds.is_some());
            Ok(logits.chunks(names.len().max(1)).map(row).collect::<Vec<_>>())
        });
        match computed {
            Ok(second) => {
                let mut compared = Tally::default();
                for (first, second) in first.iter().zip(&second) {
                    let (labels, of) = (&ready.labels[..], ready.thresholds.as_deref());
                    let first = Answer { labels, scores: first, thresholds: of };
                    compared.add(&first, &Answer { labels: &names, scores: second, thresholds });
                }
                lock(tally).add_call(&compared);
            }
            Err(error) => lock(tally).error = Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(labels: &[&str]) -> Vec<String> {
        labels.iter().map(|label| (*label).to_owned()).collect()
    }

    #[test]
    fn agreement_flips_and_differences_are_counted_by_labels() {
        let (first, second) = (names(&["a", "b"]), names(&["b", "a", "c"]));
        let mut tally = Tally::default();
        let mut add = |one: [f32; 2], other: [f32; 3]| {
            let one = Answer { labels: &first, scores: &one, thresholds: None };
            tally.add(&one, &Answer { labels: &second, scores: &other, thresholds: None });
        };
        add([0.75, 0.25], [0.25, 0.75, 0.0]);
        add([0.75, 0.25], [0.5, 0.25, 0.25]);
        assert_eq!((tally.texts, tally.agreed, tally.largest_difference), (2, 1, 0.5));
        assert!((tally.mean_difference() - 1.0 / 6.0).abs() < 1e-9, "{tally:?}");
    }

    #[test]
    fn where_a_text_may_have_several_labels_all_of_them_must_be_the_same() {
        let labels = names(&["a", "b"]);
        let answer =
            |scores: &'static [f32]| Answer { labels: &labels, scores, thresholds: Some(&[0.5, 0.3]) };
        let mut tally = Tally::default();
        tally.add(&answer(&[0.6, 0.4]), &answer(&[0.9, 0.3]));
        tally.add(&answer(&[0.6, 0.4]), &answer(&[0.6, 0.2]));
        assert_eq!((tally.texts, tally.agreed), (2, 1));
    }
}
