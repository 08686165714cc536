//! Lists by the page: the rows behind a place, in their order. What cannot be read keeps its place.

use std::collections::HashSet;

use hone_base::error::{Kind, Result};
use rusqlite::{Transaction, params};

use super::fault::Fault;
use super::jobs::{COLUMNS, job_of};
use super::{signed, text_of};
use crate::record::decode;
use crate::{DatasetRow, Job, RecordKind, State, Time, Unreadable};

/// At most `limit` jobs, the newest first, of those that are older than the one with the id `before`.
pub(super) fn jobs(
    tx: &Transaction<'_>,
    before: Option<&str>,
    limit: usize,
) -> Result<Vec<Result<Job, Unreadable>>, Fault> {
    let mut statement = tx.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM jobs WHERE ?1 IS NULL OR id < ?1 ORDER BY id DESC LIMIT ?2"
    ))?;
    let mut rows = statement.query(params![before, signed(limit as u64)])?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        jobs.push(match job_of(row) {
            Err(error) if error.kind() == Kind::Corrupt => {
                Err(Unreadable { kind: RecordKind::Job, id: row.get("id")?, why: error.message().to_owned() })
            }
            job => Ok(job?),
        });
    }
    Ok(jobs)
}

/// At most `limit` data sets, the newest first and then by id, behind the one of the time and id `after`; each with its
/// time.
pub(super) fn datasets(
    tx: &Transaction<'_>,
    after: Option<(Time, &str)>,
    limit: usize,
) -> Result<Vec<DatasetRow>, Fault> {
    let mut statement = tx.prepare_cached(
        "SELECT id, record, created FROM datasets \
         WHERE ?1 IS NULL OR created < ?1 OR (created = ?1 AND id > ?2) ORDER BY created DESC, id LIMIT ?3",
    )?;
    let (created, id) = (after.map(|(created, _)| created.0), after.map(|(_, id)| id));
    let mut rows = statement.query(params![created, id, signed(limit as u64)])?;
    let mut datasets = Vec::new();
    while let Some(row) = rows.next()? {
        let id = text_of(row, 0)?;
        let record = text_of(row, 1).and_then(|text| decode(&text)).map_err(|error| Unreadable {
            kind: RecordKind::Dataset,
            id,
            why: error.message().to_owned(),
        });
        datasets.push((Time(row.get(2)?), record));
    }
    Ok(datasets)
}

/// The ids of the jobs that have not ended, of those that cannot be read too.
pub(super) fn open_jobs(tx: &Transaction<'_>) -> Result<HashSet<String>, Fault> {
    let mut statement = tx.prepare_cached("SELECT id, state FROM jobs")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let jobs: Vec<(String, String)> = rows.collect::<Result<_, _>>()?;
    let has_ended = |name: &str| State::named(name).is_some_and(State::is_final);
    Ok(jobs.into_iter().filter(|(_, state)| !has_ended(state)).map(|(id, _)| id).collect())
}
