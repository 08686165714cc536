//! Files of every kind, right and wrong.

use std::io::Write;

use proptest::prelude::*;

use super::*;
use hone_base::error::Kind;

fn read_as(name: &str, bytes: &[u8], columns: &Columns, limit: Option<u64>) -> Result<Dataset> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Dataset::read(file.path(), name, None, columns, limit)
}

fn read(name: &str, text: &str) -> Result<Dataset> {
    read_as(name, text.as_bytes(), &Columns::default(), None)
}

fn rows(dataset: &Dataset) -> Vec<(&str, &str, u64)> {
    dataset.examples.iter().map(|row| (&*row.text, &*row.labels[0], row.line)).collect()
}

#[test]
fn the_ending_of_the_name_tells_the_format_and_else_the_first_line() {
    for (name, text, expected) in [
        ("a.csv", "text,label,x\ty\na,b,c\n", Format::Csv),
        ("a.TSV.gz", "text\tlabel\na,b\tc\n", Format::Tsv),
        ("a.ndjson", "{\"text\":\"a\",\"label\":1}", Format::JsonLines),
        ("a.txt", "\n {\"text\":\"a\",\"label\":1}", Format::JsonLines),
        ("upload", "text\tlabel\na,b\tc\n", Format::Tsv),
        ("upload", "text,label\na,c\n", Format::Csv),
    ] {
        assert_eq!(read(name, text).unwrap().format, expected, "{name}");
    }
}

#[test]
fn csv_rows_keep_their_texts_byte_for_byte_and_labels_lose_white_space() {
    let text = "\u{feff}id,label,text\r\n\
                1, pos ,\"a \"\"fine\"\" film,\r\nreally\"\r\n\
                \r\n\
                2,neg,  plain \"quotes\" stay \r\n\
                3,\"neg\",\"\"\r\n\
                4,pos,last line has no end";
    let dataset = read("a.csv", text).unwrap();
    assert_eq!(dataset.columns, ["id", "label", "text"]);
    assert_eq!(
        rows(&dataset),
        [
            ("a \"fine\" film,\r\nreally", "pos", 2),
            ("  plain \"quotes\" stay ", "neg", 5),
            ("", "neg", 6),
            ("last line has no end", "pos", 7),
        ]
    );
}

#[test]
fn tab_separated_rows_may_be_quoted_or_not() {
    let text = "sentence\tlabel\n\"Great\" is the word\t1\n\"with\ttab\"\t0\n\"two\nlines\"\t1\n\"\t0\t\n";
    let error = read("a.tsv", text).unwrap_err();
    assert!(error.message().contains("line 6, column \"sentence\""), "{error}");
    let dataset = read("a.tsv", text.trim_end_matches("\"\t0\t\n")).unwrap();
    assert_eq!(
        rows(&dataset),
        [("\"Great\" is the word", "1", 2), ("with\ttab", "0", 3), ("two\nlines", "1", 4)]
    );
}

#[test]
fn json_takes_strings_numbers_and_booleans_as_labels() {
    let text = "{\"text\": \"a\\n\\u00e9\", \"label\": 1, \"extra\": [1, {}]}\r\n\n\
                {\"label\": \" x \", \"other\": 1.5, \"text\": \"b\"}\n\
                {\"extra\": null, \"text\": \"c\", \"label\": true}";
    let dataset = read("a.jsonl", text).unwrap();
    assert_eq!(dataset.columns, ["text", "label", "extra", "other"]);
    assert_eq!(rows(&dataset), [("a\né", "1", 1), ("b", "x", 3), ("c", "true", 4)]);
}

#[test]
fn what_cannot_be_read_is_told_with_file_line_and_column() {
    let long = format!("text,label\n{},x\n", "a".repeat(crate::tokenize::MAX_TEXT_BYTES + 1));
    let many = format!("text,label\n{}", (0..1001).map(|i| format!("a,{i}\n")).collect::<String>());
    for (name, text, expected) in [
        ("f.csv", "", "f.csv: the file is empty"),
        ("f.csv", "\n \r\n", "f.csv: the file is empty"),
        ("f.csv", "text,label\n", "f.csv: there are no rows below the header"),
        (
            "f.csv",
            "text,x\na,b\n",
            "f.csv: cannot tell which column is the label; the columns are \"text\", \"x\"",
        ),
        ("f.csv", "text,label\na,b\nc\n", "f.csv, line 3: the row has 1 field, the header 2"),
        ("f.csv", "text,label\na, b,c\n", "f.csv, line 2: the row has 3 fields, the header 2"),
        (
            "f.csv",
            "text,label\na,b\n\"c,d\ne,f\n",
            "f.csv, line 3, column \"text\": the quote that opens here is not closed",
        ),
        (
            "f.csv",
            "text,label\n\"a,b\n\"c\",d\n",
            "f.csv, line 2, column \"text\": the quote that opens here",
        ),
        ("f.csv", "text,label\n\"a\" b,c\n", "f.csv, line 2, column \"text\": text stands behind"),
        ("f.csv", "text,label\na,b\nc, \n", "f.csv, line 3, column \"label\": 1 row has no label (empty)"),
        ("f.csv", &long, "f.csv, line 2, column \"text\": the text has 1048577 bytes"),
        ("f.csv", &many, "f.csv: there are more than 1000 different labels"),
        (
            "f.jsonl",
            "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"a\" \"label\": 1}",
            "f.jsonl, line 2, column 14",
        ),
        ("f.jsonl", "{\"text\": \"a\", \"label\": 1} x", "f.jsonl, line 1, column 27"),
        ("f.jsonl", "{\"text\": \"a\", \"label\": 1}\n3", "f.jsonl, line 2, column 1"),
        ("f.jsonl", "[{\"text\": \"a\", \"label\": 1},", "f.jsonl, line 1: the file ends inside the list"),
        ("f.json", "{\"text\": [\"a\"], \"label\": [1]}", "one list a column must have one object a row"),
        (
            "f.json",
            "{\"text\": {\"0\": \"a\", \"1\": \"b\"}, \"label\": {\"0\": 1, \"1\": 2}}",
            "f.json: the file is one object with numbered values a column",
        ),
        ("f.jsonl", "{\"text\": null, \"label\": 1}", "column \"text\": the text is null, not a string"),
        ("f.jsonl", "{\"text\": \"a\", \"label\": {}}", "cannot tell which column is the label"),
        ("f.jsonl", "{\"text\": \"\\ud83d\", \"label\": 1}", "line 1, column 17: half an emoji"),
        (
            "f.jsonl",
            "{\"text\":\"a\",\"label\":1}\n{\"text\":\"a\"}",
            "line 2, column \"label\": 1 row has no label (empty)",
        ),
        (
            "f.jsonl",
            "{\"text\":\"a\",\"label\":1}\n{\"label\":1,\"label\":2,\"text\":\"a\"}",
            "the label is given twice",
        ),
    ] {
        let error = read(name, text).map(|dataset| rows(&dataset).len()).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        assert!(error.message().starts_with(name), "{error}");
        assert!(error.message().contains(expected), "{error}\ndoes not contain\n{expected}");
    }
}

#[test]
fn a_limit_takes_the_first_rows_and_does_not_look_further() {
    let text = "text,label\na,1\nb,2\nbroken\n";
    let dataset = read_as("a.csv", text.as_bytes(), &Columns::default(), Some(2)).unwrap();
    assert_eq!(rows(&dataset), [("a", "1", 2), ("b", "2", 3)]);
    assert!(read_as("a.csv", text.as_bytes(), &Columns::default(), Some(3)).is_err());
}

#[test]
fn rows_that_were_looked_at_for_a_guess_are_rows_too() {
    let mut text = "nummer,inhalt,urteil\n".to_owned();
    for row in 0..2500 {
        text.push_str(&format!("{row},ein langer Text {row},{}\n", row % 2));
    }
    let dataset = read("a.csv", &text).unwrap();
    assert_eq!(dataset.examples.len(), 2500);
    assert!(dataset.examples.iter().zip(0..).all(|(row, i)| {
        row.line == i + 2
            && row.text == format!("ein langer Text {i}")
            && *row.labels == [(i % 2).to_string()]
    }));
    assert_eq!(dataset.used.text.as_deref(), Some("inhalt"));
    assert_eq!(dataset.used.label.as_deref(), Some("urteil"));
}

#[test]
fn a_pair_has_two_texts() {
    let given = Columns {
        text: Some("a".into()),
        text_pair: Some("b".into()),
        label: Some("c".into()),
        ..Columns::default()
    };
    let dataset = read_as("a.csv", b"a,b,c\nx,yy,0\n", &given, None).unwrap();
    assert_eq!(dataset.examples[0].text_pair.as_deref(), Some("yy"));
    assert_eq!(dataset.used, given);
    assert_eq!(dataset.summary().characters.max, 3);
}

#[test]
fn a_summary_counts_rows_labels_and_characters() {
    let summary = read("a.csv", "review,stars\né,10\nabc,9\nab,10\n").unwrap().summary();
    let count = |label: &str, rows| super::super::LabelCount { label: label.to_owned(), rows };
    assert_eq!(summary.rows, 3);
    assert_eq!(summary.labels, [count("9", 1), count("10", 2)]);
    assert_eq!((summary.characters.min, summary.characters.p50, summary.characters.max), (1, 2, 3));
    assert!(summary.guess.contains("\"review\"") && summary.guess.contains("\"stars\""), "{}", summary.guess);
}

/// The same rows over and over, packed.
fn packed(row: &str, rows: usize) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(format!("text,label\n{}", row.repeat(rows)).as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn within(bytes: &[u8], reading: &Reading) -> Result<Dataset> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Dataset::read_as(file.path(), "a.csv.gz", None, &Columns::default(), reading)
}

#[test]
fn a_file_beyond_a_limit_is_refused_with_bytes_rows_and_what_to_do() {
    let row = format!("{},x\n{},y\n", "a".repeat(1000), "b".repeat(1000));
    let bytes = packed(&row, 2000);
    assert!(bytes.len() < 100_000);
    let limits =
        |unpacked, rows, memory| Reading { limits: Limits { unpacked, rows, memory }, ..Reading::default() };
    let whole = 11 + 2000 * row.len() as u64;
    assert_eq!(within(&bytes, &limits(whole, 4000, u64::MAX)).unwrap().examples.len(), 4000);
    for (reading, expected) in [
        (limits(1 << 20, 4000, u64::MAX), &["more than 1 MiB", "--max-unpacked", "in line 1047"][..]),
        (limits(whole - 1, 4000, u64::MAX), &["more than 3.8 MiB", "in line 4001"]),
        (limits(whole, 1000, u64::MAX), &["more than 1000 rows", "--max-rows", "they come to 1"]),
        (limits(whole, 4000, 1 << 20), &["than the 1 MiB that", "--memory-limit", "rows, which come to"]),
    ] {
        let error = within(&bytes, &reading).unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted, "{error}");
        assert!(error.message().starts_with("a.csv.gz: "), "{error}");
        for words in expected {
            assert!(error.message().contains(words), "{words}: {error}");
        }
    }
    let first = Reading { limit: Some(10), ..limits(1 << 20, 10, u64::MAX) };
    assert_eq!(within(&bytes, &first).unwrap().examples.len(), 10);
}

#[test]
fn what_is_kept_of_the_rows_changes_nothing_that_is_told_of_them() {
    let bytes = packed("a text,x\nanother text,y\nné,x\n", 700);
    let keeping = |keep| within(&bytes, &Reading { keep, ..Reading::default() }).unwrap();
    let (texts, labels, nothing) = (keeping(Keep::Texts), keeping(Keep::Labels), keeping(Keep::Summary));
    assert_eq!(texts.summary(), labels.summary());
    assert_eq!(texts.summary(), nothing.summary());
    assert!(nothing.examples.is_empty());
    assert!(texts.examples.iter().zip(&labels.examples).all(|(text, label)| {
        (&text.labels, text.line) == (&label.labels, label.line)
            && label.text.is_empty()
            && !text.text.is_empty()
    }));
    assert!(
        texts
            .examples
            .iter()
            .zip(labels.measure.row_bytes())
            .all(|(row, &bytes)| row.text.len() == bytes as usize)
    );
    assert_eq!((labels.measure.row_bytes().len(), labels.measure.bytes), (2100, texts.measure.bytes));
}

#[test]
fn keeping_labels_alone_takes_no_memory_for_texts() {
    let bytes = packed(&format!("{},x\nb,y\n", "a".repeat(1000)), 2000);
    let limits = Limits::default().with_memory(1 << 20);
    let keeping = |keep| within(&bytes, &Reading { keep, limits, ..Reading::default() });
    assert_eq!(keeping(Keep::Labels).unwrap().examples.len(), 4000);
    assert_eq!(keeping(Keep::Texts).unwrap_err().kind(), Kind::Exhausted);
}

#[test]
fn reading_ends_when_it_is_asked_to() {
    let reading = Reading::default();
    reading.cancel.ask(hone_base::cancel::Reason::Cancelled);
    assert_eq!(within(&packed("a,x\n", 3), &reading).unwrap_err().kind(), Kind::Cancelled);
}

#[test]
fn a_row_or_a_head_that_is_all_structure_is_bounded() {
    let many = format!("text,label{}\n", ",x".repeat(20_000));
    let error = read("a.csv", &many).unwrap_err();
    assert!(error.message().contains("line 1: the row has more than 10000 fields"), "{error}");
    let long = format!("text,label\na,{}\n", "x".repeat(2 << 20));
    let error = read("a.csv", &long).unwrap_err();
    assert!(error.message().contains("the label has 2097152 bytes"), "{error}");
    let list = format!("{{\"text\": \"a\", \"label\": [{}1]}}\n", "1,".repeat(200_000));
    let error = read("a.jsonl", &list).unwrap_err();
    assert!(error.message().contains("a list of more than 100,000 items"), "{error}");
}

proptest! {
    #[test]
    fn what_a_csv_writer_writes_is_read_back(
        written in prop::collection::vec((".*|[\"\n\r, x]{0,9}", "x[a-z\",]{1,5}"), 1..20), tab in any::<bool>(),
    ) {
        // A bare carriage return ends a row for the writer's dialect but not here; NUL is refused.
        let clean = |text: &str| text.replace('\0', "");
        let delimiter = if tab { b'\t' } else { b',' };
        let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(vec![]);
        writer.write_record(["text", "label"]).unwrap();
        for (text, label) in &written {
            writer.write_record([&clean(text), label]).unwrap();
        }
        let bytes = writer.into_inner().unwrap();
        let name = if tab { "a.tsv" } else { "a.csv" };
        let dataset = read_as(name, &bytes, &Columns::default(), None).unwrap();
        let expected: Vec<_> = written.iter().map(|(text, label)| (clean(text), label.clone())).collect();
        let found: Vec<_> = dataset.examples.into_iter().map(|row| (row.text, row.labels[0].clone())).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn what_a_json_writer_writes_is_read_back(written in prop::collection::vec((".*", "x[a-z\"]{1,5}"), 1..20)) {
        let text: String = written
            .iter()
            .map(|(text, label)| serde_json::json!({"text": text, "label": label}).to_string() + "\n")
            .collect();
        let dataset = read("a.jsonl", &text).unwrap();
        let found: Vec<_> = dataset.examples.into_iter().map(|row| (row.text, row.labels[0].clone())).collect();
        prop_assert_eq!(found, written);
    }

    #[test]
    fn no_bytes_make_reading_panic(bytes in prop::collection::vec(prop::sample::select(b"text,label\t\"\r\n{}:[]1\xc3\xa9\0_;|".to_vec()), 0..200)) {
        for name in ["a.csv", "a.tsv", "a.jsonl", "a.json", "a"] {
            let _ = read_as(name, &bytes, &Columns::default(), None);
        }
    }
}

#[test]
fn with_a_separator_rows_have_any_number_of_labels() {
    let columns = Columns { label_separator: Some("|".into()), ..Columns::default() };
    let read = |name: &str, text: &str| read_as(name, text.as_bytes(), &columns, None).unwrap();
    let labels = |dataset: &Dataset| -> Vec<String> {
        dataset.examples.iter().map(|row| row.labels.join("+")).collect()
    };
    let csv = read("a.csv", "text,label\na,x|y\nb,\nc,y\n");
    assert_eq!(labels(&csv), ["x+y", "", "y"]);
    assert_eq!(csv.used.label_separator.as_deref(), Some("|"));
    let counts = csv.summary().labels;
    assert_eq!(
        counts.iter().map(|count| (&*count.label, count.rows)).collect::<Vec<_>>(),
        [("x", 1), ("y", 2)]
    );
    let lines = r#"{"text": "a", "labels": ["y", "x", 7]}
{"text": "b", "labels": []}
{"text": "c", "labels": "y|x"}"#;
    assert_eq!(labels(&read("a.jsonl", lines)), ["7+x+y", "", "x+y"]);
}

#[test]
fn a_list_of_labels_is_refused_without_a_separator_and_so_is_one_of_other_things() {
    let error = read("a.jsonl", r#"{"text": "a", "labels": ["y", "x"]}"#).unwrap_err();
    assert!(
        error.message().contains("line 1, column \"labels\"")
            && error.message().contains("`columns.label_separator`"),
        "{error}"
    );
    let columns = Columns { label_separator: Some("|".into()), ..Columns::default() };
    let odd = br#"{"text": "a", "labels": ["y", ["x"]]}"#;
    let error = read_as("a.jsonl", odd, &columns, None).unwrap_err();
    assert!(error.message().contains("other things than strings"), "{error}");
}
