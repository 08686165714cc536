//! Aliases, the history of their moves, and what else is decided for a model.

use hone_base::error::Result;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::fault::Fault;
use crate::record::{decode, encode};
use crate::settings::MAX_MOVES;
use crate::{Alias, AliasMove, ModelSettings, Mover, Time};

/// Points an alias at a version and writes the move down, if it is one. Returns where it pointed.
pub(super) fn point(
    tx: &Transaction<'_>,
    name: &str,
    alias: &str,
    version: u32,
    mover: Mover<'_>,
) -> Result<Option<u32>, Fault> {
    let from: Option<i64> = tx
        .prepare_cached("SELECT version FROM aliases WHERE model = ?1 AND name = ?2")?
        .query_row(params![name, alias], |row| row.get(0))
        .optional()?;
    let from = from.and_then(|from| u32::try_from(from).ok());
    tx.prepare_cached("INSERT OR REPLACE INTO aliases (model, name, version) VALUES (?1, ?2, ?3)")?
        .execute(params![name, alias, version])?;
    if from != Some(version) {
        let (alias, by) = (alias.to_owned(), mover.by.to_owned());
        let moved = AliasMove { time: Time::now(), alias, from, to: version, cause: mover.cause, by };
        write_down(tx, name, &moved)?;
    }
    Ok(from)
}

/// Adds to a model's history, and leaves the oldest moves out.
pub(super) fn write_down(tx: &Transaction<'_>, name: &str, moved: &AliasMove) -> Result<(), Fault> {
    let number: i64 = tx
        .prepare_cached("SELECT coalesce(max(number), 0) + 1 FROM alias_moves WHERE model = ?1")?
        .query_row([name], |row| row.get(0))?;
    tx.prepare_cached("INSERT INTO alias_moves (model, number, record) VALUES (?1, ?2, ?3)")?
        .execute(params![name, number, encode(moved)?])?;
    tx.prepare_cached("DELETE FROM alias_moves WHERE model = ?1 AND number <= ?2")?
        .execute(params![name, number - MAX_MOVES as i64])?;
    Ok(())
}

/// A model's history, the newest move first; what cannot be read is left out.
pub(super) fn moves(tx: &Transaction<'_>, name: &str) -> Result<Vec<AliasMove>, Fault> {
    let mut statement =
        tx.prepare_cached("SELECT record FROM alias_moves WHERE model = ?1 ORDER BY number DESC")?;
    let records: Vec<String> = statement.query_map([name], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(records.iter().filter_map(|record| decode(record).ok()).collect())
}

pub(super) fn aliases(tx: &Transaction<'_>, name: &str) -> Result<Vec<Alias>, Fault> {
    let mut statement =
        tx.prepare_cached("SELECT name, version FROM aliases WHERE model = ?1 ORDER BY name")?;
    let aliases: Vec<(String, i64)> =
        statement.query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let alias = |(name, version)| u32::try_from(version).ok().map(|version| Alias { name, version });
    Ok(aliases.into_iter().filter_map(alias).collect())
}

/// What is decided for a model; the defaults where nothing is, or where it cannot be read.
pub(super) fn settings(tx: &Transaction<'_>, name: &str) -> Result<ModelSettings, Fault> {
    let record: Option<String> = tx
        .prepare_cached("SELECT record FROM model_settings WHERE model = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    Ok(record.and_then(|record| decode(&record).ok()).unwrap_or_default())
}

/// Changes what is decided for a model.
pub(super) fn change_settings(
    tx: &Transaction<'_>,
    name: &str,
    change: impl FnOnce(&mut ModelSettings) -> Result<()>,
) -> Result<(), Fault> {
    let before = settings(tx, name)?;
    let mut after = before.clone();
    change(&mut after)?;
    if after != before {
        tx.prepare_cached("INSERT OR REPLACE INTO model_settings (model, record) VALUES (?1, ?2)")?
            .execute(params![name, encode(&after)?])?;
    }
    Ok(())
}

/// Forgets a model's aliases, its history, and what was decided for it.
pub(super) fn forget(tx: &Transaction<'_>, name: &str) -> Result<(), Fault> {
    for table in ["aliases", "alias_moves", "model_settings"] {
        tx.execute(&format!("DELETE FROM {table} WHERE model = ?1"), [name])?;
    }
    Ok(())
}
