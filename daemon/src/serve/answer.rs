//! What a request gets: for each input its labels, probabilities and logits, or its own error.

use std::sync::Arc;
use std::time::Duration;

use super::dispatcher::Scored;
use super::options::MinScore;
use super::worker::Ready;
use hone_base::error::{Error, Result};
use hone_engine::kernels::softmax::softmax;
use hone_engine::model::objective::sigmoid;
use hone_storage::Version;

/// The answer to a request.
pub struct Classified {
    /// What answered.
    pub version: Arc<Version>,
    /// What is known of its labels.
    pub ready: Arc<Ready>,
    /// One for each input, in order.
    pub predictions: Vec<Result<Prediction>>,
    /// Where the time went.
    pub timings: Timings,
}

/// The answer to an input. Numbers stand in class order.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// What the model says.
    pub logits: Vec<f32>,
    /// The probability of each label: softmax of the logits, or, where a text may have several labels, sigmoid of each.
    pub probabilities: Vec<f32>,
    /// The classes of the labels that the text has, the most probable first: the most probable one, unless it does not reach
    /// the least score that was asked for; or, where a text may have several, those that reach their thresholds.
    pub labels: Vec<usize>,
    /// Tokens that were computed, special tokens included.
    pub tokens: usize,
    /// Whether the input was cut.
    pub truncated: bool,
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

impl Classified {
    /// Tokens that were computed for all inputs.
    pub fn tokens(&self) -> usize {
        self.predictions.iter().flatten().map(|prediction| prediction.tokens).sum()
    }
}

impl Prediction {
    /// What logits say.
    ///
    /// # Errors
    /// `Internal` when they are not numbers, one for each label.
    pub(super) fn new(ready: &Ready, scored: &Scored, min_score: Option<MinScore>) -> Result<Self> {
        let Scored { logits, tokens, truncated } = scored.clone();
        let thresholds = ready.thresholds.as_deref();
        let probabilities = probabilities(&logits, thresholds.is_some());
        if logits.len() != ready.labels.len() || probabilities.iter().any(|score| !score.is_finite()) {
            return Err(Error::internal("the model's scores are not numbers; its weights may be damaged"));
        }
        let labels = labels(&probabilities, thresholds, min_score);
        Ok(Self { logits, probabilities, labels, tokens, truncated })
    }

    /// The classes by their probabilities, the highest first; of equal ones the lower class.
    pub fn ranked(&self) -> Vec<usize> {
        ranked(&self.probabilities)
    }
}

/// The probability of each label.
pub(super) fn probabilities(logits: &[f32], several: bool) -> Vec<f32> {
    let mut row = logits.to_vec();
    match several {
        true => row.iter_mut().for_each(|logit| *logit = sigmoid(*logit)),
        false => drop(softmax(&mut row)),
    }
    row
}

fn ranked(probabilities: &[f32]) -> Vec<usize> {
    let of = |class: usize| probabilities.get(class).copied().unwrap_or_default();
    let mut classes: Vec<usize> = (0..probabilities.len()).collect();
    classes.sort_by(|&a, &b| of(b).total_cmp(&of(a)));
    classes
}

/// The classes of the labels that a text has, the most probable first.
fn labels(probabilities: &[f32], thresholds: Option<&[f32]>, min_score: Option<MinScore>) -> Vec<usize> {
    let Some(thresholds) = thresholds else {
        let better = |best: Option<(usize, f32)>, (class, &score): (usize, &f32)| match best {
            Some((_, highest)) if highest >= score => best,
            _ => Some((class, score)),
        };
        let best = probabilities.iter().enumerate().fold(None, better);
        let least = min_score.map_or(0.0, MinScore::get);
        return best.filter(|(_, score)| *score >= least).map(|(class, _)| class).into_iter().collect();
    };
    let reaches = |class: &usize| {
        let pair = probabilities.get(*class).zip(thresholds.get(*class));
        pair.is_some_and(|(score, threshold)| score >= threshold)
    };
    ranked(probabilities).into_iter().filter(reaches).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_one_label_are_a_softmax_and_those_of_several_a_sigmoid() {
        let softmax = probabilities(&[1.0, -1.0, 0.0], false);
        assert!((softmax.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((softmax[0] - 0.665_241).abs() < 1e-6, "{softmax:?}");
        let sigmoid = probabilities(&[0.0, 2.0, -2.0], true);
        assert_eq!(sigmoid[0], 0.5);
        assert!((sigmoid[1] - 0.880_797).abs() < 1e-6 && (sigmoid[1] + sigmoid[2] - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_logit_far_from_the_others_makes_no_probability_infinite() {
        for far in [-1e30, -3e4, -200.0, 200.0, 3e4, 1e30] {
            for several in [false, true] {
                let scores = probabilities(&[0.5, far, -0.5], several);
                assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)), "{far} {scores:?}");
            }
        }
        let scores = probabilities(&[-1e30, -1e30], false);
        assert_eq!(scores, [0.5, 0.5]);
    }

    #[test]
    fn where_a_text_may_have_several_labels_it_has_those_that_reach_their_thresholds() {
        assert_eq!(labels(&[0.2, 0.9, 0.6], Some(&[0.2, 0.95, 0.5]), None), [2, 0]);
        assert!(labels(&[0.9], Some(&[0.95]), None).is_empty());
        assert_eq!(labels(&[0.3, 0.4, 0.3], None, None), [1]);
    }

    #[test]
    fn a_score_below_the_least_is_no_label() {
        let least = |score| Some(MinScore::new(score).unwrap());
        assert_eq!(labels(&[0.4, 0.6], None, least(0.6)), [1]);
        assert!(labels(&[0.4, 0.6], None, least(0.61)).is_empty());
    }

    #[test]
    fn of_equal_scores_the_lower_class_stands_first() {
        assert_eq!(ranked(&[0.25, 0.5, 0.25]), [1, 0, 2]);
        assert_eq!(labels(&[0.5, 0.5], None, None), [0]);
    }
}
