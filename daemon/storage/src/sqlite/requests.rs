//! Requests to start a job that their sender may repeat.

use rusqlite::{OptionalExtension as _, Transaction, params};

use super::Store;
use super::fault::Fault;
use super::jobs::{insert, job};
use crate::{Job, StartRequest, unknown_job};
use hone_base::error::{Error, Kind, Result};
use hone_train::spec::Spec;

impl Store {
    /// Queues a job as `insert_job` does. Of a request that has made a job already, returns that job.
    ///
    /// # Errors
    ///
    /// Those of `insert_job`, and `Kind::Exists` when a request with the same id asked for something else.
    pub fn insert_requested_job(
        &self,
        id: &str,
        spec: &Spec,
        request: Option<&StartRequest>,
        bound: usize,
    ) -> Result<Job> {
        self.write(|tx| {
            let Some(request) = request else { return insert(tx, id, spec, bound) };
            if let Some(job) = made_by(tx, request)? {
                return Ok(job);
            }
            let job = insert(tx, id, spec, bound)?;
            tx.prepare_cached("UPDATE jobs SET request = ?2, request_digest = ?3 WHERE id = ?1")?
                .execute(params![id, request.id, request.digest])?;
            Ok(job)
        })
    }

    /// The job that a request has made, if it has made one that is not deleted.
    ///
    /// # Errors
    ///
    /// `Kind::Exists` when a request with the same id asked for something else.
    pub fn job_of_request(&self, request: &StartRequest) -> Result<Option<Job>> {
        self.read(|tx| made_by(tx, request))
    }
}

fn made_by(tx: &Transaction<'_>, request: &StartRequest) -> Result<Option<Job>, Fault> {
    let known: Option<(String, String)> = tx
        .prepare_cached("SELECT id, request_digest FROM jobs WHERE request = ?1")?
        .query_row([&request.id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((id, digest)) = known else { return Ok(None) };
    if digest != request.digest {
        return Err(Error::new(
            Kind::Exists,
            format!(
                "`request_id`: {} was sent before with another specification, which became the job {id}; send a new id for \
                 a new job",
                request.id
            ),
        )
        .into());
    }
    Ok(Some(job(tx, &id)?.ok_or_else(|| unknown_job(&id))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, spec};
    use hone_train::event::{Event, State};

    fn request(id: &str, digest: &str) -> StartRequest {
        StartRequest { id: id.into(), digest: digest.into() }
    }

    #[test]
    fn a_request_that_comes_again_is_the_job_that_it_made_also_after_a_restart() {
        let home = testing::Home::new();
        let once = request("r1", "aa");
        let first = home.store().insert_requested_job("01a", &spec("reviews"), Some(&once), 1).unwrap();
        let store = home.store();
        // The queue is full, and takes no second job, but is asked for none.
        let again = store.insert_requested_job("01b", &spec("reviews"), Some(&once), 1).unwrap();
        assert_eq!(again, first);
        assert_eq!(store.job_of_request(&once).unwrap(), Some(first));
        assert_eq!(store.jobs().unwrap().records.len(), 1);
    }

    #[test]
    fn a_request_id_with_another_specification_is_refused_and_names_the_job() {
        let store = testing::store();
        store.insert_requested_job("01a", &spec("reviews"), Some(&request("r1", "aa")), 8).unwrap();
        let other = request("r1", "bb");
        let error = store.insert_requested_job("01b", &spec("topics"), Some(&other), 8).unwrap_err();
        assert_eq!(error.kind(), Kind::Exists);
        assert!(error.message().contains("r1") && error.message().contains("01a"), "{error}");
        assert_eq!(store.job_of_request(&other).unwrap_err().kind(), Kind::Exists);
    }

    #[test]
    fn requests_without_an_id_are_as_many_jobs() {
        let store = testing::store();
        for id in ["01a", "01b"] {
            store.insert_requested_job(id, &spec("reviews"), None, 8).unwrap();
        }
        assert_eq!(store.jobs().unwrap().records.len(), 2);
    }

    #[test]
    fn a_request_whose_job_was_deleted_makes_a_new_one() {
        let store = testing::store();
        let once = request("r1", "aa");
        store.insert_requested_job("01a", &spec("reviews"), Some(&once), 8).unwrap();
        store.append("01a", &[Event::StateChanged { state: State::Cancelled, failure: None }]).unwrap();
        store.delete_job("01a").unwrap();
        assert_eq!(store.job_of_request(&once).unwrap(), None);
        assert_eq!(store.insert_requested_job("01b", &spec("reviews"), Some(&once), 8).unwrap().id, "01b");
    }
}
