//! The labels of a task and their class numbers.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use super::label_sets::LabelSet;
use super::{Example, LabelCount};
use hone_base::error::{Error, Result};
use hone_engine::targets::Targets;

/// Different labels that a file may have.
pub(super) const MAX_LABELS: usize = 1000;

/// Labels that a message lists.
const SHOWN: usize = 10;

/// The labels of a task; a label's place is its class number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels(Vec<String>);

impl Labels {
    /// The labels of training rows: `names` in their order, where the file or the user gives them, else sorted, integers
    /// as integers.
    ///
    /// # Errors
    /// Fails where there are fewer than two, and where they are no labels but measurements or ids.
    pub fn of(dataset_name: &str, examples: &[Example], names: &[String]) -> Result<Self> {
        let different: BTreeSet<&str> = all(examples).collect();
        let found = match different.first() {
            None if examples.is_empty() => "there are no rows".to_owned(),
            None => "no row has a label".to_owned(),
            Some(_) if names.len() > 1 => return Ok(Self(names.to_vec())),
            Some(label)
                if different.len() == 1 && examples.iter().any(|example| example.labels.is_empty()) =>
            {
                format!("the only label is \"{label}\"")
            }
            Some(label) if different.len() == 1 => format!("every row has the label \"{label}\""),
            Some(_) if different.len() > MAX_LABELS => {
                return Err(too_many(dataset_name, different.iter().copied()));
            }
            Some(_) => {
                refuse_what_is_no_label(dataset_name, &different, examples.len())?;
                return Ok(Self(in_class_order(different)));
            }
        };
        Err(Error::invalid(format!("{dataset_name}: {found}; a classifier needs two labels or more")))
    }

    /// Labels in a given class order, as a checkpoint stores them.
    pub fn from_names(names: Vec<String>) -> Self {
        Self(names)
    }

    /// In class order.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Rows of each label, in class order, among rows with these targets.
    pub fn counts(&self, targets: &Targets) -> Vec<LabelCount> {
        let rows = targets.counts(self.0.len());
        self.0.iter().zip(rows).map(|(label, rows)| LabelCount { label: label.clone(), rows }).collect()
    }

    /// The class numbers of each example's labels; `several` says whether a row may have another number than one.
    /// Fails, naming file, line and label, when one is unknown.
    pub fn targets(&self, dataset_name: &str, examples: &[Example], several: bool) -> Result<Targets> {
        let classes: HashMap<&str, u32> = self.0.iter().map(String::as_str).zip(0..).collect();
        let set = |example: &Example| {
            let class = |label: &String| {
                classes.get(label.as_str()).copied().ok_or_else(|| {
                    let alike = self.0.iter().find(|known| known.to_lowercase() == label.to_lowercase());
                    let alike = alike.map_or(String::new(), |known| format!("; it differs from \"{known}\" only by case"));
                    Error::invalid(format!(
                        "{dataset_name}, line {}: the label \"{label}\" is none of the training rows' labels ({}){alike}",
                        example.line,
                        self.listed(),
                    ))
                })
            };
            let mut set: Vec<u32> = example.labels.iter().map(class).collect::<Result<_>>()?;
            set.sort_unstable();
            Ok(set)
        };
        let sets: Vec<Vec<u32>> = examples.iter().map(set).collect::<Result<_>>()?;
        Ok(if several { Targets::Sets(sets) } else { Targets::Classes(sets.into_iter().flatten().collect()) })
    }

    /// The first of them, for a message.
    pub fn listed(&self) -> String {
        let names: Vec<&str> = self.0.iter().take(SHOWN).map(String::as_str).collect();
        match self.0.len().checked_sub(SHOWN) {
            None | Some(0) => names.join(", "),
            Some(more) => format!("{} and {more} more", names.join(", ")),
        }
    }
}

/// Rows of each label, in class order.
pub(super) fn count(sets: &[LabelSet], names: &[String]) -> Vec<LabelCount> {
    let mut rows: HashMap<&str, u64> = HashMap::new();
    for (label, of) in sets.iter().flat_map(|set| set.labels.iter().map(|label| (label, set.rows))) {
        *rows.entry(label).or_default() += of;
    }
    let labels = match names.is_empty() {
        true => in_class_order(rows.keys().copied()),
        false => names.to_vec(),
    };
    labels
        .into_iter()
        .map(|label| LabelCount { rows: rows.get(&*label).copied().unwrap_or(0), label })
        .collect()
}

/// Every label of every row.
fn all(examples: &[Example]) -> impl Iterator<Item = &str> {
    examples.iter().flat_map(|example| example.labels.iter()).map(String::as_str)
}

/// The failure of a file whose label column holds something else.
pub(super) fn too_many<'a>(dataset_name: &str, labels: impl Iterator<Item = &'a str>) -> Error {
    let labels: BTreeSet<&str> = labels.collect();
    let why = match measurement(&labels) {
        Some(example) => measurements(example),
        None => "is it the right column? Name it with `columns.label`".to_owned(),
    };
    Error::invalid(format!("{dataset_name}: there are more than {MAX_LABELS} different labels; {why}"))
}

/// Labels of numbers with fractions that are not a scale of a few steps.
const MOST_STEPS: usize = 20;

/// Rows from which on a label for each is no label.
const ROWS_TO_JUDGE: usize = 10;

/// Refuses a column of measurements, and one in which every row has another value.
fn refuse_what_is_no_label(dataset_name: &str, different: &BTreeSet<&str>, rows: usize) -> Result<()> {
    let count = different.len();
    let found = format!("{dataset_name}: {count} different labels in {rows} rows");
    match measurement(different) {
        Some(example) if count > MOST_STEPS || count == rows && rows >= ROWS_TO_JUDGE => {
            Err(Error::invalid(format!("{found}: {}", measurements(example))))
        }
        _ if count == rows && rows >= ROWS_TO_JUDGE => Err(Error::invalid(format!(
            "{found}: each row has one of its own, as an id has; a label stands in several rows. Name the column of the \
             label with `columns.label`"
        ))),
        _ => Ok(()),
    }
}

/// A number with a fraction among labels that are all numbers.
fn measurement<'a>(labels: &BTreeSet<&'a str>) -> Option<&'a str> {
    let is_number = |label: &&str| label.parse::<f64>().is_ok_and(f64::is_finite);
    let all_numbers = labels.iter().all(is_number);
    labels.iter().find(|label| all_numbers && !is_integer(label)).copied()
}

fn measurements(example: &str) -> String {
    format!(
        "they are numbers with fractions, such as {example}: measurements, and Hone learns labels. Turn them into a few \
         classes, or name another column with `columns.label`"
    )
}

/// Sorts labels: as integers when all of them are, else by their bytes.
fn in_class_order<'a>(labels: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut labels: Vec<&str> = labels.into_iter().collect();
    if labels.iter().all(|label| is_integer(label)) {
        labels.sort_unstable_by(|a, b| by_value(a, b));
    } else {
        labels.sort_unstable();
    }
    labels.into_iter().map(str::to_owned).collect()
}

fn is_integer(label: &str) -> bool {
    let digits = label.strip_prefix('-').unwrap_or(label);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Compares integers of any size; different spellings of one number ("1", "01") by their bytes.
fn by_value(a: &str, b: &str) -> Ordering {
    let parts = |label: &str| {
        let digits = label.trim_start_matches('-').trim_start_matches('0').to_owned();
        (label.starts_with('-') && !digits.is_empty(), digits)
    };
    let ((a_negative, a_digits), (b_negative, b_digits)) = (parts(a), parts(b));
    let magnitude = a_digits.len().cmp(&b_digits.len()).then_with(|| a_digits.cmp(&b_digits));
    let value = match (a_negative, b_negative) {
        (false, false) => magnitude,
        (true, true) => magnitude.reverse(),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    };
    value.then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn examples(labels: &[&str]) -> Vec<Example> {
        let example = |(label, line): (&&str, u64)| Example {
            text: String::new(),
            text_pair: None,
            labels: [(*label).to_owned()].into(),
            line,
        };
        labels.iter().zip(2..).map(example).collect()
    }

    #[test]
    fn integers_sort_as_integers_when_all_labels_are() {
        for (given, expected) in [
            (&["10", "9", "-1", "0", "9"][..], &["-1", "0", "9", "10"][..]),
            (&["10", "9", "x"], &["10", "9", "x"]),
            (&["01", "1", "-10", "-9"], &["-10", "-9", "01", "1"]),
            (&["pos", "neg", "Neutral"], &["Neutral", "neg", "pos"]),
            (
                &["100000000000000000000000", "99999999999999999999999"],
                &["99999999999999999999999", "100000000000000000000000"],
            ),
        ] {
            assert_eq!(Labels::of("f.csv", &examples(given), &[]).unwrap().names(), expected);
        }
    }

    #[test]
    fn fewer_than_two_labels_are_refused_by_name() {
        let error = Labels::of("f.csv", &examples(&["pos", "pos"]), &[]).unwrap_err();
        assert!(error.message().starts_with("f.csv: every row has the label \"pos\""), "{error}");
        assert!(Labels::of("f.csv", &[], &[]).unwrap_err().message().contains("no rows"));
    }

    #[test]
    fn an_unknown_label_is_named_with_its_file_and_line() {
        let many: Vec<String> = (0..28).map(|label| (label % 14).to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let labels = Labels::of("train.csv", &examples(&many), &[]).unwrap();
        let targets = |rows: &[&str]| labels.targets("test.csv", &examples(rows), false);
        assert_eq!(targets(&["13", "2"]).unwrap(), Targets::Classes(vec![13, 2]));
        let error = targets(&["2", "14"]).unwrap_err();
        assert_eq!(
            error.message(),
            "test.csv, line 3: the label \"14\" is none of the training rows' labels (0, 1, 2, 3, 4, 5, 6, 7, 8, 9 \
             and 4 more)"
        );
    }

    #[test]
    fn a_row_may_have_several_labels_or_none() {
        let mut rows = examples(&["b", "a", "c"]);
        rows[0].labels = ["a".into(), "b".into()].into();
        rows[1].labels = [].into();
        let labels = Labels::of("f.csv", &rows, &[]).unwrap();
        assert_eq!(labels.names(), ["a", "b", "c"]);
        let targets = labels.targets("f.csv", &rows, true).unwrap();
        assert_eq!(targets, Targets::Sets(vec![vec![0, 1], vec![], vec![2]]));
        let sets: Vec<LabelSet> =
            rows.iter().map(|row| LabelSet { labels: row.labels.clone(), rows: 2, line: row.line }).collect();
        assert_eq!(count(&sets, &[]).iter().map(|count| count.rows).collect::<Vec<_>>(), [2, 2, 2]);
        let error = Labels::of("f.csv", &rows[1..], &[]).unwrap_err();
        assert!(error.message().contains("the only label is \"c\""), "{error}");
        let error = Labels::of("f.csv", &rows[1..2], &[]).unwrap_err();
        assert!(error.message().contains("no row has a label"), "{error}");
    }

    #[test]
    fn too_many_labels_suggest_another_column() {
        let many: Vec<String> = (0..=MAX_LABELS).map(|label| (label % MAX_LABELS).to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(Labels::of("f.csv", &examples(&many), &[]).is_ok());
        let more: Vec<&str> = many.iter().copied().chain(["x", "x"]).collect();
        let error = Labels::of("f.csv", &examples(&more), &[]).unwrap_err();
        assert!(error.message().contains("`columns.label`"), "{error}");
    }

    #[test]
    fn ids_and_measurements_are_no_labels() {
        let refused = |labels: &[&str]| Labels::of("f.csv", &examples(labels), &[]).map(drop);
        let ids: Vec<String> = (0..12).map(|id| format!("c{id}")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let error = refused(&ids).unwrap_err();
        assert!(
            error.message().starts_with("f.csv: 12 different labels in 12 rows: each row has one of its own"),
            "{error}"
        );
        assert!(refused(&[&ids[..], &ids[..1]].concat()).is_ok());
        let measured: Vec<String> = (0..60).map(|row| format!("0.{:02}", row % 30)).collect();
        let measured: Vec<&str> = measured.iter().map(String::as_str).collect();
        let error = refused(&measured).unwrap_err();
        assert!(
            error.message().contains("30 different labels in 60 rows: they are numbers with fractions"),
            "{error}"
        );
        // Half stars are a scale.
        assert!(refused(&["0.5", "1", "1.5", "2", "0.5", "1"]).is_ok());
    }

    #[test]
    fn names_that_are_given_keep_their_order_and_may_have_no_row() {
        let names = ["z", "a", "m"].map(str::to_owned);
        let labels = Labels::of("f.csv", &examples(&["a", "z"]), &names).unwrap();
        assert_eq!(labels.names(), names);
    }

    proptest! {
        #[test]
        fn the_order_of_labels_does_not_depend_on_the_order_of_rows(
            mut labels in prop::collection::vec("-?[0-9]{1,3}|[a-c]{1,2}", 0..12), integers in any::<bool>(),
        ) {
            if integers {
                labels.retain(|label| is_integer(label));
            }
            let forward: Vec<&str> = labels.iter().map(String::as_str).collect();
            let backward: Vec<&str> = forward.iter().rev().copied().collect();
            let ordered = in_class_order(forward);
            prop_assert_eq!(&ordered, &in_class_order(backward));
            if let Ok(values) = ordered.iter().map(|label| label.parse::<i64>()).collect::<Result<Vec<_>, _>>() {
                prop_assert!(values.is_sorted());
            }
        }
    }
}
