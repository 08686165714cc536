//! Logs of jobs, and how their readers wait.

use std::sync::Arc;
use std::time::Duration;

use hone_base::error::Kind;

use super::{Case, cases};
use crate::changes::block_on;
use crate::testing::{epoch, spec, step, step_metrics, version};
use crate::{Catalog, Changes, JobEvent, Listing, Published, State, Topic};

pub(super) const CASES: &[Case<dyn Catalog>] = cases![
    events_are_numbered_without_a_gap_and_read_in_pages,
    events_of_a_job_that_is_not_there_are_refused,
    events_are_logged_all_or_none,
    what_depends_on_a_state_is_logged_in_that_state_alone,
    results_are_told_of_one_job_and_of_all,
    a_number_that_is_not_finite_is_logged_in_words,
    who_watches_a_log_is_woken_by_that_log,
    who_watches_the_queue_is_woken_when_a_state_changes,
    what_was_written_before_a_watch_wakes_nobody,
];

/// Whether something was written since the last look.
fn woken(changes: &mut Changes) -> bool {
    // A change may take its time to arrive; that nothing arrives cannot be waited for.
    block_on(changes.changed(), Duration::from_secs(10)).is_some_and(|changed| changed.is_ok())
}

fn events_are_numbered_without_a_gap_and_read_in_pages(catalog: Arc<dyn Catalog>) {
    catalog.insert_job("01a", &spec("reviews"), 8).unwrap();
    assert_eq!(catalog.append("01a", &[step(1), step(2)]).unwrap(), 3);
    assert_eq!(catalog.append("01a", &[step(3)]).unwrap(), 4);
    let numbers = |after, limit| {
        let page = catalog.events_after("01a", after, limit).unwrap().unwrap();
        assert_eq!((page.state, page.last_event), (State::Queued, 4));
        page.entries.into_iter().map(|entry| entry.number).collect::<Vec<_>>()
    };
    assert_eq!(numbers(0, 10), [1, 2, 3, 4]);
    assert_eq!(numbers(1, 2), [2, 3]);
    assert_eq!((numbers(4, 10), numbers(0, 0)), (vec![], vec![]));
    let page = catalog.events_after("01a", 2, 1).unwrap().unwrap();
    assert_eq!(page.entries[0].event, step(2));
}

fn events_of_a_job_that_is_not_there_are_refused(catalog: Arc<dyn Catalog>) {
    assert_eq!(catalog.append("01a", &[step(1)]).unwrap_err().kind(), Kind::NotFound);
    let error = catalog.append_when("01a", State::Queued, &[step(1)]).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(catalog.events_after("01a", 0, 10).unwrap().is_none());
}

fn events_are_logged_all_or_none(catalog: Arc<dyn Catalog>) {
    // A version of a job that is not there: neither the version nor the event may stay.
    assert_eq!(catalog.reserve_version("reviews").unwrap(), 1);
    let error = catalog.publish(&version("reviews", 1, "01a"), &[], &[step(1)]).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(catalog.version_numbers().unwrap(), []);
    assert_eq!(catalog.models().unwrap(), Listing::default());
}

fn what_depends_on_a_state_is_logged_in_that_state_alone(catalog: Arc<dyn Catalog>) {
    catalog.insert_job("01a", &spec("reviews"), 8).unwrap();
    let cancelled = [JobEvent::state(State::Cancelled)];
    assert!(!catalog.append_when("01a", State::Running, &cancelled).unwrap());
    assert_eq!(catalog.job("01a").unwrap().unwrap().last_event, 1);
    assert!(catalog.append_when("01a", State::Queued, &cancelled).unwrap());
    assert!(!catalog.append_when("01a", State::Queued, &cancelled).unwrap());
    let job = catalog.job("01a").unwrap().unwrap();
    assert_eq!((job.state, job.last_event), (State::Cancelled, 2));
}

fn results_are_told_of_one_job_and_of_all(catalog: Arc<dyn Catalog>) {
    for id in ["01a", "01b"] {
        catalog.insert_job(id, &spec("reviews"), 8).unwrap();
    }
    let published =
        Published { name: "reviews".into(), version: 1, weights_sha256: "0".repeat(64), epoch: 1 };
    let events = [step(1), JobEvent::Epoch(epoch()), JobEvent::Published(published.clone())];
    catalog.append("01b", &events).unwrap();
    let (mut one, unreadable) = catalog.results(Some("01b")).unwrap();
    let results = one.remove("01b").unwrap();
    assert_eq!((results.epochs, results.test, results.published), (vec![epoch()], None, Some(published)));
    assert_eq!((one.len(), unreadable), (0, vec![]));
    assert!(catalog.results(None).unwrap().0.contains_key("01b"));
    for without in ["01a", "01c"] {
        assert!(catalog.results(Some(without)).unwrap().0.is_empty(), "{without}");
    }
}

fn a_number_that_is_not_finite_is_logged_in_words(catalog: Arc<dyn Catalog>) {
    catalog.insert_job("01a", &spec("reviews"), 8).unwrap();
    let mut metrics = step_metrics(1);
    metrics.gradient_norm = f64::INFINITY;
    catalog.append("01a", &[JobEvent::Step(metrics), step(2)]).unwrap();
    let page = catalog.events_after("01a", 1, 10).unwrap().unwrap();
    let JobEvent::Notice { message } = &page.entries[0].event else { panic!("{page:?}") };
    assert!(message == "the gradient norm of step 1 is infinite", "{message}");
    assert_eq!(page.entries[1].event, step(2));
}

fn who_watches_a_log_is_woken_by_that_log(catalog: Arc<dyn Catalog>) {
    for id in ["01a", "01b"] {
        catalog.insert_job(id, &spec("reviews"), 8).unwrap();
    }
    let [mut a, mut b] = ["01a", "01b"].map(|id| catalog.watch(Topic::Log(id.into())));
    catalog.append("01a", &[step(1)]).unwrap();
    assert!(woken(&mut a));
    catalog.claim("01a", "me").unwrap().unwrap();
    assert!(woken(&mut a));
    catalog.append_when("01a", State::Running, &[step(2)]).unwrap();
    assert!(woken(&mut a));
    catalog.reserve_version("reviews").unwrap();
    catalog.publish(&version("reviews", 1, "01a"), &[], &[JobEvent::state(State::Succeeded)]).unwrap();
    assert!(woken(&mut a));
    catalog.append("01b", &[JobEvent::state(State::Cancelled)]).unwrap();
    assert!(woken(&mut b));
    catalog.delete_job("01b").unwrap();
    assert!(woken(&mut b));
}

fn who_watches_the_queue_is_woken_when_a_state_changes(catalog: Arc<dyn Catalog>) {
    let mut queue = catalog.watch(Topic::Queue);
    catalog.insert_job("01a", &spec("reviews"), 8).unwrap();
    assert!(woken(&mut queue));
    catalog.claim("01a", "me").unwrap().unwrap();
    assert!(woken(&mut queue));
    catalog.append("01a", &[JobEvent::state(State::Queued)]).unwrap();
    assert!(woken(&mut queue));
    catalog.append_when("01a", State::Queued, &[JobEvent::state(State::Cancelled)]).unwrap();
    assert!(woken(&mut queue));
}

fn what_was_written_before_a_watch_wakes_nobody(catalog: Arc<dyn Catalog>) {
    catalog.insert_job("01a", &spec("reviews"), 8).unwrap();
    let mut changes = catalog.watch(Topic::Log("01a".into()));
    assert_eq!(block_on(changes.changed(), Duration::ZERO), None);
    catalog.append("01a", &[step(1)]).unwrap();
    assert!(woken(&mut changes));
    changes.mark_seen();
    assert!(!changes.has_changed());
}
