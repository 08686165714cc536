//! Holding rows out for validation.

use std::collections::BTreeMap;

use super::Example;
use crate::error::{Error, Result};
use crate::random::{Purpose, Stream};

/// Holds out a share of the examples, stratified by label, the same rows for the same seed. Returns
/// (training, validation), both in the file's order. Every label with two or more rows stands in both parts; a label
/// with one row stays in training. As far as that allows, `round(share * rows)` rows are held out.
pub fn split(examples: Vec<Example>, share: f64, seed: u64) -> Result<(Vec<Example>, Vec<Example>)> {
    if !(share > 0.0 && share < 1.0) {
        return Err(Error::invalid(format!(
            "the validation split is {share}; it must be more than 0 and less than 1"
        )));
    }
    let mut order: Vec<usize> = (0..examples.len()).collect();
    Stream::new(seed, Purpose::Split, 0, 0).shuffle(&mut order);
    let mut strata: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for row in order {
        if let Some(example) = examples.get(row) {
            strata.entry(&example.label).or_default().push(row);
        }
    }
    let sizes: Vec<usize> = strata.values().map(Vec::len).collect();
    let mut is_held_out = vec![false; examples.len()];
    for (rows, held_out) in strata.values().zip(apportion(&sizes, share)) {
        for &row in rows.iter().take(held_out) {
            if let Some(flag) = is_held_out.get_mut(row) {
                *flag = true;
            }
        }
    }
    let (validation, training): (Vec<_>, Vec<_>) =
        examples.into_iter().zip(is_held_out).partition(|(_, is_held_out)| *is_held_out);
    if validation.is_empty() {
        return Err(Error::invalid(
            "too few rows to hold some out for validation: no label has two rows; pass a file with --validation",
        ));
    }
    let examples = |part: Vec<(Example, bool)>| part.into_iter().map(|(example, _)| example).collect();
    Ok((examples(training), examples(validation)))
}

/// How many rows of each stratum are held out: largest remainders, within what each stratum can give.
fn apportion(sizes: &[usize], share: f64) -> Vec<usize> {
    struct Stratum {
        quota: f64,
        least: usize,
        most: usize,
        given: usize,
    }
    let mut strata: Vec<Stratum> = sizes
        .iter()
        .map(|&size| {
            let (least, most) = if size < 2 { (0, 0) } else { (1, size - 1) };
            let quota = size as f64 * share;
            Stratum { quota, least, most, given: (quota as usize).clamp(least, most) }
        })
        .collect();
    let total = (sizes.iter().sum::<usize>() as f64 * share).round() as usize;
    let mut given: usize = strata.iter().map(|stratum| stratum.given).sum();
    let lacks = |stratum: &Stratum| stratum.quota - stratum.given as f64;
    while given < total {
        let can_give = strata.iter_mut().filter(|stratum| stratum.given < stratum.most);
        // Of equal remainders `max_by` takes the last: turned round, the first label's.
        let Some(stratum) = can_give.rev().max_by(|a, b| lacks(a).total_cmp(&lacks(b))) else { break };
        stratum.given += 1;
        given += 1;
    }
    while given > total {
        let can_keep = strata.iter_mut().filter(|stratum| stratum.given > stratum.least);
        let Some(stratum) = can_keep.min_by(|a, b| lacks(a).total_cmp(&lacks(b))) else { break };
        stratum.given -= 1;
        given -= 1;
    }
    strata.into_iter().map(|stratum| stratum.given).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(labels: &[u8]) -> Vec<Example> {
        let row = |(label, line): (&u8, u64)| Example {
            text: format!("text {line}"),
            text_pair: None,
            label: label.to_string(),
            line,
        };
        labels.iter().zip(2..).map(row).collect()
    }

    fn lines(examples: &[Example]) -> Vec<u64> {
        examples.iter().map(|example| example.line).collect()
    }

    #[test]
    fn shares_are_given_by_largest_remainders() {
        assert_eq!(apportion(&[50, 30, 20], 0.1), [5, 3, 2]);
        assert_eq!(apportion(&[45, 33, 22], 0.1), [5, 3, 2]);
        assert_eq!(apportion(&[98, 2], 0.1), [9, 1]);
        assert_eq!(apportion(&[2, 2, 2], 0.1), [1, 1, 1]);
        assert_eq!(apportion(&[2, 2, 2], 0.99), [1, 1, 1]);
        assert_eq!(apportion(&[1, 1, 8], 0.5), [0, 0, 5]);
    }

    #[test]
    fn a_split_that_cannot_be_made_says_what_to_do() {
        let error = split(rows(&[1, 2, 3]), 0.2, 1).unwrap_err();
        assert!(error.message().contains("pass a file with --validation"), "{error}");
        for share in [0.0, 1.0, -0.1, f64::NAN] {
            let error = split(rows(&[1, 1, 2, 2]), share, 1).unwrap_err();
            assert!(error.message().contains("more than 0 and less than 1"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_split_is_a_stratified_partition(
            labels in prop::collection::vec(0u8..4, 2..300), share in 0.01f64..0.99, seed in any::<u64>(),
        ) {
            let all = rows(&labels);
            let count = |part: &[Example], label: u8| part.iter().filter(|row| row.label == label.to_string()).count();
            let Ok((training, validation)) = split(all.clone(), share, seed) else {
                prop_assert!((0..4).all(|label| count(&all, label) < 2));
                return Ok(());
            };
            let mut together = lines(&training);
            together.extend(lines(&validation));
            together.sort_unstable();
            prop_assert_eq!(together, lines(&all));
            prop_assert!(lines(&training).is_sorted() && lines(&validation).is_sorted());

            let mut is_bound = false;
            for label in 0..4 {
                let (size, held_out) = (count(&all, label), count(&validation, label));
                let quota = size as f64 * share;
                if size >= 2 {
                    prop_assert!(held_out >= 1 && held_out < size);
                    is_bound |= quota < 1.0 || quota > (size - 1) as f64;
                } else {
                    prop_assert_eq!(held_out, 0);
                    is_bound |= size == 1;
                }
            }
            if !is_bound {
                prop_assert_eq!(validation.len(), (labels.len() as f64 * share).round() as usize);
                for label in 0..4 {
                    let quota = count(&all, label) as f64 * share;
                    prop_assert!((count(&validation, label) as f64 - quota).abs() < 1.0);
                }
            }
            prop_assert_eq!(split(all, share, seed).unwrap(), (training, validation));
        }
    }

    #[test]
    fn another_seed_holds_out_other_rows() {
        let labels: Vec<u8> = (0..100).map(|row| row % 2).collect();
        let (_, one) = split(rows(&labels), 0.2, 1).unwrap();
        let (_, two) = split(rows(&labels), 0.2, 2).unwrap();
        assert_ne!(lines(&one), lines(&two));
    }
}
