//! Versions, their numbers, and aliases.

use std::sync::Arc;
use std::time::Duration;

use hone_base::error::Kind;

use super::{Case, cases};
use crate::changes::block_on;
use crate::testing::{PROMOTED, spec, step, version};
use crate::{Alias, Catalog, Listing, Topic, Version};

pub(super) const CASES: &[Case<dyn Catalog>] = cases![
    a_publication_moves_latest_and_numbers_go_on,
    latest_falls_back_to_the_newest_version_that_remains,
    latest_stays_where_it_was_put_when_another_version_goes,
    the_last_version_takes_latest_along,
    a_version_is_published_once,
    a_record_that_could_not_be_read_again_is_not_written,
    a_version_that_another_alias_names_stays,
    an_alias_of_a_version_that_is_not_there_is_refused,
    a_number_is_not_given_again_after_the_model_was_deleted,
    every_change_of_a_model_wakes_who_watches,
];

fn publish(catalog: &dyn Catalog, versions: u32) {
    catalog.insert_job("01a", &spec("reviews"), 8).unwrap();
    for _ in 0..versions {
        let number = catalog.reserve_version("reviews").unwrap();
        catalog.publish(&version("reviews", number, "01a"), &[], &[]).unwrap();
    }
}

fn aliases(catalog: &dyn Catalog) -> Vec<(String, u32)> {
    let models = catalog.models().unwrap().records;
    models[0].aliases.iter().map(|Alias { name, version }| (name.clone(), *version)).collect()
}

fn a_publication_moves_latest_and_numbers_go_on(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 2);
    let models = catalog.models().unwrap().records;
    assert_eq!(models[0].versions.iter().map(|v| v.version).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(*models[0].versions[0], version("reviews", 2, "01a"));
    assert_eq!(aliases(&*catalog), [("latest".into(), 2)]);
    let mut numbers = catalog.version_numbers().unwrap();
    numbers.sort_unstable();
    assert_eq!(numbers, [("reviews".into(), 1), ("reviews".into(), 2)]);
}

fn latest_falls_back_to_the_newest_version_that_remains(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 3);
    catalog.promote("reviews", 1, "live", PROMOTED).unwrap();
    catalog.delete_version("reviews", 3).unwrap();
    assert_eq!(aliases(&*catalog), [("latest".into(), 2), ("live".into(), 1)]);
    assert_eq!(catalog.delete_version("reviews", 3).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(catalog.reserve_version("reviews").unwrap(), 4);
}

fn latest_stays_where_it_was_put_when_another_version_goes(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 3);
    catalog.promote("reviews", 1, "latest", PROMOTED).unwrap();
    catalog.delete_version("reviews", 3).unwrap();
    assert_eq!(aliases(&*catalog), [("latest".into(), 1)]);
}

fn the_last_version_takes_latest_along(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 1);
    catalog.delete_version("reviews", 1).unwrap();
    assert_eq!(catalog.models().unwrap(), Listing::default());
}

fn a_version_is_published_once(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 2);
    let mut changes = catalog.watch(Topic::Log("01a".into()));
    let other = Version { epoch: 9, ..version("reviews", 1, "01a") };
    assert_eq!(catalog.publish(&other, &[], &[step(1)]).unwrap_err().kind(), Kind::Exists);
    assert_eq!(*catalog.models().unwrap().records[0].versions[1], version("reviews", 1, "01a"));
    assert_eq!(aliases(&*catalog), [("latest".into(), 2)]);
    assert_eq!(catalog.job("01a").unwrap().unwrap().last_event, 1);
    // Nothing is wrong with the log, so its readers are told of no error.
    assert!(!matches!(block_on(changes.changed(), Duration::ZERO), Some(Err(_))));
}

fn a_record_that_could_not_be_read_again_is_not_written(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 2);
    assert_eq!(catalog.reserve_version("reviews").unwrap(), 3);
    let mut version = version("reviews", 3, "01a");
    version.validation.loss = f64::NAN;
    let error = catalog.publish(&version, &[], &[]).unwrap_err();
    assert!(error.kind() == Kind::Internal && error.message().contains("was not written"), "{error}");
    assert_eq!(catalog.version_numbers().unwrap().len(), 2);
}

fn a_version_that_another_alias_names_stays(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 2);
    catalog.promote("reviews", 1, "live", PROMOTED).unwrap();
    let error = catalog.delete_version("reviews", 1).unwrap_err();
    assert_eq!(error.kind(), Kind::Precondition);
    assert!(error.message().contains("\"live\""), "{error}");
    catalog.promote("reviews", 2, "live", PROMOTED).unwrap();
    catalog.delete_version("reviews", 1).unwrap();
}

fn an_alias_of_a_version_that_is_not_there_is_refused(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 1);
    assert_eq!(catalog.promote("reviews", 9, "live", PROMOTED).unwrap_err().kind(), Kind::NotFound);
    assert!(!catalog.delete_dangling_alias("reviews", "latest").unwrap());
    assert_eq!(aliases(&*catalog), [("latest".into(), 1)]);
}

fn a_number_is_not_given_again_after_the_model_was_deleted(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 2);
    let mut versions = catalog.delete_model("reviews").unwrap();
    versions.sort_unstable();
    assert_eq!(versions, [1, 2]);
    assert_eq!(catalog.models().unwrap().records, []);
    assert_eq!(catalog.reserve_version("reviews").unwrap(), 3);
    assert_eq!(catalog.delete_model("topics").unwrap(), [0; 0]);
}

fn every_change_of_a_model_wakes_who_watches(catalog: Arc<dyn Catalog>) {
    let mut models = catalog.watch(Topic::Models);
    let mut woken = || block_on(models.changed(), Duration::from_secs(10)) == Some(Ok(()));
    publish(&*catalog, 1);
    assert!(woken());
    catalog.promote("reviews", 1, "live", PROMOTED).unwrap();
    assert!(woken());
    catalog.promote("reviews", 1, "live", PROMOTED).unwrap();
    catalog.delete_model("reviews").unwrap();
    assert!(woken());
    catalog.reserve_version("reviews").unwrap();
    catalog.publish(&version("reviews", 2, "01a"), &[], &[]).unwrap();
    assert!(woken());
    catalog.delete_version("reviews", 2).unwrap();
    assert!(woken());
}
