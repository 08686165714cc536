//! The fields of a `config.json`, asked for by the names of `BertConfig`.

use serde_json::{Map, Value};

use super::Family;
use hone_base::error::{Error, Result};

/// The fields of a `config.json` of a family.
pub struct Fields<'a> {
    /// Whose names it has.
    pub family: &'static Family,
    raw: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(in super::super) fn new(family: &'static Family, raw: &'a Map<String, Value>) -> Self {
        Self { family, raw }
    }

    /// Refuses decoders, whose tokens see only those before them.
    pub(in super::super) fn check_encoder(&self) -> Result<()> {
        let set = |name: &&&str| self.raw.get(**name).is_some_and(|value| value == true);
        match ["is_decoder", "add_cross_attention"].iter().find(set) {
            Some(name) => {
                Err(Error::precondition(format!("{name} is true, but only encoders can be trained")))
            }
            None => Ok(()),
        }
    }

    fn get(&self, name: &'static str) -> (&'static str, Option<&'a Value>) {
        let name = self.family.field(name);
        (name, self.raw.get(name))
    }

    /// A whole number that must be there.
    pub(super) fn count(&self, name: &'static str) -> Result<usize> {
        match self.get(name) {
            (_, Some(_)) => self.count_or(name, 0),
            (name, None) => {
                Err(Error::precondition(format!("not a usable model configuration: missing field `{name}`")))
            }
        }
    }

    /// A whole number, or this one.
    pub(super) fn count_or(&self, name: &'static str, default: usize) -> Result<usize> {
        let (name, Some(value)) = self.get(name) else { return Ok(default) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        count.ok_or_else(|| {
            Error::precondition(format!("{name} is {value}, which is no whole number from 0 on"))
        })
    }

    /// A whole number, or this one where there is none or null.
    pub(super) fn count_if_given(&self, name: &'static str, default: usize) -> Result<usize> {
        match self.get(name) {
            (_, None | Some(Value::Null)) => Ok(default),
            _ => self.count_or(name, default),
        }
    }

    /// A number, or this one.
    pub(super) fn number_or(&self, name: &'static str, default: f64) -> Result<f64> {
        let (name, Some(value)) = self.get(name) else { return Ok(default) };
        value.as_f64().ok_or_else(|| Error::precondition(format!("{name} is {value}, which is no number")))
    }

    /// A number where there is one that is not null.
    pub(super) fn number(&self, name: &'static str) -> Result<Option<f64>> {
        match self.get(name) {
            (_, None | Some(Value::Null)) => Ok(None),
            _ => self.number_or(name, 0.0).map(Some),
        }
    }

    /// A text, or this one where there is none or null.
    pub(super) fn text_or(&self, name: &'static str, default: &'static str) -> Result<&'a str> {
        match self.get(name) {
            (_, None | Some(Value::Null)) => Ok(default),
            (name, Some(value)) => value
                .as_str()
                .ok_or_else(|| Error::precondition(format!("{name} is {value}, which is no text"))),
        }
    }
}
