//! `client compare`: one row a run, what changed against the run before, and what it did to the test accuracy.

use hone::v1;
use serde_json::{Map, Value, json};

use super::jobs::{accuracy, epochs_done, model_name};
use super::{get_job, kept_epoch};
use crate::cli::{CompareArgs, Global};
use crate::connect::Daemon;
use crate::error::Error;
use crate::output::spec::{self, Change};
use crate::output::table::{Column, Table};
use crate::output::{Output, Paint, format, json};

pub(super) async fn run(global: &Global, args: &CompareArgs, output: &mut Output<'_>) -> Result<(), Error> {
    let daemon = Daemon::connect(global).await?;
    let mut jobs = Vec::with_capacity(args.jobs.len());
    for id in &args.jobs {
        jobs.push(get_job(&daemon, id).await?);
    }
    let runs = runs(&jobs);
    if output.is_json() {
        return runs.iter().try_for_each(|run| output.json(&run.json()));
    }
    output.text(&describe(&runs, output.width(), output.paint()))
}

/// A job beside the one before it.
struct Run<'j> {
    job: &'j v1::Job,
    /// None for the first run: there is nothing to compare it with.
    changes: Option<Vec<Change>>,
    difference: Option<f64>,
}

fn runs(jobs: &[v1::Job]) -> Vec<Run<'_>> {
    let before = std::iter::once(None).chain(jobs.iter().map(Some));
    let empty = v1::JobSpec::default();
    jobs.iter()
        .zip(before)
        .map(|(job, before)| Run {
            job,
            changes: before.map(|before| {
                spec::changes(before.spec.as_ref().unwrap_or(&empty), job.spec.as_ref().unwrap_or(&empty))
            }),
            difference: before.and_then(|before| Some(test_accuracy(job)? - test_accuracy(before)?)),
        })
        .collect()
}

fn test_accuracy(job: &v1::Job) -> Option<f64> {
    Some(job.test.as_ref()?.metrics.as_ref()?.accuracy)
}

impl Run<'_> {
    fn changes_text(&self) -> String {
        match &self.changes {
            None => "the first run".to_owned(),
            Some(changes) if changes.is_empty() => "nothing".to_owned(),
            Some(changes) => changes.iter().map(Change::to_string).collect::<Vec<_>>().join("; "),
        }
    }

    fn json(&self) -> Value {
        let changed: Map<String, Value> = self
            .changes
            .iter()
            .flatten()
            .map(|change| {
                (
                    change.name.replace([' ', '-'], "_"),
                    json!({"before": change.before, "after": change.after}),
                )
            })
            .collect();
        let epoch = kept_epoch(self.job);
        let metrics = |metrics: Option<&v1::Metrics>| metrics.map(json::metrics);
        json!({
            "job_id": self.job.id,
            "state": json::state(self.job.state),
            "model": model_name(self.job),
            "changed": changed,
            "epoch": epoch.map(|epoch| epoch.epoch),
            "epochs": self.job.epochs.len(),
            "validation": metrics(epoch.and_then(|epoch| epoch.validation.as_ref())),
            "test": metrics(self.job.test.as_ref().and_then(|test| test.metrics.as_ref())),
            "test_accuracy_difference": self.difference,
        })
    }
}

fn describe(runs: &[Run<'_>], width: Option<usize>, paint: Paint) -> String {
    let columns = [
        Column::left("job"),
        Column::left("model").shrink(8).spare(4),
        Column::right("kept").spare(3),
        Column::right("val loss").spare(1),
        Column::right("val acc").spare(2),
        Column::right("val F1").spare(5),
        Column::right("test acc"),
        Column::right("diff"),
    ];
    let mut beside = Table::new([columns.as_slice(), &[Column::left("changed")]].concat());
    let mut above = Table::new(columns);
    for run in runs {
        let cells = cells(run, paint);
        beside.row(cells.iter().cloned().chain([run.changes_text()]));
        above.row(cells);
    }
    let full = beside.lines(None);
    let widest = full.iter().map(|line| console::measure_text_width(line)).max().unwrap_or(0);
    let Some(width) = width.filter(|&width| width < widest) else { return full.join("\n") };
    // No room for the changes beside the numbers: they stand under them, whole.
    let mut lines = above.lines(Some(width)).into_iter();
    let mut text: Vec<String> = lines.next().into_iter().collect();
    for (line, run) in lines.zip(runs) {
        text.push(line);
        text.extend(wrap(&run.changes_text(), width).into_iter().map(|line| paint.dim(&line)));
    }
    text.join("\n")
}

fn cells(run: &Run<'_>, paint: Paint) -> [String; 8] {
    let epoch = kept_epoch(run.job);
    let validation = epoch.and_then(|epoch| epoch.validation.as_ref());
    let value = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), format::metric);
    let kept = epoch.map_or_else(
        || "-".to_owned(),
        |epoch| match epochs_done(run.job).split_once('/') {
            Some((_, planned)) => format!("{}/{planned}", epoch.epoch),
            None => epoch.epoch.to_string(),
        },
    );
    let difference = match run.difference {
        Some(difference) if difference < 0.0 => paint.yellow(&format!("{difference:+.4}")),
        Some(difference) => paint.green(&format!("{difference:+.4}")),
        None => "-".to_owned(),
    };
    [
        format::one_line(&run.job.id),
        model_name(run.job),
        kept,
        value(validation.map(|metrics| metrics.loss)),
        accuracy(validation),
        value(validation.map(|metrics| metrics.f1)),
        value(test_accuracy(run.job)),
        difference,
    ]
}

/// Words in lines that fit, indented by four.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line)
                if console::measure_text_width(line) + 1 + console::measure_text_width(word) <= width =>
            {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("    {word}")),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, scheduler: v1::Scheduler, test: f64) -> v1::Job {
        let metrics = |accuracy| Some(v1::Metrics { loss: 0.3, accuracy, f1: 0.88, ..Default::default() });
        v1::Job {
            id: id.into(),
            spec: Some(v1::JobSpec {
                name: Some("reviews".into()),
                hyperparameters: Some(v1::Hyperparameters {
                    scheduler: Some(scheduler.into()),
                    learning_rate: Some(2e-5),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            epochs: vec![v1::EpochMetrics {
                epoch: 1,
                epochs: 3,
                best: true,
                validation: metrics(0.9),
                ..Default::default()
            }],
            test: Some(v1::TestMetrics { metrics: metrics(test), epoch: 1, seconds: 1.0 }),
            ..Default::default()
        }
    }

    #[test]
    fn each_run_tells_what_changed_and_what_it_did() {
        let jobs = [job("a", v1::Scheduler::Constant, 0.8874), job("b", v1::Scheduler::Linear, 0.9138)];
        assert_eq!(
            describe(&runs(&jobs), None, Paint::default()),
            "job  model    kept  val loss  val acc  val F1  test acc     diff  changed\n\
             a    reviews   1/3    0.3000   0.9000  0.8800    0.8874        -  the first run\n\
             b    reviews   1/3    0.3000   0.9000  0.8800    0.9138  +0.0264  scheduler constant → linear"
        );
    }

    #[test]
    fn at_60_columns_the_changes_stand_under_the_numbers() {
        let id = "01JDZ8Q6X3V5K2N7M4P9R1T0AB";
        let jobs = [job(id, v1::Scheduler::Constant, 0.9), job(id, v1::Scheduler::Linear, 0.91)];
        let text = describe(&runs(&jobs), Some(60), Paint::default());
        assert!(text.contains("\n    scheduler constant → linear"), "{text}");
        assert!(text.lines().all(|line| console::measure_text_width(line) <= 60), "{text}");
    }

    #[test]
    fn json_has_the_changes_by_name() {
        let jobs = [job("a", v1::Scheduler::Constant, 0.5), job("b", v1::Scheduler::Linear, 0.75)];
        let line = runs(&jobs)[1].json();
        assert_eq!(line["changed"], json!({"scheduler": {"before": "constant", "after": "linear"}}));
        assert_eq!(line["test_accuracy_difference"], json!(0.25));
    }
}
