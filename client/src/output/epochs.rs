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
    if let Some(validation) = &epoch.validation {
        lines.extend(
            of_which_label(validation).filter(|_| epoch.epoch == 1).map(|words| format!("  {words}")),
        );
        lines.extend(imbalance(validation).map(|words| format!("  {words}")));
    }
    if let Some(warning) = rise(epoch, before) {
        lines.push(format!("  {} {warning}", paint.yellow("!")));
    }
    lines.join("\n")
}

/// Whose F1, recall and precision are shown, where there are two labels and a row has one.
fn of_which_label(metrics: &v1::Metrics) -> Option<String> {
    let [first, second] = metrics.labels.as_slice() else { return None };
    if metrics.micro.is_some() {
        return None;
    }
    let is_it = |label: &v1::LabelMetrics| {
        (label.f1, label.recall, label.precision) == (metrics.f1, metrics.recall, metrics.precision)
    };
    // By default they are those of the second label.
    let (label, other) = [(second, first), (first, second)].into_iter().find(|(label, _)| is_it(label))?;
    Some(format!(
        "F1, recall and precision are those of \"{}\" (--positive-label takes {}\"{}\")",
        format::one_line(&label.label),
        if other.rows * 2 <= label.rows { "the rarer " } else { "" },
        format::one_line(&other.label),
    ))
}

/// The largest label's share of the rows from which on the smallest one is shown.
const STRONG: f64 = 0.8;

/// Macro F1 and the smallest label, where most rows have one label and a high accuracy says little.
fn imbalance(metrics: &v1::Metrics) -> Option<String> {
    if metrics.micro.is_some() || metrics.rows == 0 {
        return None;
    }
    let largest = metrics.labels.iter().max_by_key(|label| label.rows)?;
    let smallest = metrics.labels.iter().filter(|label| label.rows > 0).min_by_key(|label| label.rows)?;
    let share = largest.rows as f64 / metrics.rows as f64;
    if share < STRONG || smallest.label == largest.label {
        return None;
    }
    let macro_f1 = metrics.labels.iter().map(|label| label.f1).sum::<f64>() / metrics.labels.len() as f64;
    Some(format!(
        "{:.0}% of the rows are \"{}\": macro F1 {}; \"{}\" ({}): F1 {}, recall {}, precision {}",
        share * 100.0,
        format::one_line(&largest.label),
        metric(macro_f1),
        format::one_line(&smallest.label),
        plural(smallest.rows, "row", "rows"),
        metric(smallest.f1),
        metric(smallest.recall),
        metric(smallest.precision),
    ))
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
    lines.extend(imbalance(metrics).map(|words| format!("  {words}")));
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

    fn two_labels(rows: [u64; 2], f1: [f64; 2], of: usize) -> v1::Metrics {
        let label = |name: &str, place: usize| v1::LabelMetrics {
            label: name.into(),
            rows: rows[place],
            f1: f1[place],
            recall: f1[place],
            precision: f1[place],
            threshold: None,
        };
        v1::Metrics {
            f1: f1[of],
            recall: f1[of],
            precision: f1[of],
            rows: rows.iter().sum(),
            labels: vec![label("hate", 0), label("none", 1)],
            ..Default::default()
        }
    }

    #[test]
    fn the_first_epoch_says_whose_f1_it_is() {
        let words = of_which_label(&two_labels([20, 20], [0.7, 0.8], 0)).unwrap_or_default();
        assert!(words.contains("are those of \"hate\""), "{words}");
        let words = of_which_label(&two_labels([20, 20], [0.7, 0.7], 0)).unwrap_or_default();
        assert!(words.contains("are those of \"none\" (--positive-label takes \"hate\")"), "{words}");
        let words = of_which_label(&two_labels([3, 20], [0.7, 0.8], 1)).unwrap_or_default();
        assert!(words.contains("--positive-label takes the rarer \"hate\""), "{words}");
    }

    #[test]
    fn with_a_strong_imbalance_macro_f1_and_the_smallest_label_are_shown() {
        assert_eq!(imbalance(&two_labels([20, 60], [0.7, 0.8], 1)), None);
        assert_eq!(
            imbalance(&two_labels([3, 48], [0.25, 0.95], 1)).unwrap_or_default(),
            "94% of the rows are \"none\": macro F1 0.6000; \"hate\" (3 rows): F1 0.2500, recall 0.2500, precision 0.2500"
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
