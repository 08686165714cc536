//! Names to versions.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::cache::{Cache, folder};
use super::canary::Callers;
use super::dispatcher::Dispatcher;
use super::engine::Engine;
use super::load::{Loader, Policy};
use super::promotion::NamedShadow;
use super::reference::{At, Reference};
use super::worker::Stage;
use crate::metrics::Metrics;
use hone_base::error::{Error, Result, quoted};
use hone_base::nearest::{few, nearest};
use hone_base::panic::lock;
use hone_engine::kernels::lane::Lane;
use hone_storage::{Blobs, Catalog, Changes, LATEST, Listing, Model, RecordKind, Topic, Unreadable, Version};

/// What the operator decides for all models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// In what they answer.
    pub policy: Policy,
    /// Bytes of memory of those that are loaded, all together.
    pub memory: u64,
}

/// All models.
pub struct Models {
    pub(super) blobs: Arc<dyn Blobs>,
    pub(super) store: Arc<dyn Catalog>,
    /// What was read last, and what was written since.
    snapshot: Mutex<Option<(Changes, Arc<Listing<Model>>)>>,
    /// Those that are loaded.
    pub(super) cache: Cache,
    /// Those that answer beside others, and where they compute.
    pub(super) shadows: Mutex<Vec<NamedShadow>>,
    pub(super) checks: Arc<Lane>,
    pub(super) callers: Callers,
    pub(super) metrics: Arc<Metrics>,
}

impl Models {
    /// The models in a data folder. None is loaded before it is asked for.
    pub fn new(
        (blobs, store): (Arc<dyn Blobs>, Arc<dyn Catalog>),
        (engine, dispatcher): (Arc<dyn Engine>, Arc<Dispatcher>),
        checks: Arc<Lane>,
        settings: Settings,
        metrics: Arc<Metrics>,
    ) -> Self {
        let loader = Loader::new(engine, checks.clone(), settings.policy);
        let cache = Cache::new(blobs.clone(), loader, dispatcher, metrics.clone(), settings.memory);
        let (shadows, callers) = (Mutex::default(), Callers::default());
        Self { blobs, store, snapshot: Mutex::default(), cache, shadows, checks, callers, metrics }
    }

    /// Every model, by name. Blocks only after a change.
    pub fn list(&self) -> Result<Arc<Listing<Model>>> {
        if let Some(models) = self.known() {
            return Ok(models);
        }
        // Watched before they are read: a change in between makes this state old, not wrong.
        let changes = self.store.watch(Topic::Models);
        let models = Arc::new(self.store.models()?);
        *lock(&self.snapshot) = Some((changes, models.clone()));
        Ok(models)
    }

    pub(super) fn known(&self) -> Option<Arc<Listing<Model>>> {
        let snapshot = lock(&self.snapshot);
        snapshot.as_ref().filter(|(changes, _)| !changes.has_changed()).map(|(_, models)| models.clone())
    }

    /// The version that a caller means. Does not block the runtime.
    pub async fn resolve(self: &Arc<Self>, reference: &str) -> Result<Arc<Version>> {
        find(&*self.listing().await?, reference)
    }

    /// Every model, by name. Does not block the runtime.
    pub(super) async fn listing(self: &Arc<Self>) -> Result<Arc<Listing<Model>>> {
        if let Some(models) = self.known() {
            return Ok(models);
        }
        let models = self.clone();
        let listed = tokio::task::spawn_blocking(move || models.list()).await;
        listed.map_err(|error| Error::internal(format!("reading the models failed: {error}")))?
    }

    /// One model. Blocking.
    pub fn get(&self, name: &str) -> Result<Model> {
        let reference = Reference::parse(name)?;
        if reference.at.is_some() {
            return Err(Error::invalid(format!(
                "name the model without a version or an alias; got {}",
                quoted(name)
            )));
        }
        let models = self.list()?;
        let found = models.records.iter().find(|model| model.name == reference.name);
        found
            .cloned()
            .ok_or_else(|| set_aside(&models, name, name).unwrap_or_else(|| unknown(&models.records, name)))
    }

    /// The version that a caller means. Blocking.
    pub(super) fn find(&self, reference: &str) -> Result<Arc<Version>> {
        find(&*self.list()?, reference)
    }

    /// How far a version is, and how many bytes it takes; `None` when nobody has wanted it.
    pub fn stage(&self, version: &Version) -> Option<(Stage, u64)> {
        self.cache.stage(version)
    }

    /// Removes a version (`name@3`) or a whole model (`name`). Blocking.
    pub fn delete(&self, reference: &str) -> Result<()> {
        let Reference { name, at } = Reference::parse(reference)?;
        let versions = match at {
            Some(At::Version(version)) => {
                // Of a record that cannot be read the number is enough.
                let id = format!("{name}@{version}");
                let models = self.list()?;
                if !models
                    .unreadable
                    .iter()
                    .any(|record| record.kind == RecordKind::Version && record.id == id)
                {
                    find(&models, reference)?;
                }
                self.store.delete_version(&name, version)?;
                vec![version]
            }
            Some(At::Alias(alias)) => {
                if self.store.delete_dangling_alias(&name, &alias)? {
                    tracing::info!(model = reference, "deleted an alias of no version");
                    return Ok(());
                }
                return Err(Error::invalid(format!(
                    "an alias cannot be deleted; delete a version by its number, not {name}@{alias}"
                )));
            }
            None => {
                let models = self.list()?;
                if !models.unreadable.iter().any(|record| belongs_to(record, &name)) {
                    self.get(&name)?;
                }
                self.store.delete_model(&name)?
            }
        };
        self.cache.unload(|version| version.name == name && versions.contains(&version.version));
        self.end_orphans(&name);
        for version in versions {
            self.blobs.remove_folder(&name, version)?;
        }
        if !self.list()?.records.iter().any(|model| model.name == name) {
            self.metrics.models.forget(&name);
        }
        tracing::info!(model = reference, "deleted");
        Ok(())
    }

    /// Where a version's files can be read. Blocking.
    ///
    /// # Errors
    ///
    /// `Corrupt` when they are gone.
    pub fn folder(&self, version: &Version) -> Result<PathBuf> {
        folder(&*self.blobs, version)
    }

    /// Ends the shadows that nothing decides for any more. Blocking.
    fn end_orphans(&self, name: &str) {
        let shadows = self.get(name).map(|model| model.settings.shadows).unwrap_or_default();
        self.end_shadows(|model, alias| model == name && !shadows.contains_key(alias));
    }

    /// Unloads everything and waits for the threads. Blocking.
    pub fn shut_down(&self) {
        self.end_shadows(|_, _| true);
        self.cache.shut_down();
    }
}

pub(super) fn find(listing: &Listing<Model>, reference: &str) -> Result<Arc<Version>> {
    let models = listing.records.as_slice();
    let (model, at) = if reference.is_empty() {
        match models {
            [only] => (only, None),
            _ => {
                return Err(Error::invalid(format!("name a model: {}", existing(models))));
            }
        }
    } else {
        let Reference { name, at } = Reference::parse(reference)?;
        let model = models.iter().find(|model| model.name == name);
        let unknown = || set_aside(listing, &name, reference).unwrap_or_else(|| unknown(models, reference));
        (model.ok_or_else(unknown)?, at)
    };
    let number = match at.unwrap_or_else(|| At::Alias(LATEST.to_owned())) {
        At::Version(version) => Some(version),
        At::Alias(alias) => model.aliases.iter().find(|a| a.name == alias).map(|alias| alias.version),
    };
    let version = model.versions.iter().find(|version| Some(version.version) == number);
    version.cloned().ok_or_else(|| {
        let id = format!("{}@{}", model.name, number.unwrap_or_default());
        if let Some(record) = listing.unreadable.iter().find(|record| record.id == id) {
            let asked = if reference.is_empty() { &model.name } else { reference };
            return damaged(asked, record, Some(model));
        }
        let (name, aliases) = (&model.name, model.aliases.iter().map(|alias| alias.name.as_str()));
        let wanted = reference.rsplit('@').next().unwrap_or_default();
        let rest = match nearest(wanted, aliases.clone()) {
            Some(alias) => format!("did you mean {}?", quoted(&format!("{name}@{alias}"))),
            None => format!(
                "{name} has the versions {} and the aliases {}",
                few(model.versions.iter().map(|version| version.version)),
                few(aliases)
            ),
        };
        Error::not_found(format!("there is no {}; {rest}", quoted(reference)))
    })
}

/// Whether a record that cannot be read is a version or alias of a model.
fn belongs_to(record: &Unreadable, name: &str) -> bool {
    record.id.split_once('@').is_some_and(|(model, _)| model == name)
}

/// The error for a model that has nothing but records that cannot be read, if it has any.
fn set_aside(models: &Listing<Model>, name: &str, reference: &str) -> Option<Error> {
    let record = models.unreadable.iter().find(|record| belongs_to(record, name))?;
    Some(damaged(reference, record, None))
}

/// The error for a version whose record cannot be read.
fn damaged(reference: &str, record: &Unreadable, model: Option<&Model>) -> Error {
    let others: Vec<String> = model.map_or_else(Vec::new, |model| {
        model.versions.iter().map(|version| format!("{}@{}", model.name, version.version)).collect()
    });
    let way = match others.as_slice() {
        [] => "the model has no other version".to_owned(),
        others => format!("use {}", others.join(", ")),
    };
    Error::corrupt(format!(
        "{reference} cannot be used: {} is damaged ({}); {way}; `client models delete {}` removes it",
        record.id, record.why, record.id
    ))
}

fn unknown(models: &[Model], reference: &str) -> Error {
    let name = reference.split('@').next().unwrap_or_default();
    let rest = match nearest(name, models.iter().map(|model| model.name.as_str())) {
        Some(name) => format!("did you mean {}?", quoted(name)),
        None => existing(models),
    };
    Error::not_found(format!("there is no model {}; {rest}", quoted(name)))
}

fn existing(models: &[Model]) -> String {
    if models.is_empty() {
        return "this daemon has none yet; train one with `client train`".to_owned();
    }
    format!("this daemon has {}", few(models.iter().map(|model| &model.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::Bench;
    use hone_base::error::Kind;

    #[test]
    fn a_reference_leads_to_a_version() {
        let bench = Bench::new();
        let models = &bench.models;
        let find =
            |reference: &str| find(&models.list().unwrap(), reference).map(|v| (v.name.clone(), v.version));
        let error = find("reviews").unwrap_err();
        assert!(error.message().contains("has none yet"), "{error}");
        bench.publish("reviews");
        assert_eq!(find(""), Ok(("reviews".into(), 1)));
        bench.publish("reviews");
        bench.publish("topics");
        bench.point("reviews", 1, "live");
        assert_eq!(find("reviews"), Ok(("reviews".into(), 2)));
        assert_eq!(find("reviews@live"), Ok(("reviews".into(), 1)));
        assert_eq!(find("reviews@2"), Ok(("reviews".into(), 2)));
        assert_eq!(find("").unwrap_err().kind(), Kind::Invalid);
        let error = find("films").unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert!(error.message().contains("reviews, topics"), "{error}");
        let error = find("reviews@7").unwrap_err();
        assert!(error.message().contains("versions 2, 1 and the aliases latest, live"), "{error}");
    }

    #[test]
    fn a_slip_in_a_name_is_answered_with_the_name_that_was_meant() {
        let bench = Bench::new();
        bench.publish("reviews");
        bench.point("reviews", 1, "production");
        let message = |reference: &str| {
            let models = bench.models.list().unwrap();
            super::find(&models, reference).unwrap_err().message().to_owned()
        };
        assert_eq!(message("reveiws"), "there is no model \"reveiws\"; did you mean \"reviews\"?");
        assert_eq!(message("reveiws@1"), message("reveiws"));
        let alias = "there is no \"reviews@prodution\"; did you mean \"reviews@production\"?";
        assert_eq!(message("reviews@prodution"), alias);
        for model in 0..45 {
            bench.publish(&format!("m{model}"));
        }
        let many = message("films");
        assert!(many.ends_with(" and 38 more"), "{many}");
    }

    #[test]
    fn a_version_whose_record_is_damaged_is_named_with_those_that_can_be_used_and_can_be_deleted() {
        let bench = Bench::new();
        (0..3).for_each(|_| drop(bench.publish("reviews")));
        bench.publish("topics");
        let database = rusqlite::Connection::open(bench.data.database()).unwrap();
        database
            .execute("UPDATE versions SET record = '{}' WHERE version = 3 OR model = 'topics'", [])
            .unwrap();
        let find = |reference: &str| {
            find(&bench.models.list().unwrap(), reference).map(|v| (v.name.clone(), v.version))
        };
        let error = find("reviews").unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        for words in ["reviews@3 is damaged", "use reviews@2, reviews@1", "client models delete reviews@3"] {
            assert!(error.message().contains(words), "{error}");
        }
        assert_eq!(find("reviews@2"), Ok(("reviews".into(), 2)));
        assert!(find("topics").unwrap_err().message().contains("no other version"));
        bench.models.delete("reviews@3").unwrap();
        assert!(!bench.data.version("reviews", 3).exists());
        assert_eq!(find("reviews"), Ok(("reviews".into(), 2)));
        bench.models.delete("topics").unwrap();
        assert!(!bench.data.version("topics", 1).exists());
        assert_eq!(bench.models.list().unwrap().unreadable, []);
    }

    #[test]
    fn deleting_removes_the_folder_and_the_name() {
        let bench = Bench::new();
        bench.publish("reviews");
        bench.publish("reviews");
        bench.models.delete("reviews@2").unwrap();
        assert!(!bench.data.version("reviews", 2).exists());
        assert_eq!(bench.models.get("reviews").unwrap().versions.len(), 1);
        bench.point("reviews", 1, "live");
        assert_eq!(bench.models.delete("reviews@1").unwrap_err().kind(), Kind::Precondition);
        assert_eq!(bench.models.delete("reviews@live").unwrap_err().kind(), Kind::Invalid);
        bench.models.delete("reviews").unwrap();
        assert!(bench.models.list().unwrap().records.is_empty());
        assert_eq!(bench.models.delete("reviews").unwrap_err().kind(), Kind::NotFound);
    }
}
