//! Records of data sets.

use std::sync::Arc;

use hone_base::digest;
use hone_base::error::Kind;
use hone_train::spec::Source;

use super::{Case, cases};
use crate::testing::{dataset, spec};
use crate::{Catalog, DatasetRecord, JobEvent, State, Time};

pub(super) const CASES: &[Case<dyn Catalog>] = cases![
    data_sets_are_listed_newest_first,
    the_same_file_again_keeps_its_time,
    a_data_set_that_a_job_needs_stays_until_the_job_has_ended,
    a_job_on_a_data_set_that_is_not_there_is_refused,
];

fn data_sets_are_listed_newest_first(catalog: Arc<dyn Catalog>) {
    let mut newer = dataset();
    newer.id = digest::of_bytes(b"newer");
    newer.created = Time(dataset().created.0 + 1);
    assert_eq!(catalog.put_dataset(&newer).unwrap(), newer);
    assert_eq!(catalog.datasets().unwrap().records, [newer.clone(), dataset()]);
    assert_eq!(catalog.dataset(&newer.id).unwrap(), Some(newer));
    assert_eq!(catalog.dataset(&digest::of_bytes(b"none")).unwrap(), None);
}

fn the_same_file_again_keeps_its_time(catalog: Arc<dyn Catalog>) {
    let mut record = dataset();
    record.created.0 += 1000;
    record.name = "again.csv".into();
    assert_eq!(catalog.put_dataset(&record).unwrap().created, dataset().created);
    assert_eq!(catalog.dataset(&record.id).unwrap().unwrap().name, "again.csv");
    assert_eq!(catalog.datasets().unwrap().records.len(), 1);
}

fn a_data_set_that_a_job_needs_stays_until_the_job_has_ended(catalog: Arc<dyn Catalog>) {
    let mut spec = spec("reviews");
    let ids = [b"train", b"valid", b"tests"].map(|bytes| digest::of_bytes(bytes));
    let [train, validation, test] = ids.clone().map(|id| {
        let record = catalog.put_dataset(&DatasetRecord { id, ..dataset() }).unwrap();
        Source { dataset: record.id, name: record.name }
    });
    (spec.train, spec.validation, spec.test) = (train, Some(validation), Some(test));
    catalog.insert_job("01a", &spec, 8).unwrap();
    for state in State::ALL.into_iter().filter(|state| !state.is_final()) {
        catalog.append("01a", &[JobEvent::state(state)]).unwrap();
        for id in &ids {
            let error = catalog.delete_dataset(id).unwrap_err();
            assert_eq!(error.kind(), Kind::Precondition);
            assert!(error.message().contains("01a"), "{error}");
        }
    }
    catalog.append("01a", &[JobEvent::state(State::Cancelled)]).unwrap();
    for id in &ids {
        catalog.delete_dataset(id).unwrap();
        assert_eq!(catalog.delete_dataset(id).unwrap_err().kind(), Kind::NotFound);
    }
}

fn a_job_on_a_data_set_that_is_not_there_is_refused(catalog: Arc<dyn Catalog>) {
    let mut spec = spec("reviews");
    spec.train.dataset = "0".repeat(64);
    assert_eq!(catalog.insert_job("01a", &spec, 8).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(catalog.jobs().unwrap().records, []);
}
