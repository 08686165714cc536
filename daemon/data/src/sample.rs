//! The sample of validation rows that a checkpoint carries: texts, what they are labelled with, and the logits that
//! training computed for them. Whoever loads the checkpoint can tell by it whether it computes the same model, and what
//! a lower precision costs.

use std::path::Path;

use serde::{Deserialize, Serialize};

use hone_base::error::{Error, Result};
use hone_base::model_file;
use hone_engine::kernels::Precision;
use hone_engine::targets::Targets;

use super::Example;

/// The sample's file in a checkpoint folder.
pub const SAMPLE: &str = "hone_sample.json";

/// Rows of a sample at most.
const MAX_ROWS: usize = 1000;

/// Bytes of the texts of a sample at most, all together.
const MAX_BYTES: usize = 1 << 20;

/// A sample of validation rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What the logits were computed in.
    pub precision: Recorded,
    /// In the file's order.
    pub rows: Vec<SampleRow>,
}

/// What recorded logits were computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recorded {
    /// float32
    Fp32,
    /// bfloat16 factors, float32 sums.
    Bf16,
}

/// A validation row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleRow {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_pair: Option<String>,
    /// The classes that it is labelled with, ascending: one, unless rows may have several labels.
    pub classes: Vec<u32>,
    /// What the kept epoch's evaluation gave for it, in class order.
    pub logits: Vec<f32>,
}

impl From<Precision> for Recorded {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Fp32 => Self::Fp32,
            _ => Self::Bf16,
        }
    }
}

/// The rows of a sample before they are judged, with their places among the validation rows.
#[derive(Clone, Debug, Default)]
pub struct Chosen(Vec<(usize, SampleRow)>);

impl Chosen {
    /// Takes rows at even distances, so many that there are at most 1,000 and their texts take at most 1 MiB.
    pub fn of(examples: &[Example], targets: &Targets) -> Self {
        let bytes = |row: usize| {
            examples
                .get(row)
                .map_or(0, |example| example.text.len() + example.text_pair.as_ref().map_or(0, String::len))
        };
        let mut count = examples.len().min(MAX_ROWS);
        let places = loop {
            let places: Vec<usize> = (0..count).map(|place| place * examples.len() / count).collect();
            let total: usize = places.iter().map(|&row| bytes(row)).sum();
            if total <= MAX_BYTES {
                break places;
            }
            // As many as would fit if all were of the mean length, and fewer in any case.
            count = (count * MAX_BYTES / total).min(count - 1);
        };
        let row = |row: usize| {
            let example = examples.get(row)?;
            let classes = match targets {
                Targets::Classes(classes) => vec![*classes.get(row)?],
                Targets::Sets(sets) => sets.get(row)?.clone(),
            };
            let (text, text_pair) = (example.text.clone(), example.text_pair.clone());
            Some((row, SampleRow { text, text_pair, classes, logits: Vec::new() }))
        };
        Self(places.into_iter().filter_map(row).collect())
    }

    /// The sample, given the logits of validation rows by their places.
    pub fn judged(&self, precision: Recorded, mut logits: impl FnMut(usize) -> Option<Vec<f32>>) -> Sample {
        let mut judged = |(place, row): &(usize, SampleRow)| {
            logits(*place).map(|logits| SampleRow { logits, ..row.clone() })
        };
        Sample { precision, rows: self.0.iter().filter_map(&mut judged).collect() }
    }
}

impl Sample {
    /// The sample of a checkpoint folder; `None` where it has none, as those of older versions of Hone.
    ///
    /// # Errors
    ///
    /// `Corrupt` when the file is not what was written, for a classifier of so many labels.
    pub fn read(folder: &Path, labels: usize) -> Result<Option<Self>> {
        let path = folder.join(SAMPLE);
        let Some(text) = model_file::read_text(&path)? else { return Ok(None) };
        let wrong = |why: String| Error::corrupt(format!("{} is damaged: {why}", path.display()));
        let sample: Self = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let is_row = |row: &SampleRow| {
            row.logits.len() == labels
                && row.logits.iter().all(|logit| logit.is_finite())
                && row.classes.iter().all(|&class| (class as usize) < labels)
        };
        match sample.rows.iter().position(|row| !is_row(row)) {
            Some(row) => Err(wrong(format!("row {row} does not fit the model's {labels} labels"))),
            None => Ok(Some(sample).filter(|sample| !sample.rows.is_empty())),
        }
    }

    /// The bytes of the file.
    ///
    /// # Errors
    ///
    /// When a logit is not finite.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        if self.rows.iter().flat_map(|row| &row.logits).any(|logit| !logit.is_finite()) {
            return Err(Error::precondition(
                "a logit of the validation rows is not finite: training diverged",
            ));
        }
        serde_json::to_vec(self).map_err(|error| Error::internal(format!("cannot write a sample: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(rows: usize, bytes: usize) -> (Vec<Example>, Targets) {
        let example = |row: usize| Example {
            text: "x".repeat(bytes),
            text_pair: None,
            labels: ["a".to_owned()].into(),
            line: row as u64,
        };
        ((0..rows).map(example).collect(), Targets::Classes((0..rows as u32).map(|row| row % 2).collect()))
    }

    fn places(chosen: &Chosen) -> Vec<usize> {
        chosen.0.iter().map(|(place, _)| *place).collect()
    }

    #[test]
    fn a_few_rows_are_all_taken_and_many_at_even_distances() {
        let of = |rows, bytes| {
            let (examples, targets) = examples(rows, bytes);
            places(&Chosen::of(&examples, &targets))
        };
        assert_eq!(of(0, 1), [0; 0]);
        assert_eq!(of(3, 1), [0, 1, 2]);
        let many = of(10_000, 1);
        assert_eq!((many.len(), many[0], many[1], many[999]), (1000, 0, 10, 9990));
        let long = of(100, 100_000);
        assert_eq!((long.len(), long[1]), (10, 10));
        assert_eq!(of(2, 2 << 20), [0; 0], "a text that has no room alone is left out");
    }

    #[test]
    fn a_sample_is_read_as_it_was_written_to_the_last_bit_of_its_logits() {
        let (examples, targets) = examples(4, 3);
        let third = 1.0f32 / 3.0;
        let logits = |place: usize| (place != 2).then(|| vec![third, -(place as f32) * third]);
        let sample = Chosen::of(&examples, &targets).judged(Recorded::Bf16, logits);
        assert_eq!(sample.rows.len(), 3);
        assert_eq!(sample.rows[2].classes, [1]);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Sample::read(folder.path(), 2).unwrap(), None);
        std::fs::write(folder.path().join(SAMPLE), sample.to_json().unwrap()).unwrap();
        assert_eq!(Sample::read(folder.path(), 2).unwrap(), Some(sample));
        let error = Sample::read(folder.path(), 3).unwrap_err();
        assert!(error.message().contains("row 0 does not fit the model's 3 labels"), "{error}");
        std::fs::write(folder.path().join(SAMPLE), "{").unwrap();
        assert!(Sample::read(folder.path(), 2).unwrap_err().message().contains("is damaged"));
    }
}
