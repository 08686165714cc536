//! Holding rows out for validation.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::Example;
use hone_base::error::{Error, Result};
use hone_base::random::{Purpose, Stream};

/// Holds out a share of the examples, stratified by label, the same rows for the same seed. Returns
/// (training, validation), both in the file's order.
///
/// Where each row has one label, every label with two or more rows stands in both parts, and a label with one row stays
/// in training; as far as that allows, `round(share * rows)` rows are held out. Where rows have several labels or none,
/// both parts get each label's share as nearly as the rows let them (Sechidis et al. 2011).
pub fn split(examples: Vec<Example>, share: f64, seed: u64) -> Result<(Vec<Example>, Vec<Example>)> {
    if !(share > 0.0 && share < 1.0) {
        return Err(Error::invalid(format!(
            "the validation split is {share}; it must be more than 0 and less than 1"
        )));
    }
    let mut order: Vec<usize> = (0..examples.len()).collect();
    Stream::new(seed, Purpose::Split, 0, 0).shuffle(&mut order);
    let is_held_out = match examples.iter().all(|example| example.labels.len() == 1) {
        true => by_label(&examples, &order, share),
        false => by_labels(&examples, &order, share),
    };
    let (validation, training): (Vec<_>, Vec<_>) =
        examples.into_iter().zip(is_held_out).partition(|(_, is_held_out)| *is_held_out);
    if validation.is_empty() {
        return Err(Error::invalid(
            "too few rows to hold some out for validation: no label has two rows; pass a file as `validation`",
        ));
    }
    let examples = |part: Vec<(Example, bool)>| part.into_iter().map(|(example, _)| example).collect();
    Ok((examples(training), examples(validation)))
}

/// Which rows are held out, where each has one label.
fn by_label(examples: &[Example], order: &[usize], share: f64) -> Vec<bool> {
    let mut strata: BTreeMap<&[String], Vec<usize>> = BTreeMap::new();
    for &row in order {
        if let Some(example) = examples.get(row) {
            strata.entry(&*example.labels).or_default().push(row);
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
    is_held_out
}

/// Which rows are held out, where a row has any number of labels: label by label, the one with the fewest rows left
/// first, each of its rows goes to the part that lacks more of the label. Rows without a label come last.
fn by_labels(examples: &[Example], order: &[usize], share: f64) -> Vec<bool> {
    let mut rows_of: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let labels_of = |row: usize| examples.get(row).into_iter().flat_map(|example| example.labels.iter());
    for &row in order {
        labels_of(row).for_each(|label| rows_of.entry(label).or_default().push(row));
    }
    // What each part lacks: (training, validation).
    let wanted = |rows: usize| {
        let held_out = rows as f64 * share;
        let held_out = if rows < 2 { 0.0 } else { held_out.clamp(1.0, rows as f64 - 1.0) };
        (rows as f64 - held_out, held_out)
    };
    let mut lacks: BTreeMap<&str, (f64, f64)> =
        rows_of.iter().map(|(label, rows)| (*label, wanted(rows.len()))).collect();
    let mut lacks_rows = wanted(examples.len());
    let mut left: BTreeMap<&str, usize> = rows_of.iter().map(|(label, rows)| (*label, rows.len())).collect();
    let mut is_held_out: Vec<Option<bool>> = vec![None; examples.len()];
    let mut assign = |row: usize, by: Option<&str>, lacks: &mut BTreeMap<&str, (f64, f64)>| {
        let Some(place @ None) = is_held_out.get_mut(row) else { return false };
        let (training, validation) = by.and_then(|label| lacks.get(label)).copied().unwrap_or((0.0, 0.0));
        let held_out = match validation.total_cmp(&training) {
            Ordering::Equal => lacks_rows.1 > lacks_rows.0,
            more => more.is_gt(),
        };
        *place = Some(held_out);
        let take = |(training, validation): &mut (f64, f64)| {
            *(if held_out { validation } else { training }) -= 1.0;
        };
        take(&mut lacks_rows);
        for label in labels_of(row) {
            lacks.get_mut(label.as_str()).map(take);
        }
        true
    };
    while let Some((&label, _)) = left.iter().min_by_key(|(_, rows)| **rows) {
        for &row in rows_of.get(label).into_iter().flatten() {
            if assign(row, Some(label), &mut lacks) {
                for other in labels_of(row) {
                    if let Some(rows) = left.get_mut(other.as_str()) {
                        *rows -= 1;
                    }
                }
            }
        }
        left.remove(label);
    }
    for &row in order {
        assign(row, None, &mut lacks);
    }
    is_held_out.into_iter().map(|held_out| held_out.unwrap_or(false)).collect()
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
            labels: [label.to_string()].into(),
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
        assert!(error.message().contains("pass a file as `validation`"), "{error}");
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
            let count = |part: &[Example], label: u8| part.iter().filter(|row| row.labels[0] == label.to_string()).count();
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

    proptest! {
        #[test]
        fn with_several_labels_a_split_is_a_partition_with_about_the_share_of_each(
            sets in prop::collection::vec(0u8..8, 20..300), share in 0.1f64..0.5, seed in any::<u64>(),
        ) {
            let mut all = rows(&sets);
            for (row, set) in all.iter_mut().zip(&sets) {
                row.labels = (0..3).filter(|label| set >> label & 1 == 1).map(|label| label.to_string()).collect();
            }
            let (training, validation) = split(all.clone(), share, seed).unwrap();
            let mut together = lines(&training);
            together.extend(lines(&validation));
            together.sort_unstable();
            prop_assert_eq!(together, lines(&all));
            let count = |part: &[Example], label: &str| {
                part.iter().filter(|row| row.labels.iter().any(|of| of == label)).count() as f64
            };
            for label in ["0", "1", "2"] {
                let expected = count(&all, label) * share;
                // The greedy assignment has no bound; a row of few may be needed for two labels at once.
                prop_assert!((count(&validation, label) - expected).abs() <= 5.0, "label {label}");
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
