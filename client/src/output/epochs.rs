//! Metrics for people: the block of an epoch, the table of all epochs, the test result.

use hone::v1;

use super::format::{count, duration, metric, plural, rate};
use super::table::{Column, Table};
use super::{Paint, format};

fn metric_columns() -> Vec<Column> {
    let mut columns = vec![Column::left("")];
    columns.extend(["loss", "accuracy", "F1", "recall", "precision"].map(Column::right));
    columns.push(Column::left(""));
    columns
}

fn metric_cells(metrics: &v1::Metrics) -> [String; 5] {
    [metrics.loss, metrics.accuracy, metrics.f1, metrics.recall, metrics.precision].map(metric)
}

/// Where rows have several labels: F1, recall and precision from the counts of all labels together.
fn micro_row(table: &mut Table, metrics: &v1::Metrics) {
    if let Some(micro) = &metrics.micro {
        let [f1, recall, precision] = [micro.f1, micro.recall, micro.precision].map(metric);
        table.row(["    micro".to_owned(), String::new(), String::new(), f1, recall, precision]);
    }
}

/// An epoch that has just ended: its time, five metrics each for train and validation, and what they mean.
pub(crate) fn block(
    epoch: &v1::EpochMetrics,
    before: Option<&v1::EpochMetrics>,
    width: Option<usize>,
    paint: Paint,
) -> String {
    let title = paint.bold(&format!("epoch {}/{}", epoch.epoch, epoch.epochs));
    let mut lines = vec![format!(
        "{title}  {} (training {}, {})",
        duration(epoch.seconds),
        duration(epoch.train_seconds),
        rate(epoch.steps_per_second)
    )];
    let mut table = Table::new(metric_columns());
    for (name, metrics, best) in [("  train", &epoch.train, false), ("  val", &epoch.validation, epoch.best)]
    {
        if let Some(metrics) = metrics {
            let mark = if best { paint.green("* best") } else { String::new() };
            table.row([name.to_owned()].into_iter().chain(metric_cells(metrics)).chain([mark]));
            micro_row(&mut table, metrics);
        }
    }
    lines.extend(table.lines(width));
    if let Some(warning) = rise(epoch, before) {
        lines.push(format!("  {} {warning}", paint.yellow("!")));
    }
    lines.join("\n")
}

/// What a rise of the validation loss means.
fn rise(epoch: &v1::EpochMetrics, before: Option<&v1::EpochMetrics>) -> Option<String> {
    if !epoch.validation_loss_rose {
        return None;
    }
    let loss = |metrics: &Option<v1::Metrics>| metrics.as_ref().map(|metrics| metrics.loss);
    let now = metric(loss(&epoch.validation)?);
    let Some(before) = before else {
        return Some(format!("validation loss rose to {now}: the model starts to overfit"));
    };
    let rose = format!("validation loss rose from {} to {now}", metric(loss(&before.validation)?));
    Some(match (loss(&before.train), loss(&epoch.train)) {
        (Some(earlier), Some(later)) if later > earlier => {
            format!("{rose}, and the training loss rose too: the learning rate may be too high")
        }
        _ => format!("{rose}: the model starts to overfit"),
    })
}

/// All epochs of a job, one a row; the kept one is marked.
pub(crate) fn table(epochs: &[v1::EpochMetrics], kept: Option<u32>, paint: Paint) -> Table {
    let mut table = Table::new([
        Column::right("epoch"),
        Column::right("time").spare(4),
        Column::right("train loss"),
        Column::right("train acc").spare(3),
        Column::right("val loss"),
        Column::right("val acc"),
        Column::right("val F1").spare(1),
        Column::right("recall").spare(5),
        Column::right("precision").spare(6),
        Column::left(""),
    ]);
    let best = epochs.iter().rev().find(|epoch| epoch.best).map(|epoch| epoch.epoch);
    for epoch in epochs {
        let cell = |metrics: &Option<v1::Metrics>, value: fn(&v1::Metrics) -> f64| {
            metrics.as_ref().map_or_else(|| "-".to_owned(), |metrics| metric(value(metrics)))
        };
        let mark = match kept {
            Some(kept) if kept == epoch.epoch => "* kept",
            None if best == Some(epoch.epoch) => "* best",
            _ => "",
        };
        table.row([
            epoch.epoch.to_string(),
            duration(epoch.seconds),
            cell(&epoch.train, |metrics| metrics.loss),
            cell(&epoch.train, |metrics| metrics.accuracy),
            cell(&epoch.validation, |metrics| metrics.loss),
            cell(&epoch.validation, |metrics| metrics.accuracy),
            cell(&epoch.validation, |metrics| metrics.f1),
            cell(&epoch.validation, |metrics| metrics.recall),
            cell(&epoch.validation, |metrics| metrics.precision),
            if mark.is_empty() { String::new() } else { paint.green(mark) },
        ]);
    }
    table
}

/// The result on the test data.
pub(crate) fn test_block(test: &v1::TestMetrics, width: Option<usize>, paint: Paint) -> String {
    let Some(metrics) = &test.metrics else { return String::new() };
    let title = paint.bold("test");
    let rows = plural(metrics.rows, "row", "rows");
    let mut lines =
        vec![format!("{title}  {rows}, the checkpoint of epoch {}, {}", test.epoch, duration(test.seconds))];
    let mut table = Table::new(metric_columns());
    table.row(["  test".to_owned()].into_iter().chain(metric_cells(metrics)));
    micro_row(&mut table, metrics);
    lines.extend(table.lines(width));
    if metrics.labels.len() > 2 || metrics.micro.is_some() {
        lines.extend(label_table(&metrics.labels).lines(width));
    }
    lines.join("\n")
}

fn label_table(labels: &[v1::LabelMetrics]) -> Table {
    let mut columns = vec![
        Column::left("  label").shrink(8),
        Column::right("rows").spare(1),
        Column::right("F1"),
        Column::right("recall"),
        Column::right("precision"),
    ];
    if labels.iter().any(|label| label.threshold.is_some()) {
        columns.push(Column::right("threshold").spare(2));
    }
    let mut table = Table::new(columns);
    for label in labels {
        let name = format!("  {}", format::one_line(&label.label));
        let threshold = label.threshold.map(|threshold| metric(threshold.into()));
        let cells =
            [name, count(label.rows), metric(label.f1), metric(label.recall), metric(label.precision)];
        table.row(cells.into_iter().chain(threshold));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(loss: f64) -> Option<v1::Metrics> {
        Some(v1::Metrics {
            loss,
            accuracy: 0.9,
            f1: 0.89,
            recall: 0.88,
            precision: 0.9,
            ..Default::default()
        })
    }

    fn epoch(number: u32, train: f64, validation: f64, best: bool, rose: bool) -> v1::EpochMetrics {
        v1::EpochMetrics {
            epoch: number,
            epochs: 3,
            train: metrics(train),
            validation: metrics(validation),
            seconds: 123.0,
            train_seconds: 110.2,
            steps_per_second: 8.104,
            best,
            validation_loss_rose: rose,
            ..Default::default()
        }
    }

    #[test]
    fn an_epoch_is_a_small_table_with_its_time() {
        assert_eq!(
            block(&epoch(1, 0.5, 0.41, true, false), None, Some(60), Paint::default()),
            "epoch 1/3  2m 03s (training 1m 50s, 8.10 steps/s)\n\
             \u{20}          loss  accuracy      F1  recall  precision\n\
             \u{20} train  0.5000    0.9000  0.8900  0.8800     0.9000\n\
             \u{20} val    0.4100    0.9000  0.8900  0.8800     0.9000  * best"
        );
    }

    #[test]
    fn where_rows_have_several_labels_both_means_and_the_thresholds_are_told() {
        let label = |label: &str, threshold| v1::LabelMetrics {
            label: label.into(),
            f1: 0.8,
            recall: 0.7,
            precision: 0.9,
            rows: 12,
            threshold: Some(threshold),
        };
        let metrics = v1::Metrics {
            micro: Some(v1::Average { f1: 0.85, recall: 0.86, precision: 0.84 }),
            labels: vec![label("toxic", 0.5), label("rude", 0.25)],
            rows: 40,
            ..metrics(0.3).unwrap_or_default()
        };
        let test = v1::TestMetrics { metrics: Some(metrics), epoch: 2, seconds: 1.0 };
        assert_eq!(
            test_block(&test, None, Paint::default()),
            "test  40 rows, the checkpoint of epoch 2, 1.0 s\n\
             \u{20}            loss  accuracy      F1  recall  precision\n\
             \u{20} test     0.3000    0.9000  0.8900  0.8800     0.9000\n\
             \u{20}   micro                    0.8500  0.8600     0.8400\n\
             \u{20} label  rows      F1  recall  precision  threshold\n\
             \u{20} toxic    12  0.8000  0.7000     0.9000     0.5000\n\
             \u{20} rude     12  0.8000  0.7000     0.9000     0.2500"
        );
    }

    #[test]
    fn a_rise_of_validation_loss_is_called_what_it_is() {
        let before = epoch(1, 0.5, 0.41, true, false);
        let text = block(&epoch(2, 0.3, 0.44, false, true), Some(&before), None, Paint::default());
        assert!(
            text.ends_with("! validation loss rose from 0.4100 to 0.4400: the model starts to overfit"),
            "{text}"
        );
        let text = block(&epoch(2, 0.6, 0.44, false, true), Some(&before), None, Paint::default());
        assert!(text.ends_with("the learning rate may be too high"), "{text}");
    }

    #[test]
    fn the_table_of_epochs_marks_the_kept_one_and_fits_60_columns() {
        let epochs = [epoch(1, 0.5, 0.41, true, false), epoch(2, 0.3, 0.44, false, true)];
        let lines = table(&epochs, Some(1), Paint::default()).lines(Some(60));
        assert!(lines.iter().all(|line| line.chars().count() <= 60), "{lines:?}");
        assert!(lines[1].ends_with("* kept"), "{lines:?}");
        assert!(!lines[2].contains('*'), "{lines:?}");
    }
}
