//! Tests: each kind of record, damaged by hand.

use std::sync::Arc;

use hone_base::error::Kind;
use rusqlite::Connection;

use crate::testing::{Home, PROMOTED, dataset, spec, step, version};
use crate::{Catalog, JobEvent, Listing, RecordKind, State};

/// A store with a job that has ended and two versions of a model, and a hand in its database.
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
        for number in 1..=2 {
            assert_eq!(store.reserve_version("reviews").unwrap(), number);
            store.publish(&version("reviews", number, "01a"), &[], &[]).unwrap();
        }
        Self { home, store }
    }

    fn sql(&self, statement: &str) {
        let connection = Connection::open(self.home.path().join("hone.db")).unwrap();
        connection.pragma_update(None, "foreign_keys", false).unwrap();
        assert!(connection.execute(statement, []).unwrap() > 0, "{statement}");
    }
}

#[test]
fn a_version_with_a_number_that_is_null_hides_no_other_and_can_be_deleted() {
    let bench = Bench::new();
    // What a validation loss that was NaN left behind.
    bench.sql("UPDATE versions SET record = json_set(record, '$.validation.loss', null) WHERE version = 2");
    let Listing { records, unreadable } = bench.store.models().unwrap();
    assert_eq!(records[0].versions.iter().map(|v| v.version).collect::<Vec<_>>(), [1]);
    assert_eq!((unreadable[0].kind, unreadable[0].id.as_str()), (RecordKind::Version, "reviews@2"));
    assert!(unreadable[0].why.contains("null"), "{unreadable:?}");
    assert_eq!(bench.store.version_numbers().unwrap().len(), 2);
    bench.store.delete_version("reviews", 2).unwrap();
    let Listing { records, unreadable } = bench.store.models().unwrap();
    assert_eq!((records[0].aliases[0].version, unreadable), (1, vec![]));
}

#[test]
fn a_version_under_the_name_of_another_is_damaged() {
    let bench = Bench::new();
    bench.sql("UPDATE versions SET record = json_set(record, '$.name', 'topics') WHERE version = 1");
    let unreadable = bench.store.models().unwrap().unreadable;
    assert!(unreadable[0].why.contains("it is that of topics@1"), "{unreadable:?}");
}

#[test]
fn an_alias_of_a_version_that_is_not_there_is_told_and_deleted_and_another_one_is_not() {
    let bench = Bench::new();
    bench.store.promote("reviews", 1, "live", PROMOTED).unwrap();
    bench.sql("UPDATE aliases SET version = 9 WHERE name = 'live'");
    let unreadable = bench.store.models().unwrap().unreadable;
    assert_eq!((unreadable[0].kind, unreadable[0].id.as_str()), (RecordKind::Alias, "reviews@live"));
    assert!(!bench.store.delete_dangling_alias("reviews", "latest").unwrap());
    assert!(bench.store.delete_dangling_alias("reviews", "live").unwrap());
    assert_eq!(bench.store.models().unwrap().unreadable, []);
}

#[test]
fn a_data_set_that_is_damaged_is_told_deleted_or_replaced_by_the_same_file() {
    let bench = Bench::new();
    let id = dataset().id;
    let damage = || bench.sql("UPDATE datasets SET record = '{'");
    damage();
    let Listing { records, unreadable } = bench.store.datasets().unwrap();
    assert_eq!((records, unreadable[0].kind, &unreadable[0].id), (vec![], RecordKind::Dataset, &id));
    let error = bench.store.dataset(&id).unwrap_err();
    // So that a client sends it again.
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.message().contains(&format!("client datasets delete {id}")), "{error}");
    bench.store.put_dataset(&dataset()).unwrap();
    assert_eq!(bench.store.datasets().unwrap().unreadable, []);
    damage();
    bench.store.delete_dataset(&id).unwrap();
    assert_eq!(bench.store.datasets().unwrap(), Listing::default());
}

#[test]
fn an_event_that_is_damaged_leaves_a_notice_under_its_number() {
    let bench = Bench::new();
    bench.sql("UPDATE events SET body = '{\"type\":\"step\",\"loss\":null}' WHERE number = 2");
    let page = bench.store.events_after("01a", 0, 10).unwrap().unwrap();
    assert_eq!(page.entries.iter().map(|entry| entry.number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let JobEvent::Notice { message } = &page.entries[1].event else { panic!("{page:?}") };
    assert!(message.starts_with("this entry of the log is lost"), "{message}");
    assert_eq!(page.entries[2].event, step(2));
}
