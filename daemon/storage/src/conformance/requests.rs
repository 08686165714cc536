//! Requests that are repeated, and lists by the page.

use std::sync::Arc;

use hone_base::error::Kind;

use super::{Case, cases};
use crate::testing::{dataset, epoch, spec};
use crate::{Catalog, DatasetRecord, JobEvent, StartRequest, State, Time};

pub(super) const CASES: &[Case<dyn Catalog>] = cases![
    a_request_that_comes_again_is_the_job_that_it_made,
    a_request_id_with_another_specification_is_refused_and_names_the_job,
    a_request_whose_job_was_deleted_makes_a_new_one,
    a_job_that_waits_or_runs_is_not_deleted,
    pages_of_jobs_follow_each_other_without_a_gap,
    results_are_those_of_the_jobs_between_two_ids,
    pages_of_data_sets_follow_each_other_also_where_times_are_the_same,
    jobs_that_may_go_on_are_open,
];

fn request(id: &str, digest: &str) -> StartRequest {
    StartRequest { id: id.into(), digest: digest.into() }
}

fn a_request_that_comes_again_is_the_job_that_it_made(catalog: Arc<dyn Catalog>) {
    let once = request("r1", "aa");
    let first = catalog.insert_requested_job("01a", &spec("reviews"), &once, 1).unwrap();
    // The queue is full, and takes no second job, but is asked for none.
    let again = catalog.insert_requested_job("01b", &spec("reviews"), &once, 1).unwrap();
    assert_eq!(again, first);
    assert_eq!(catalog.job_of_request(&once).unwrap(), Some(first));
    assert_eq!(catalog.jobs().unwrap().records.len(), 1);
}

fn a_request_id_with_another_specification_is_refused_and_names_the_job(catalog: Arc<dyn Catalog>) {
    catalog.insert_requested_job("01a", &spec("reviews"), &request("r1", "aa"), 8).unwrap();
    let other = request("r1", "bb");
    let error = catalog.insert_requested_job("01b", &spec("topics"), &other, 8).unwrap_err();
    assert_eq!(error.kind(), Kind::Exists);
    assert!(error.message().contains("r1") && error.message().contains("01a"), "{error}");
    assert_eq!(catalog.job_of_request(&other).unwrap_err().kind(), Kind::Exists);
}

fn a_request_whose_job_was_deleted_makes_a_new_one(catalog: Arc<dyn Catalog>) {
    let once = request("r1", "aa");
    catalog.insert_requested_job("01a", &spec("reviews"), &once, 8).unwrap();
    catalog.append("01a", &[JobEvent::state(State::Cancelled)]).unwrap();
    catalog.delete_job("01a").unwrap();
    assert_eq!(catalog.job_of_request(&once).unwrap(), None);
    assert_eq!(catalog.insert_requested_job("01b", &spec("reviews"), &once, 8).unwrap().id, "01b");
}

fn a_job_that_waits_or_runs_is_not_deleted(catalog: Arc<dyn Catalog>) {
    catalog.insert_job("01a", &spec("reviews"), 8).unwrap();
    assert_eq!(catalog.delete_job("01a").unwrap_err().kind(), Kind::Precondition);
    catalog.claim("01a", "me").unwrap().unwrap();
    assert_eq!(catalog.delete_job("01a").unwrap_err().kind(), Kind::Precondition);
    catalog.append("01a", &[JobEvent::state(State::Paused)]).unwrap();
    catalog.delete_job("01a").unwrap();
}

fn pages_of_jobs_follow_each_other_without_a_gap(catalog: Arc<dyn Catalog>) {
    let ids: Vec<String> = (0..7).map(|number| format!("01{number}")).collect();
    for id in &ids {
        catalog.insert_job(id, &spec("reviews"), 99).unwrap();
    }
    let (mut listed, mut before) = (Vec::new(), None::<String>);
    loop {
        let page = catalog.jobs_page(before.as_deref(), 3).unwrap();
        let page: Vec<String> = page.into_iter().map(|job| job.unwrap().id).collect();
        let Some(last) = page.last() else { break };
        before = Some(last.clone());
        listed.extend(page);
    }
    assert_eq!(listed, ids.iter().rev().cloned().collect::<Vec<_>>());
    // The place of a job that has gone meanwhile.
    catalog.append("011", &[JobEvent::state(State::Cancelled)]).unwrap();
    catalog.delete_job("011").unwrap();
    assert_eq!(catalog.jobs_page(Some("011"), 3).unwrap()[0].as_ref().unwrap().id, "010");
}

fn results_are_those_of_the_jobs_between_two_ids(catalog: Arc<dyn Catalog>) {
    for id in ["01a", "01b", "01c", "01d"] {
        catalog.insert_job(id, &spec("reviews"), 99).unwrap();
        catalog.append(id, &[JobEvent::Epoch(epoch())]).unwrap();
    }
    let (results, unreadable) = catalog.results_of("01b", "01c").unwrap();
    let mut ids: Vec<&str> = results.keys().map(String::as_str).collect();
    ids.sort_unstable();
    assert_eq!((ids, unreadable), (vec!["01b", "01c"], vec![]));
    assert!(catalog.results_of("01c", "01b").unwrap().0.is_empty());
}

fn pages_of_data_sets_follow_each_other_also_where_times_are_the_same(catalog: Arc<dyn Catalog>) {
    catalog.delete_dataset(&dataset().id).unwrap();
    for (number, created) in [(1, 10), (2, 20), (3, 20), (4, 20), (5, 30)] {
        let id = format!("{number:064}");
        catalog.put_dataset(&DatasetRecord { id, created: Time(created), ..dataset() }).unwrap();
    }
    let (mut listed, mut after) = (Vec::new(), None::<(Time, String)>);
    loop {
        let page = catalog.datasets_page(after.as_ref().map(|(at, id)| (*at, id.as_str())), 2).unwrap();
        let page: Vec<(Time, String)> =
            page.into_iter().map(|(at, record)| (at, record.unwrap().id)).collect();
        let Some(last) = page.last() else { break };
        after = Some(last.clone());
        listed.extend(page.into_iter().map(|(_, id)| id.trim_start_matches('0').to_owned()));
    }
    assert_eq!(listed, ["5", "2", "3", "4", "1"]);
    assert_eq!(catalog.dataset_ids().unwrap().len(), 5);
}

fn jobs_that_may_go_on_are_open(catalog: Arc<dyn Catalog>) {
    for state in State::ALL {
        catalog.insert_job(state.name(), &spec("reviews"), 99).unwrap();
        catalog.append(state.name(), &[JobEvent::state(state)]).unwrap();
    }
    let mut open: Vec<String> = catalog.open_jobs().unwrap().into_iter().collect();
    open.sort_unstable();
    assert_eq!(open, ["interrupted", "paused", "queued", "running"]);
}
