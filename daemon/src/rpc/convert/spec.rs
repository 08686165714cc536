//! What a job trains, on what, and how, between the wire and the domain.

use std::num::NonZeroU64;

use hone::settings::{MAX_TEXT, Range};
use hone::v1;

use super::dataset::file_name;
use super::{Convert, Parse, Parsed, Wire};
use crate::jobs::request::{JobRequest, SourceRequest};
use crate::serve::reference::{check_alias, check_name, shown};
use hone_base::error::{Error, Result};
use hone_storage::check_id;
use hone_train::promotion::Promotion;
use hone_train::spec::{Source, Spec};

/// The alias that services call, where a job names none.
const LIVE: &str = "live";

impl Parse<v1::JobSpec> for JobRequest {
    fn parse(wire: v1::JobSpec) -> Result<Self> {
        let name = wire.name.map(|name| check_name("`name`", &name).map(|()| name)).transpose()?;
        let hyperparameters = wire.hyperparameters.unwrap_or_default().parsed()?;
        Ok(Self {
            name,
            encoder: text("`encoder`", wire.encoder)?,
            train: source("`train`", wire.train)?,
            validation: source("`validation`", wire.validation)?,
            test: source("`test`", wire.test)?,
            validation_split: share("`validation_split`", wire.validation_split)?.unwrap_or(0.2),
            columns: wire.columns.unwrap_or_default().parsed()?,
            train_limit: limit("`train_limit`", wire.train_limit)?,
            validation_limit: limit("`validation_limit`", wire.validation_limit)?,
            test_limit: limit("`test_limit`", wire.test_limit)?,
            hyperparameters,
            promotion: promotion(wire.promote_if, wire.promote_alias)?,
        })
    }
}

impl Convert<&Spec> for v1::JobSpec {
    fn convert(spec: &Spec) -> Self {
        let source = |source: &Source| v1::DataSource {
            dataset_id: source.dataset.clone(),
            name: Some(source.name.clone()),
        };
        Self {
            name: Some(spec.name.clone()),
            encoder: Some(spec.encoder.clone()),
            train: Some(source(&spec.train)),
            validation: spec.validation.as_ref().map(source),
            test: spec.test.as_ref().map(source),
            validation_split: Some(spec.validation_split),
            columns: Some((&spec.columns).wire()),
            train_limit: spec.train_limit.map(Into::into),
            validation_limit: spec.validation_limit.map(Into::into),
            test_limit: spec.test_limit.map(Into::into),
            hyperparameters: Some((&spec.hyperparameters).wire()),
            promote_if: spec.promotion.as_ref().map(|promotion| promotion.condition.to_string()),
            promote_alias: spec.promotion.as_ref().map(|promotion| promotion.alias.clone()),
        }
    }
}

fn source(field: &str, wire: Option<v1::DataSource>) -> Result<Option<SourceRequest>> {
    let Some(v1::DataSource { dataset_id, name }) = wire else { return Ok(None) };
    check_id(&dataset_id).map_err(|error| error.within(field))?;
    let name = name.filter(|name| !name.is_empty()).map(file_name).transpose();
    Ok(Some(SourceRequest { dataset: dataset_id, name: name.map_err(|error| error.within(field))? }))
}

/// When an alias is to point at the result, and which.
fn promotion(condition: Option<String>, alias: Option<String>) -> Result<Option<Promotion>> {
    let Some(condition) = condition.filter(|condition| !condition.is_empty()) else {
        return match alias {
            Some(_) => {
                Err(Error::invalid("`promote_alias` is of no use without `promote_if`: say when to promote"))
            }
            None => Ok(None),
        };
    };
    let condition = condition.parse().map_err(|why| Error::invalid(format!("`promote_if`: {why}")))?;
    let alias = alias.unwrap_or_else(|| LIVE.to_owned());
    check_alias(&alias).map_err(|error| error.within("`promote_alias`"))?;
    Ok(Some(Promotion { condition, alias }))
}

/// A share that leaves something on both sides.
fn share(field: &str, value: Option<f64>) -> Result<Option<f64>> {
    const RANGE: Range = Range::ABOVE_0_BELOW_1;
    match value {
        Some(value) if !RANGE.holds(value) => {
            Err(Error::invalid(format!("{field} must be a number {RANGE}; got {value}")))
        }
        value => Ok(value),
    }
}

fn limit(field: &str, value: Option<u64>) -> Result<Option<NonZeroU64>> {
    let limit = |value| {
        NonZeroU64::new(value)
            .ok_or_else(|| Error::invalid(format!("{field} must be a whole number from 1; got 0")))
    };
    value.map(limit).transpose()
}

fn text(field: &str, value: Option<String>) -> Result<Option<String>> {
    match value {
        Some(value) if value.is_empty() || value.len() > MAX_TEXT || value.contains('\0') => Err(
            Error::invalid(format!("{field} must be a text of 1 to {MAX_TEXT} bytes; got {}", shown(&value))),
        ),
        value => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    use hone_train::spec::{CheckpointEvery, Precision, Truncation};

    #[test]
    fn each_value_of_a_job_is_checked() {
        let refused = |field: &str, spec: v1::JobSpec| {
            let error = JobRequest::parse(spec).unwrap_err();
            assert!(error.message().starts_with(field), "{field}: {error}");
        };
        let data = |id: &str| Some(v1::DataSource { dataset_id: id.into(), name: None });
        for bad in ["", "../up", "a/b", "a b", ".a"] {
            refused("`name`", v1::JobSpec { name: Some(bad.into()), ..Default::default() });
        }
        for bad in [0.0, 1.0, -0.5, f64::NAN] {
            refused("`validation_split`", v1::JobSpec { validation_split: Some(bad), ..Default::default() });
        }
        refused("`train`:", v1::JobSpec { train: data("../hone.db"), ..Default::default() });
        refused("`test`:", v1::JobSpec { test: data(""), ..Default::default() });
        refused("`train_limit`", v1::JobSpec { train_limit: Some(0), ..Default::default() });
        refused("`validation_limit`", v1::JobSpec { validation_limit: Some(0), ..Default::default() });
        refused("`test_limit`", v1::JobSpec { test_limit: Some(0), ..Default::default() });
        let promote = |condition: &str, alias: Option<&str>| v1::JobSpec {
            promote_if: Some(condition.into()),
            promote_alias: alias.map(str::to_owned),
            ..Default::default()
        };
        refused("`promote_if`", promote("accuracy", None));
        refused("`promote_alias`", promote("accuracy > 0", Some("7")));
        refused("`promote_alias`", promote("", Some("live")));
        refused("`encoder`", v1::JobSpec { encoder: Some(String::new()), ..Default::default() });
    }

    #[test]
    fn an_answered_specification_can_be_sent_again() {
        let mut spec = crate::jobs::testing::spec("reviews");
        spec.hyperparameters.precision = Precision::Bf16;
        spec.hyperparameters.truncation = Truncation::HeadTail;
        spec.hyperparameters.methods.freeze_layers = 2;
        let every = |every| {
            let mut spec = spec.clone();
            spec.hyperparameters.checkpoint_every = every;
            let again = JobRequest::parse(v1::JobSpec::convert(&spec)).unwrap();
            assert_eq!(again.hyperparameters, spec.hyperparameters);
        };
        every(CheckpointEvery::Epoch);
        every(CheckpointEvery::Steps(NonZeroU64::MAX));
        every(CheckpointEvery::Minutes(NonZeroU32::MIN));
        spec.promotion =
            Some(Promotion { condition: "f1 > current-0.01".parse().unwrap(), alias: "production".into() });
        let request = JobRequest::parse(v1::JobSpec::convert(&spec)).unwrap();
        assert_eq!(request.promotion, spec.promotion);
        assert_eq!(request.hyperparameters, spec.hyperparameters);
        assert_eq!(request.train.unwrap().dataset, spec.train.dataset);
        assert_eq!((request.name, request.encoder), (Some(spec.name), Some(spec.encoder)));
    }
}
