//! The loss that a job asks for: its methods and what its training rows say of them.

use super::methods::{ClassWeights, Methods};
use hone_base::error::{Error, Result, quoted};
use hone_base::nearest::nearest;
use hone_data::dataset::Labels;
use hone_engine::model::objective::{Kind, Objective};
use hone_engine::targets::Targets;

/// The loss for a job with these training rows. Fails when a weight is of no label, or no weight.
pub(super) fn of(methods: &Methods, labels: &Labels, train: &Targets) -> Result<Objective> {
    let kind = match train {
        Targets::Classes(_) => Kind::SingleLabel,
        Targets::Sets(_) => Kind::MultiLabel,
    };
    Ok(Objective {
        kind,
        smoothing: methods.label_smoothing,
        weights: weights(&methods.class_weights, labels, train)?,
        focal_gamma: methods.focal_gamma,
        r_drop: methods.r_drop,
    })
}

fn weights(asked: &ClassWeights, labels: &Labels, train: &Targets) -> Result<Option<Vec<f32>>> {
    match asked {
        ClassWeights::None => Ok(None),
        ClassWeights::Balanced => Ok(Some(balanced(labels.names().len(), train))),
        ClassWeights::Given(given) => {
            if let Some(unknown) = given.keys().find(|label| !labels.names().contains(label)) {
                let meant = nearest(unknown, labels.names().iter().map(String::as_str));
                let meant =
                    meant.map_or_else(String::new, |label| format!("; did you mean {}?", quoted(label)));
                return Err(Error::invalid(format!(
                    "`class_weights` gives a weight to {}, but the labels are {}{meant}",
                    quoted(unknown),
                    labels.listed()
                )));
            }
            if let Some((label, weight)) = given.iter().find(|(_, w)| !(w.is_finite() && **w > 0.0)) {
                return Err(Error::invalid(format!(
                    "`class_weights` gives {} the weight {weight}; a weight is greater than 0",
                    quoted(label)
                )));
            }
            let weight = |label: &String| given.get(label).map_or(1.0, |&weight| weight as f32);
            Ok(Some(labels.names().iter().map(weight).collect()))
        }
    }
}

/// One label a row: `rows / (labels * rows of the label)`, as scikit-learn's `balanced`. Several: the weight of a label's
/// positives, `rows without it / rows with it`. A label that no row has, or every one, has weight 1.
fn balanced(labels: usize, train: &Targets) -> Vec<f32> {
    let rows = train.len() as f64;
    let weight = |count: u64| match (train, count as f64) {
        (Targets::Classes(_), count) if count > 0.0 => rows / (labels as f64 * count),
        (Targets::Sets(_), count) if count > 0.0 && count < rows => (rows - count) / count,
        _ => 1.0,
    };
    train.counts(labels).into_iter().map(|count| weight(count) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Labels {
        Labels::from_names(["a", "b", "c"].map(str::to_owned).to_vec())
    }

    fn weights_of(asked: ClassWeights, train: &Targets) -> Result<Option<Vec<f32>>> {
        let methods = Methods { class_weights: asked, ..Methods::default() };
        of(&methods, &labels(), train).map(|objective| objective.weights)
    }

    /// scikit-learn 1.9: compute_class_weight("balanced", classes=[0, 1], y=[0, 0, 0, 1]) is [2/3, 2].
    #[test]
    fn balanced_weights_are_those_of_scikit_learn() {
        let weights = balanced(2, &Targets::Classes(vec![0, 0, 0, 1]));
        assert_eq!(weights, [2.0 / 3.0, 2.0]);
    }

    #[test]
    fn with_several_labels_a_balanced_weight_is_negatives_to_positives() {
        let train = Targets::Sets(vec![vec![0, 1], vec![0], vec![0], vec![0]]);
        let weights = weights_of(ClassWeights::Balanced, &train).unwrap().unwrap();
        assert_eq!(weights, [1.0, 3.0, 1.0]);
    }

    #[test]
    fn a_label_without_a_given_weight_has_1() {
        let train = Targets::Classes(vec![0, 1, 2]);
        let given = ClassWeights::Given([("b".to_owned(), 2.5)].into());
        assert_eq!(weights_of(given, &train).unwrap().unwrap(), [1.0, 2.5, 1.0]);
        assert_eq!(weights_of(ClassWeights::None, &train).unwrap(), None);
    }

    #[test]
    fn a_weight_of_no_label_or_that_is_none_is_refused() {
        let train = Targets::Classes(vec![0, 1, 2]);
        let refused = |label: &str, weight: f64| {
            let given = ClassWeights::Given([(label.to_owned(), weight)].into());
            weights_of(given, &train).unwrap_err().message().to_owned()
        };
        assert_eq!(refused("d", 1.0), "`class_weights` gives a weight to \"d\", but the labels are a, b, c");
        assert!(refused("a", 0.0).contains("greater than 0"));
        assert!(refused("a", f64::NAN).contains("greater than 0"));
    }
}
