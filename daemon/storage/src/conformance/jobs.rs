//! Jobs, their states, and who runs them.

use std::sync::Arc;
use std::time::Duration;

use hone_base::error::Kind;

use super::{Case, cases};
use crate::testing::{spec, step};
use crate::{Catalog, Failure, JobEvent, State, Time};

pub(super) const CASES: &[Case<dyn Catalog>] = cases![
    a_new_job_is_queued_and_its_log_says_so,
    a_full_queue_refuses_and_names_the_bound,
    a_row_follows_the_states_that_the_log_tells,
    a_job_that_runs_again_began_when_it_ran_first,
    a_job_that_goes_on_has_neither_end_nor_failure,
    jobs_are_listed_newest_first_and_states_oldest_first,
    the_line_is_who_runs_and_who_waits,
    a_claim_is_a_record_and_goes_with_the_state,
    a_job_is_claimed_once,
    a_claim_of_what_is_not_there_gets_nothing,
    a_job_that_is_deleted_takes_its_log_along,
];

fn a_new_job_is_queued_and_its_log_says_so(catalog: Arc<dyn Catalog>) {
    let job = catalog.insert_job("01a", &spec("reviews"), 8).unwrap();
    assert_eq!((job.state, job.last_event, job.spec.name.as_str()), (State::Queued, 1, "reviews"));
    assert_eq!((job.started, job.ended, &job.owner), (None, None, &None));
    assert_eq!(catalog.job("01a").unwrap(), Some(job));
    let page = catalog.events_after("01a", 0, 10).unwrap().unwrap();
    assert_eq!(page.entries[0].event, JobEvent::state(State::Queued));
    assert_eq!(catalog.job("01b").unwrap(), None);
    // An id names one job.
    assert_eq!(catalog.insert_job("01a", &spec("topics"), 8).unwrap_err().kind(), Kind::Exists);
    assert_eq!(catalog.job("01a").unwrap().unwrap().spec.name, "reviews");
}

fn a_full_queue_refuses_and_names_the_bound(catalog: Arc<dyn Catalog>) {
    catalog.insert_job("01a", &spec("reviews"), 1).unwrap();
    let error = catalog.insert_job("01b", &spec("reviews"), 1).unwrap_err();
    assert_eq!(error.kind(), Kind::Exhausted);
    assert!(error.message().contains("at most 1 wait"), "{error}");
    assert_eq!(catalog.jobs().unwrap().records.len(), 1);
    catalog.claim("01a", "me").unwrap().unwrap();
    catalog.insert_job("01b", &spec("reviews"), 1).unwrap();
}

fn a_row_follows_the_states_that_the_log_tells(catalog: Arc<dyn Catalog>) {
    catalog.insert_job("01a", &spec("reviews"), 8).unwrap();
    catalog.append("01a", &[JobEvent::state(State::Running)]).unwrap();
    let job = catalog.job("01a").unwrap().unwrap();
    assert!(job.started.is_some() && job.ended.is_none());
    catalog.append("01a", &[step(1), JobEvent::state(State::Succeeded)]).unwrap();
    let job = catalog.job("01a").unwrap().unwrap();
    assert_eq!((job.state, job.last_event), (State::Succeeded, 4));
    assert!(job.started.is_some() && job.ended.is_some());
}

fn a_job_that_runs_again_began_when_it_ran_first(catalog: Arc<dyn Catalog>) {
    catalog.insert_job("01a", &spec("reviews"), 8).unwrap();
    let first = catalog.claim("01a", "me").unwrap().unwrap().started.unwrap();
    while Time::now() <= first {
        std::thread::sleep(Duration::from_millis(1));
    }
    catalog.append("01a", &[JobEvent::state(State::Paused), JobEvent::state(State::Queued)]).unwrap();
    assert_eq!(catalog.claim("01a", "me").unwrap().unwrap().started, Some(first));
}

fn a_job_that_goes_on_has_neither_end_nor_failure(catalog: Arc<dyn Catalog>) {
    catalog.insert_job("01a", &spec("reviews"), 8).unwrap();
    let failure = Some(Failure { kind: Kind::Internal, message: "the disk is gone".into() });
    catalog
        .append("01a", &[JobEvent::StateChanged { state: State::Failed, failure: failure.clone() }])
        .unwrap();
    let job = catalog.job("01a").unwrap().unwrap();
    assert!(job.failure == failure && job.ended.is_some(), "{job:?}");
    catalog.append("01a", &[JobEvent::state(State::Queued)]).unwrap();
    let job = catalog.job("01a").unwrap().unwrap();
    assert_eq!((job.state, job.ended, job.failure), (State::Queued, None, None));
}

fn jobs_are_listed_newest_first_and_states_oldest_first(catalog: Arc<dyn Catalog>) {
    for id in ["01b", "01a", "01c"] {
        catalog.insert_job(id, &spec("reviews"), 8).unwrap();
    }
    let listed: Vec<String> = catalog.jobs().unwrap().records.into_iter().map(|job| job.id).collect();
    assert_eq!(listed, ["01c", "01b", "01a"]);
    assert_eq!(catalog.ids_in(State::Queued).unwrap(), ["01a", "01b", "01c"]);
    assert_eq!(catalog.ids_in(State::Running).unwrap(), [""; 0]);
}

fn the_line_is_who_runs_and_who_waits(catalog: Arc<dyn Catalog>) {
    for id in ["01a", "01b", "01c"] {
        catalog.insert_job(id, &spec("reviews"), 8).unwrap();
    }
    assert_eq!(catalog.line().unwrap().ahead("01c"), 2);
    catalog.claim("01a", "me").unwrap().unwrap();
    let line = catalog.line().unwrap();
    assert_eq!(
        (&*line.running, &*line.queued),
        (&["01a".to_owned()][..], &["01b".to_owned(), "01c".to_owned()][..])
    );
    assert_eq!((line.ahead("01a"), line.ahead("01b"), line.ahead("01c")), (0, 1, 2));
}

fn a_claim_is_a_record_and_goes_with_the_state(catalog: Arc<dyn Catalog>) {
    catalog.insert_job("01a", &spec("reviews"), 8).unwrap();
    let job = catalog.claim("01a", "me").unwrap().unwrap();
    assert_eq!((job.state, job.owner.as_deref(), job.last_event), (State::Running, Some("me"), 2));
    assert!(job.started.is_some());
    catalog.append("01a", &[step(1)]).unwrap();
    assert_eq!(catalog.job("01a").unwrap().unwrap().owner.as_deref(), Some("me"));
    catalog.append("01a", &[JobEvent::state(State::Cancelled)]).unwrap();
    assert_eq!(catalog.job("01a").unwrap().unwrap().owner, None);
}

fn a_job_is_claimed_once(catalog: Arc<dyn Catalog>) {
    catalog.insert_job("01a", &spec("reviews"), 8).unwrap();
    let won = std::thread::scope(|scope| {
        let claim = |owner: &'static str| {
            let catalog = &catalog;
            scope.spawn(move || catalog.claim("01a", owner).unwrap().is_some())
        };
        let claims = ["a", "b", "c", "d"].map(claim);
        claims.into_iter().map(|claim| usize::from(claim.join().unwrap())).sum::<usize>()
    });
    assert_eq!(won, 1);
    assert_eq!(catalog.job("01a").unwrap().unwrap().last_event, 2);
}

fn a_claim_of_what_is_not_there_gets_nothing(catalog: Arc<dyn Catalog>) {
    assert_eq!(catalog.claim("01a", "me").unwrap(), None);
}

fn a_job_that_is_deleted_takes_its_log_along(catalog: Arc<dyn Catalog>) {
    catalog.insert_job("01a", &spec("reviews"), 8).unwrap();
    catalog.append("01a", &[JobEvent::state(State::Cancelled)]).unwrap();
    catalog.delete_job("01a").unwrap();
    assert_eq!(catalog.job("01a").unwrap(), None);
    assert!(catalog.events_after("01a", 0, 10).unwrap().is_none());
    assert_eq!(catalog.delete_job("01a").unwrap_err().kind(), Kind::NotFound);
}
