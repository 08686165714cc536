//! Requests to start a job that their sender may repeat.

use hone_train::spec::Spec;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::fault::Fault;
use super::jobs::{self, job};
use crate::job::{known_request, unknown_job};
use crate::{Job, StartRequest};

/// Queues a job, or returns the one that the request has made already.
pub(super) fn insert(
    tx: &Transaction<'_>,
    id: &str,
    spec: &Spec,
    request: &StartRequest,
    bound: usize,
) -> Result<Job, Fault> {
    if let Some(job) = made_by(tx, request)? {
        return Ok(job);
    }
    let job = jobs::insert(tx, id, spec, bound)?;
    tx.prepare_cached("UPDATE jobs SET request = ?2, request_digest = ?3 WHERE id = ?1")?
        .execute(params![id, request.id, request.digest])?;
    Ok(job)
}

/// The job that a request has made, if it has made one that is not deleted.
pub(super) fn made_by(tx: &Transaction<'_>, request: &StartRequest) -> Result<Option<Job>, Fault> {
    let known: Option<(String, String)> = tx
        .prepare_cached("SELECT id, request_digest FROM jobs WHERE request = ?1")?
        .query_row([&request.id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((id, digest)) = known else { return Ok(None) };
    if digest != request.digest {
        return Err(known_request(&request.id, &id).into());
    }
    Ok(Some(job(tx, &id)?.ok_or_else(|| unknown_job(&id))?))
}
