use super::*;
use crate::event::LabelMetrics;
use crate::spec::Warmup;

fn label(name: &str, rows: u64, recall: f64) -> LabelMetrics {
    LabelMetrics { label: name.into(), precision: recall, recall, f1: recall, rows, threshold: None }
}

fn metrics(loss: f64, labels: Vec<LabelMetrics>) -> Metrics {
    let rows = labels.iter().map(|label| label.rows).sum();
    Metrics { loss, accuracy: 0.5, f1: 0.5, recall: 0.5, precision: 0.5, rows, labels, micro: None }
}

fn epoch(number: u32, train_loss: f64, validation: Metrics) -> EpochMetrics {
    EpochMetrics {
        epoch: number,
        epochs: 9,
        train: metrics(train_loss, vec![]),
        validation,
        seconds: 1.0,
        train_seconds: 1.0,
        steps_per_second: 1.0,
        tokens_per_second: 1.0,
        best: true,
        validation_loss_rose: false,
        step: 100 * u64::from(number),
    }
}

/// What is told of the last of these epochs, nothing having been told before.
fn told(epochs: &[EpochMetrics], called: &[u64], norms: Option<(f64, f64)>) -> Vec<String> {
    let of = Hyperparameters::default();
    let (train_guess, validation_guess) = (0.693, 0.69);
    let evidence =
        Evidence { of: &of, epochs, called, train_guess, validation_guess, norms, one_label: true };
    after(&evidence, &mut BTreeSet::new())
}

#[test]
fn a_job_of_few_steps_is_told_what_makes_them_more() {
    let of = Hyperparameters::default();
    let told = before(&of, &Schedule::new(&of, 9, 3));
    assert_eq!(
        told,
        [
            "the whole job has only 9 optimizer steps, which is seldom enough to learn from: raise `epochs` (now 3), or \
          lower `batch_size` (now 16)"
        ]
    );
    assert!(before(&of, &Schedule::new(&of, 100, 50)).is_empty());
}

#[test]
fn a_warm_up_longer_than_the_job_is_told_with_the_rate_that_it_reaches() {
    let of = Hyperparameters { warmup: Warmup::Steps(500), ..Hyperparameters::default() };
    let told = before(&of, &Schedule::new(&of, 101, 50));
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("the rate never reaches 0.00002; it ends at 4.00e-6"), "{told:?}");
    assert_eq!(no_rate(&Schedule::new(&of, 101, 50)), None);
}

#[test]
fn a_job_whose_every_rate_is_zero_is_refused_with_the_flag() {
    let of = Hyperparameters { warmup: Warmup::Steps(3), ..Hyperparameters::default() };
    let why = no_rate(&Schedule::new(&of, 1, 1)).unwrap();
    assert!(why.contains("`warmup_steps = 0`") && why.contains("3 steps"), "{why}");
    let of = Hyperparameters::default();
    assert_eq!(no_rate(&Schedule::new(&of, 1, 1)), None);
}

#[test]
fn one_answer_for_all_rows_is_told_with_the_labels_that_never_come() {
    let rows = vec![label("neg", 12, 0.0), label("pos", 39, 1.0)];
    let told = told(&[epoch(1, 0.4, metrics(0.5, rows))], &[0, 51], None);
    assert_eq!(told.len(), 1, "{told:?}");
    for words in [
        "epoch 1: the model answers 'pos' for all 51 validation rows",
        "'neg' (12 rows)",
        "76%",
        "change `learning_rate`",
    ] {
        assert!(told[0].contains(words), "{told:?}");
    }
}

#[test]
fn a_collapse_after_a_good_epoch_is_called_one() {
    let good = epoch(1, 0.2, metrics(0.2, vec![label("neg", 25, 0.9), label("pos", 26, 0.9)]));
    let bad = epoch(2, 0.8, metrics(0.7, vec![label("neg", 25, 0.0), label("pos", 26, 1.0)]));
    let told = told(&[good, bad], &[0, 51], None);
    assert!(told[0].contains("epoch 1 still told labels apart, so training has collapsed"), "{told:?}");
    assert!(told[0].contains("lower `learning_rate`"), "{told:?}");
}

#[test]
fn a_label_that_is_never_predicted_is_named_beside_the_share_of_the_largest() {
    let rows = vec![label("a", 48, 1.0), label("b", 1, 0.0), label("c", 1, 1.0), label("absent", 0, 0.0)];
    let told = told(&[epoch(1, 0.2, metrics(0.2, rows))], &[49, 0, 1, 0], None);
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("never predicted: 'b' (1 row) ('a' has 96% of the validation rows"), "{told:?}");
}

#[test]
fn a_loss_above_that_of_guessing_is_told_and_one_of_overfitting_is_not() {
    let rows = || vec![label("neg", 25, 0.9), label("pos", 26, 0.9)];
    let far = told(&[epoch(1, 0.1, metrics(4.0, rows()))], &[25, 26], None);
    assert!(far[0].contains("the validation loss 4.000 is far above 0.690"), "{far:?}");
    assert!(told(&[epoch(1, 0.1, metrics(0.9, rows()))], &[25, 26], None).is_empty());
}

#[test]
fn a_loss_that_stays_that_of_guessing_is_told_once_there_were_steps_enough() {
    let rows = || vec![label("neg", 25, 0.5), label("pos", 26, 0.5)];
    let flat = told(&[epoch(1, 0.7, metrics(0.695, rows()))], &[25, 26], None);
    assert!(flat[0].contains("nothing was learned so far"), "{flat:?}");
    let mut early = epoch(1, 0.7, metrics(0.695, rows()));
    early.step = 10;
    assert!(told(&[early], &[25, 26], None).is_empty());
    assert!(told(&[epoch(1, 0.5, metrics(0.6, rows()))], &[25, 26], None).is_empty());
}

#[test]
fn gradient_norms_that_grow_without_bound_are_told_from_what_to_what() {
    let rows = || vec![label("neg", 25, 0.9), label("pos", 26, 0.9)];
    let of = |norms| told(&[epoch(1, 0.2, metrics(0.2, rows()))], &[25, 26], Some(norms));
    assert!(of((3.0, 5e6))[0].contains("gradient norms grew from 3.000 to 5.00e6"));
    assert!(of((3.0, 40.0)).is_empty() && of((0.01, 5.0)).is_empty());
}

#[test]
fn norms_are_compared_by_their_medians() {
    let mut norms = Norms::default();
    (0..40).for_each(|step| norms.add(if step == 3 { 1e9 } else { 2.0 }));
    assert_eq!(norms.end_epoch(), Some((2.0, 2.0)));
    (0..40).for_each(|_| norms.add(900.0));
    assert_eq!(norms.end_epoch(), Some((2.0, 900.0)));
    assert_eq!(norms.end_epoch(), None);
}

#[test]
fn a_finding_is_told_where_it_begins_and_at_the_end() {
    let rows = || metrics(0.5, vec![label("neg", 12, 0.0), label("pos", 39, 1.0)]);
    let (of, mut before) = (Hyperparameters::default(), BTreeSet::new());
    let mut count = |number: u32| {
        let epochs = [epoch(number, 0.4, rows())];
        let (train_guess, validation_guess, norms) = (0.6, 0.6, None);
        let called = &[0, 51];
        let evidence = Evidence {
            of: &of,
            epochs: &epochs,
            called,
            train_guess,
            validation_guess,
            norms,
            one_label: true,
        };
        after(&evidence, &mut before).len()
    };
    assert_eq!([count(1), count(2), count(8), count(9)], [1, 0, 0, 1]);
}

#[test]
fn guessing_costs_the_cross_entropy_of_the_label_frequencies() {
    let train = Targets::Classes(vec![0, 0, 0, 1]);
    let expected = -0.5 * (0.75_f64.ln() + 0.25_f64.ln());
    assert!((loss_of_guessing(&train, &Targets::Classes(vec![0, 1]), 2) - expected).abs() < 1e-12);
    let sets = Targets::Sets(vec![vec![0], vec![], vec![0], vec![]]);
    assert!((loss_of_guessing(&sets, &sets, 1) - 2_f64.ln()).abs() < 1e-12);
    assert!(loss_of_guessing(&train, &Targets::Classes(vec![2]), 3).is_finite());
}

#[test]
fn a_metric_that_is_no_number_is_found_in_a_label_too() {
    let mut metrics = metrics(0.5, vec![label("neg", 1, 0.5)]);
    assert_eq!(not_finite(&metrics), None);
    metrics.labels[0].f1 = f64::INFINITY;
    assert_eq!(not_finite(&metrics), Some(("F1", f64::INFINITY)));
}
