//! How a model is served, in words and as JSON: what is loaded and how it was checked, who shares an alias, and who
//! moved which alias when.

use hone::v1;
use hone::v1::{AliasMoveCause, ServingState};
use serde_json::{Value, json};

use super::table::{Column, Table};
use super::{Output, format, json as values};

/// What is told of a model below its versions.
pub(crate) fn paragraphs(model: &v1::Model, output: &Output<'_>) -> Vec<String> {
    let mut table = Table::new([
        Column::left("version"),
        Column::left("state"),
        Column::right("memory"),
        Column::left("precision"),
        Column::right("accuracy loss").spare(1),
        Column::right("largest change").spare(2),
        Column::right("rows").spare(3),
    ]);
    let mut remarks = Vec::new();
    for version in &model.versions {
        let Some(serving) = &version.serving else { continue };
        let pinned = if serving.pinned { ", pinned" } else { "" };
        let check = |value: fn(&v1::ServingCheck) -> String| {
            serving.check.as_ref().map_or_else(|| "-".to_owned(), value)
        };
        if serving.state() != ServingState::NotLoaded || serving.pinned {
            table.row([
                format!("{}@{}", format::one_line(&model.name), version.version),
                format!("{}{pinned}", state(serving.state())),
                if serving.bytes > 0 { format::bytes(serving.bytes) } else { "-".to_owned() },
                if serving.precision.is_empty() {
                    "-".to_owned()
                } else {
                    format::one_line(&serving.precision)
                },
                check(|check| format!("{:.2} points", check.accuracy_loss_points)),
                check(|check| format!("{:.4}", check.largest_change)),
                check(|check| check.rows.to_string()),
            ]);
        }
        let why = serving.reasons.iter().chain(Some(&serving.error).filter(|error| !error.is_empty()));
        remarks.extend(why.map(|why| format!("{}@{}: {}", model.name, version.version, format::told(why))));
    }
    let mut paragraphs = Vec::new();
    if !table.is_empty() {
        paragraphs.push(table.lines(output.width()).join("\n"));
    }
    if let Some(precision) = &model.precision {
        remarks.push(format!("precision: {} is asked for", format::one_line(precision)));
    }
    remarks.extend(model.aliases.iter().flat_map(|alias| shared(model, alias)));
    if !remarks.is_empty() {
        paragraphs.push(remarks.join("\n"));
    }
    paragraphs
}

/// Who shares an alias.
fn shared(model: &v1::Model, alias: &v1::Alias) -> Vec<String> {
    let name = format::one_line(&format!("{}@{}", model.name, alias.name));
    let mut lines = Vec::new();
    if let Some(v1::Canary { version, share }) = alias.canary {
        lines.push(format!("{name}: version {version} answers {} of its callers", format::share(share)));
    }
    if let Some(shadow) = &alias.shadow {
        let compared = match shadow.texts {
            0 => "nothing compared yet".to_owned(),
            texts => format!(
                "{} of {texts} texts have the same labels ({}), {} do not; scores differ by {:.4} on average, {:.4} at most",
                shadow.agreed,
                format::share(shadow.agreed as f64 / texts as f64),
                shadow.flipped,
                shadow.mean_difference,
                shadow.largest_difference
            ),
        };
        let calls = format!("{} calls compared, {} dropped", shadow.calls, shadow.dropped);
        lines.push(format!("{name}: version {} answers beside it: {compared}; {calls}", shadow.version));
        if !shadow.error.is_empty() {
            lines.push(format!(
                "{name}: the last call could not be compared: {}",
                format::told(&shadow.error)
            ));
        }
    }
    lines
}

fn state(state: ServingState) -> &'static str {
    match state {
        ServingState::NotLoaded | ServingState::Unspecified => "not loaded",
        ServingState::Loading => "loading",
        ServingState::Ready => "ready",
        ServingState::Failed => "failed",
    }
}

/// How a version is served.
pub(crate) fn json(serving: &v1::Serving) -> Value {
    let check = serving.check.as_ref().map(|check| {
        json!({
            "rows": check.rows,
            "accuracy_loss_points": check.accuracy_loss_points,
            "largest_change": check.largest_change,
        })
    });
    json!({
        "state": state(serving.state()).replace(' ', "_"),
        "error": serving.error,
        "bytes": serving.bytes,
        "pinned": serving.pinned,
        "precision": serving.precision,
        "asked": serving.asked,
        "reasons": serving.reasons,
        "check": check,
    })
}

/// Who shares an alias; null when nobody does.
pub(crate) fn shared_json(alias: &v1::Alias) -> Value {
    let canary = alias.canary.map(|canary| json!({"version": canary.version, "share": canary.share}));
    let shadow = alias.shadow.as_ref().map(|shadow| {
        json!({
            "version": shadow.version,
            "calls": shadow.calls,
            "dropped": shadow.dropped,
            "texts": shadow.texts,
            "agreed": shadow.agreed,
            "flipped": shadow.flipped,
            "mean_difference": shadow.mean_difference,
            "largest_difference": shadow.largest_difference,
            "error": shadow.error,
        })
    });
    json!({"canary": canary, "shadow": shadow})
}

/// The moves of aliases as a table.
pub(crate) fn moves(moves: &[v1::AliasMove]) -> Table {
    let mut table = Table::new([
        Column::left("time (UTC)"),
        Column::left("alias").shrink(6),
        Column::left("from"),
        Column::left("to"),
        Column::left("why"),
        Column::left("by").shrink(10),
    ]);
    for moved in moves {
        let why = match moved.cause() {
            AliasMoveCause::Canary if moved.share > 0.0 => format!("canary {}", format::share(moved.share)),
            AliasMoveCause::Canary => "canary ended".to_owned(),
            cause => name(cause).replace('_', " "),
        };
        table.row([
            format::minute(moved.time.as_ref()),
            format::one_line(&moved.alias),
            if moved.from == 0 { "-".to_owned() } else { moved.from.to_string() },
            moved.to.to_string(),
            why,
            format::one_line(&moved.by),
        ]);
    }
    table
}

fn name(cause: AliasMoveCause) -> &'static str {
    match cause {
        AliasMoveCause::Unspecified => "unknown",
        AliasMoveCause::Published => "published",
        AliasMoveCause::Promoted => "promoted",
        AliasMoveCause::RolledBack => "rolled_back",
        AliasMoveCause::Deleted => "deleted",
        AliasMoveCause::Canary => "canary",
    }
}

/// A move of an alias.
pub(crate) fn move_json(moved: &v1::AliasMove) -> Value {
    json!({
        "time": values::time(moved.time.as_ref()),
        "alias": moved.alias,
        "from": (moved.from > 0).then_some(moved.from),
        "to": moved.to,
        "cause": name(moved.cause()),
        "share": (moved.cause() == AliasMoveCause::Canary).then_some(moved.share),
        "by": moved.by,
    })
}
