//! What a job would need, before it is started.

use hone::v1;
use serde_json::{Map, Value, json};

use super::format::{bytes, count, duration, percent, plural, rate, told};
use super::table::{Column, Table};
use super::{Paint, data, json};

/// For people: the report on the data, then memory and time.
pub(crate) fn describe(report: &v1::DryRunResponse, width: Option<usize>, paint: Paint) -> String {
    let mut lines = Vec::new();
    if let Some(prepared) = &report.prepared {
        lines.push(data::prepared(prepared, width, paint));
    }
    let mut table = Table::new([Column::left(""), Column::right(""), Column::left("").shrink(10)]);
    let mut row = |name: &str, value: String, remark: String| table.row([name.to_owned(), value, remark]);
    if let Some(prepared) = &report.prepared {
        let (all, each) = cut(prepared);
        row("cut texts", all, each);
    }
    if let Some(memory) = &report.memory {
        row("memory", bytes(memory.total), "estimated from shapes".to_owned());
        row("  parameters", bytes(memory.parameters), String::new());
        row("  gradients", bytes(memory.gradients), String::new());
        row("  moments", bytes(memory.moments), String::new());
        let tokens = plural(memory.batch_tokens, "token", "tokens");
        row("  activations", bytes(memory.activations), format!("a batch of up to {tokens}"));
    }
    match &report.time {
        Some(time) => {
            let steps = plural(time.steps.into(), "measured step", "measured steps");
            row("time", duration(time.total_seconds), format!("estimated from {steps}"));
            let tokens = format!("{} tokens/s", count(time.tokens_per_second.round() as u64));
            row(
                "  an epoch",
                duration(time.epoch_seconds),
                format!("{}, {tokens}", rate(time.steps_per_second)),
            );
            row("  training", duration(time.train_seconds), String::new());
            row("  evaluation", duration(time.evaluation_seconds), String::new());
        }
        None => row("time", "-".to_owned(), "not measured".to_owned()),
    }
    lines.extend(table.lines(width));
    lines.extend(report.notices.iter().map(|notice| format!("note: {}", told(notice))));
    lines.push("nothing was started; leave out --dry-run to start the job".to_owned());
    lines.join("\n")
}

/// The share of texts that are cut: of all, and of each split.
fn cut(prepared: &v1::Prepared) -> (String, String) {
    let of = |split: &v1::SplitReport| {
        format!("{} {}", json::split(split.split), percent(split.truncated, split.rows))
    };
    let each: Vec<String> = prepared.splits.iter().map(of).collect();
    let sum = |value: fn(&v1::SplitReport) -> u64| prepared.splits.iter().map(value).sum();
    (percent(sum(|split| split.truncated), sum(|split| split.rows)), each.join(" · "))
}

/// For programs: one object.
pub(crate) fn json(report: &v1::DryRunResponse) -> Value {
    let memory = |memory: &v1::MemoryEstimate| {
        json!({
            "parameters": memory.parameters,
            "gradients": memory.gradients,
            "moments": memory.moments,
            "activations": memory.activations,
            "batch_tokens": memory.batch_tokens,
            "total": memory.total,
        })
    };
    let time = |time: &v1::TimeEstimate| {
        json!({
            "steps": time.steps,
            "tokens_per_second": time.tokens_per_second,
            "steps_per_second": time.steps_per_second,
            "epoch_seconds": time.epoch_seconds,
            "train_seconds": time.train_seconds,
            "evaluation_seconds": time.evaluation_seconds,
            "total_seconds": time.total_seconds,
        })
    };
    let mut object = Map::new();
    object.insert("type".into(), "dry_run".into());
    json::put(&mut object, "prepared", report.prepared.as_ref().map(json::prepared));
    json::put(&mut object, "memory", report.memory.as_ref().map(memory));
    json::put(&mut object, "time", report.time.as_ref().map(time));
    object.insert("notices".into(), report.notices.clone().into());
    json::put(&mut object, "spec", report.spec.as_ref().map(json::spec));
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> v1::DryRunResponse {
        let split = |split: v1::Split, rows, truncated| v1::SplitReport {
            split: split.into(),
            name: "reviews.csv".into(),
            rows,
            truncated,
            ..Default::default()
        };
        v1::DryRunResponse {
            prepared: Some(v1::Prepared {
                splits: vec![split(v1::Split::Train, 4000, 1200), split(v1::Split::Validation, 1000, 0)],
                total_steps: 750,
                steps_per_epoch: 250,
                max_length: 512,
                ..Default::default()
            }),
            memory: Some(v1::MemoryEstimate {
                parameters: 90 << 20,
                gradients: 90 << 20,
                moments: 180 << 20,
                activations: 1 << 30,
                batch_tokens: 8192,
                total: (360 << 20) + (1 << 30),
            }),
            time: Some(v1::TimeEstimate {
                steps: 3,
                tokens_per_second: 4310.4,
                steps_per_second: 2.1,
                epoch_seconds: 36.14,
                train_seconds: 105.0,
                evaluation_seconds: 4.2,
                total_seconds: 109.2,
            }),
            ..Default::default()
        }
    }

    #[test]
    fn memory_and_time_stand_below_the_data() {
        let text = describe(&report(), None, Paint::default());
        let lines: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("cut texts")).collect();
        assert_eq!(
            lines,
            [
                "cut texts            24%  train 30% · validation 0%",
                "memory           1.4 GiB  estimated from shapes",
                "  parameters    90.0 MiB",
                "  gradients     90.0 MiB",
                "  moments      180.0 MiB",
                "  activations    1.0 GiB  a batch of up to 8,192 tokens",
                "time              1m 49s  estimated from 3 measured steps",
                "  an epoch        36.1 s  2.10 steps/s, 4,310 tokens/s",
                "  training        1m 45s",
                "  evaluation       4.2 s",
                "nothing was started; leave out --dry-run to start the job",
            ]
        );
    }

    #[test]
    fn without_a_time_the_notice_says_why() {
        let notices = vec!["a job has the device".to_owned()];
        let text = describe(&v1::DryRunResponse { time: None, notices, ..report() }, None, Paint::default());
        assert!(text.contains("not measured"), "{text}");
        assert!(text.contains("\nnote: a job has the device\n"), "{text}");
    }

    #[test]
    fn at_40_columns_no_table_line_wraps() {
        let text = describe(&report(), Some(40), Paint::default());
        let table = text.lines().skip_while(|line| !line.starts_with("cut texts"));
        for line in table.take_while(|line| !line.starts_with("nothing")) {
            assert!(console::measure_text_width(line) <= 40, "{line}");
        }
    }

    #[test]
    fn a_program_gets_one_object() {
        let value = json(&v1::DryRunResponse { time: None, ..report() });
        assert_eq!(value["type"], "dry_run");
        assert_eq!(value["memory"]["batch_tokens"], 8192);
        assert_eq!(value["prepared"]["splits"][0]["truncated"], 1200);
        assert_eq!((value.get("time"), &value["notices"]), (None, &json!([])));
    }
}
