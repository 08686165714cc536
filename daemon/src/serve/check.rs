//! Whether a model that was loaded computes what training recorded, and what its precision costs.

use super::answer::{labels, probabilities};
use super::precision::Precision;
use hone_data::sample::{Recorded, Sample, SampleRow};

/// The largest difference of a logit, as a part of the sample's largest one (or of 1), that float32 makes on different
/// machines.
const FP32_TOLERANCE: f32 = 1e-3;

/// The same where bfloat16 computed one side. It has 8 significant bits, and errors of all layers add up: 0.004 of a MiniLM,
/// and up to this with the small random encoders of the parity tests.
const BF16_TOLERANCE: f32 = 0.15;

/// How a loaded model's answers to a sample compare with the recorded ones.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Rows that were compared.
    pub rows: usize,
    /// The recorded accuracy less the one now, in points: hundredths of the rows.
    pub accuracy_loss: f64,
    /// The largest change of a probability.
    pub largest_change: f32,
    /// The largest change of a logit, as a part of the largest recorded one, or of 1 if that is less.
    pub logit_change: f32,
}

/// What follows from the figures.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The model answers.
    Fine,
    /// A more exact precision has to be taken, and why.
    TooLossy(String),
    /// It is not the model that was trained, and why.
    Different(String),
}

/// Compares logits with those that rows recorded, each row with its own.
pub fn compare(rows: &[&SampleRow], logits: &[Vec<f32>], thresholds: Option<&[f32]>) -> Figures {
    let is_right = |row: &SampleRow, logits: &[f32]| called(logits, thresholds) == row.classes;
    let (mut before, mut now) = (0u32, 0u32);
    let (mut largest_change, mut moved, mut largest) = (0f32, 0f32, 1f32);
    for (row, logits) in rows.iter().zip(logits) {
        before += u32::from(is_right(row, &row.logits));
        now += u32::from(is_right(row, logits));
        let far = |a: &[f32], b: &[f32]| {
            // A number that is none is as far away as can be.
            let far = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
            a.iter().zip(b).map(far).fold(0.0, f32::max)
        };
        moved = moved.max(far(&row.logits, logits));
        largest = row.logits.iter().fold(largest, |largest, logit| largest.max(logit.abs()));
        let [a, b] = [&row.logits[..], &logits[..]].map(|logits| probabilities(logits, thresholds.is_some()));
        largest_change = largest_change.max(far(&a, &b));
    }
    Figures {
        rows: rows.len(),
        accuracy_loss: 100.0 * (f64::from(before) - f64::from(now)) / (rows.len().max(1) as f64),
        largest_change,
        logit_change: moved / largest,
    }
}

/// What follows of figures at a precision, where at most `bound` points of accuracy may be lost.
pub fn judge(figures: &Figures, precision: Precision, recorded: Recorded, bound: f64) -> Verdict {
    let tolerance = match (precision, recorded) {
        (Precision::Int8, _) => f32::INFINITY,
        (Precision::Fp32, Recorded::Fp32) => FP32_TOLERANCE,
        _ => BF16_TOLERANCE,
    };
    // Written so that what is no number does not pass.
    let reproduces = figures.logit_change <= tolerance;
    if precision == Precision::Fp32 {
        return match reproduces {
            true => Verdict::Fine,
            false => Verdict::Different(format!(
                "it does not reproduce the logits that its training recorded: over {} rows they differ by up to {:.2e} of \
                 the largest, and at most {tolerance:.0e} is possible; its files are damaged, or another model's",
                figures.rows, figures.logit_change
            )),
        };
    }
    if figures.accuracy_loss > bound {
        return Verdict::TooLossy(format!(
            "{} loses {:.2} points of accuracy on {} validation rows, and at most {bound} may be lost",
            precision.name(),
            figures.accuracy_loss,
            figures.rows
        ));
    }
    match reproduces {
        true => Verdict::Fine,
        false => Verdict::TooLossy(format!(
            "{} changes a logit by {:.2e} of the largest, which is more than it should",
            precision.name(),
            figures.logit_change
        )),
    }
}

/// At most so many rows of a sample, at even distances.
pub fn spread(sample: &Sample, most: usize) -> Vec<&SampleRow> {
    let rows = sample.rows.len();
    let count = rows.min(most);
    (0..count).filter_map(|place| sample.rows.get(place * rows / count)).collect()
}

/// The classes that these logits call, ascending.
fn called(logits: &[f32], thresholds: Option<&[f32]>) -> Vec<u32> {
    let mut classes = labels(&probabilities(logits, thresholds.is_some()), thresholds, None);
    classes.sort_unstable();
    classes.into_iter().map(|class| class as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(class: u32, logits: [f32; 2]) -> SampleRow {
        SampleRow { text: String::new(), text_pair: None, classes: vec![class], logits: logits.to_vec() }
    }

    #[test]
    fn the_loss_of_accuracy_and_the_largest_changes_are_those_of_all_rows() {
        let rows = [row(0, [2.0, -2.0]), row(1, [0.1, 0.2]), row(1, [3.0, 0.0]), row(0, [4.0, 0.0])];
        let rows: Vec<&SampleRow> = rows.iter().collect();
        let now = [vec![2.0, -2.0], vec![0.2, 0.1], vec![3.0, 0.0], vec![4.0, 0.0]];
        let figures = compare(&rows, &now, None);
        assert_eq!((figures.rows, figures.accuracy_loss), (4, 25.0));
        assert!((figures.logit_change - 0.025).abs() < 1e-6, "{figures:?}");
        assert!((figures.largest_change - 0.05).abs() < 1e-3, "{figures:?}");
        assert_eq!(
            compare(&rows, &rows.iter().map(|r| r.logits.clone()).collect::<Vec<_>>(), None).logit_change,
            0.0
        );
    }

    #[test]
    fn where_a_text_may_have_several_labels_a_row_is_right_when_all_of_them_are() {
        let mut one = row(0, [1.0, -1.0]);
        one.classes = vec![0, 1];
        let figures = compare(&[&one], &[vec![1.0, 1.0]], Some(&[0.5, 0.5]));
        assert_eq!(figures.accuracy_loss, -100.0);
        assert!((figures.largest_change - 0.4621).abs() < 1e-3, "{figures:?}");
    }

    #[test]
    fn float32_must_reproduce_and_less_may_cost_what_is_allowed() {
        let figures = Figures { rows: 100, accuracy_loss: 0.4, largest_change: 0.1, logit_change: 2e-3 };
        let verdict = |precision, recorded| judge(&figures, precision, recorded, 0.5);
        assert!(matches!(verdict(Precision::Fp32, Recorded::Fp32), Verdict::Different(_)));
        assert_eq!(verdict(Precision::Fp32, Recorded::Bf16), Verdict::Fine);
        assert_eq!(verdict(Precision::Int8, Recorded::Fp32), Verdict::Fine);
        let lossy = judge(&figures, Precision::Int8, Recorded::Fp32, 0.3);
        assert!(matches!(&lossy, Verdict::TooLossy(why) if why.contains("0.40 points")), "{lossy:?}");
        let far = Figures { accuracy_loss: 0.0, logit_change: 0.9, ..figures };
        assert!(matches!(judge(&far, Precision::Bf16, Recorded::Fp32, 0.5), Verdict::TooLossy(_)));
    }

    #[test]
    fn a_logit_that_is_no_number_is_as_different_as_can_be() {
        let one = row(0, [1.0, 0.0]);
        let figures = compare(&[&one], &[vec![f32::NAN, 0.0]], None);
        assert!(matches!(judge(&figures, Precision::Fp32, Recorded::Bf16, 0.5), Verdict::Different(_)));
    }
}
