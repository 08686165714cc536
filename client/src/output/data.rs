//! What the daemon found in the data, for people: the report before training, and the summary of a file.

use hone::v1;

use super::Paint;
use super::format::{count, one_line, percent, plural, short_digest, told};
use super::json::split as split_word;
use super::table::{Column, Table};

/// The report before training. Counts of zero are not worth a word; what should worry stands out.
pub(crate) fn prepared(report: &v1::Prepared, width: Option<usize>, paint: Paint) -> String {
    let mut table = Table::new([
        Column::left("data").shrink(10),
        Column::left("file").shrink(8).spare(2),
        Column::right("rows"),
        Column::left("labels").shrink(12),
        Column::right("tokens p50").spare(4),
        Column::right("p95").spare(3),
        Column::right("max").spare(1),
    ]);
    for split in &report.splits {
        let tokens = split.tokens.unwrap_or_default();
        table.row([
            split_word(split.split),
            one_line(&split.name),
            count(split.rows),
            labels(&split.labels),
            count(tokens.p50.into()),
            count(tokens.p95.into()),
            count(tokens.max.into()),
        ]);
    }
    let mut lines = if table.is_empty() { Vec::new() } else { table.lines(width) };
    for split in &report.splits {
        let name = split_word(split.split);
        lines.extend(split.notes.iter().map(|note| format!("note: {name}: {}", told(note))));
    }
    for warning in warnings(report) {
        lines.push(format!("{} {warning}", paint.yellow("warning:")));
    }
    lines.push(format!(
        "encoder {} ({} parameters, {}) on {}",
        one_line(&report.encoder),
        millions(report.parameters),
        short_digest(&report.encoder_sha256),
        one_line(&report.device)
    ));
    let warmup = match report.warmup_steps {
        0 => "no warm-up".to_owned(),
        steps => format!("{} of warm-up", count(steps)),
    };
    lines.push(format!(
        "{}, {} an epoch, {warmup}; texts up to {} tokens",
        plural(report.total_steps, "step", "steps"),
        count(report.steps_per_epoch),
        report.max_length
    ));
    lines.join("\n")
}

/// What should worry in the data, one sentence each.
fn warnings(report: &v1::Prepared) -> Vec<String> {
    let mut warnings = Vec::new();
    for split in &report.splits {
        let name = split_word(split.split);
        let mut warn = |rows: u64, one: &str, many: &str| {
            if rows > 0 {
                let rows_text = plural(rows, one, many);
                warnings.push(format!("{name}: {rows_text} ({})", percent(rows, split.rows)));
            }
        };
        let limit = report.max_length;
        warn(
            split.truncated,
            &format!("text is longer than {limit} tokens and is cut"),
            &format!("texts are longer than {limit} tokens and are cut"),
        );
        warn(split.empty_texts, "text is empty", "texts are empty");
        warn(split.duplicates, "row repeats an earlier one", "rows repeat an earlier one");
        warn(split.contradictions, "text stands with different labels", "texts stand with different labels");
        warn(
            split.unknown,
            "text has no token that the encoder knows",
            "texts have no token that the encoder knows",
        );
    }
    warnings.extend(absent(report));
    for overlap in report.overlaps.iter().filter(|overlap| overlap.rows > 0) {
        let (first, second) = (split_word(overlap.first), split_word(overlap.second));
        let rows = plural(overlap.rows, "row stands", "rows stand");
        warnings.push(match overlap.contradictions {
            0 => format!("{second}: {rows} in {first} too, so its scores are too good"),
            other if other == overlap.rows => format!("{second}: {rows} in {first} too, with another label"),
            other => format!("{second}: {rows} in {first} too, {} with another label", count(other)),
        });
    }
    warnings
}

/// Labels that a split has no row of, so that its scores say nothing of them.
fn absent(report: &v1::Prepared) -> Vec<String> {
    let absent = |split: &v1::SplitReport| {
        let names: Vec<String> = split
            .labels
            .iter()
            .filter(|label| label.rows == 0)
            .map(|label| format!("\"{}\"", one_line(&label.label)))
            .collect();
        let name = split_word(split.split);
        (!names.is_empty()).then(|| match split.split() {
            v1::Split::Train => format!("{name}: no row of {}, so the model cannot learn it", few(&names)),
            _ => format!("{name}: no row of {}, so its scores say nothing of it", few(&names)),
        })
    };
    report.splits.iter().filter_map(absent).collect()
}

/// The first of them.
fn few(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn labels(labels: &[v1::LabelCount]) -> String {
    const SHOWN: usize = 6;
    let mut parts: Vec<String> = labels
        .iter()
        .take(SHOWN)
        .map(|count_of| format!("{} {}", one_line(&count_of.label), count(count_of.rows)))
        .collect();
    if labels.len() > SHOWN {
        parts.push(format!("{} more", labels.len() - SHOWN));
    }
    parts.join(" · ")
}

fn millions(parameters: u64) -> String {
    match parameters {
        0..1_000_000 => count(parameters),
        _ => format!("{:.1} M", parameters as f64 / 1e6),
    }
}

/// A data set in one line: "reviews.csv: 4,000 rows, negative 2,000 · positive 2,000".
pub(crate) fn summary_line(dataset: &v1::Dataset) -> String {
    let name = one_line(&dataset.name);
    match &dataset.summary {
        Some(summary) if summary.labels.is_empty() => {
            format!("{name}: {}", plural(summary.rows, "row", "rows"))
        }
        Some(summary) => {
            format!("{name}: {}, {}", plural(summary.rows, "row", "rows"), labels(&summary.labels))
        }
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(split: v1::Split, rows: u64) -> v1::SplitReport {
        v1::SplitReport {
            split: split.into(),
            name: "reviews.csv".into(),
            rows,
            labels: ["negative", "positive"]
                .map(|label| v1::LabelCount { label: label.into(), rows: rows / 2 })
                .into(),
            tokens: Some(v1::LengthQuantiles { p50: 173, p95: 590, max: 1203, ..Default::default() }),
            ..Default::default()
        }
    }

    fn report() -> v1::Prepared {
        v1::Prepared {
            splits: vec![split(v1::Split::Train, 4000), split(v1::Split::Validation, 1000)],
            total_steps: 750,
            steps_per_epoch: 250,
            max_length: 512,
            parameters: 109_483_778,
            device: "cuda:0".into(),
            encoder: "bert-base-uncased".into(),
            encoder_sha256: "0123456789abcdef".into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_clean_report_has_no_word_about_what_is_not_there() {
        assert_eq!(
            prepared(&report(), None, Paint::default()),
            "data        file          rows  labels                           tokens p50  p95    max\n\
             train       reviews.csv  4,000  negative 2,000 · positive 2,000         173  590  1,203\n\
             validation  reviews.csv  1,000  negative 500 · positive 500             173  590  1,203\n\
             encoder bert-base-uncased (109.5 M parameters, 0123456789ab) on cuda:0\n\
             750 steps, 250 an epoch, no warm-up; texts up to 512 tokens"
        );
    }

    #[test]
    fn what_should_worry_is_said() {
        let mut report = report();
        report.splits[0].truncated = 1200;
        report.splits[0].duplicates = 1;
        report.overlaps = vec![v1::Overlap {
            first: v1::Split::Train.into(),
            second: v1::Split::Validation.into(),
            rows: 3,
            contradictions: 1,
        }];
        report.splits[1].labels[0].rows = 0;
        assert_eq!(
            warnings(&report),
            [
                "train: 1,200 texts are longer than 512 tokens and are cut (30%)",
                "train: 1 row repeats an earlier one (0.0%)",
                "validation: no row of \"negative\", so its scores say nothing of it",
                "validation: 3 rows stand in train too, 1 with another label",
            ]
        );
    }

    #[test]
    fn what_was_found_of_how_a_file_is_written_is_a_note() {
        let mut report = report();
        report.splits[1].notes = vec!["read as UTF-16LE".into()];
        let text = prepared(&report, None, Paint::default());
        assert!(text.contains("\nnote: validation: read as UTF-16LE\n"), "{text}");
    }

    #[test]
    fn at_60_columns_no_table_line_wraps() {
        let text = prepared(&report(), Some(60), Paint::default());
        for line in text.lines().take(3) {
            assert!(console::measure_text_width(line) <= 60, "{line}");
        }
    }
}
