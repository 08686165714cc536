//! Loading with a check: a version answers only once it has reproduced what training recorded of it, in the fastest of
//! the precisions that are asked for that costs no more accuracy than allowed.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::check::{Figures, Verdict, compare, judge, spread};
use super::engine::{Engine, Loaded, Score, Tokenize};
use super::precision::{Precision, ladder};
use hone_base::error::{Error, Result};
use hone_base::panic::{guarded, lock};
use hone_data::sample::{Sample, SampleRow};
use hone_data::tokenize::Tokens;
use hone_engine::batch::{Batch, by_tokens};
use hone_engine::kernels::calls::give_way;
use hone_engine::kernels::lane::Lane;
use hone_engine::model::backend::Threads;
use hone_engine::model::checkpoint::WEIGHTS;
use hone_storage::{ServePrecision, Version};

/// Rows that float32 has to reproduce: damage shows in any of them.
const FP32_ROWS: usize = 64;

/// Tokens of a batch of the check at most: small, so that it gives way soon.
const TOKENS: usize = 1024;

/// Results of checks that are remembered.
const REMEMBERED: usize = 1024;

/// Points of accuracy of which nothing more can be lost.
const ANY_LOSS: f64 = 100.0;

/// What a version is loaded with.
pub struct Loader {
    engine: Arc<dyn Engine>,
    /// Checks are computed there, behind everything that somebody waits for.
    lane: Arc<Lane>,
    policy: Policy,
    known: Mutex<HashMap<Known, Figures>>,
}

/// What an operator decides for all models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// For models without a setting of their own.
    pub precision: ServePrecision,
    /// Points of accuracy that less than float32 may cost.
    pub max_accuracy_loss: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { precision: ServePrecision::Auto, max_accuracy_loss: 0.5 }
    }
}

/// What a result belongs to: weights, as they lie on the disk, and a precision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Known {
    weights_sha256: String,
    modified: Option<SystemTime>,
    precision: Precision,
}

/// A model that was loaded and may answer.
pub struct Checked {
    /// The model.
    pub loaded: Loaded,
    /// How it was checked.
    pub report: Report,
}

/// In what a loaded version computes, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What it computes in.
    pub precision: Precision,
    /// What was asked for.
    pub asked: ServePrecision,
    /// How it compares with what training recorded; `None` for a checkpoint without a sample.
    pub figures: Option<Figures>,
    /// Why it is not what was asked for, or how it could not be checked; one for each.
    pub reasons: Vec<String>,
}

impl Loader {
    /// Loads with an engine; checks on a lane.
    pub fn new(engine: Arc<dyn Engine>, lane: Arc<Lane>, policy: Policy) -> Self {
        Self { engine, lane, policy, known: Mutex::default() }
    }

    /// What loads.
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// Loads a version from its folder, in the precision that is asked for or in a better one, checks it and computes one
    /// text, so that the first caller does not wait for what is done once. Blocking.
    ///
    /// # Errors
    ///
    /// `Corrupt` when it does not reproduce what training recorded; those of the engine.
    pub fn load(&self, folder: &Path, version: &Version, asked: Option<ServePrecision>) -> Result<Checked> {
        let asked = asked.unwrap_or(self.policy.precision);
        let sample = Sample::read(folder, version.labels.len())?;
        let mut reasons = Vec::new();
        if sample.is_none() {
            reasons.push("it was not checked: its checkpoint has no sample of validation rows".to_owned());
        }
        let rungs = ladder(asked, self.engine.offer()?, sample.is_some());
        for (place, &precision) in rungs.iter().enumerate() {
            let is_last = place + 1 == rungs.len();
            match self.try_at(folder, version, precision, sample.as_ref()) {
                Ok(Ok((loaded, figures))) => {
                    let report = Report { precision, asked, figures, reasons };
                    return Ok(Checked { loaded, report });
                }
                Ok(Err(why)) => reasons.push(why),
                Err(error) if is_last => return Err(error),
                Err(error) => reasons.push(format!("{} cannot be had: {error}", precision.name())),
            }
            tracing::warn!(
                model = version.reference(),
                why = reasons.last(),
                "a more exact precision is taken"
            );
        }
        Err(Error::internal("no precision was tried; this is a bug in Hone"))
    }

    /// The model at a precision with its figures, or why a more exact one has to be taken.
    fn try_at(
        &self,
        folder: &Path,
        version: &Version,
        precision: Precision,
        sample: Option<&Sample>,
    ) -> Result<Result<(Loaded, Option<Figures>), String>> {
        let bound = self.policy.max_accuracy_loss;
        let Some(sample) = sample else {
            if precision == Precision::Int8 && bound < ANY_LOSS {
                return Ok(Err("what int8 costs is not known without a sample".to_owned()));
            }
            let loaded = self.warm(self.engine.load(folder, precision)?, "")?;
            return Ok(Ok((loaded, None)));
        };
        let known = Known {
            weights_sha256: version.weights_sha256.clone(),
            modified: std::fs::metadata(folder.join(WEIGHTS)).and_then(|file| file.modified()).ok(),
            precision,
        };
        let verdict = |figures: &Figures| judge(figures, precision, sample.precision, bound);
        let remembered = lock(&self.known).get(&known).copied();
        if let Some(Verdict::TooLossy(why)) = remembered.as_ref().map(verdict) {
            return Ok(Err(why));
        }
        let loaded = self.engine.load(folder, precision)?;
        let text = sample.rows.first().map_or("", |row| &row.text);
        if let Some(figures) = remembered {
            return Ok(Ok((self.warm(loaded, text)?, Some(figures))));
        }
        let most = if precision == Precision::Fp32 { FP32_ROWS } else { usize::MAX };
        let rows = spread(sample, most);
        let thresholds = loaded.model.thresholds().map(<[f32]>::to_vec);
        let (loaded, logits) = self.compute(loaded, &rows)?;
        let figures = compare(&rows, &logits, thresholds.as_deref());
        tracing::info!(
            model = version.reference(),
            precision = precision.name(),
            recorded = ?sample.precision,
            rows = figures.rows,
            accuracy_loss = figures.accuracy_loss,
            largest_change = figures.largest_change,
            logit_change = figures.logit_change,
            "model checked"
        );
        match verdict(&figures) {
            Verdict::Different(why) => {
                Err(Error::corrupt(format!("{why}; restore the files or delete the version")))
            }
            verdict => {
                let mut remembered = lock(&self.known);
                if remembered.len() >= REMEMBERED {
                    remembered.clear();
                }
                remembered.insert(known, figures);
                match verdict {
                    Verdict::TooLossy(why) => Ok(Err(why)),
                    _ => Ok(Ok((loaded, Some(figures)))),
                }
            }
        }
    }

    /// Computes one text.
    fn warm(&self, loaded: Loaded, text: &str) -> Result<Loaded> {
        let row = SampleRow { text: text.to_owned(), text_pair: None, classes: vec![], logits: vec![] };
        Ok(self.compute(loaded, &[&row])?.0)
    }

    /// The logits of rows, in their order.
    fn compute(&self, loaded: Loaded, rows: &[&SampleRow]) -> Result<(Loaded, Vec<Vec<f32>>)> {
        let Loaded { tokenizer, model, bytes } = loaded;
        let logits = logits_of(&self.lane, &*tokenizer, &*model, rows)?;
        Ok((Loaded { tokenizer, model, bytes }, logits))
    }
}

/// The logits of rows on a lane, in their order.
fn logits_of(
    lane: &Lane,
    tokenizer: &dyn Tokenize,
    model: &dyn Score,
    rows: &[&SampleRow],
) -> Result<Vec<Vec<f32>>> {
    let cut = tokenizer.cut();
    let encode = |row: &&SampleRow| tokenizer.encode(&row.text, row.text_pair.as_deref(), cut);
    let tokens: Vec<Tokens> = guarded(|| lane.run(|| rows.iter().map(encode).collect::<Result<_>>()))?;
    let lengths: Vec<usize> = tokens.iter().map(|tokens| tokens.ids.len()).collect();
    let mut logits = vec![Vec::new(); rows.len()];
    for group in by_tokens(&lengths, TOKENS) {
        let batch = Batch::pack(group.iter().filter_map(|&row| tokens.get(row)));
        let computed = guarded(|| {
            lane.run(|| {
                give_way();
                model.logits(&batch, Threads::All)
            })
        })?;
        let labels = model.labels().len().max(1);
        let computed: Vec<Vec<f32>> = computed.chunks(labels).map(<[f32]>::to_vec).collect();
        if computed.len() != group.len() {
            return Err(Error::internal(format!(
                "{} answers came for {} texts",
                computed.len(),
                group.len()
            )));
        }
        for (row, computed) in group.into_iter().zip(computed) {
            if let Some(place) = logits.get_mut(row) {
                *place = computed;
            }
        }
    }
    Ok(logits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::registry::Settings;
    use crate::serve::testing::Bench;
    use Precision::{Bf16, Fp32, Int8};
    use hone_base::error::Kind;

    fn bench(precision: ServePrecision, max_accuracy_loss: f64) -> Bench {
        Bench::with_settings(Settings { policy: Policy { precision, max_accuracy_loss }, memory: u64::MAX })
    }

    async fn report(bench: &Bench, version: &Arc<Version>) -> Result<Report> {
        Ok(bench.models.cache.ready(version).await?.report.clone())
    }

    #[tokio::test]
    async fn a_version_that_reproduces_what_training_recorded_answers() {
        let bench = Bench::new();
        let version = bench.publish_sampled("reviews", "weights");
        let report = report(&bench, &version).await.unwrap();
        assert_eq!((report.precision, report.asked), (Bf16, ServePrecision::Auto));
        let figures = report.figures.unwrap();
        assert_eq!((figures.rows, figures.accuracy_loss, figures.logit_change), (2, 0.0, 0.0));
        assert_eq!(report.reasons, [""; 0]);
    }

    #[tokio::test]
    async fn a_version_that_does_not_is_corrupt_in_any_precision() {
        for precision in [ServePrecision::Auto, ServePrecision::Int8] {
            let bench = bench(precision, 0.5);
            let version = bench.publish_sampled("reviews", "damaged");
            let error = report(&bench, &version).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            assert!(error.message().contains("does not reproduce the logits"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_precision_that_costs_too_much_makes_room_for_the_next_better_one_and_it_is_said_why() {
        let bench = bench(ServePrecision::Int8, 0.5);
        let version = bench.publish_sampled("reviews", "int8");
        let report = report(&bench, &version).await.unwrap();
        assert_eq!((report.precision, report.asked), (Bf16, ServePrecision::Int8));
        assert_eq!(report.figures.unwrap().accuracy_loss, 0.0);
        assert_eq!(
            report.reasons,
            ["int8 loses 100.00 points of accuracy on 2 validation rows, and at most 0.5 may be lost"]
        );
        let version = bench.publish_sampled("reviews", "int8 bf16");
        let report = self::report(&bench, &version).await.unwrap();
        assert_eq!((report.precision, report.reasons.len()), (Fp32, 2));
    }

    #[tokio::test]
    async fn a_checkpoint_without_a_sample_answers_unchecked_but_not_in_int8_unless_any_loss_is_allowed() {
        let bench = Bench::new();
        let version = bench.publish("reviews");
        let report = report(&bench, &version).await.unwrap();
        assert_eq!((report.precision, report.figures), (Fp32, None));
        assert!(report.reasons[0].contains("no sample"), "{report:?}");
        for (bound, precision) in [(99.0, Bf16), (100.0, Int8)] {
            let bench = self::bench(ServePrecision::Int8, bound);
            let version = bench.publish("reviews");
            assert_eq!(self::report(&bench, &version).await.unwrap().precision, precision);
        }
    }

    #[tokio::test]
    async fn loading_again_does_not_check_again_and_does_not_load_what_costs_too_much() {
        let bench = bench(ServePrecision::Int8, 0.5);
        let version = bench.publish_sampled("reviews", "int8");
        let first = report(&bench, &version).await.unwrap();
        assert_eq!((bench.loads(), bench.seen().len()), (vec![Int8, Bf16], 4));
        bench.models.cache.unload(|_| true);
        assert_eq!(report(&bench, &version).await.unwrap(), first);
        assert_eq!(bench.loads(), [Int8, Bf16, Bf16]);
        assert_eq!(bench.seen().len(), 5, "one text is computed so that the first call is warm");
    }

    #[tokio::test]
    async fn weights_that_were_changed_since_are_checked_again() {
        let bench = Bench::new();
        let version = bench.publish_sampled("reviews", "weights");
        report(&bench, &version).await.unwrap();
        bench.models.cache.unload(|_| true);
        let path = bench.data.version("reviews", 1).join(WEIGHTS);
        std::fs::write(&path, "damaged").unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert_eq!(report(&bench, &version).await.unwrap_err().kind(), Kind::Corrupt);
    }
}
