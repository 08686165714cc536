//! How much each label counts in the loss, as it is typed.

use hone::v1;

use super::values::positive;

/// `balanced`, or labels with their weights. A label may hold '='; the last one of an entry counts.
pub(super) fn class_weights(text: &str) -> Result<v1::ClassWeights, String> {
    if text == "balanced" {
        return Ok(v1::ClassWeights { balanced: true, given: Vec::new() });
    }
    let weight = |entry: &str| {
        let Some((label, weight)) = entry.rsplit_once('=') else {
            return Err(format!("\"{entry}\" is neither `balanced` nor LABEL=WEIGHT"));
        };
        let label = label.trim();
        if label.is_empty() {
            return Err(format!("\"{entry}\" has no label before the '='"));
        }
        let weight = positive(weight).map_err(|why| format!("the weight of \"{label}\": {why}"))?;
        Ok(v1::LabelWeight { label: label.to_owned(), weight })
    };
    let given: Vec<_> = text.split(',').map(weight).collect::<Result<_, _>>()?;
    for (index, entry) in given.iter().enumerate() {
        if given.iter().take(index).any(|before| before.label == entry.label) {
            return Err(format!("the label \"{}\" stands twice", entry.label));
        }
    }
    Ok(v1::ClassWeights { balanced: false, given })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(given: &[(&str, f64)]) -> v1::ClassWeights {
        let weight = |&(label, weight): &(&str, f64)| v1::LabelWeight { label: label.into(), weight };
        v1::ClassWeights { balanced: false, given: given.iter().map(weight).collect() }
    }

    #[test]
    fn class_weights_are_balanced_or_given_for_each_label() {
        assert_eq!(class_weights("balanced"), Ok(v1::ClassWeights { balanced: true, given: vec![] }));
        assert_eq!(class_weights("balanced=2"), Ok(weights(&[("balanced", 2.0)])));
        assert_eq!(class_weights("a=b=0.5, c d=2"), Ok(weights(&[("a=b", 0.5), ("c d", 2.0)])));
        for (text, words) in [
            ("balance", "neither `balanced` nor LABEL=WEIGHT"),
            ("", "neither `balanced` nor LABEL=WEIGHT"),
            ("=2", "no label"),
            ("a=0", "the weight of \"a\": must be greater than 0"),
            ("a=x", "the weight of \"a\": not a number"),
            ("a=1,b=2,a=3", "\"a\" stands twice"),
        ] {
            let error = class_weights(text).err().unwrap_or_default();
            assert!(error.contains(words), "{text}: {error:?}");
        }
    }
}
