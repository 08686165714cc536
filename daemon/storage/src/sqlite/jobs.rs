//! Jobs. A job's row is the fold of its events: it changes only in the transaction that logs why.

use std::collections::HashSet;

use hone_base::error::{Error, Kind, Result, quoted};
use hone_train::spec::Spec;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::events::append;
use super::fault::Fault;
use super::{Store, pages, requests, text_of, unsigned};
use crate::catalog::JobCatalog;
use crate::job::{full_queue, known_job, open_job, unknown_job, unreadable_job};
use crate::record::{decode, encode};
use crate::{Job, JobEvent, Line, Listing, RecordKind, StartRequest, State, Time, Topic, Unreadable};

pub(super) const COLUMNS: &str = "id, state, spec, created, started, ended, failure, last_event, owner";

impl JobCatalog for Store {
    fn insert_job(&self, id: &str, spec: &Spec, bound: usize) -> Result<Job> {
        self.write(&[Topic::Queue], |tx| insert(tx, id, spec, bound))
    }

    fn insert_requested_job(
        &self,
        id: &str,
        spec: &Spec,
        request: &StartRequest,
        bound: usize,
    ) -> Result<Job> {
        self.write(&[Topic::Queue], |tx| requests::insert(tx, id, spec, request, bound))
    }

    fn job_of_request(&self, request: &StartRequest) -> Result<Option<Job>> {
        self.read(|tx| requests::made_by(tx, request))
    }

    fn claim(&self, id: &str, owner: &str) -> Result<Option<Job>> {
        self.write(&[Topic::Queue, Topic::Log(id.to_owned())], |tx| {
            if state_of(tx, id)? != Some(State::Queued) {
                return Ok(None);
            }
            // Read before it counts as running: its record may be damaged.
            job(tx, id)?;
            append(tx, id, &[JobEvent::state(State::Running)])?;
            tx.prepare_cached("UPDATE jobs SET owner = ?2 WHERE id = ?1")?.execute([id, owner])?;
            job(tx, id)
        })
    }

    fn job(&self, id: &str) -> Result<Option<Job>> {
        self.read(|tx| job(tx, id))
    }

    fn jobs(&self) -> Result<Listing<Job>> {
        self.read(|tx| {
            collect(tx.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs ORDER BY id DESC"))?.query([])?)
        })
    }

    fn ids_in(&self, state: State) -> Result<Vec<String>> {
        self.read(|tx| ids_in(tx, state))
    }

    fn open_jobs(&self) -> Result<HashSet<String>> {
        self.read(pages::open_jobs)
    }

    fn jobs_page(&self, before: Option<&str>, limit: usize) -> Result<Vec<Result<Job, Unreadable>>> {
        self.read(|tx| pages::jobs(tx, before, limit))
    }

    fn line(&self) -> Result<Line> {
        self.read(|tx| Ok(Line { running: ids_in(tx, State::Running)?, queued: ids_in(tx, State::Queued)? }))
    }

    fn delete_job(&self, id: &str) -> Result<()> {
        self.write(&[], |tx| {
            let mut busy = tx.prepare_cached("SELECT 1 FROM jobs WHERE id = ?1 AND state IN (?2, ?3)")?;
            if busy.exists([id, State::Queued.name(), State::Running.name()])? {
                return Err(open_job(id).into());
            }
            tx.execute("DELETE FROM events WHERE job = ?1", [id])?;
            match tx.execute("DELETE FROM jobs WHERE id = ?1", [id])? {
                0 => Err(unknown_job(id).into()),
                _ => Ok(()),
            }
        })?;
        self.watchers.forget(&Topic::Log(id.to_owned()));
        Ok(())
    }
}

/// Queues a job.
pub(super) fn insert(tx: &Transaction<'_>, id: &str, spec: &Spec, bound: usize) -> Result<Job, Fault> {
    if ids_in(tx, State::Queued)?.len() >= bound {
        return Err(full_queue(bound).into());
    }
    for source in spec.sources() {
        super::datasets::require(tx, &source.dataset)?;
    }
    if tx.prepare_cached("SELECT 1 FROM jobs WHERE id = ?1")?.exists([id])? {
        return Err(known_job(id).into());
    }
    tx.prepare_cached("INSERT INTO jobs (id, state, spec, created, last_event) VALUES (?1, ?2, ?3, ?4, 0)")?
        .execute(params![id, State::Queued.name(), encode(spec)?, Time::now().0])?;
    append(tx, id, &[JobEvent::state(State::Queued)])?;
    Ok(job(tx, id)?.ok_or_else(|| Error::internal("a new job is missing"))?)
}

pub(super) fn jobs_in(tx: &Transaction<'_>, state: State) -> Result<Listing<Job>, Fault> {
    let mut statement =
        tx.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs WHERE state = ?1 ORDER BY id"))?;
    collect(statement.query([state.name()])?)
}

fn ids_in(tx: &Transaction<'_>, state: State) -> Result<Vec<String>, Fault> {
    let mut statement = tx.prepare_cached("SELECT id FROM jobs WHERE state = ?1 ORDER BY id")?;
    let ids = statement.query_map([state.name()], |row| row.get(0))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

/// The state of a job; `None` when there is no such job.
pub(super) fn state_of(tx: &Transaction<'_>, id: &str) -> Result<Option<State>, Fault> {
    let state: Option<String> = tx
        .prepare_cached("SELECT state FROM jobs WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    Ok(state.map(|state| parse_state(&state).map_err(|error| unreadable_job(id, &error))).transpose()?)
}

/// The state that a job's row names.
pub(super) fn parse_state(name: &str) -> Result<State> {
    let unknown = || Error::corrupt(format!("the database holds the unknown job state {}", quoted(name)));
    State::named(name).ok_or_else(unknown)
}

pub(super) fn job(tx: &Transaction<'_>, id: &str) -> Result<Option<Job>, Fault> {
    let mut statement = tx.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1"))?;
    let mut rows = statement.query([id])?;
    let job = rows.next()?.map(job_of).transpose().map_err(|error| match error.kind() {
        Kind::Corrupt => unreadable_job(id, &error),
        _ => error,
    });
    Ok(job?)
}

pub(super) fn collect(mut rows: rusqlite::Rows<'_>) -> Result<Listing<Job>, Fault> {
    let mut jobs = Listing::default();
    while let Some(row) = rows.next()? {
        match job_of(row) {
            Err(error) if error.kind() == Kind::Corrupt => jobs.add(Err(Unreadable {
                kind: RecordKind::Job,
                id: row.get("id")?,
                why: error.message().to_owned(),
            })),
            job => jobs.add(Ok(job?)),
        }
    }
    Ok(jobs)
}

pub(super) fn job_of(row: &Row<'_>) -> Result<Job> {
    Ok(columns_of(row)?)
}

fn columns_of(row: &Row<'_>) -> Result<Job, Fault> {
    let text =
        |column: &str| -> Result<String, Fault> { Ok(text_of(row, row.as_ref().column_index(column)?)?) };
    let has_failure = row.get_ref("failure")? != rusqlite::types::ValueRef::Null;
    let failure = has_failure.then(|| text("failure")).transpose()?;
    Ok(Job {
        id: row.get("id")?,
        state: parse_state(&text("state")?)?,
        spec: decode::<Spec>(&text("spec")?)?,
        created: Time(row.get("created")?),
        started: row.get::<_, Option<i64>>("started")?.map(Time),
        ended: row.get::<_, Option<i64>>("ended")?.map(Time),
        failure: failure.as_deref().map(decode).transpose()?,
        last_event: unsigned(row.get("last_event")?),
        owner: row.get("owner")?,
    })
}
