//! Data files that people have: each is read as they mean it, or refused with its line and what to do. `cases/` holds
//! them; the numbers are those of the files' names.

use std::path::Path;

use hone::text_file::Encoding;
use hone::v1::event::Kind;
use hone::v1::{DataSource, Dataset as Stored, GetDatasetRequest, JobSpec, JobState, Prepared, SplitReport};
use hone_data::dataset::Dataset;
use hone_data::{Columns, Dialect, MissingLabel};

use crate::harness::daemon::Daemon;

/// Reads a case; its rows of each label, and what is told of it.
fn read(name: &str, columns: &Columns) -> Result<(String, String), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(name);
    let dataset =
        Dataset::read(&path, name, None, columns, None).map_err(|error| error.message().to_owned())?;
    let labels = dataset.summary().labels;
    let labels: Vec<String> = labels.iter().map(|label| format!("{} {}", label.label, label.rows)).collect();
    Ok((labels.join(", "), dataset.notes.join("; ")))
}

/// The case is read with these rows of each label, and nothing is told of it.
fn silently(name: &str, columns: Columns, labels: &str) {
    assert_eq!(read(name, &columns), Ok((labels.to_owned(), String::new())), "{name}");
}

/// The case is read with these rows of each label, and this is told of it.
fn told(name: &str, columns: Columns, labels: &str, note: &str) {
    let (found, notes) = read(name, &columns).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(found, labels, "{name}");
    assert!(notes.contains(note), "{name}: {notes:?} lacks {note:?}");
}

/// The case is refused with these words.
fn refused(name: &str, columns: Columns, words: &[&str]) {
    let error = read(name, &columns).map(|(labels, _)| labels).expect_err(name);
    for words in words {
        assert!(error.starts_with(name) && error.contains(words), "{name}: {error:?} lacks {words:?}");
    }
}

fn guessed() -> Columns {
    Columns::default()
}

fn dialect(dialect: Dialect) -> Columns {
    Columns { dialect, ..guessed() }
}

fn several(separator: &str) -> Columns {
    Columns { label_separator: Some(separator.into()), ..guessed() }
}

fn missing(missing_label: MissingLabel) -> Columns {
    Columns { missing_label, ..guessed() }
}

fn columns_of_labels(names: &[&str]) -> Columns {
    Columns { label_columns: names.iter().map(|&name| name.to_owned()).collect(), ..guessed() }
}

#[test]
fn encodings_are_recognised_or_asked_for() {
    refused("02-cp1252.csv", guessed(), &["line 2", "0x92", "`columns.dialect.encoding = windows-1252`"]);
    let western = dialect(Dialect { encoding: Encoding::named("windows-1252"), ..Dialect::default() });
    told("02-cp1252.csv", western, "bad 13, good 13", "read as windows-1252");
    told("utf16le_nobom.csv", guessed(), "neg 16, pos 16", "read as UTF-16LE");
    silently("04-bom-first-column.csv", guessed(), "bad 12, good 12");
    silently("04b-bom-quoted-header.csv", guessed(), "bad 12, good 12");
    refused("nul.csv", guessed(), &["line 8: a zero byte (NUL) at byte 28", "tr -d"]);
    refused("40-lone-surrogate.jsonl", guessed(), &["line 1", "half an emoji"]);
}

#[test]
fn any_delimiter_is_found_and_told() {
    told("sep.csv", guessed(), "neg 16, pos 16", "semicolons, as line 1 says (sep=)");
    told("sepc.csv", guessed(), "neg 16, pos 16", "commas, as line 1 says (sep=)");
    told("06-sep-semicolon.csv", guessed(), "bad 12, good 12", "semicolons, as line 1 says");
    told("08-semicolons.csv", guessed(), "bad 12, good 12", "seem to be separated by semicolons");
    told("10-tabs.csv", guessed(), "bad 12, good 12", "seem to be separated by tabs");
    let wrong = dialect(Dialect { delimiter: Some('|'), ..Dialect::default() });
    refused(
        "08-semicolons.csv",
        wrong,
        &["line 1", "separated by vertical bars", "`columns.dialect.delimiter`"],
    );
}

#[test]
fn rows_are_counted_as_people_count_them() {
    refused(
        "12-trailing-comma.csv",
        guessed(),
        &["line 7: the row has 3 fields, the header 2", "a comma too many"],
    );
    silently("12b-trailing-comma-all.csv", guessed(), "bad 12, good 12");
    told("18-excel-tail.csv", guessed(), "bad 12, good 12", "3 rows without any content were left out");
    silently("14-null-words.csv", guessed(), "bad 15, good 15");
}

#[test]
fn headers_are_found_asked_for_or_left_out() {
    let without_header = || dialect(Dialect { no_header: true, ..Dialect::default() });
    refused(
        "nohdr.csv",
        guessed(),
        &["line 1: the first line looks like data", "`columns.dialect.no_header`"],
    );
    silently("nohdr.csv", without_header(), "neg 16, pos 16");
    refused("tweet.csv", guessed(), &["`columns.dialect.no_header`"]);
    silently("tweet.csv", without_header(), "0 16, 4 16");
    silently("20-header-case.csv", guessed(), "bad 12, good 12");
    let named = Columns { text: Some("text".into()), ..guessed() };
    refused("20-header-case.csv", named, &["the columns are \"Text\", \"LABEL\""]);
    silently("22-bool-first.csv", guessed(), "FALSE 12, TRUE 12");
}

#[test]
fn a_second_text_is_asked_for_or_told() {
    refused("24-pairs.csv", guessed(), &["\"sentence1\", \"sentence2\"", "`columns.text_pair`"]);
    let pair = |first: &str, second: &str| Columns {
        text: Some(first.into()),
        text_pair: Some(second.into()),
        ..guessed()
    };
    silently("24-pairs.csv", pair("sentence1", "sentence2"), "0 12, 1 12");
    told(
        "24b-question-sentence.csv",
        guessed(),
        "entailment 12, not_entailment 12",
        "\"question\" is not used",
    );
    silently("74-long-pair.csv.gz", pair("text", "text_pair"), "bad 24, good 24");
}

#[test]
fn json_is_read_in_every_usual_arrangement() {
    silently("array.json", guessed(), "neg 16, pos 16");
    silently("26-array.json", guessed(), "bad 12, good 12");
    silently("data.json", guessed(), "neg 16, pos 16");
    refused("columns.json", guessed(), &["one object a row", "to_json"]);
    silently("nested.jsonl", guessed(), "neg 16, pos 16");
    refused("28-nested.jsonl", guessed(), &["\"data.text\"", "`columns.label`"]);
    told("30-mixed-types.jsonl", guessed(), "0 12, 1 12", "such as 1.0, count as 1");
    told("mixed.jsonl", guessed(), "7 1, neg 15, pos 16", "1 text is a number (5)");
    silently("32-schema-like-text.jsonl", guessed(), "bad 13, good 12");
}

#[test]
fn fast_texts_format_is_read() {
    silently("38-fasttext.txt", guessed(), "bad 13, good 13");
}

#[test]
fn labels_that_are_missing_are_refused_dropped_or_kept() {
    refused(
        "16-empty-label.csv",
        guessed(),
        &["lines 12, 13", "2 rows have no label (empty)", "`columns.missing_label = drop`"],
    );
    told("16-empty-label.csv", missing(MissingLabel::Drop), "bad 12, good 12", "2 rows have no label");
    refused("nan.csv", guessed(), &["lines 2, 7, 12", "\"NaN\"", "`columns.missing_label = drop`"]);
    told("nan.csv", missing(MissingLabel::Drop), "neg 13, pos 12", "7 rows have no label");
    told("nan.csv", missing(MissingLabel::Keep), "NaN 7, neg 13, pos 12", "often means a missing one");
}

#[test]
fn labels_have_one_spelling_and_what_looks_alike_is_told() {
    silently("base.csv", guessed(), "neg 16, pos 16");
    silently("trail.csv", guessed(), "neg 16, pos 16");
    told(
        "floatmix.csv",
        guessed(),
        "0 16, 1 16",
        "written as numbers with a fraction, such as 1.0, count as 1",
    );
    told("case.csv", guessed(), "NEG 8, POS 8, neg 8, pos 8", "differ only by case");
    silently("44-negative.csv", guessed(), "-1 12, 0 2, 1 12");
}

#[test]
fn several_labels_are_read_however_they_are_written() {
    refused(
        "52-hash.csv",
        guessed(),
        &["no label (empty)", "contain \"#\"", "`columns.label_separator = \"#\"`"],
    );
    silently("52-hash.csv", several("#"), "anger 6, fear 6, joy 12, trust 6");
    told(
        "52-hash.csv",
        several("|"),
        "anger#fear 6, joy 6, joy#trust 6",
        "`columns.label_separator = \"#\"`",
    );
    told(
        "multistr.csv",
        guessed(),
        "['neg'] 16, ['pos', 'x'] 16",
        "look like lists; with `columns.label_separator`",
    );
    silently("multistr.csv", several("|"), "neg 16, pos 16, x 16");
    silently("56-int-lists.jsonl", several("|"), "1 12, 2 12");
}

#[test]
fn a_column_for_each_label_is_read_when_it_is_named() {
    refused("onehot.csv", guessed(), &["`columns.label_columns = positive,negative`"]);
    silently("onehot.csv", columns_of_labels(&["positive", "negative"]), "positive 16, negative 16");
    let names = ["toxic", "insult", "threat"];
    refused("54-column-per-label.csv", several("|"), &["`columns.label_columns = toxic,insult,threat`"]);
    refused(
        "54-column-per-label.csv",
        columns_of_labels(&names),
        &["of the label columns are 1; set `columns.label_separator`"],
    );
    let each = Columns { label_separator: Some("|".into()), ..columns_of_labels(&names) };
    silently("54-column-per-label.csv", each, "toxic 12, insult 6, threat 3");
}

/// What a dry run on cases reports of their data, or why it is refused.
async fn prepare(
    daemon: &Daemon,
    train: &str,
    validation: Option<&str>,
    test: Option<&str>,
) -> Result<Prepared, String> {
    let source = |stored: Stored| DataSource { dataset_id: stored.id, name: None };
    let mut sources = vec![];
    for name in [Some(train), validation, test] {
        sources.push(match name {
            None => None,
            Some(name) => Some(source(upload(daemon, name, name).await)),
        });
    }
    let [train, validation, test] = sources.try_into().expect("three files");
    let report = daemon.dry_run(JobSpec { train, validation, test, ..JobSpec::default() }).await;
    report
        .map(|report| report.prepared.expect("a report on the data"))
        .map_err(|status| status.message().to_owned())
}

async fn upload(daemon: &Daemon, case: &str, name: &str) -> Stored {
    let bytes =
        std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(case)).expect("a case");
    daemon.upload(name, bytes).await.expect("an upload")
}

fn rows_of(split: &SplitReport, label: &str) -> u64 {
    split.labels.iter().find(|count| count.label == label).map_or(0, |count| count.rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_doubtful_between_files_is_told_before_training() {
    let data = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(data.path()).await;

    // Two Unicode forms of one text are one text.
    let report = prepare(&daemon, "36-nfc-train.csv", None, Some("36-nfd-test.csv")).await.expect("a report");
    let overlaps = report.overlaps.iter().filter(|overlap| overlap.second() == hone::v1::Split::Test);
    let (rows, contradictions) =
        overlaps.fold((0, 0), |(rows, other), overlap| (rows + overlap.rows, other + overlap.contradictions));
    assert_eq!((rows, contradictions), (9, 5));

    // A label that validation lacks is there with no row; one that stays in training too.
    let report = prepare(&daemon, "base.csv", Some("val_missing.csv"), None).await.expect("a report");
    assert_eq!((rows_of(&report.splits[1], "neg"), rows_of(&report.splits[1], "pos")), (0, 6));
    let report = prepare(&daemon, "48-single-member.csv", None, None).await.expect("a report");
    assert_eq!((rows_of(&report.splits[0], "rare"), rows_of(&report.splits[1], "rare")), (1, 0));

    // Copies of rows, and texts of unknown tokens alone.
    let report = prepare(&daemon, "58-oversampled.csv", None, None).await.expect("a report");
    assert!(report.splits[0].duplicates > 10 && report.overlaps[0].rows > 0, "{report:?}");
    let report = prepare(&daemon, "34-emoji.csv", None, None).await.expect("a report");
    assert!(report.splits.iter().map(|split| split.unknown).sum::<u64>() >= 3, "{report:?}");

    for (train, labels) in [
        ("imb.csv", ["neg", "pos"]),
        ("50-binary-rare.csv", ["hate", "nohate"]),
        ("60-imbalanced.csv", ["fault", "ok"]),
    ] {
        let report = prepare(&daemon, train, None, None).await.expect("a report");
        assert!(rows_of(&report.splits[1], labels[0]) < rows_of(&report.splits[1], labels[1]), "{report:?}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_cannot_be_learned_are_refused_before_training() {
    let data = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(data.path()).await;
    let error = prepare(&daemon, "uniq.csv", None, None).await.expect_err("ids");
    assert!(error.contains("uniq.csv: 32 different labels in 32 rows"), "{error}");
    let error = prepare(&daemon, "42-casing-train.csv", Some("42-casing-validation.csv"), None)
        .await
        .expect_err("Good");
    assert!(
        error.contains("line 4") && error.contains("\"Good\"") && error.contains("only by case"),
        "{error}"
    );
    let error = prepare(&daemon, "base.csv", None, Some("46-unseen-test.csv")).await.expect_err("unseen");
    assert!(error.contains("46-unseen-test.csv, line 2: the label \"good\""), "{error}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nine_rows_are_trained_on_in_nine_steps_and_the_rarer_label_is_not_forgotten() {
    let data = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(data.path()).await;
    let run = async |train: &str,
                     validation: Option<&str>,
                     change: &dyn Fn(&mut hone::v1::Hyperparameters)| {
        let source =
            async |name: &str| DataSource { dataset_id: upload(&daemon, name, name).await.id, name: None };
        let mut spec = JobSpec { train: Some(source(train).await), ..JobSpec::default() };
        if let Some(name) = validation {
            spec.validation = Some(source(name).await);
        }
        change(spec.hyperparameters.get_or_insert_default());
        let job = daemon.start_job(spec).await.expect("a job");
        let events = daemon.watch(&job.id, 0).await.expect("events");
        let notices: Vec<String> = events
            .into_iter()
            .filter_map(|event| match event.kind {
                Some(Kind::Notice(notice)) => Some(notice.message),
                _ => None,
            })
            .collect();
        (daemon.job(&job.id).await, notices.join("; "))
    };
    let (job, notices) = run("64-nine-rows.csv", Some("64b-nine-rows-validation.csv"), &|of| {
        (of.epochs, of.batch_size, of.gradient_accumulation) = (Some(3), Some(2), Some(2));
    })
    .await;
    assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
    assert_eq!(job.epochs.iter().map(|epoch| epoch.step).collect::<Vec<_>>(), [3, 6, 9]);
    assert!(notices.contains("only 9 optimizer steps"), "{notices}");

    // Nine in ten rows have one label, and the model soon answers nothing else: that is told.
    let (job, notices) = run("60-imbalanced.csv", None, &|of| of.epochs = Some(1)).await;
    assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
    for words in
        ["answers 'ok' for all 24 validation rows", "never predicted: 'fault'", "`class_weights = balanced`"]
    {
        assert!(notices.contains(words), "{notices}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_sent_under_another_name_has_the_callers_name() {
    let data = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(data.path()).await;
    let stored = upload(&daemon, "base.csv", "base.csv").await;
    let request =
        |columns| GetDatasetRequest { id: stored.id.clone(), columns, name: Some("BASE.CSV".into()) };
    let found = daemon.datasets().get(request(None)).await.expect("the data set").into_inner();
    assert_eq!(found.name, "BASE.CSV");
    let absent = hone::v1::Columns { text: Some("body".into()), ..Default::default() };
    let error = daemon.datasets().get(request(Some(absent))).await.expect_err("no such column");
    assert!(error.message().starts_with("BASE.CSV: there is no column \"body\""), "{error}");
    daemon.stop().await;
}
