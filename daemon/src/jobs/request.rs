//! A job as it is asked for: every value checked, the defaults that depend on the daemon not filled in yet.

use std::num::NonZeroU64;

use super::datasets::{DEMO_NAME, Datasets};
use hone_base::error::{Error, Result};
use hone_data::Columns;
use hone_storage::names::{MAX_NAME, is_name_character};
use hone_train::promotion::Promotion;
use hone_train::spec::{Hyperparameters, Source, Spec};

/// A job as it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRequest {
    /// Default: the training file's name without its ending.
    pub name: Option<String>,
    /// Default: the daemon's `--model`.
    pub encoder: Option<String>,
    /// Default: the demonstration data.
    pub train: Option<SourceRequest>,
    /// Default: a part of the training rows is held out.
    pub validation: Option<SourceRequest>,
    /// Default: no test.
    pub test: Option<SourceRequest>,
    /// Share of the training rows that is held out.
    pub validation_split: f64,
    /// Of all files.
    pub columns: Columns,
    /// Only the first rows.
    pub train_limit: Option<NonZeroU64>,
    /// Only the first rows.
    pub validation_limit: Option<NonZeroU64>,
    /// Only the first rows.
    pub test_limit: Option<NonZeroU64>,
    /// How to train.
    pub hyperparameters: Hyperparameters,
    /// Whether an alias is to point at the result.
    pub promotion: Option<Promotion>,
}

/// A data set as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRequest {
    /// Its id.
    pub dataset: String,
    /// Default: the name that it was uploaded with.
    pub name: Option<String>,
}

impl JobRequest {
    /// Fills the remaining defaults in: data sets by their names, the demonstration data, the daemon's encoder.
    pub fn resolve(self, datasets: &Datasets, encoder: &str) -> Result<Spec> {
        let source = |field: &str, request: SourceRequest| -> Result<Source> {
            let stored = datasets.get(&request.dataset, None, None).map_err(|error| error.within(field))?;
            Ok(Source { dataset: request.dataset, name: request.name.unwrap_or(stored.name) })
        };
        let (train, validation, test, default_name) = match self.train {
            Some(train) => {
                let train = source("`train`", train)?;
                let name = model_name(&train.name);
                let validation =
                    self.validation.map(|request| source("`validation`", request)).transpose()?;
                let test = self.test.map(|request| source("`test`", request)).transpose()?;
                (train, validation, test, name)
            }
            None if self.validation.is_some() || self.test.is_some() => {
                return Err(Error::invalid(
                    "a validation or test file needs a training file (`train`); without any, the demonstration data \
                     is used",
                ));
            }
            None => {
                let [train, validation, test] = datasets.demo()?;
                (train, Some(validation), Some(test), DEMO_NAME.to_owned())
            }
        };
        Ok(Spec {
            name: self.name.unwrap_or(default_name),
            encoder: self.encoder.unwrap_or_else(|| encoder.to_owned()),
            train,
            validation,
            test,
            validation_split: self.validation_split,
            columns: self.columns,
            train_limit: self.train_limit,
            validation_limit: self.validation_limit,
            test_limit: self.test_limit,
            hyperparameters: self.hyperparameters,
            promotion: self.promotion,
        })
    }
}

/// A model's name from a file's: without folders and endings, other characters than a name may have as `-`.
pub fn model_name(file: &str) -> String {
    let base = file.rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = base.trim_start_matches('.').split('.').next().unwrap_or_default();
    let clean: String =
        stem.chars().map(|c| if is_name_character(c) { c } else { '-' }).take(MAX_NAME).collect();
    let clean = clean.trim_matches('-');
    if clean.is_empty() { "model".to_owned() } else { clean.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_after_its_file() {
        for (file, name) in [
            ("reviews.csv", "reviews"),
            ("data/Film Reviews.csv.gz", "Film-Reviews"),
            ("C:\\data\\reviews.jsonl", "reviews"),
            ("bücher.tsv", "b-cher"),
            (".hidden.csv", "hidden"),
            ("..", "model"),
            ("評論.csv", "model"),
        ] {
            assert_eq!(model_name(file), name, "{file}");
        }
        assert_eq!(model_name(&"x".repeat(200)).len(), MAX_NAME);
    }
}
