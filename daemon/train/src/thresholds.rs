//! From which score on a label counts as set, where rows have several labels.

use hone_engine::model::objective::sigmoid;

/// The threshold of a label that nothing is known of.
pub const MIDDLE: f32 = 0.5;

/// For each label the threshold with the best F1 on these rows; of equally good ones the nearest to 0.5, and 0.5 for a
/// label that no row has. A threshold lies half-way between two scores, so that a score that rounding moves a little
/// stays on its side.
pub fn best(logits: &[Vec<f32>], sets: &[Vec<u32>], labels: usize) -> Vec<f32> {
    let of_label = |label: usize| {
        let mut scores: Vec<(f32, bool)> = logits
            .iter()
            .zip(sets)
            .filter_map(|(row, set)| {
                let is_set = set.iter().any(|&class| class as usize == label);
                Some((sigmoid(*row.get(label)?), is_set))
            })
            .collect();
        best_of_label(&mut scores)
    };
    (0..labels).map(of_label).collect()
}

fn best_of_label(scores: &mut [(f32, bool)]) -> f32 {
    scores.sort_unstable_by(|(a, _), (b, _)| b.total_cmp(a));
    let present = scores.iter().filter(|(_, is_set)| *is_set).count();
    let (mut best, mut hits) = ((0.0, MIDDLE), 0usize);
    for (place, &(score, is_set)) in scores.iter().enumerate() {
        hits += usize::from(is_set);
        let below = scores.get(place + 1).map_or(0.0, |(score, _)| *score);
        // Equal scores are called together; nothing is below 0.
        if below == score {
            continue;
        }
        // 2 hits / (called + present)
        let f1 = 2.0 * hits as f64 / (place + 1 + present) as f64;
        let threshold = between(below, score);
        let distance = |threshold: f32| (threshold - MIDDLE).abs();
        if hits > 0 && (f1 > best.0 || f1 == best.0 && distance(threshold) < distance(best.1)) {
            best = (f1, threshold);
        }
    }
    best.1
}

/// More than `below` and at most `above`: 0.5 if it can be, else half-way.
fn between(below: f32, above: f32) -> f32 {
    let half = below + (above - below) / 2.0;
    match () {
        () if below < MIDDLE && MIDDLE <= above => MIDDLE,
        () if half > below => half,
        () => above,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn best_for(scores: &[(f32, bool)]) -> f32 {
        best_of_label(&mut scores.to_vec())
    }

    fn f1(scores: &[(f32, bool)], threshold: f32) -> f64 {
        let called = scores.iter().filter(|(score, _)| *score >= threshold).count();
        let hits = scores.iter().filter(|(score, is_set)| *score >= threshold && *is_set).count();
        let present = scores.iter().filter(|(_, is_set)| *is_set).count();
        2.0 * hits as f64 / (called + present) as f64
    }

    #[test]
    fn a_threshold_separates_where_it_can() {
        assert_eq!(best_for(&[(0.1, false), (0.2, true), (0.4, true)]), 0.15);
        assert_eq!(best_for(&[(0.9, true), (0.8, false), (0.1, false)]), 0.85);
    }

    #[test]
    fn of_equally_good_thresholds_the_nearest_to_the_middle_is_taken() {
        assert_eq!(best_for(&[(0.9, true), (0.1, false)]), 0.5);
        // F1 is 2/3 with the first alone and with all four.
        let near = |threshold: f32, expected: f32| (threshold - expected).abs() < 1e-6;
        assert!(near(best_for(&[(0.9, true), (0.5, false), (0.45, false), (0.1, true)]), 0.7));
        assert!(near(best_for(&[(0.95, true), (0.8, false), (0.7, false), (0.3, true)]), 0.15));
    }

    #[test]
    fn a_label_that_no_row_has_keeps_the_middle() {
        assert_eq!(best_for(&[(0.9, false), (0.2, false)]), 0.5);
        assert_eq!(best_for(&[]), 0.5);
    }

    #[test]
    fn each_label_has_its_own() {
        let logits = [vec![2.0, -3.0], vec![-1.0, -2.0]];
        let thresholds = best(&logits, &[vec![0], vec![1]], 2);
        assert_eq!(thresholds[0], 0.5);
        assert!(thresholds[1] > sigmoid(-3.0) && thresholds[1] < sigmoid(-2.0), "{thresholds:?}");
    }

    proptest! {
        #[test]
        fn no_other_threshold_is_better(
            scores in prop::collection::vec((prop_oneof![0f32..1.0, Just(0.25), Just(1.0)], any::<bool>()), 1..30),
        ) {
            prop_assume!(scores.iter().any(|(_, is_set)| *is_set));
            let best = f1(&scores, best_for(&scores));
            for (score, _) in &scores {
                prop_assert!(best >= f1(&scores, *score));
            }
        }
    }
}
