//! Changes of a job's state that happen only if the job is in the state that their author believes.

use rusqlite::OptionalExtension as _;

use super::Store;
use super::jobs::{append, job, parse_state};
use crate::{Job, unknown_job};
use hone_base::error::Result;
use hone_train::event::{Event, State};

impl Store {
    /// Logs events if the job is in a state, in one step; whether it was.
    pub fn append_when(&self, id: &str, state: State, events: &[Event]) -> Result<bool> {
        self.write(|tx| {
            let now: Option<String> = tx
                .prepare_cached("SELECT state FROM jobs WHERE id = ?1")?
                .query_row([id], |row| row.get(0))
                .optional()?;
            let is_so = parse_state(&now.ok_or_else(|| unknown_job(id))?)? == state;
            if is_so {
                append(tx, id, events)?;
            }
            Ok(is_so)
        })
    }

    /// Takes a queued job to run it; `None` when it is not queued any more.
    pub fn claim(&self, id: &str) -> Result<Option<Job>> {
        self.write(|tx| {
            // Read before it counts as running: its record may be damaged.
            if job(tx, id)?.is_none_or(|job| job.state != State::Queued) {
                return Ok(None);
            }
            append(tx, id, &[Event::StateChanged { state: State::Running, failure: None }])?;
            Ok(job(tx, id)?)
        })
    }
}
