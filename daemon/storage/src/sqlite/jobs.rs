//! Jobs and their events. A job's row is the fold of its events: it changes only in the transaction that logs why.

use std::collections::HashMap;

use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::fault::Fault;
use super::{Store, decode, encode, signed, text_of, unsigned};
use crate::{Entry, Job, Listing, Page, RecordKind, Results, Time, Unreadable};
use hone_base::error::{Error, Kind, Result, quoted};
use hone_train::diagnosis;
use hone_train::event::{Event, State};
use hone_train::spec::Spec;

pub(super) const COLUMNS: &str = "id, state, spec, created, started, ended, failure, last_event";

impl Store {
    /// Queues a job, unless `bound` jobs are queued already or a data set is not there. Returns it with its first
    /// event logged.
    pub fn insert_job(&self, id: &str, spec: &Spec, bound: usize) -> Result<Job> {
        self.write(|tx| insert(tx, id, spec, bound))
    }

    /// Logs events, and with them the changes of state that they tell. Returns the number of the last one.
    pub fn append(&self, job: &str, events: &[Event]) -> Result<u64> {
        self.write(|tx| append(tx, job, events))
    }

    /// At most `limit` events after the one numbered `after`; `None` when there is no such job.
    pub fn events_after(&self, job: &str, after: u64, limit: usize) -> Result<Option<Page>> {
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
                // In the place of one that cannot be read stands a notice, so that the numbers have no gap.
                let event = text_of(row, 2).and_then(|text| decode(&text)).unwrap_or_else(|error| {
                    let message = format!("this entry of the log is lost: {error}");
                    Event::Notice { message }
                });
                entries.push(Entry { number: unsigned(row.get(0)?), time: Time(row.get(1)?), event });
            }
            let state = parse_state(&state).map_err(|error| unreadable_job(job, &error))?;
            Ok(Some(Page { entries, state, last_event: unsigned(last) }))
        })
    }

    /// One job.
    pub fn job(&self, id: &str) -> Result<Option<Job>> {
        self.read(|tx| job(tx, id))
    }

    /// Every job, the newest first.
    pub fn jobs(&self) -> Result<Listing<Job>> {
        self.read(|tx| {
            collect(tx.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs ORDER BY id DESC"))?.query([])?)
        })
    }

    /// The ids of the jobs in one state, the oldest first, of those that cannot be read too.
    pub fn ids_in(&self, state: State) -> Result<Vec<String>> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached("SELECT id FROM jobs WHERE state = ?1 ORDER BY id")?;
            let ids = statement.query_map([state_name(state)], |row| row.get(0))?;
            Ok(ids.collect::<Result<_, _>>()?)
        })
    }

    /// Removes a job and its log; neither need be readable.
    ///
    /// # Errors
    ///
    /// `Kind::Precondition` while the job is queued or runs.
    pub fn delete_job(&self, id: &str) -> Result<()> {
        self.write(|tx| {
            let mut busy = tx.prepare_cached("SELECT 1 FROM jobs WHERE id = ?1 AND state IN (?2, ?3)")?;
            if busy.exists([id, state_name(State::Queued), state_name(State::Running)])? {
                return Err(Error::precondition(format!(
                    "the job {id} has not ended; stop it with `client cancel {id}`, and delete it then"
                ))
                .into());
            }
            tx.execute("DELETE FROM events WHERE job = ?1", [id])?;
            match tx.execute("DELETE FROM jobs WHERE id = ?1", [id])? {
                0 => Err(unknown_job(id).into()),
                _ => Ok(()),
            }
        })
    }

    /// What one job, or each job, has achieved, and which of its events cannot be read.
    pub fn results(&self, job: Option<&str>) -> Result<(HashMap<String, Results>, Vec<Unreadable>)> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached(
                "SELECT job, body, number FROM events WHERE kind IN ('epoch', 'test', 'published') \
                 AND job = ifnull(?1, job) ORDER BY job, number",
            )?;
            let mut rows = statement.query([job])?;
            let mut results: HashMap<String, Results> = HashMap::new();
            let mut unreadable = Vec::new();
            while let Some(row) = rows.next()? {
                let job: String = row.get(0)?;
                if let Err(event) = add_result(results.entry(job.clone()).or_default(), &job, row)? {
                    unreadable.push(event);
                }
            }
            Ok((results, unreadable))
        })
    }
}

/// Adds an event of a row (job, body, number) to what the job has achieved, or says why it cannot be read.
pub(super) fn add_result(
    results: &mut Results,
    job: &str,
    row: &Row<'_>,
) -> Result<Result<(), Unreadable>, Fault> {
    match text_of(row, 1).and_then(|text| decode(&text)) {
        Ok(Event::Epoch(epoch)) => results.epochs.push(epoch),
        Ok(Event::Test(test)) => results.test = Some(test),
        Ok(Event::Published(published)) => results.published = Some(published),
        Ok(_) => {}
        Err(error) => {
            return Ok(Err(Unreadable {
                kind: RecordKind::Event,
                id: format!("{job} event {}", row.get::<_, i64>(2)?),
                why: error.message().to_owned(),
            }));
        }
    }
    Ok(Ok(()))
}

/// Queues a job.
pub(super) fn insert(tx: &Transaction<'_>, id: &str, spec: &Spec, bound: usize) -> Result<Job, Fault> {
    let queued: u32 = tx
        .prepare_cached("SELECT count(*) FROM jobs WHERE state = ?1")?
        .query_row([state_name(State::Queued)], |row| row.get(0))?;
    if queued as usize >= bound {
        return Err(Error::new(
            Kind::Exhausted,
            format!(
                "the queue is full (at most {bound} wait); wait for one to end, cancel one, or start the daemon with a \
                 higher --max-jobs"
            ),
        )
        .into());
    }
    for source in [Some(&spec.train), spec.validation.as_ref(), spec.test.as_ref()].into_iter().flatten() {
        super::datasets::require(tx, &source.dataset)?;
    }
    tx.prepare_cached("INSERT INTO jobs (id, state, spec, created, last_event) VALUES (?1, ?2, ?3, ?4, 0)")?
        .execute(params![id, state_name(State::Queued), encode(spec)?, Time::now().0])?;
    append(tx, id, &[Event::StateChanged { state: State::Queued, failure: None }])?;
    Ok(job(tx, id)?.ok_or_else(|| Error::internal("a new job is missing"))?)
}

pub(super) fn jobs_in(tx: &Transaction<'_>, state: State) -> Result<Listing<Job>, Fault> {
    let mut statement =
        tx.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs WHERE state = ?1 ORDER BY id"))?;
    collect(statement.query([state_name(state)])?)
}

pub(super) fn append(tx: &Transaction<'_>, job: &str, events: &[Event]) -> Result<u64, Fault> {
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
        let (kind, body) = body_of(event)?;
        insert.execute(params![job, number, time.0, kind, body])?;
        if let Event::StateChanged { state, failure } = event {
            let failure = failure.as_ref().map(encode).transpose()?;
            let started = (*state == State::Running).then_some(time.0);
            let ended = state.is_final().then_some(time.0);
            tx.prepare_cached(
                "UPDATE jobs SET state = ?2, failure = ?3, started = ifnull(started, ?4), ended = ?5 WHERE id = ?1",
            )?
            .execute(params![job, state_name(*state), failure, started, ended])?;
        }
    }
    tx.prepare_cached("UPDATE jobs SET last_event = ?2 WHERE id = ?1")?.execute(params![job, number])?;
    Ok(unsigned(number))
}

/// The error for a job that does not exist.
pub fn unknown_job(id: &str) -> Error {
    Error::not_found(format!("there is no job {}", quoted(id)))
}

/// The error for a job whose record is damaged.
fn unreadable_job(id: &str, error: &Error) -> Error {
    Error::corrupt(format!("the job {id} cannot be shown: {error}; `client jobs delete {id}` removes it"))
}

/// An event's kind and JSON. JSON has no number that is not finite, so an event with one is logged in words: it
/// could not be read back, and must not be lost.
fn body_of(event: &Event) -> Result<(String, String)> {
    let body = match (encode(event), event) {
        (Ok(body), _) => body,
        (Err(error), Event::Notice { .. }) => return Err(error),
        (Err(_), event) => return body_of(&Event::Notice { message: in_words(event) }),
    };
    let value: serde_json::Value = decode(&body)?;
    let kind = value.get("type").and_then(|kind| kind.as_str()).unwrap_or_default().to_owned();
    Ok((kind, body))
}

/// What an event with a number that is not finite says.
fn in_words(event: &Event) -> String {
    let (of, numbers) = match event {
        Event::Step(step) => (
            format!("step {}", step.step),
            vec![
                ("loss", step.loss),
                ("learning rate", step.learning_rate),
                ("gradient norm", step.gradient_norm),
            ],
        ),
        Event::Epoch(epoch) => (
            format!("epoch {}", epoch.epoch),
            vec![("training loss", epoch.train.loss), ("validation loss", epoch.validation.loss)],
        ),
        Event::Test(test) => ("the test".to_owned(), vec![("loss", test.metrics.loss)]),
        _ => ("an event".to_owned(), Vec::new()),
    };
    match numbers.into_iter().find(|(_, value)| !value.is_finite()) {
        Some((what, value)) => format!("the {what} of {of} is {}", diagnosis::in_words(value)),
        None => format!("a number of {of} is not finite"),
    }
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

fn collect(mut rows: rusqlite::Rows<'_>) -> Result<Listing<Job>, Fault> {
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
    })
}

pub(super) fn state_name(state: State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Running => "running",
        State::Succeeded => "succeeded",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
        State::Interrupted => "interrupted",
        State::Paused => "paused",
    }
}

pub(super) fn parse_state(name: &str) -> Result<State> {
    State::ALL
        .into_iter()
        .find(|&state| state_name(state) == name)
        .ok_or_else(|| Error::corrupt(format!("the database holds the unknown job state {}", quoted(name))))
}

#[cfg(test)]
mod tests {
    use crate::testing::{self, spec, step};
    use hone_base::error::Kind;
    use hone_train::event::{Event, State};

    #[test]
    fn jobs_and_events_are_there_after_a_restart() {
        let home = testing::Home::new();
        let (queued, jobs) = {
            let store = home.store();
            let job = store.insert_job("01a", &spec("reviews"), 8).unwrap();
            store.append("01a", &[step(1), step(2)]).unwrap();
            (job, store.jobs().unwrap().records)
        };
        assert_eq!((queued.state, queued.last_event), (State::Queued, 1));
        let store = home.store();
        assert_eq!(store.jobs().unwrap().records, jobs);
        let page = store.events_after("01a", 0, 10).unwrap().unwrap();
        assert_eq!(page.entries.iter().map(|entry| entry.number).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(page.entries[2].event, step(2));
        assert_eq!(page.last_event, 3);
    }

    #[test]
    fn a_row_follows_the_states_that_the_log_tells() {
        let store = testing::store();
        store.insert_job("01a", &spec("reviews"), 8).unwrap();
        let change = |state| Event::StateChanged { state, failure: None };
        store.append("01a", &[change(State::Running)]).unwrap();
        let job = store.job("01a").unwrap().unwrap();
        assert!(job.started.is_some() && job.ended.is_none());
        store.append("01a", &[change(State::Succeeded)]).unwrap();
        let job = store.job("01a").unwrap().unwrap();
        assert_eq!(job.state, State::Succeeded);
        assert!(job.started.is_some() && job.ended.is_some());
    }

    #[test]
    fn a_full_queue_refuses_and_names_the_bound() {
        let store = testing::store();
        store.insert_job("01a", &spec("reviews"), 1).unwrap();
        let error = store.insert_job("01b", &spec("reviews"), 1).unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted);
        assert!(error.message().contains("at most 1 wait"), "{error}");
        assert_eq!(store.jobs().unwrap().records.len(), 1);
    }

    #[test]
    fn a_number_that_is_not_finite_stays_in_the_log() {
        let store = testing::store();
        store.insert_job("01a", &spec("reviews"), 8).unwrap();
        let Event::Step(mut metrics) = step(1) else { unreachable!() };
        metrics.gradient_norm = f64::INFINITY;
        store.append("01a", &[Event::Step(metrics), step(2)]).unwrap();
        let page = store.events_after("01a", 1, 10).unwrap().unwrap();
        let Event::Notice { message } = &page.entries[0].event else { panic!("{page:?}") };
        assert!(message == "the gradient norm of step 1 is infinite", "{message}");
        assert_eq!(page.entries[1].event, step(2));
    }
}
