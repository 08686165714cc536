//! Tests: jobs whose records were damaged by hand.

use std::sync::Arc;

use rusqlite::Connection;

use super::{Policy, Registry};
use crate::jobs::log::Log;
use crate::jobs::restart::ResumeJobs;
use crate::jobs::testing::{Home, spec, step};
use hone_base::error::Kind;
use hone_storage::{Catalog, JobEvent, RecordKind, State};

/// A store with a job that has ended, and a hand in its database.
struct Bench {
    home: Home,
    store: Arc<dyn Catalog>,
}

impl Bench {
    fn new() -> Self {
        let home = Home::new();
        let store = home.store();
        store.insert_job("01a", &spec("reviews"), 8).unwrap();
        store.append("01a", &[step(1), step(2)]).unwrap();
        store.append("01a", &[JobEvent::StateChanged { state: State::Succeeded, failure: None }]).unwrap();
        Self { home, store }
    }

    fn sql(&self, statement: &str) {
        let connection = Connection::open(self.home.path().join("hone.db")).unwrap();
        connection.pragma_update(None, "foreign_keys", false).unwrap();
        assert!(connection.execute(statement, []).unwrap() > 0, "{statement}");
    }

    fn registry(&self) -> Registry {
        let policy = Policy { bound: 8, resume: ResumeJobs::Auto };
        Registry::open(self.store.clone(), Log::new(self.store.clone()), self.home.data(), policy).unwrap()
    }
}

#[test]
fn a_damaged_result_of_a_job_is_told_in_the_list_of_jobs() {
    let bench = Bench::new();
    bench.sql("UPDATE events SET kind = 'epoch', body = '[]' WHERE number = 2");
    let rows = bench.registry().page(None, 9).unwrap();
    assert!(rows.len() == 1 && rows[0].job.is_ok());
    let event = &rows[0].events[0];
    assert_eq!((event.kind, event.id.as_str()), (RecordKind::Event, "01a event 2"));
}

#[test]
fn a_job_that_is_damaged_in_any_of_its_parts_hides_no_other_is_watched_if_possible_and_deleted() {
    for (column, value) in [("spec", "{}"), ("failure", "null"), ("state", "asleep")] {
        let bench = Bench::new();
        bench.store.insert_job("01b", &spec("topics"), 8).unwrap();
        bench.sql(&format!("UPDATE jobs SET {column} = '{value}' WHERE id = '01a'"));
        let registry = bench.registry();
        let rows = registry.page(None, 9).unwrap();
        assert!(rows.len() == 2 && rows[0].job.is_ok(), "{column}");
        let damaged = rows[1].job.as_ref().unwrap_err();
        assert_eq!((damaged.kind, damaged.id.as_str()), (RecordKind::Job, "01a"));
        let error = registry.get("01a").unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{column}");
        assert!(error.message().contains("client jobs delete 01a"), "{error}");
        assert_eq!(registry.log().read("01a", 0).is_ok(), column != "state");
        registry.delete("01a").unwrap();
        assert_eq!(registry.page(None, 9).unwrap().len(), 1);
        assert_eq!(registry.delete("01a").unwrap_err().kind(), Kind::NotFound);
        let error = registry.delete("01b").unwrap_err();
        assert_eq!(error.kind(), Kind::Precondition);
        assert!(error.message().contains("client cancel 01b"), "{error}");
    }
}

#[test]
fn a_queued_job_that_is_damaged_fails_and_the_next_one_runs() {
    let bench = Bench::new();
    bench.store.insert_job("01b", &spec("topics"), 8).unwrap();
    bench.store.insert_job("01c", &spec("topics"), 8).unwrap();
    bench.sql("UPDATE jobs SET spec = '{}' WHERE id = '01b'");
    let registry = bench.registry();
    assert_eq!(registry.take().unwrap().0.id, "01c");
    let page = bench.store.events_after("01b", 0, 10).unwrap().unwrap();
    assert_eq!(page.state, State::Failed);
}
