//! Change under load: which version an alias points at, who answers beside it, what stays loaded. A version is loaded,
//! checked and warm before an alias leads to it, so no call waits for it, and one that fails its check moves nothing.

use std::sync::Arc;

use super::cache::folder;
use super::reference::{Reference, check_alias};
use super::registry::{Models, find};
use super::shadow::Shadow;
use hone_base::error::{Error, Kind, Result, quoted};
use hone_base::panic::lock;
use hone_storage::{
    AliasMove, Canary, Cause, LATEST, Model, ModelSettings, Mover, ServePrecision, Time, Version,
    version_before,
};

/// Shadows at once at most: each is a model in memory, with a thread.
const MAX_SHADOWS: usize = 4;

/// Who answers a call.
pub struct Route {
    /// The version that answers.
    pub version: Arc<Version>,
    /// What answers beside it, for comparison alone.
    pub shadow: Option<Arc<Shadow>>,
}

/// A shadow, under the model and the alias whose version it answers beside.
pub(super) type NamedShadow = ((String, String), Arc<Shadow>);

impl Models {
    /// Points an alias at a version, once that is loaded, checked and warm. A call that has found its version before is
    /// still answered by that one.
    ///
    /// # Errors
    ///
    /// Whatever fails the loading; the alias stays where it is then.
    pub async fn promote(self: &Arc<Self>, reference: &str, alias: &str, by: &str) -> Result<Model> {
        check_alias(alias)?;
        let version = self.exactly(reference).await?;
        self.point(version, alias, Cause::Promoted, by).await
    }

    /// Points an alias back at the version that it pointed at before.
    ///
    /// # Errors
    ///
    /// `Precondition` when the history knows none that is still there; as [`Models::promote`].
    pub async fn rollback(self: &Arc<Self>, name: &str, alias: &str, by: &str) -> Result<Model> {
        check_alias(alias)?;
        let (models, owned) = (self.clone(), (name.to_owned(), alias.to_owned()));
        let version = blocking(move || {
            let (name, alias) = owned;
            let model = models.get(&name)?;
            models.pointed_at(&model, &alias)?;
            let of = |number: u32| model.versions.iter().find(|version| version.version == number);
            let before =
                version_before(&models.store.alias_moves(&name)?, &alias, |number| of(number).is_some());
            before.and_then(of).cloned().ok_or_else(|| {
                Error::precondition(format!(
                    "{name}@{alias} has pointed at no other version that is still there, as far as its history goes; promote \
                     one by its number"
                ))
            })
        });
        self.point(version.await?, alias, Cause::RolledBack, by).await
    }

    /// Loads and checks a version, which need not be recorded yet.
    ///
    /// # Errors
    ///
    /// Whatever fails the loading.
    pub async fn prepare(&self, version: &Arc<Version>) -> Result<()> {
        self.cache.ready(version).await.map(drop)
    }

    async fn point(
        self: &Arc<Self>,
        version: Arc<Version>,
        alias: &str,
        cause: Cause,
        by: &str,
    ) -> Result<Model> {
        // Held until the alias leads there, so that it is not unloaded meanwhile.
        let ready = self.cache.ready(&version).await?;
        let (models, alias, by) = (self.clone(), alias.to_owned(), by.to_owned());
        blocking(move || {
            let mover = Mover { cause, by: &by };
            let from = models.store.promote(&version.name, version.version, &alias, mover)?;
            drop(ready);
            models.end_shadow(&version.name, &alias);
            tracing::info!(model = %version.name, version = version.version, alias, from, by, "alias set");
            models.get(&version.name)
        })
        .await
    }

    /// Lets a version answer a share of the callers of an alias, once it is ready; a share of 0 ends that.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such alias, `Precondition` when it points at this version; as [`Models::promote`].
    pub async fn canary(
        self: &Arc<Self>,
        reference: &str,
        alias: &str,
        share: f64,
        by: &str,
    ) -> Result<Model> {
        if !(0.0..1.0).contains(&share) {
            return Err(Error::invalid(format!(
                "`canary` must be a number from 0 to less than 1; got {share}; leave it out to promote the version"
            )));
        }
        let (version, at) = self.beside(reference, alias).await?;
        let ready = if share > 0.0 { Some(self.cache.ready(&version).await?) } else { None };
        let (to, cause) = (version.version, Cause::Canary(share));
        let (from, alias_of_note) = (Some(at), alias.to_owned());
        let note = AliasMove { time: Time::now(), alias: alias_of_note, from, to, cause, by: by.to_owned() };
        let change = move |settings: &mut ModelSettings, alias: &str| match share > 0.0 {
            true => drop(settings.canaries.insert(alias.to_owned(), Canary { version: to, share })),
            false => drop(settings.canaries.remove(alias)),
        };
        let model = self.change(&version.name, alias, Some(note), change).await?;
        drop(ready);
        tracing::info!(model = %version.name, version = to, alias, share, by, "canary set");
        Ok(model)
    }

    /// Lets a version answer beside an alias's, for comparison alone, or no longer.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such alias, `Precondition` when it points at this version, `Exhausted` when there are
    /// as many shadows as can be.
    pub async fn set_shadow(self: &Arc<Self>, reference: &str, alias: &str, begins: bool) -> Result<Model> {
        let (version, _) = self.beside(reference, alias).await?;
        let (name, number) = (version.name.clone(), version.version);
        let change = move |settings: &mut ModelSettings, alias: &str| match begins {
            true => drop(settings.shadows.insert(alias.to_owned(), number)),
            false => drop(settings.shadows.remove(alias)),
        };
        if begins && lock(&self.shadows).len() >= MAX_SHADOWS {
            let why =
                format!("{MAX_SHADOWS} versions answer beside others, as many as can; end one of them first");
            return Err(Error::new(Kind::Exhausted, why));
        }
        let (models, alias) = (self.clone(), alias.to_owned());
        let model = self.change(&name, &alias, None, change).await?;
        blocking(move || {
            models.end_shadow(&name, &alias);
            if begins {
                models.shadow(&version, &alias);
            }
            Ok(model)
        })
        .await
    }

    /// Loads a version and waits until it is ready.
    ///
    /// # Errors
    ///
    /// `Exhausted` when there is no room; whatever fails the loading.
    pub async fn load(self: &Arc<Self>, reference: &str) -> Result<Model> {
        let version = self.resolve(reference).await?;
        drop(self.cache.ready(&version).await?);
        let models = self.clone();
        blocking(move || models.get(&version.name)).await
    }

    /// Unloads a version, or all of a model. Blocking.
    ///
    /// # Errors
    ///
    /// `Precondition` when it is pinned.
    pub fn unload(&self, reference: &str) -> Result<Model> {
        let Reference { name, at } = Reference::parse(reference)?;
        let model = self.get(&name)?;
        let only = match at {
            Some(_) => Some(self.find(reference)?.version),
            None => None,
        };
        let goes = |version: u32| only.is_none_or(|only| only == version);
        if let Some(pinned) = model.settings.pinned.iter().find(|version| goes(**version)) {
            return Err(Error::precondition(format!(
                "{name}@{pinned} is pinned, so it stays loaded; unpin it first"
            )));
        }
        self.cache.unload(|version| version.name == name && goes(version.version));
        Ok(model)
    }

    /// Keeps a version loaded, also after the daemon's next start, or no longer. It is loaded first.
    ///
    /// # Errors
    ///
    /// As [`Models::load`].
    pub async fn pin(self: &Arc<Self>, reference: &str, pinned: bool) -> Result<Model> {
        let version = self.resolve(reference).await?;
        let ready = if pinned { Some(self.cache.ready(&version).await?) } else { None };
        let number = version.version;
        let change = move |settings: &mut ModelSettings, _: &str| match pinned {
            true => drop(settings.pinned.insert(number)),
            false => drop(settings.pinned.remove(&number)),
        };
        let model = self.change(&version.name, "", None, change).await?;
        self.cache.pin(&version, pinned);
        drop(ready);
        Ok(model)
    }

    /// Decides what a model answers in; `None` leaves it to the daemon. Versions that are loaded are loaded anew, and answer
    /// meanwhile as before.
    ///
    /// # Errors
    ///
    /// Whatever fails the loading of one; what was decided stays decided.
    pub async fn set_precision(
        self: &Arc<Self>,
        name: &str,
        precision: Option<ServePrecision>,
    ) -> Result<Model> {
        let change = move |settings: &mut ModelSettings, _: &str| settings.precision = precision;
        let model = self.change(name, "", None, change).await?;
        self.cache.set_precision(name, precision);
        for version in self.cache.loaded(name) {
            self.cache.reload(&version).await?;
        }
        Ok(model)
    }

    /// The moves of a model's aliases, the newest first. Blocking.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such model.
    pub fn history(&self, name: &str) -> Result<Vec<AliasMove>> {
        self.get(name)?;
        self.store.alias_moves(name)
    }

    /// Takes over what is decided for models. To be called when the daemon starts. Blocking.
    ///
    /// # Errors
    ///
    /// When the models cannot be read.
    pub fn recall(&self) -> Result<()> {
        for model in &self.list()?.records {
            self.cache.set_precision(&model.name, model.settings.precision);
            for version in model.versions.iter().filter(|version| is_pinned(model, version)) {
                self.cache.pin(version, true);
            }
        }
        Ok(())
    }

    /// Loads the versions that are pinned, one after the other; what cannot be loaded is logged.
    pub async fn load_pinned(self: Arc<Self>) {
        let Some(listing) = self.known() else { return };
        for model in &listing.records {
            for version in model.versions.iter().filter(|version| is_pinned(model, version)) {
                if let Err(error) = self.cache.ready(version).await {
                    tracing::warn!(%error, "a pinned model is not loaded");
                }
            }
        }
    }

    /// The version that answers a caller, and what answers beside it. `key` keeps a caller with one version while two share
    /// an alias. Does not block the runtime.
    ///
    /// # Errors
    ///
    /// As [`Models::resolve`].
    pub async fn route(self: &Arc<Self>, reference: &str, key: Option<&str>) -> Result<Route> {
        // One listing for all of it: the alias's version and its canary are of one moment.
        let listing = self.listing().await?;
        let version = find(&listing, reference)?;
        let alias = match reference.split_once('@') {
            Some((_, at)) if at.bytes().all(|byte| byte.is_ascii_digit()) => None,
            Some((_, alias)) => Some(alias),
            None => Some(LATEST),
        };
        let model = listing.records.iter().find(|model| model.name == version.name);
        let (Some(alias), Some(model)) = (alias, model) else { return Ok(Route { version, shadow: None }) };
        let of = |number: u32| model.versions.iter().find(|version| version.version == number);
        if let Some(Canary { version: number, share }) = model.settings.canaries.get(alias)
            && let Some(canary) = of(*number)
            && self.callers.choose(&model.name, alias, *number, key, *share)
        {
            return Ok(Route { version: canary.clone(), shadow: None });
        }
        let shadow = model.settings.shadows.get(alias).and_then(|number| of(*number));
        let shadow = shadow.and_then(|version| self.shadow(version, alias));
        Ok(Route { version, shadow })
    }

    /// The shadow of an alias, if there is one and it has begun.
    pub fn shadow_of(&self, name: &str, alias: &str) -> Option<Arc<Shadow>> {
        let shadows = lock(&self.shadows);
        let found = shadows.iter().find(|((model, of), _)| (model.as_str(), of.as_str()) == (name, alias));
        found.map(|(_, shadow)| shadow.clone())
    }

    /// The version that a reference names by its number or by an alias; not by the model's name alone.
    async fn exactly(self: &Arc<Self>, reference: &str) -> Result<Arc<Version>> {
        if Reference::parse(reference)?.at.is_none() {
            return Err(Error::invalid(format!(
                "say which version of the model the alias shall point at, for example {reference}@1"
            )));
        }
        self.resolve(reference).await
    }

    /// The version that is to share an alias, and the one that the alias points at.
    async fn beside(self: &Arc<Self>, reference: &str, alias: &str) -> Result<(Arc<Version>, u32)> {
        check_alias(alias)?;
        let version = self.exactly(reference).await?;
        let (models, wanted, alias) = (self.clone(), version.clone(), alias.to_owned());
        let at = blocking(move || match models.pointed_at(&models.get(&wanted.name)?, &alias)? {
            at if at == wanted.version => {
                Err(Error::precondition(format!("{}@{alias} points at version {at} already", wanted.name)))
            }
            at => Ok(at),
        });
        let at = at.await?;
        Ok((version, at))
    }

    /// Where an alias points.
    fn pointed_at(&self, model: &Model, alias: &str) -> Result<u32> {
        let found = model.aliases.iter().find(|known| known.name == alias);
        found.map(|alias| alias.version).ok_or_else(|| {
            Error::not_found(format!(
                "the model {} has no alias {}; promote a version to it first",
                model.name,
                quoted(alias)
            ))
        })
    }

    async fn change(
        self: &Arc<Self>,
        name: &str,
        alias: &str,
        note: Option<AliasMove>,
        change: impl Fn(&mut ModelSettings, &str) + Send + 'static,
    ) -> Result<Model> {
        let (models, name, alias) = (self.clone(), name.to_owned(), alias.to_owned());
        blocking(move || {
            models.get(&name)?;
            models.store.change_settings(&name, note.as_ref(), &mut |settings| {
                change(settings, &alias);
                Ok(())
            })?;
            models.get(&name)
        })
        .await
    }

    /// The shadow of an alias, started if need be; `None` when it cannot be.
    fn shadow(&self, version: &Arc<Version>, alias: &str) -> Option<Arc<Shadow>> {
        let mut shadows = lock(&self.shadows);
        let is = |((model, of), _): &&NamedShadow| (model, of.as_str()) == (&version.name, alias);
        if let Some((_, shadow)) = shadows.iter().find(is).filter(|(_, shadow)| shadow.version() == version) {
            return Some(shadow.clone());
        }
        if shadows.len() >= MAX_SHADOWS {
            return None;
        }
        let (blobs, wanted, loader) = (self.blobs.clone(), version.clone(), self.cache.loader());
        let asked = self.cache.precision_of(&version.name);
        let load = move || loader.load(&folder(&*blobs, &wanted)?, &wanted, asked);
        match Shadow::start(version.clone(), self.checks.clone(), load) {
            Ok(shadow) => {
                let shadow = Arc::new(shadow);
                shadows.push(((version.name.clone(), alias.to_owned()), shadow.clone()));
                self.cache.set_beside(shadows.iter().map(|(_, shadow)| shadow.version().size()).sum());
                Some(shadow)
            }
            Err(error) => {
                tracing::warn!(%error, "a shadow cannot be started");
                None
            }
        }
    }

    /// Ends the shadow of an alias. Blocking.
    fn end_shadow(&self, name: &str, alias: &str) {
        self.end_shadows(|model, of| (model, of) == (name, alias));
    }

    /// Ends some shadows, by the names of their models and aliases. Blocking.
    pub(super) fn end_shadows(&self, which: impl Fn(&str, &str) -> bool) {
        let ended: Vec<NamedShadow> = {
            let mut shadows = lock(&self.shadows);
            let ended = shadows.extract_if(.., |((model, alias), _)| which(model, alias)).collect();
            self.cache.set_beside(shadows.iter().map(|(_, shadow)| shadow.version().size()).sum());
            ended
        };
        ended.iter().for_each(|(_, shadow)| shadow.stop());
    }
}

/// Whether a version shall stay loaded.
fn is_pinned(model: &Model, version: &Version) -> bool {
    model.settings.pinned.contains(&version.version)
}

/// Runs blocking work off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let crashed = |error| Error::internal(format!("internal error: {error}; this is a bug in Hone"));
    tokio::task::spawn_blocking(work).await.map_err(crashed)?
}

#[cfg(test)]
mod tests;
