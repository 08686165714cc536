//! Messages as JSON: snake_case names as in the protocol, enums as lower-case words, times as RFC 3339 in UTC.
//! What is not set is left out.

use hone::settings::{self, Setting};
use hone::v1;
use hone::v1::hyperparameters::CheckpointEvery;
use prost_types::Timestamp;
use serde_json::{Map, Value, json};

use super::format::rfc3339;
use super::serving;

/// One event of a job: type, number and time first, then the event's own fields.
pub(crate) fn event(event: &v1::Event) -> Value {
    use v1::event::Kind;
    let (name, fields) = match &event.kind {
        Some(Kind::StateChanged(change)) => ("state_changed", state_changed(change)),
        Some(Kind::Prepared(report)) => ("prepared", prepared(report)),
        Some(Kind::Step(step)) => ("step", step_metrics(step)),
        Some(Kind::Epoch(epoch)) => ("epoch", epoch_metrics(epoch)),
        Some(Kind::Test(test)) => ("test", test_metrics(test)),
        Some(Kind::Published(model)) => ("published", published(model)),
        Some(Kind::Notice(notice)) => ("notice", json!({"message": notice.message})),
        Some(Kind::Evaluation(progress)) => (
            "evaluation",
            json!({"split": split(progress.split), "rows_done": progress.rows_done, "rows": progress.rows}),
        ),
        None => ("unknown", json!({})),
    };
    let mut object = Map::new();
    object.insert("type".into(), name.into());
    object.insert("number".into(), event.number.into());
    put(&mut object, "time", time(event.time.as_ref()));
    object.insert("job_id".into(), event.job_id.as_str().into());
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    Value::Object(object)
}

/// A job with its specification and everything that it has reached.
pub(crate) fn job(job: &v1::Job) -> Value {
    let mut object = Map::new();
    object.insert("id".into(), job.id.as_str().into());
    object.insert("state".into(), state(job.state).into());
    put(&mut object, "created_at", time(job.created_at.as_ref()));
    put(&mut object, "started_at", time(job.started_at.as_ref()));
    put(&mut object, "ended_at", time(job.ended_at.as_ref()));
    put(&mut object, "failure", job.failure.as_ref().map(failure));
    put(&mut object, "model", job.model.as_ref().map(published));
    object.insert("epochs".into(), job.epochs.iter().map(epoch_metrics).collect());
    put(&mut object, "test", job.test.as_ref().map(test_metrics));
    object.insert("last_event".into(), job.last_event.into());
    object.insert("jobs_ahead".into(), job.jobs_ahead.into());
    put(&mut object, "spec", job.spec.as_ref().map(spec));
    Value::Object(object)
}

pub(crate) fn spec(spec: &v1::JobSpec) -> Value {
    let source = |source: &v1::DataSource| {
        let mut object = Map::new();
        object.insert("dataset_id".into(), source.dataset_id.as_str().into());
        put(&mut object, "name", source.name.clone());
        Value::Object(object)
    };
    let mut object = Map::new();
    put(&mut object, "name", spec.name.clone());
    put(&mut object, "encoder", spec.encoder.clone());
    put(&mut object, "train", spec.train.as_ref().map(source));
    put(&mut object, "validation", spec.validation.as_ref().map(source));
    put(&mut object, "test", spec.test.as_ref().map(source));
    put(&mut object, "validation_split", spec.validation_split);
    put(&mut object, "columns", spec.columns.as_ref().map(columns));
    put(&mut object, "train_limit", spec.train_limit);
    put(&mut object, "validation_limit", spec.validation_limit);
    put(&mut object, "test_limit", spec.test_limit);
    put(&mut object, "hyperparameters", spec.hyperparameters.as_ref().map(hyperparameters));
    Value::Object(object)
}

fn hyperparameters(given: &v1::Hyperparameters) -> Value {
    let (mut object, mut methods) = (Map::new(), Map::new());
    for (setting, value) in settings::given(given) {
        let place = if setting.is_method() { &mut methods } else { &mut object };
        place.insert(setting.field.to_owned(), setting_value(setting, value));
    }
    match given.checkpoint_every {
        Some(CheckpointEvery::CheckpointSteps(steps)) => put(&mut object, "checkpoint_steps", Some(steps)),
        Some(CheckpointEvery::CheckpointMinutes(n)) => put(&mut object, "checkpoint_minutes", Some(n)),
        Some(CheckpointEvery::CheckpointEpochs(on)) => put(&mut object, "checkpoint_epochs", Some(on)),
        None => {}
    }
    let weights = given.methods.as_ref().and_then(|methods| methods.class_weights.as_ref());
    put(&mut methods, "class_weights", weights.map(class_weights));
    put(&mut object, "methods", (!methods.is_empty()).then_some(methods));
    Value::Object(object)
}

fn setting_value(setting: &Setting, value: settings::Value) -> Value {
    match value {
        settings::Value::Number(number) => number.into(),
        settings::Value::Whole(number) => number.into(),
        settings::Value::Switch(on) => on.into(),
        settings::Value::Choice(number) => setting.word(number).unwrap_or("unknown").into(),
        settings::Value::Text(text) => text.into(),
    }
}

/// "balanced", or an object from labels to weights.
fn class_weights(weights: &v1::ClassWeights) -> Value {
    if weights.balanced {
        return "balanced".into();
    }
    weights.given.iter().map(|entry| (entry.label.clone(), Value::from(entry.weight))).collect()
}

fn columns(columns: &v1::Columns) -> Value {
    let mut object = Map::new();
    put(&mut object, "text", columns.text.clone());
    put(&mut object, "text_pair", columns.text_pair.clone());
    put(&mut object, "label", columns.label.clone());
    put(&mut object, "label_separator", columns.label_separator.clone());
    let names = |names: &[String]| (!names.is_empty()).then(|| names.to_vec());
    put(&mut object, "label_columns", names(&columns.label_columns));
    put(&mut object, "label_names", names(&columns.label_names));
    put(&mut object, "missing_label", missing_label(columns.missing_label));
    if let Some(dialect) = &columns.dialect {
        put(&mut object, "encoding", dialect.encoding.clone());
        put(&mut object, "delimiter", dialect.delimiter.clone());
        put(&mut object, "unquoted", dialect.unquoted.then_some(true));
        put(&mut object, "no_header", dialect.no_header.then_some(true));
    }
    Value::Object(object)
}

/// What becomes of rows without a label, unless it is the default.
pub(super) fn missing_label(number: i32) -> Option<&'static str> {
    match v1::MissingLabel::try_from(number) {
        Ok(v1::MissingLabel::Drop) => Some("drop"),
        Ok(v1::MissingLabel::Keep) => Some("keep"),
        _ => None,
    }
}

fn state_changed(change: &v1::StateChanged) -> Value {
    let mut object = Map::new();
    object.insert("state".into(), state(change.state).into());
    put(&mut object, "failure", change.failure.as_ref().map(failure));
    Value::Object(object)
}

fn failure(failure: &v1::Failure) -> Value {
    json!({"code": failure.code, "message": failure.message})
}

pub(super) fn prepared(report: &v1::Prepared) -> Value {
    let splits: Vec<Value> = report.splits.iter().map(split_report).collect();
    let overlap = |overlap: &v1::Overlap| json!({"first": split(overlap.first), "second": split(overlap.second), "rows": overlap.rows, "contradictions": overlap.contradictions});
    json!({
        "splits": splits,
        "labels": report.labels,
        "overlaps": report.overlaps.iter().map(overlap).collect::<Vec<_>>(),
        "total_steps": report.total_steps,
        "steps_per_epoch": report.steps_per_epoch,
        "warmup_steps": report.warmup_steps,
        "max_length": report.max_length,
        "parameters": report.parameters,
        "device": report.device,
        "encoder": report.encoder,
        "encoder_sha256": report.encoder_sha256,
    })
}

fn split_report(report: &v1::SplitReport) -> Value {
    json!({
        "split": split(report.split),
        "name": report.name,
        "rows": report.rows,
        "labels": label_counts(&report.labels),
        "tokens": report.tokens.as_ref().map(quantiles),
        "total_tokens": report.total_tokens,
        "truncated": report.truncated,
        "empty_texts": report.empty_texts,
        "duplicates": report.duplicates,
        "contradictions": report.contradictions,
        "unknown": report.unknown,
        "notes": report.notes,
    })
}

fn label_counts(labels: &[v1::LabelCount]) -> Vec<Value> {
    labels.iter().map(|count| json!({"label": count.label, "rows": count.rows})).collect()
}

fn quantiles(of: &v1::LengthQuantiles) -> Value {
    json!({"min": of.min, "p50": of.p50, "p90": of.p90, "p95": of.p95, "p99": of.p99, "max": of.max, "mean": of.mean})
}

fn step_metrics(step: &v1::StepMetrics) -> Value {
    json!({
        "step": step.step,
        "total_steps": step.total_steps,
        "epoch": step.epoch,
        "step_in_epoch": step.step_in_epoch,
        "steps_per_epoch": step.steps_per_epoch,
        "loss": step.loss,
        "learning_rate": step.learning_rate,
        "gradient_norm": step.gradient_norm,
        "steps_per_second": step.steps_per_second,
        "tokens_per_second": step.tokens_per_second,
    })
}

pub(crate) fn metrics(metrics: &v1::Metrics) -> Value {
    let label = |of: &v1::LabelMetrics| {
        let mut label = json!({"label": of.label, "precision": of.precision, "recall": of.recall, "f1": of.f1, "rows": of.rows});
        if let (Some(threshold), Value::Object(label)) = (of.threshold, &mut label) {
            label.insert("threshold".into(), float(threshold));
        }
        label
    };
    let mut object = json!({
        "loss": metrics.loss,
        "accuracy": metrics.accuracy,
        "f1": metrics.f1,
        "recall": metrics.recall,
        "precision": metrics.precision,
        "rows": metrics.rows,
        "labels": metrics.labels.iter().map(label).collect::<Vec<_>>(),
    });
    if let (Some(micro), Value::Object(object)) = (&metrics.micro, &mut object) {
        let micro = json!({"f1": micro.f1, "recall": micro.recall, "precision": micro.precision});
        object.insert("micro".into(), micro);
    }
    object
}

pub(crate) fn epoch_metrics(epoch: &v1::EpochMetrics) -> Value {
    let mut object = Map::new();
    object.insert("epoch".into(), epoch.epoch.into());
    object.insert("epochs".into(), epoch.epochs.into());
    put(&mut object, "train", epoch.train.as_ref().map(metrics));
    put(&mut object, "validation", epoch.validation.as_ref().map(metrics));
    object.insert("seconds".into(), epoch.seconds.into());
    object.insert("train_seconds".into(), epoch.train_seconds.into());
    object.insert("steps_per_second".into(), epoch.steps_per_second.into());
    object.insert("tokens_per_second".into(), epoch.tokens_per_second.into());
    object.insert("best".into(), epoch.best.into());
    object.insert("validation_loss_rose".into(), epoch.validation_loss_rose.into());
    object.insert("step".into(), epoch.step.into());
    Value::Object(object)
}

fn test_metrics(test: &v1::TestMetrics) -> Value {
    json!({"metrics": test.metrics.as_ref().map(metrics), "epoch": test.epoch, "seconds": test.seconds})
}

fn published(model: &v1::PublishedModel) -> Value {
    json!({
        "name": model.name,
        "version": model.version,
        "weights_sha256": model.weights_sha256,
        "epoch": model.epoch,
    })
}

/// A model with its versions and aliases.
pub(crate) fn model(model: &v1::Model) -> Value {
    let version = |version: &v1::ModelVersion| {
        let mut object = Map::new();
        object.insert("version".into(), version.version.into());
        put(&mut object, "created_at", time(version.created_at.as_ref()));
        object.insert("job_id".into(), version.job_id.as_str().into());
        object.insert("epoch".into(), version.epoch.into());
        object.insert("weights_sha256".into(), version.weights_sha256.as_str().into());
        object.insert("size_bytes".into(), version.size_bytes.into());
        object.insert("labels".into(), json!(version.labels));
        object.insert("max_length".into(), version.max_length.into());
        put(&mut object, "validation", version.validation.as_ref().map(metrics));
        put(&mut object, "test", version.test.as_ref().map(metrics));
        object.insert("encoder".into(), version.encoder.as_str().into());
        put(&mut object, "serving", version.serving.as_ref().map(serving::json));
        Value::Object(object)
    };
    let aliases = model.aliases.iter().map(|alias| (alias.name.clone(), alias.version.into()));
    let is_shared = |alias: &&v1::Alias| alias.canary.is_some() || alias.shadow.is_some();
    let shared = model.aliases.iter().filter(is_shared);
    let shared = shared.map(|alias| (alias.name.clone(), serving::shared_json(alias)));
    json!({
        "name": model.name,
        "versions": model.versions.iter().map(version).collect::<Vec<_>>(),
        "aliases": Value::Object(aliases.collect()),
        "shared": Value::Object(shared.collect()),
        "precision": model.precision,
    })
}

/// A data set with its summary.
pub(crate) fn dataset(dataset: &v1::Dataset) -> Value {
    let mut object = Map::new();
    object.insert("id".into(), dataset.id.as_str().into());
    object.insert("name".into(), dataset.name.as_str().into());
    object.insert("size_bytes".into(), dataset.size_bytes.into());
    put(&mut object, "created_at", time(dataset.created_at.as_ref()));
    object.insert("format".into(), format(dataset.format).into());
    if let Some(summary) = &dataset.summary {
        object.insert("rows".into(), summary.rows.into());
        object.insert("columns".into(), json!(summary.columns));
        put(&mut object, "used", summary.used.as_ref().map(columns));
        object.insert("guess".into(), summary.guess.as_str().into());
        object.insert("notes".into(), json!(summary.notes));
        object.insert("labels".into(), label_counts(&summary.labels).into());
        put(&mut object, "characters", summary.characters.as_ref().map(quantiles));
    }
    Value::Object(object)
}

/// A 32-bit float with the digits that it has: 0.98, not 0.9800000190734863.
pub(crate) fn float(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

pub(super) fn put(object: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(key.to_owned(), value.into());
    }
}

pub(crate) fn time(time: Option<&Timestamp>) -> Option<String> {
    time.map(rfc3339)
}

/// "JOB_STATE_QUEUED" as "queued".
fn word(name: Option<&'static str>, prefix: &str) -> String {
    name.map_or_else(|| "unknown".to_owned(), |name| name.trim_start_matches(prefix).to_ascii_lowercase())
}

pub(crate) fn state(value: i32) -> String {
    word(v1::JobState::try_from(value).ok().map(|state| state.as_str_name()), "JOB_STATE_")
}

pub(crate) fn split(value: i32) -> String {
    word(v1::Split::try_from(value).ok().map(|split| split.as_str_name()), "SPLIT_")
}

pub(crate) fn format(value: i32) -> String {
    word(v1::FileFormat::try_from(value).ok().map(|format| format.as_str_name()), "FILE_FORMAT_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_object_with_its_type_number_and_time_first() {
        let step = v1::StepMetrics { step: 3, total_steps: 10, epoch: 1, loss: 0.5, ..Default::default() };
        let logged = v1::Event {
            job_id: "j".into(),
            number: 7,
            time: Some(Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 }),
            kind: Some(v1::event::Kind::Step(step)),
        };
        let text = event(&logged).to_string();
        assert!(
            text.starts_with(
                r#"{"type":"step","number":7,"time":"2023-11-14T22:13:20.005Z","job_id":"j","step":3,"total_steps":10,"#
            ),
            "{text}"
        );
        assert!(text.contains(r#""loss":0.5"#), "{text}");
    }

    #[test]
    fn enums_are_lower_case_words() {
        let change = v1::StateChanged { state: v1::JobState::Interrupted.into(), failure: None };
        assert_eq!(state_changed(&change), json!({"state": "interrupted"}));
        assert_eq!(format(v1::FileFormat::JsonLines.into()), "json_lines");
        assert_eq!(state(99), "unknown");
    }

    #[test]
    fn what_is_not_set_is_left_out() {
        assert_eq!(spec(&v1::JobSpec::default()), json!({}));
        let given = v1::Hyperparameters { seed: Some(0), ..Default::default() };
        assert_eq!(hyperparameters(&given), json!({"seed": 0}));
        let methods = Some(v1::Methods { ema: Some(0.99), ..Default::default() });
        let given = v1::Hyperparameters { methods, ..Default::default() };
        assert_eq!(hyperparameters(&given), json!({"methods": {"ema": 0.99}}));
    }

    #[test]
    fn scores_have_the_digits_of_a_32_bit_float() {
        assert_eq!(float(0.98).to_string(), "0.98");
    }
}
