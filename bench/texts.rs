//! The texts that calls ask about.

use std::path::Path;

use hone_base::error::{Error, Result};
use hone_data::dataset::Dataset;

/// A text, and its label where the file tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text {
    pub(crate) text: String,
    pub(crate) label: Option<String>,
}

/// The texts of a file: a labelled one as jobs read it, or, if its name ends in `.txt`, one text a line. Only the first
/// `limit`.
///
/// # Errors
///
/// The file cannot be read or has no text.
pub(crate) fn read(file: &Path, limit: Option<u64>) -> Result<Vec<Text>> {
    let texts: Vec<Text> = if file.extension().is_some_and(|ending| ending == "txt") {
        let lines = std::fs::read_to_string(file).map_err(|error| Error::io("read", file, &error))?;
        let limit = limit.map_or(usize::MAX, |limit| limit as usize);
        let lines = lines.lines().filter(|line| !line.trim().is_empty()).take(limit);
        lines.map(|line| Text { text: line.to_owned(), label: None }).collect()
    } else {
        let dataset = Dataset::read(file, &file.display().to_string(), None, &Default::default(), limit)?;
        let text = |example: hone_data::Example| match &*example.labels {
            [label] => Text { text: example.text, label: Some(label.clone()) },
            _ => Text { text: example.text, label: None },
        };
        dataset.examples.into_iter().map(text).collect()
    };
    if texts.is_empty() {
        return Err(Error::invalid(format!("{} has no text", file.display())));
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        (folder, path)
    }

    #[test]
    fn a_labelled_file_gives_texts_with_labels() {
        let (_folder, path) = file("rows.csv", "text,label\n\"one, two\",good\nthree,bad\nfour,good\n");
        let texts = read(&path, Some(2)).unwrap();
        let text = |text: &str, label: &str| Text { text: text.to_owned(), label: Some(label.to_owned()) };
        assert_eq!(texts, [text("one, two", "good"), text("three", "bad")]);
    }

    #[test]
    fn lines_are_texts_without_labels_and_empty_ones_are_none() {
        let (_folder, path) = file("lines.txt", "one\n\ntwo, with a comma\n");
        let texts = read(&path, None).unwrap();
        assert_eq!(
            texts.iter().map(|text| text.text.as_str()).collect::<Vec<_>>(),
            ["one", "two, with a comma"]
        );
        assert!(texts.iter().all(|text| text.label.is_none()));
    }

    #[test]
    fn a_file_without_a_text_is_refused() {
        let (_folder, path) = file("lines.txt", "\n\n");
        assert!(read(&path, None).is_err());
    }
}
