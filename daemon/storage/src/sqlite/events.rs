//! The events of jobs.

use hone_base::error::Result;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::fault::Fault;
use super::jobs::{parse_state, state_of};
use super::{Store, signed, text_of, unsigned};
use crate::catalog::{LogCatalog, ResultsOf};
use crate::job::{unknown_job, unreadable_job};
use crate::record::{decode, encode};
use crate::{Entry, EventKind, JobEvent, Page, RecordKind, Results, State, Time, Topic, Unreadable};

impl LogCatalog for Store {
    fn append(&self, job: &str, events: &[JobEvent]) -> Result<u64> {
        self.log(job, &Topic::changed_by(job, events), |tx| append(tx, job, events))
    }

    fn append_when(&self, job: &str, when: State, events: &[JobEvent]) -> Result<bool> {
        self.log(job, &Topic::changed_by(job, events), |tx| {
            let state = state_of(tx, job)?.ok_or_else(|| unknown_job(job))?;
            if state == when {
                append(tx, job, events)?;
            }
            Ok(state == when)
        })
    }

    fn events_after(&self, job: &str, after: u64, limit: usize) -> Result<Option<Page>> {
        self.read(|tx| {
            let Some((state, last)) = tx
                .prepare_cached("SELECT state, last_event FROM jobs WHERE id = ?1")?
                .query_row([job], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))
                .optional()?
            else {
                return Ok(None);
            };
            let mut statement = tx.prepare_cached(
                "SELECT number, time, body FROM events WHERE job = ?1 AND number > ?2 ORDER BY number LIMIT ?3",
            )?;
            let mut rows = statement.query(params![job, signed(after), signed(limit as u64)])?;
            let mut entries = Vec::new();
            while let Some(row) = rows.next()? {
                let event = JobEvent::decode_or_notice(text_of(row, 2));
                entries.push(Entry { number: unsigned(row.get(0)?), time: Time(row.get(1)?), event });
            }
            let state = parse_state(&state).map_err(|error| unreadable_job(job, &error))?;
            Ok(Some(Page { entries, state, last_event: unsigned(last) }))
        })
    }

    fn results(&self, job: Option<&str>) -> Result<ResultsOf> {
        self.read(|tx| results(tx, "job = ifnull(?1, job)", &[&job]))
    }

    fn results_of(&self, first: &str, last: &str) -> Result<ResultsOf> {
        self.read(|tx| results(tx, "job BETWEEN ?1 AND ?2", &[&first, &last]))
    }
}

/// What the jobs of a condition have achieved.
fn results(
    tx: &Transaction<'_>,
    condition: &str,
    parameters: &[&dyn rusqlite::ToSql],
) -> Result<ResultsOf, Fault> {
    // Written out, so that the index on these kinds is used.
    let kinds = EventKind::RESULTS.map(|kind| format!("'{}'", kind.name())).join(", ");
    let mut statement = tx.prepare_cached(&format!(
        "SELECT job, body, number FROM events WHERE kind IN ({kinds}) AND {condition} ORDER BY job, number"
    ))?;
    let mut rows = statement.query(parameters)?;
    let (mut results, mut unreadable) = ResultsOf::default();
    while let Some(row) = rows.next()? {
        let job: String = row.get(0)?;
        let results: &mut Results = results.entry(job.clone()).or_default();
        match text_of(row, 1).and_then(|text| decode(&text)) {
            Ok(event) => results.add(event),
            Err(error) => unreadable.push(Unreadable {
                kind: RecordKind::Event,
                id: format!("{job} event {}", row.get::<_, i64>(2)?),
                why: error.message().to_owned(),
            }),
        }
    }
    Ok((results, unreadable))
}

pub(super) fn append(tx: &Transaction<'_>, job: &str, events: &[JobEvent]) -> Result<u64, Fault> {
    let time = Time::now();
    let mut number: i64 = tx
        .prepare_cached("SELECT last_event FROM jobs WHERE id = ?1")?
        .query_row([job], |row| row.get(0))
        .optional()?
        .ok_or_else(|| unknown_job(job))?;
    let mut insert =
        tx.prepare_cached("INSERT INTO events (job, number, time, kind, body) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for event in events {
        number += 1;
        let (kind, body) = event.encode()?;
        insert.execute(params![job, number, time.0, kind.name(), body])?;
        if let JobEvent::StateChanged { state, failure } = event {
            let failure = failure.as_ref().map(encode).transpose()?;
            let started = (*state == State::Running).then_some(time.0);
            let ended = state.is_final().then_some(time.0);
            tx.prepare_cached(
                "UPDATE jobs SET state = ?2, failure = ?3, started = ifnull(started, ?4), ended = ?5, owner = NULL \
                 WHERE id = ?1",
            )?
            .execute(params![job, state.name(), failure, started, ended])?;
        }
    }
    tx.prepare_cached("UPDATE jobs SET last_event = ?2 WHERE id = ?1")?.execute(params![job, number])?;
    Ok(unsigned(number))
}
