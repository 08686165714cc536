//! Models: names, versions and aliases.

use std::sync::Arc;

use hone_base::error::{Error, Result};
use rusqlite::{Transaction, params};

use super::aliases::{aliases, change_settings, forget, moves, point, settings, write_down};
use super::fault::Fault;
use super::{Store, text_of};
use crate::catalog::ModelCatalog;
use crate::model::{
    aliased_version, deletion_of, known_version, publication_by, unknown_model, unknown_version,
};
use crate::record::{decode, encode};
use crate::{
    AliasMove, Cause, JobEvent, LATEST, Listing, Model, ModelSettings, Mover, RecordKind, Topic, Unreadable,
    Version,
};

impl ModelCatalog for Store {
    fn reserve_version(&self, name: &str) -> Result<u32> {
        self.write(&[], |tx| {
            Ok(tx
                .prepare_cached(
                    "INSERT INTO models (name, newest_version) VALUES (?1, 1) \
                     ON CONFLICT (name) DO UPDATE SET newest_version = newest_version + 1 RETURNING newest_version",
                )?
                .query_row([name], |row| row.get(0))?)
        })
    }

    fn publish(&self, version: &Version, aliases: &[&str], events: &[JobEvent]) -> Result<u64> {
        let mut topics = Topic::changed_by(&version.job, events);
        topics.push(Topic::Models);
        self.log(&version.job, &topics, |tx| {
            if is_there(tx, &version.name, version.version)? {
                return Err(known_version(&version.name, version.version).into());
            }
            tx.prepare_cached("INSERT INTO versions (model, version, record) VALUES (?1, ?2, ?3)")?
                .execute(params![version.name, version.version, encode(version)?])?;
            let by = publication_by(&version.job);
            point(tx, &version.name, LATEST, version.version, Mover { cause: Cause::Published, by: &by })?;
            for alias in aliases {
                promote(
                    tx,
                    &version.name,
                    version.version,
                    alias,
                    Mover { cause: Cause::Promoted, by: &by },
                )?;
            }
            super::events::append(tx, &version.job, events)
        })
    }

    fn models(&self) -> Result<Listing<Model>> {
        self.read(|tx| {
            let Listing { records: versions, mut unreadable } = versions(tx)?;
            let mut models: Vec<Model> = Vec::new();
            for version in versions {
                match models.last_mut().filter(|model| model.name == version.name) {
                    Some(model) => model.versions.push(version),
                    None => models.push(Model {
                        name: version.name.clone(),
                        versions: vec![version],
                        aliases: Vec::new(),
                        settings: ModelSettings::default(),
                    }),
                }
            }
            for model in &mut models {
                model.aliases = aliases(tx, &model.name)?;
                model.settings = settings(tx, &model.name)?;
            }
            unreadable.extend(dangling(tx)?);
            Ok(Listing { records: models, unreadable })
        })
    }

    fn version_numbers(&self) -> Result<Vec<(String, i64)>> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached("SELECT model, version FROM versions")?;
            let numbers = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(numbers.collect::<Result<_, _>>()?)
        })
    }

    fn delete_dangling_alias(&self, name: &str, alias: &str) -> Result<bool> {
        self.write(&[Topic::Models], |tx| {
            let deleted = tx.execute(
                "DELETE FROM aliases WHERE model = ?1 AND name = ?2 AND NOT EXISTS \
                 (SELECT 1 FROM versions v WHERE v.model = aliases.model AND v.version = aliases.version)",
                [name, alias],
            )?;
            Ok(deleted > 0)
        })
    }

    fn promote(&self, name: &str, version: u32, alias: &str, mover: Mover<'_>) -> Result<Option<u32>> {
        self.write(&[Topic::Models], |tx| {
            require(tx, name, version)?;
            promote(tx, name, version, alias, mover)
        })
    }

    fn alias_moves(&self, name: &str) -> Result<Vec<AliasMove>> {
        self.read(|tx| moves(tx, name))
    }

    fn change_settings(
        &self,
        name: &str,
        note: Option<&AliasMove>,
        change: &mut dyn FnMut(&mut ModelSettings) -> Result<()>,
    ) -> Result<()> {
        self.write(&[Topic::Models], |tx| {
            if !tx.prepare_cached("SELECT 1 FROM versions WHERE model = ?1")?.exists([name])? {
                return Err(unknown_model(name).into());
            }
            change_settings(tx, name, change)?;
            note.map_or(Ok(()), |note| write_down(tx, name, note))
        })
    }

    fn delete_version(&self, name: &str, version: u32) -> Result<()> {
        self.write(&[Topic::Models], |tx| {
            require(tx, name, version)?;
            let aliases = aliases(tx, name)?;
            if let Some(alias) = aliases.iter().find(|alias| alias.version == version && alias.name != LATEST)
            {
                return Err(aliased_version(name, version, &alias.name).into());
            }
            let remaining: Option<u32> = tx
                .prepare_cached("SELECT max(version) FROM versions WHERE model = ?1 AND version <> ?2")?
                .query_row(params![name, version], |row| row.get(0))?;
            if aliases.iter().any(|alias| alias.version == version) || remaining.is_none() {
                match remaining {
                    Some(newest) => {
                        let by = deletion_of(name, version);
                        point(tx, name, LATEST, newest, Mover { cause: Cause::Deleted, by: &by })?;
                    }
                    None => forget(tx, name)?,
                }
            }
            change_settings(tx, name, |settings| {
                settings.forget_version(version);
                Ok(())
            })?;
            tx.execute("DELETE FROM versions WHERE model = ?1 AND version = ?2", params![name, version])?;
            Ok(())
        })
    }

    fn delete_model(&self, name: &str) -> Result<Vec<u32>> {
        self.write(&[Topic::Models], |tx| {
            let mut statement = tx.prepare("SELECT version FROM versions WHERE model = ?1")?;
            let versions: Vec<i64> =
                statement.query_map([name], |row| row.get(0))?.collect::<Result<_, _>>()?;
            // A number that is none is no folder either.
            let versions = versions.into_iter().filter_map(|version| u32::try_from(version).ok()).collect();
            forget(tx, name)?;
            tx.execute("DELETE FROM versions WHERE model = ?1", [name])?;
            Ok(versions)
        })
    }
}

fn is_there(tx: &Transaction<'_>, name: &str, version: u32) -> Result<bool, Fault> {
    let mut there = tx.prepare_cached("SELECT 1 FROM versions WHERE model = ?1 AND version = ?2")?;
    Ok(there.exists(params![name, version])?)
}

fn require(tx: &Transaction<'_>, name: &str, version: u32) -> Result<(), Fault> {
    match is_there(tx, name, version)? {
        true => Ok(()),
        false => Err(unknown_version(name, version).into()),
    }
}

/// Points an alias at a version, and ends what shared it.
fn promote(
    tx: &Transaction<'_>,
    name: &str,
    version: u32,
    alias: &str,
    mover: Mover<'_>,
) -> Result<Option<u32>, Fault> {
    change_settings(tx, name, |settings| {
        settings.forget_alias(alias);
        Ok(())
    })?;
    point(tx, name, alias, version, mover)
}

/// Every version, by model, the newest first.
fn versions(tx: &Transaction<'_>) -> Result<Listing<Arc<Version>>, Fault> {
    let mut statement =
        tx.prepare_cached("SELECT model, version, record FROM versions ORDER BY model, version DESC")?;
    let mut rows = statement.query([])?;
    let mut versions = Listing::default();
    while let Some(row) = rows.next()? {
        let (model, number): (String, i64) = (row.get(0)?, row.get(1)?);
        let version = text_of(row, 2).and_then(|text| decode::<Version>(&text)).and_then(|version| {
            let is_its_own = version.name == model && i64::from(version.version) == number;
            match is_its_own {
                true => Ok(Arc::new(version)),
                false => Err(Error::corrupt(format!(
                    "a record of the database cannot be read: it is that of {}@{}",
                    version.name, version.version
                ))),
            }
        });
        versions.add(version.map_err(|error| Unreadable {
            kind: RecordKind::Version,
            id: format!("{model}@{number}"),
            why: error.message().to_owned(),
        }));
    }
    Ok(versions)
}

/// Aliases that point at a version that is not there.
fn dangling(tx: &Transaction<'_>) -> Result<Vec<Unreadable>, Fault> {
    let mut statement = tx.prepare_cached(
        "SELECT a.model, a.name, a.version FROM aliases a LEFT JOIN versions v \
         ON v.model = a.model AND v.version = a.version WHERE v.model IS NULL ORDER BY a.model, a.name",
    )?;
    let aliases = statement.query_map([], |row| {
        Ok(Unreadable {
            kind: RecordKind::Alias,
            id: format!("{}@{}", row.get::<_, String>(0)?, row.get::<_, String>(1)?),
            why: format!("it points at version {}, which is not there", row.get::<_, i64>(2)?),
        })
    })?;
    Ok(aliases.collect::<Result<_, _>>()?)
}
