//! A job's specification for people: everything in it, or only what differs from another.

use std::fmt;

use hone::v1;

use super::format::{count, number, one_line, quoted, short_digest};
use super::json;

/// Name and value of everything that is set, in the order in which people think of it.
pub(crate) fn entries(spec: &v1::JobSpec) -> Vec<(&'static str, String)> {
    let mut entries = Vec::new();
    let mut put = |name, value: Option<String>| {
        if let Some(value) = value {
            entries.push((name, one_line(&value)));
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
    put("optimizer", given.optimizer.map(json::optimizer));
    put("learning rate", given.learning_rate.map(number));
    put("scheduler", given.scheduler.map(json::scheduler));
    put("warm-up", given.warmup.map(warmup));
    put("epochs", given.epochs.map(|epochs| epochs.to_string()));
    put("batch size", given.batch_size.map(|size| size.to_string()));
    put("gradient accumulation", given.gradient_accumulation.map(|batches| batches.to_string()));
    put("weight decay", given.weight_decay.map(number));
    put("beta1", given.beta1.map(number));
    put("beta2", given.beta2.map(number));
    put("eps", given.epsilon.map(number));
    put("max grad norm", given.max_grad_norm.map(number));
    put("dropout", given.dropout.map(number));
    put("encoder dropout", given.encoder_dropout.map(number));
    put("max length", given.max_length.map(|length| length.to_string()));
    // What is off or automatic is not worth a row.
    put(
        "truncation",
        given.truncation.filter(|&kind| kind != v1::Truncation::Head as i32).map(json::truncation),
    );
    put("precision", given.precision.filter(|&kind| kind != v1::Precision::Auto as i32).map(json::precision));
    put("keep", given.keep.map(json::keep));
    put("metric", given.metric.map(json::metric));
    put("early stopping", given.early_stopping.map(|patience| patience.to_string()));
    put("positive label", given.positive_label);
    put("seed", given.seed.map(|seed| seed.to_string()));
    put("position saved", given.checkpoint_every.map(checkpoint_every));

    let methods = given.methods.unwrap_or_default();
    let switched = |on: Option<bool>| on.filter(|&on| on).map(|_| "on".to_owned());
    let layers = |layers: Option<u32>| layers.filter(|&layers| layers > 0).map(|layers| layers.to_string());
    put("gradient checkpointing", switched(methods.gradient_checkpointing));
    put("frozen layers", layers(methods.freeze_layers));
    put("frozen embeddings", switched(methods.freeze_embeddings));
    put("new layers", layers(methods.reinit_layers));
    put("layer decay", methods.layer_decay.map(number));
    put("label smoothing", methods.label_smoothing.filter(|&share| share > 0.0).map(number));
    put("class weights", methods.class_weights.and_then(class_weights));
    put("focal gamma", methods.focal_gamma.map(number));
    put("moving average", methods.ema.map(number));
    put("R-Drop", methods.r_drop.map(number));
    entries
}

/// A value that differs between two jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) name: &'static str,
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
    let value = |entries: &[(&str, String)], name: &str| {
        let found = entries.iter().find(|(known, _)| *known == name);
        found.map_or_else(|| absent(name).to_owned(), |(_, value)| value.clone())
    };
    let gone = before.iter().filter(|(name, _)| !after.iter().any(|(known, _)| known == name));
    let names = after.iter().chain(gone).map(|(name, _)| *name).filter(|name| *name != "model");
    names
        .map(|name| Change { name, before: value(&before, name), after: value(&after, name) })
        .filter(|change| change.before != change.after)
        .collect()
}

/// What the absence of a value means.
fn absent(name: &str) -> &'static str {
    match name {
        "training rows" | "validation rows" | "test rows" => "all",
        "early stopping" => "never",
        "truncation" => "head",
        "precision" => "auto",
        "position saved" => "every epoch and 10 minutes",
        "gradient checkpointing" | "frozen embeddings" => "off",
        _ => "none",
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

fn warmup(warmup: v1::hyperparameters::Warmup) -> String {
    use v1::hyperparameters::Warmup;
    match warmup {
        Warmup::WarmupSteps(steps) => format!("{} steps", count(steps)),
        Warmup::WarmupRatio(ratio) => format!("{} of all steps", number(ratio)),
        Warmup::WarmupEpochs(epochs) => format!("{} epochs", number(epochs)),
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
            [("training data", "demonstration data".to_owned())]
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
                "class weights none → ham=1,spam=2.5",
                "moving average none → 0.999",
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
