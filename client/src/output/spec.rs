//! A job's specification for people: everything in it, or only what differs from another.

use std::borrow::Cow;
use std::fmt;

use hone::settings::{self, Setting, Value};
use hone::v1;

use super::format::{count, number, one_line, quoted, short_digest};
use super::json;

/// What something in a specification is called.
pub(crate) type Name = Cow<'static, str>;

/// Name and value of everything that is set, in the order in which people think of it.
pub(crate) fn entries(spec: &v1::JobSpec) -> Vec<(Name, String)> {
    let mut entries = Vec::new();
    let mut put = |name: &'static str, value: Option<String>| {
        if let Some(value) = value {
            entries.push((Name::Borrowed(name), one_line(&value)));
        }
    };
    put("model", spec.name.clone());
    put("encoder", spec.encoder.clone());
    put("training data", Some(spec.train.as_ref().map_or_else(|| "demonstration data".to_owned(), source)));
    put("training rows", spec.train_limit.map(first_rows));
    put("validation data", spec.validation.as_ref().map(source));
    put("validation split", spec.validation_split.map(number));
    put("validation rows", spec.validation_limit.map(first_rows));
    put("test data", spec.test.as_ref().map(source));
    put("test rows", spec.test_limit.map(first_rows));
    put("promoted if", spec.promote_if.clone());
    put("promoted to", spec.promote_alias.clone());
    let columns = spec.columns.clone().unwrap_or_default();
    put("text column", columns.text);
    put("text pair column", columns.text_pair);
    put("label column", columns.label);
    put("label separator", columns.label_separator.map(|separator| quoted(&separator)));
    let names = |names: Vec<String>| (!names.is_empty()).then(|| names.join(", "));
    put("label columns", names(columns.label_columns));
    put("label names", names(columns.label_names));
    put("missing label", json::missing_label(columns.missing_label).map(str::to_owned));
    let dialect = columns.dialect.unwrap_or_default();
    put("encoding", dialect.encoding);
    put("delimiter", dialect.delimiter.map(|delimiter| format!("\"{}\"", delimiter.replace('\t', "\\t"))));
    put("quote", dialect.unquoted.then(|| "none".to_owned()));
    put("header", dialect.no_header.then(|| "none".to_owned()));

    let given = spec.hyperparameters.clone().unwrap_or_default();
    for (setting, value) in settings::given(&given) {
        entries.extend(setting_text(setting, value).map(|text| (setting.title().into(), one_line(&text))));
    }
    let every = given.checkpoint_every.map(checkpoint_every);
    entries.extend(every.map(|every| ("position saved".into(), every)));
    let weights = given.methods.and_then(|methods| methods.class_weights).and_then(class_weights);
    entries.extend(weights.map(|weights| ("class weights".into(), one_line(&weights))));
    entries
}

/// A setting's value; none for what is off or automatic, which is not worth a row.
fn setting_text(setting: &Setting, value: Value) -> Option<String> {
    let text = match value {
        Value::Number(0.0) | Value::Whole(0) if setting.is_method() => return None,
        Value::Number(value) => number(value),
        Value::Whole(value) if setting.unit().is_empty() => value.to_string(),
        Value::Whole(value) => count(value),
        Value::Switch(on) => if on { "on" } else { "off" }.to_owned(),
        Value::Choice(value) => setting.word(value).unwrap_or("unknown").to_owned(),
        Value::Text(text) => text,
    };
    if text == setting.absent_word() {
        return None;
    }
    Some(if setting.unit().is_empty() { text } else { format!("{text} {}", setting.unit()) })
}

/// A value that differs between two jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) name: Name,
    pub(crate) before: String,
    pub(crate) after: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} → {}", self.name, self.before, self.after)
    }
}

/// What is different in the later of two jobs. The model's name is no change.
pub(crate) fn changes(before: &v1::JobSpec, after: &v1::JobSpec) -> Vec<Change> {
    let (before, after) = (entries(before), entries(after));
    let value = |entries: &[(Name, String)], name: &str| {
        let found = entries.iter().find(|(known, _)| known == name);
        found.map_or_else(|| absent(name).to_owned(), |(_, value)| value.clone())
    };
    let gone = before.iter().filter(|(name, _)| !after.iter().any(|(known, _)| known == name));
    let names = after.iter().chain(gone).map(|(name, _)| name).filter(|&name| name != "model");
    names
        .map(|name| Change { name: name.clone(), before: value(&before, name), after: value(&after, name) })
        .filter(|change| change.before != change.after)
        .collect()
}

/// What the absence of a value means.
fn absent(name: &str) -> &'static str {
    match name {
        "training rows" | "validation rows" | "test rows" => "all",
        "position saved" => "every epoch and 10 minutes",
        name => settings::all().find(|setting| setting.title() == name).map_or("none", Setting::absent_word),
    }
}

fn first_rows(rows: u64) -> String {
    format!("first {}", count(rows))
}

fn source(source: &v1::DataSource) -> String {
    let digest = short_digest(&source.dataset_id);
    match &source.name {
        Some(name) => format!("{name} ({digest})"),
        None => digest.to_owned(),
    }
}

fn checkpoint_every(every: v1::hyperparameters::CheckpointEvery) -> String {
    use v1::hyperparameters::CheckpointEvery;
    match every {
        CheckpointEvery::CheckpointSteps(1) => "every step".to_owned(),
        CheckpointEvery::CheckpointSteps(steps) => format!("every {} steps", count(steps)),
        CheckpointEvery::CheckpointMinutes(1) => "every minute".to_owned(),
        CheckpointEvery::CheckpointMinutes(minutes) => format!("every {minutes} minutes"),
        CheckpointEvery::CheckpointEpochs(_) => "every epoch".to_owned(),
    }
}

fn class_weights(weights: v1::ClassWeights) -> Option<String> {
    if weights.balanced {
        return Some("balanced".to_owned());
    }
    let given: Vec<String> =
        weights.given.iter().map(|entry| format!("{}={}", entry.label, number(entry.weight))).collect();
    (!given.is_empty()).then(|| given.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(scheduler: v1::Scheduler, limit: Option<u64>) -> v1::JobSpec {
        v1::JobSpec {
            name: Some(format!("{scheduler:?}")),
            train_limit: limit,
            hyperparameters: Some(v1::Hyperparameters {
                scheduler: Some(scheduler.into()),
                learning_rate: Some(2e-5),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn words(before: &v1::JobSpec, after: &v1::JobSpec) -> Vec<String> {
        changes(before, after).iter().map(Change::to_string).collect()
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let before = spec(v1::Scheduler::Constant, Some(4000));
        let after = spec(v1::Scheduler::Linear, None);
        assert_eq!(
            words(&before, &after),
            ["scheduler constant → linear", "training rows first 4,000 → all"]
        );
        assert!(changes(&before, &before).is_empty());
    }

    /// As a daemon answers: every default is filled in.
    fn filled(methods: v1::Methods) -> v1::JobSpec {
        let off = v1::Methods {
            gradient_checkpointing: Some(methods.gradient_checkpointing.unwrap_or(false)),
            freeze_layers: Some(methods.freeze_layers.unwrap_or(0)),
            label_smoothing: Some(methods.label_smoothing.unwrap_or(0.0)),
            ..methods
        };
        v1::JobSpec {
            hyperparameters: Some(v1::Hyperparameters {
                precision: Some(v1::Precision::Auto.into()),
                truncation: Some(v1::Truncation::Head.into()),
                methods: Some(off),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_method_that_is_off_has_no_entry() {
        assert_eq!(
            entries(&filled(v1::Methods::default())),
            [("training data".into(), "demonstration data".to_owned())]
        );
    }

    #[test]
    fn a_method_that_is_switched_on_is_a_change() {
        let weight = |label: &str, weight| v1::LabelWeight { label: label.into(), weight };
        let mut after = filled(v1::Methods {
            gradient_checkpointing: Some(true),
            freeze_layers: Some(4),
            class_weights: Some(v1::ClassWeights {
                balanced: false,
                given: vec![weight("ham", 1.0), weight("spam", 2.5)],
            }),
            ema: Some(0.999),
            ..Default::default()
        });
        if let Some(given) = &mut after.hyperparameters {
            given.truncation = Some(v1::Truncation::HeadTail.into());
        }
        assert_eq!(
            words(&filled(v1::Methods::default()), &after),
            [
                "truncation head → head-tail",
                "gradient checkpointing off → on",
                "frozen layers none → 4",
                "moving average none → 0.999",
                "class weights none → ham=1,spam=2.5",
            ]
        );
    }

    #[test]
    fn how_often_a_position_is_saved_is_told_in_words() {
        use v1::hyperparameters::CheckpointEvery;
        let every = |every| v1::JobSpec {
            hyperparameters: Some(v1::Hyperparameters { checkpoint_every: every, ..Default::default() }),
            ..Default::default()
        };
        let after = |given| words(&every(None), &every(Some(given)));
        for (given, expected) in [
            (CheckpointEvery::CheckpointSteps(1), "every step"),
            (CheckpointEvery::CheckpointSteps(1500), "every 1,500 steps"),
            (CheckpointEvery::CheckpointMinutes(2), "every 2 minutes"),
            (CheckpointEvery::CheckpointEpochs(true), "every epoch"),
        ] {
            assert_eq!(after(given), [format!("position saved every epoch and 10 minutes → {expected}")]);
        }
    }

    #[test]
    fn two_files_of_one_name_are_told_apart() {
        let with = |id: &str| v1::JobSpec {
            train: Some(v1::DataSource { dataset_id: id.into(), name: Some("a.csv".into()) }),
            ..Default::default()
        };
        assert_eq!(
            words(&with("111111111111ffff"), &with("222222222222ffff")),
            ["training data a.csv (111111111111) → a.csv (222222222222)"]
        );
    }
}
