//! Data sets.

use super::{Convert, Parse, Parsed, Wire};
use hone::v1;

use super::{all, known};
use crate::jobs::datasets::Header;
use crate::serve::reference::shown;
use hone_base::digest;
use hone_base::error::{Error, Result};
use hone_data::dataset::{Format, Summary};
use hone_storage::DatasetRecord;

/// Bytes of a file's name at most.
const MAX_FILE_NAME: usize = 1024;

impl Parse<v1::UploadHeader> for Header {
    fn parse(wire: v1::UploadHeader) -> Result<Self> {
        let format = match known("the file's format", Some(wire.format))? {
            None | Some(v1::FileFormat::Unspecified) => None,
            Some(v1::FileFormat::Csv) => Some(Format::Csv),
            Some(v1::FileFormat::Tsv) => Some(Format::Tsv),
            Some(v1::FileFormat::JsonLines) => Some(Format::JsonLines),
            Some(v1::FileFormat::Json) => Some(Format::Json),
            Some(v1::FileFormat::FastText) => Some(Format::FastText),
        };
        if let Some(sha256) = wire.sha256.as_deref().filter(|sha256| !digest::is_digest(sha256)) {
            return Err(Error::invalid(format!(
                "the expected SHA-256 must be 64 lower-case hexadecimal digits; got {}",
                shown(sha256)
            )));
        }
        Ok(Self {
            name: file_name(wire.name)?,
            sha256: wire.sha256,
            format,
            columns: wire.columns.unwrap_or_default().parsed()?,
        })
    }
}

/// A file's name as messages use it: one line of bounded length.
pub fn file_name(name: String) -> Result<String> {
    if name.is_empty() || name.len() > MAX_FILE_NAME || name.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "a file's name must be 1 to {MAX_FILE_NAME} bytes without control characters; got {}",
            shown(&name)
        )));
    }
    Ok(name)
}

impl Convert<&DatasetRecord> for v1::Dataset {
    fn convert(record: &DatasetRecord) -> Self {
        let format = match record.format {
            Format::Csv => v1::FileFormat::Csv,
            Format::Tsv => v1::FileFormat::Tsv,
            Format::JsonLines => v1::FileFormat::JsonLines,
            Format::Json => v1::FileFormat::Json,
            Format::FastText => v1::FileFormat::FastText,
        };
        Self {
            id: record.id.clone(),
            name: record.name.clone(),
            size_bytes: record.size,
            created_at: Some(record.created.wire()),
            format: format.into(),
            summary: Some((&record.summary).wire()),
        }
    }
}

impl Convert<&Summary> for v1::DatasetSummary {
    fn convert(summary: &Summary) -> Self {
        Self {
            rows: summary.rows,
            columns: summary.columns.clone(),
            used: Some((&summary.used).wire()),
            guess: summary.guess.clone(),
            labels: all(&summary.labels),
            characters: Some(summary.characters.wire()),
            notes: summary.notes.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_cannot_be_right_is_refused() {
        let good = v1::UploadHeader { name: "a.csv".into(), ..Default::default() };
        assert!(Header::parse(good.clone()).unwrap().format.is_none());
        for bad in [
            v1::UploadHeader { name: String::new(), ..good.clone() },
            v1::UploadHeader { name: "a\nb".into(), ..good.clone() },
            v1::UploadHeader { name: "x".repeat(2000), ..good.clone() },
            v1::UploadHeader { format: 9, ..good.clone() },
            v1::UploadHeader { sha256: Some("abc".into()), ..good },
        ] {
            assert!(Header::parse(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
