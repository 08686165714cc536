//! How a caller names a model: `name`, `name@3` or `name@alias`.

pub use hone::message::shown;

use hone_base::error::{Error, Result};
use hone_storage::names::{MAX_NAME, is_name_character};

/// A model as a caller names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The model's name.
    pub name: String,
    /// What stands behind the `@`.
    pub at: Option<At>,
}

/// Which version of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// This one.
    Version(u32),
    /// The one that the alias points at.
    Alias(String),
}

impl Reference {
    /// Parses what a caller sent.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, at) = match text.split_once('@') {
            None => (text, None),
            Some((name, at)) => (name, Some(at)),
        };
        check_name("the model's name", name)?;
        let at = at.map(|at| match at.parse() {
            Ok(version) if version > 0 && at.bytes().all(|b| b.is_ascii_digit()) => Ok(At::Version(version)),
            _ => check_alias(at).map(|()| At::Alias(at.to_owned())),
        });
        Ok(Self { name: name.to_owned(), at: at.transpose()? })
    }
}

/// Checks a name of a model. It becomes the name of a folder.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    if !name.is_empty()
        && name.len() <= MAX_NAME
        && !name.starts_with('.')
        && name.chars().all(is_name_character)
    {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what} must be 1 to {MAX_NAME} letters, digits, '-', '_' or '.', and not start with '.'; got {}",
        shown(name)
    )))
}

/// Checks an alias: a name that cannot be taken for a version.
pub fn check_alias(alias: &str) -> Result<()> {
    check_name("an alias", alias)?;
    if alias.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Error::invalid(format!(
            "an alias must not be a number, and a version is at least 1; got {alias}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_a_name_with_a_version_or_an_alias() {
        let parse = |text| Reference::parse(text).map(|reference| (reference.name, reference.at)).ok();
        assert_eq!(parse("reviews"), Some(("reviews".into(), None)));
        assert_eq!(parse("reviews@3"), Some(("reviews".into(), Some(At::Version(3)))));
        assert_eq!(parse("a.b-c_d@live"), Some(("a.b-c_d".into(), Some(At::Alias("live".into())))));
        let long = "x".repeat(65);
        for bad in
            ["", "@1", "a@", "a@0", "a@99999999999", "../x", "a/b", ".a", "a@b/c", "a@b@c", "ä", "a b", &long]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
