//! The history of aliases, and what is decided for a model.

use std::sync::Arc;

use hone_base::error::{Error, Kind};

use super::{Case, cases};
use crate::settings::MAX_MOVES;
use crate::testing::{PROMOTED, spec, version};
use crate::{AliasMove, Canary, Catalog, Cause, ModelSettings, Mover, ServePrecision, Time};

pub(super) const CASES: &[Case<dyn Catalog>] = cases![
    every_move_of_an_alias_is_in_the_history_with_who_moved_it,
    a_version_is_published_under_other_aliases_in_one_step,
    only_the_newest_moves_are_kept,
    what_is_decided_for_a_model_is_kept_and_a_change_that_fails_changes_nothing,
    what_names_a_version_goes_with_it,
    a_promotion_ends_what_shared_the_alias,
    history_and_settings_go_with_the_model,
];

fn publish(catalog: &dyn Catalog, versions: u32) {
    catalog.insert_job("01a", &spec("reviews"), 8).unwrap();
    for _ in 0..versions {
        let number = catalog.reserve_version("reviews").unwrap();
        catalog.publish(&version("reviews", number, "01a"), &[], &[]).unwrap();
    }
}

fn settings(catalog: &dyn Catalog) -> ModelSettings {
    catalog.models().unwrap().records.remove(0).settings
}

/// Alias, from, to, cause and who, the newest first.
fn moves(catalog: &dyn Catalog) -> Vec<(String, Option<u32>, u32, Cause, String)> {
    let moves = catalog.alias_moves("reviews").unwrap();
    moves.into_iter().map(|moved| (moved.alias, moved.from, moved.to, moved.cause, moved.by)).collect()
}

fn every_move_of_an_alias_is_in_the_history_with_who_moved_it(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 2);
    assert_eq!(catalog.promote("reviews", 1, "live", PROMOTED).unwrap(), None);
    let back = Mover { cause: Cause::RolledBack, by: "you" };
    assert_eq!(catalog.promote("reviews", 2, "live", back).unwrap(), Some(1));
    assert_eq!(catalog.promote("reviews", 2, "live", PROMOTED).unwrap(), Some(2), "this is no move");
    catalog.promote("reviews", 1, "live", PROMOTED).unwrap();
    catalog.delete_version("reviews", 2).unwrap();
    let of = |alias: &str, from, to, cause, by: &str| (alias.to_owned(), from, to, cause, by.to_owned());
    assert_eq!(
        moves(&*catalog),
        [
            of("latest", Some(2), 1, Cause::Deleted, "the deletion of reviews@2"),
            of("live", Some(2), 1, Cause::Promoted, "me"),
            of("live", Some(1), 2, Cause::RolledBack, "you"),
            of("live", None, 1, Cause::Promoted, "me"),
            of("latest", Some(1), 2, Cause::Published, "job 01a"),
            of("latest", None, 1, Cause::Published, "job 01a"),
        ]
    );
}

fn a_version_is_published_under_other_aliases_in_one_step(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 1);
    assert_eq!(catalog.reserve_version("reviews").unwrap(), 2);
    catalog.publish(&version("reviews", 2, "01a"), &["live"], &[]).unwrap();
    let aliases = catalog.models().unwrap().records.remove(0).aliases;
    assert_eq!(
        aliases.iter().map(|a| (a.name.as_str(), a.version)).collect::<Vec<_>>(),
        [("latest", 2), ("live", 2)]
    );
    assert_eq!(moves(&*catalog)[0], ("live".into(), None, 2, Cause::Promoted, "job 01a".into()));
}

fn only_the_newest_moves_are_kept(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 1);
    for number in 0..MAX_MOVES as i64 + 3 {
        let note = AliasMove {
            time: Time(number),
            alias: "live".into(),
            from: None,
            to: 1,
            cause: Cause::Canary(0.5),
            by: "me".into(),
        };
        catalog.change_settings("reviews", Some(&note), &mut |_| Ok(())).unwrap();
    }
    let moves = catalog.alias_moves("reviews").unwrap();
    assert_eq!((moves.len(), moves[0].time, moves[MAX_MOVES - 1].time), (MAX_MOVES, Time(1002), Time(3)));
}

fn what_is_decided_for_a_model_is_kept_and_a_change_that_fails_changes_nothing(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 1);
    assert_eq!(settings(&*catalog), ModelSettings::default());
    catalog
        .change_settings("reviews", None, &mut |settings| {
            settings.precision = Some(ServePrecision::Int8);
            settings.pinned.insert(1);
            Ok(())
        })
        .unwrap();
    let kept = settings(&*catalog);
    assert_eq!((kept.precision, kept.pinned.contains(&1)), (Some(ServePrecision::Int8), true));
    let failed = catalog.change_settings("reviews", None, &mut |settings| {
        *settings = ModelSettings::default();
        Err(Error::invalid("no"))
    });
    assert_eq!(failed.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(settings(&*catalog), kept);
    let unknown = catalog.change_settings("topics", None, &mut |_| Ok(()));
    assert_eq!(unknown.unwrap_err().kind(), Kind::NotFound);
}

/// Version 2 is pinned, and takes a share of `live` and answers beside it.
fn share(catalog: &dyn Catalog) {
    catalog
        .change_settings("reviews", None, &mut |settings| {
            settings.pinned.insert(2);
            settings.canaries.insert("live".into(), Canary { version: 2, share: 0.05 });
            settings.shadows.insert("live".into(), 2);
            Ok(())
        })
        .unwrap();
}

fn what_names_a_version_goes_with_it(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 2);
    share(&*catalog);
    catalog.delete_version("reviews", 2).unwrap();
    assert_eq!(settings(&*catalog), ModelSettings::default());
}

fn a_promotion_ends_what_shared_the_alias(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 2);
    share(&*catalog);
    catalog.promote("reviews", 1, "other", PROMOTED).unwrap();
    assert_eq!(settings(&*catalog).canaries.len(), 1);
    catalog.promote("reviews", 2, "live", PROMOTED).unwrap();
    let left = settings(&*catalog);
    assert!(left.canaries.is_empty() && left.shadows.is_empty() && left.pinned.contains(&2), "{left:?}");
}

fn history_and_settings_go_with_the_model(catalog: Arc<dyn Catalog>) {
    publish(&*catalog, 2);
    share(&*catalog);
    catalog.delete_model("reviews").unwrap();
    assert_eq!(moves(&*catalog), []);
    assert_eq!(catalog.reserve_version("reviews").unwrap(), 3);
    catalog.publish(&version("reviews", 3, "01a"), &[], &[]).unwrap();
    assert_eq!(settings(&*catalog), ModelSettings::default());
    assert_eq!(moves(&*catalog).len(), 1);
}
