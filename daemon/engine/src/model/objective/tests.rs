//! The loss against torch, against finite differences, and at its limits.

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

/// What `tests/fixtures/objective/make.py` computed.
#[derive(Deserialize)]
struct Case {
    kind: String,
    smoothing: f64,
    weights: Option<Vec<f32>>,
    focal_gamma: Option<f64>,
    r_drop: Option<f64>,
    logits: Vec<f32>,
    targets: serde_json::Value,
    mean: f64,
    gradient: Vec<f64>,
}

#[test]
fn every_combination_agrees_with_torch() {
    let text = include_str!("../../../../../tests/fixtures/objective/expected.json");
    let cases: Vec<Case> = serde_json::from_str(text).unwrap();
    assert_eq!(cases.len(), 32);
    for case in cases {
        let Case { smoothing, weights, focal_gamma, r_drop, .. } = case;
        let (kind, targets) = match case.kind.as_str() {
            "single" => (Kind::SingleLabel, Targets::Classes(serde_json::from_value(case.targets).unwrap())),
            _ => (Kind::MultiLabel, Targets::Sets(serde_json::from_value(case.targets).unwrap())),
        };
        let objective = Objective { kind, smoothing, weights, focal_gamma, r_drop };
        let loss = objective.evaluate(&case.logits, &targets);
        assert!((loss.mean - case.mean).abs() < 1e-12, "{objective:?}: {} for {}", loss.mean, case.mean);
        assert_eq!(loss.gradient.len(), case.gradient.len());
        for (given, expected) in loss.gradient.iter().zip(&case.gradient) {
            assert!((f64::from(*given) - expected).abs() < 1e-7, "{objective:?}: {given} for {expected}");
        }
    }
}

#[test]
fn one_label_is_the_written_formula() {
    let objective = Objective {
        smoothing: 0.2,
        weights: Some(vec![1.0, 3.0]),
        focal_gamma: Some(1.5),
        ..Objective::default()
    };
    let p = [1.0 / (1.0 + 1f64.exp()), 1f64.exp() / (1.0 + 1f64.exp())];
    let term = |weight: f64, target: f64, p: f64| -weight * target * (1.0 - p).powf(1.5) * p.ln();
    let expected = (term(1.0, 0.1, p[0]) + term(3.0, 0.9, p[1])) / 3.0;
    let loss = objective.evaluate(&[0.0, 1.0], &Targets::Classes(vec![1]));
    assert!((loss.mean - expected).abs() < 1e-14);
}

#[test]
fn two_equal_passes_diverge_by_nothing() {
    let logits = [0.5, -1.0, 2.0, 0.25, 1.5, -3.0];
    let twice = [logits, logits].concat();
    for (kind, targets) in [
        (Kind::SingleLabel, Targets::Classes(vec![0, 2])),
        (Kind::MultiLabel, Targets::Sets(vec![vec![0, 2], vec![]])),
    ] {
        let once = Objective::plain(kind).evaluate(&logits, &targets);
        let objective = Objective { r_drop: Some(5.0), ..Objective::plain(kind) };
        let loss = objective.evaluate(&twice, &targets);
        assert!((loss.mean - once.mean).abs() < 1e-14);
        for (given, expected) in loss.gradient.iter().zip(once.gradient.iter().chain(&once.gradient)) {
            assert!((given - expected / 2.0).abs() < 1e-7);
        }
    }
}

#[test]
fn saturated_logits_neither_overflow_nor_lose_their_gradient() {
    for gamma in [None, Some(0.5), Some(2.0)] {
        let objective = |kind| Objective { focal_gamma: gamma, r_drop: Some(1.0), ..Objective::plain(kind) };
        let logits = [1000.0, -1000.0, 1000.0, -1000.0, 1000.0, -1000.0, -1000.0, 1000.0];
        let one = objective(Kind::SingleLabel).evaluate(&logits, &Targets::Classes(vec![1, 0]));
        let several = objective(Kind::MultiLabel).evaluate(&logits, &Targets::Sets(vec![vec![1], vec![0]]));
        for loss in [one, several] {
            assert!(loss.mean.is_finite() && loss.mean > 100.0, "{loss:?}");
            assert!(loss.gradient.iter().all(|g| g.is_finite()), "{loss:?}");
        }
    }
    let right =
        Objective::plain(Kind::MultiLabel).evaluate(&[1000.0, -1000.0], &Targets::Sets(vec![vec![0]]));
    assert_eq!(right, Loss { mean: 0.0, gradient: vec![0.0, 0.0] });
}

#[test]
fn a_row_s_plain_loss_is_the_mean_of_a_batch_of_one() {
    let logits = [0.5, -1.0, 2.0];
    let one = Objective::plain(Kind::SingleLabel).evaluate(&logits, &Targets::Classes(vec![1]));
    assert_eq!(cross_entropy(&logits, 1), one.mean);
    let several = Objective::plain(Kind::MultiLabel).evaluate(&logits, &Targets::Sets(vec![vec![0, 2]]));
    assert!((binary_cross_entropy(&logits, &[0, 2]) - several.mean).abs() < 1e-15);
    assert_eq!((sigmoid(0.0), sigmoid(200.0), sigmoid(-200.0)), (0.5, 1.0, 0.0));
}

fn targets(kind: Kind, bits: &[u8; 3]) -> Targets {
    match kind {
        Kind::SingleLabel => Targets::Classes(bits.iter().map(|&bits| u32::from(bits % 3)).collect()),
        Kind::MultiLabel => {
            let set = |&bits: &u8| (0..3).filter(|label| bits >> label & 1 == 1).collect();
            Targets::Sets(bits.iter().map(set).collect())
        }
    }
}

proptest! {
    #[test]
    fn the_gradient_agrees_with_central_differences(
        several in any::<bool>(),
        smoothing in prop_oneof![Just(0.0), 0.01..0.5],
        weights in prop::option::of(prop::collection::vec(0.25f32..4.0, 3)),
        focal_gamma in prop::option::of(prop_oneof![Just(0.0), 0.2..3.0]),
        r_drop in prop::option::of(0.1..5.0),
        logits in prop::collection::vec(-4f32..4.0, 18),
        bits in any::<[u8; 3]>(),
    ) {
        let kind = if several { Kind::MultiLabel } else { Kind::SingleLabel };
        let objective = Objective { kind, smoothing, weights, focal_gamma, r_drop };
        let logits = &logits[..objective.passes() * 9];
        let targets = targets(kind, &bits);
        let gradient = objective.evaluate(logits, &targets).gradient;
        for (place, &given) in gradient.iter().enumerate() {
            let at = |x: f32| {
                let mut moved = logits.to_vec();
                moved[place] = x;
                objective.evaluate(&moved, &targets).mean
            };
            // The step as float32 makes it.
            let (low, high) = (logits[place] - 1e-3, logits[place] + 1e-3);
            let expected = (at(high) - at(low)) / (f64::from(high) - f64::from(low));
            prop_assert!((f64::from(given) - expected).abs() < 1e-5, "{objective:?}: {given} for {expected}");
        }
    }
}
