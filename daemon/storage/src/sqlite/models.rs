//! Models: names, versions and aliases.

use std::sync::Arc;

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::fault::Fault;
use super::{Store, decode, encode, text_of};
use crate::{Alias, LATEST, Listing, Model, RecordKind, Unreadable, Version};
use hone_base::error::{Error, Result, quoted};
use hone_train::event::Event;

impl Store {
    /// Takes the next version number of a model. It is never given again, whatever becomes of it.
    pub fn reserve_version(&self, name: &str) -> Result<u32> {
        self.write(|tx| {
            Ok(tx
                .prepare_cached(
                    "INSERT INTO models (name, newest_version) VALUES (?1, 1) \
                     ON CONFLICT (name) DO UPDATE SET newest_version = newest_version + 1 RETURNING newest_version",
                )?
                .query_row([name], |row| row.get(0))?)
        })
    }

    /// Records a version, points `latest` at it and logs the events of the job that made it, all in one step.
    pub fn publish(&self, version: &Version, events: &[Event]) -> Result<u64> {
        let last = self.write(|tx| {
            tx.prepare_cached("INSERT INTO versions (model, version, record) VALUES (?1, ?2, ?3)")?
                .execute(params![version.name, version.version, encode(version)?])?;
            point(tx, &version.name, LATEST, version.version)?;
            super::jobs::append(tx, &version.job, events)
        })?;
        self.models_changed();
        Ok(last)
    }

    /// Every model that has a version that can be read, by name.
    pub fn models(&self) -> Result<Listing<Model>> {
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
                    }),
                }
            }
            for model in &mut models {
                model.aliases = aliases(tx, &model.name)?;
            }
            unreadable.extend(dangling(tx)?);
            Ok(Listing { records: models, unreadable })
        })
    }

    /// The names and numbers of all versions, of those that cannot be read too.
    pub fn version_numbers(&self) -> Result<Vec<(String, i64)>> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached("SELECT model, version FROM versions")?;
            let numbers = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(numbers.collect::<Result<_, _>>()?)
        })
    }

    /// Removes an alias that points at no version; whether there was such a one.
    pub fn delete_dangling_alias(&self, name: &str, alias: &str) -> Result<bool> {
        let deleted = self.write(|tx| {
            Ok(tx.execute(
                "DELETE FROM aliases WHERE model = ?1 AND name = ?2 AND NOT EXISTS \
                 (SELECT 1 FROM versions v WHERE v.model = aliases.model AND v.version = aliases.version)",
                [name, alias],
            )?)
        })?;
        self.models_changed();
        Ok(deleted > 0)
    }

    /// Points an alias at a version.
    pub fn promote(&self, name: &str, version: u32, alias: &str) -> Result<()> {
        self.write(|tx| {
            require(tx, name, version)?;
            point(tx, name, alias, version)
        })?;
        self.models_changed();
        Ok(())
    }

    /// Removes a version's record, unless an alias other than `latest` points at it; `latest` moves to the newest
    /// version that remains.
    pub fn delete_version(&self, name: &str, version: u32) -> Result<()> {
        self.write(|tx| {
            require(tx, name, version)?;
            let aliases = aliases(tx, name)?;
            if let Some(alias) = aliases.iter().find(|alias| alias.version == version && alias.name != LATEST) {
                return Err(Error::precondition(format!(
                    "{name}@{version} cannot be deleted: the alias {} points at it; point the alias at another \
                     version first",
                    quoted(&alias.name)
                ))
                .into());
            }
            let remaining: Option<u32> = tx
                .prepare_cached("SELECT max(version) FROM versions WHERE model = ?1 AND version <> ?2")?
                .query_row(params![name, version], |row| row.get(0))?;
            if aliases.iter().any(|alias| alias.version == version) || remaining.is_none() {
                match remaining {
                    Some(newest) => point(tx, name, LATEST, newest)?,
                    None => {
                        tx.execute("DELETE FROM aliases WHERE model = ?1", [name])?;
                    }
                }
            }
            tx.execute("DELETE FROM versions WHERE model = ?1 AND version = ?2", params![name, version])?;
            Ok(())
        })?;
        self.models_changed();
        Ok(())
    }

    /// Removes the records of a model's versions and aliases, and returns the versions' numbers.
    pub fn delete_model(&self, name: &str) -> Result<Vec<u32>> {
        let versions = self.write(|tx| {
            let mut statement = tx.prepare("SELECT version FROM versions WHERE model = ?1")?;
            let versions: Vec<i64> =
                statement.query_map([name], |row| row.get(0))?.collect::<Result<_, _>>()?;
            // A number that is none is no folder either.
            let versions = versions.into_iter().filter_map(|version| u32::try_from(version).ok()).collect();
            tx.execute("DELETE FROM aliases WHERE model = ?1", [name])?;
            tx.execute("DELETE FROM versions WHERE model = ?1", [name])?;
            Ok(versions)
        })?;
        self.models_changed();
        Ok(versions)
    }
}

fn require(tx: &Transaction<'_>, name: &str, version: u32) -> Result<(), Fault> {
    let there = tx
        .prepare_cached("SELECT 1 FROM versions WHERE model = ?1 AND version = ?2")?
        .query_row(params![name, version], |_| Ok(()))
        .optional()?;
    Ok(there.ok_or_else(|| Error::not_found(format!("there is no model {name}@{version}")))?)
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

fn point(tx: &Transaction<'_>, name: &str, alias: &str, version: u32) -> Result<(), Fault> {
    tx.prepare_cached("INSERT OR REPLACE INTO aliases (model, name, version) VALUES (?1, ?2, ?3)")?
        .execute(params![name, alias, version])?;
    Ok(())
}

fn aliases(tx: &Transaction<'_>, name: &str) -> Result<Vec<Alias>, Fault> {
    let mut statement =
        tx.prepare_cached("SELECT name, version FROM aliases WHERE model = ?1 ORDER BY name")?;
    let aliases: Vec<(String, i64)> =
        statement.query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let alias = |(name, version)| u32::try_from(version).ok().map(|version| Alias { name, version });
    Ok(aliases.into_iter().filter_map(alias).collect())
}

#[cfg(test)]
mod tests {
    use crate::testing::{self, spec, version};
    use crate::{Alias, Store};
    use hone_base::error::Kind;

    fn store_with(versions: u32) -> testing::TestStore {
        let store = testing::store();
        store.insert_job("01a", &spec("reviews"), 8).unwrap();
        for _ in 0..versions {
            let number = store.reserve_version("reviews").unwrap();
            store.publish(&version("reviews", number, "01a"), &[]).unwrap();
        }
        store
    }

    fn aliases(store: &Store) -> Vec<(String, u32)> {
        let models = store.models().unwrap().records;
        models[0].aliases.iter().map(|Alias { name, version }| (name.clone(), *version)).collect()
    }

    #[test]
    fn a_publication_moves_latest_and_numbers_go_on() {
        let store = store_with(2);
        let models = store.models().unwrap().records;
        assert_eq!(models[0].versions.iter().map(|v| v.version).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(aliases(&store), [("latest".into(), 2)]);
    }

    #[test]
    fn latest_falls_back_to_the_newest_version_that_remains() {
        let store = store_with(3);
        store.promote("reviews", 1, "live").unwrap();
        store.delete_version("reviews", 3).unwrap();
        assert_eq!(aliases(&store), [("latest".into(), 2), ("live".into(), 1)]);
        let error = store.delete_version("reviews", 1).unwrap_err();
        assert_eq!(error.kind(), Kind::Precondition);
        assert!(error.message().contains("\"live\""), "{error}");
        assert_eq!(store.reserve_version("reviews").unwrap(), 4);
    }

    #[test]
    fn a_number_is_not_given_again_after_the_model_was_deleted() {
        let store = store_with(2);
        let mut versions = store.delete_model("reviews").unwrap();
        versions.sort_unstable();
        assert_eq!(versions, [1, 2]);
        assert_eq!(store.models().unwrap().records, []);
        assert_eq!(store.reserve_version("reviews").unwrap(), 3);
    }

    #[test]
    fn every_change_is_seen_by_its_generation() {
        let store = store_with(1);
        let before = store.models_generation();
        store.promote("reviews", 1, "live").unwrap();
        assert_ne!(store.models_generation(), before);
        assert_eq!(store.promote("reviews", 9, "live").unwrap_err().kind(), Kind::NotFound);
    }
}
