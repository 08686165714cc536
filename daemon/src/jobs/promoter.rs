//! The seam between jobs and serving: whether the version that a job made becomes what an alias points at.

use std::sync::Arc;

use hone_base::error::Result;
use hone_storage::{Catalog, Version};
use hone_train::promotion::{Promotion, Scored};

/// Makes a version ready to serve. Blocking.
pub trait Promoter: Send + Sync + 'static {
    /// Loads and checks a version that is not published yet, so that an alias may point at it.
    ///
    /// # Errors
    /// Whatever fails the loading.
    fn prepare(&self, version: &Arc<Version>) -> Result<()>;
}

/// The alias that is to point at a version, if it shall, and what is told of the decision. The version is ready then.
///
/// # Errors
/// When the models cannot be read.
pub fn decide(
    promotion: &Promotion,
    version: &Version,
    store: &dyn Catalog,
    promoter: &dyn Promoter,
) -> Result<(Option<String>, String)> {
    let Promotion { condition, alias } = promotion;
    let models = store.models()?.records;
    let model = models.iter().find(|model| model.name == version.name);
    let current = model.and_then(|model| {
        let at = model.aliases.iter().find(|known| known.name == *alias)?.version;
        model.versions.iter().find(|version| version.version == at)
    });
    let decision = condition.decide(scored(version), current.map(|current| scored(current)));
    let (name, number, why) = (&version.name, version.version, decision.why);
    let stays = match current {
        Some(current) => format!("{name}@{alias} stays at version {}", current.version),
        None => format!("there is no {name}@{alias} yet"),
    };
    if !decision.holds {
        return Ok((None, format!("not promoted ({condition}): {why}; {stays}")));
    }
    match promoter.prepare(&Arc::new(version.clone())) {
        Ok(()) => Ok((
            Some(alias.clone()),
            format!("promoted ({condition}): {why}; {name}@{alias} is version {number} now"),
        )),
        Err(error) => Ok((None, format!("not promoted, although {why}: {error}; {stays}"))),
    }
}

fn scored(version: &Version) -> Scored<'_> {
    Scored { validation: &version.validation, test: version.test.as_ref() }
}
