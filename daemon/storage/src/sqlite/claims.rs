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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Time;
    use crate::testing::{self, spec};

    fn change(state: State) -> Event {
        Event::StateChanged { state, failure: None }
    }

    #[test]
    fn only_a_queued_job_is_claimed_and_only_once() {
        let store = testing::store();
        store.insert_job("01a", &spec("reviews"), 8).unwrap();
        assert_eq!(store.claim("01a").unwrap().unwrap().state, State::Running);
        assert_eq!(store.claim("01a").unwrap(), None);
        assert_eq!(store.claim("01b").unwrap(), None);
    }

    #[test]
    fn events_are_logged_only_from_the_state_that_was_seen() {
        let store = testing::store();
        store.insert_job("01a", &spec("reviews"), 8).unwrap();
        assert!(!store.append_when("01a", State::Running, &[change(State::Paused)]).unwrap());
        assert!(store.append_when("01a", State::Queued, &[change(State::Paused)]).unwrap());
        let job = store.job("01a").unwrap().unwrap();
        assert_eq!((job.state, job.last_event), (State::Paused, 2));
        assert!(store.append_when("01b", State::Queued, &[]).is_err());
    }

    #[test]
    fn a_job_that_runs_again_began_when_it_ran_first() {
        let home = testing::Home::new();
        let store = home.store();
        store.insert_job("01a", &spec("reviews"), 8).unwrap();
        store.claim("01a").unwrap();
        let database = rusqlite::Connection::open(home.path().join("hone.db")).unwrap();
        database.execute("UPDATE jobs SET started = 1", []).unwrap();
        store.append("01a", &[change(State::Paused), change(State::Queued)]).unwrap();
        assert_eq!(store.claim("01a").unwrap().unwrap().started, Some(Time(1)));
    }
}
