//! Tests: change under load, with an engine that needs no model.

use std::time::Duration;

use super::*;
use crate::serve::load::Policy;
use crate::serve::options::Options;
use crate::serve::registry::Settings;
use crate::serve::testing::{Bench, input};
use crate::serve::worker::Stage;

const BY: &str = "a test";

fn aliases(model: &Model) -> Vec<(&str, u32)> {
    model.aliases.iter().map(|alias| (alias.name.as_str(), alias.version)).collect()
}

fn is_ready(bench: &Bench, version: &Version) -> bool {
    matches!(bench.models.stage(version), Some((Stage::Ready(_), _)))
}

#[tokio::test]
async fn a_version_is_loaded_before_an_alias_leads_to_it_and_who_moved_it_is_written_down() {
    let bench = Bench::new();
    let (first, second) = (bench.publish_sampled("reviews", "weights"), bench.publish("reviews"));
    bench.models.promote("reviews@1", "live", BY).await.unwrap();
    assert!(is_ready(&bench, &first) && !is_ready(&bench, &second));
    let model = bench.models.promote("reviews@latest", "live", BY).await.unwrap();
    assert_eq!(aliases(&model), [("latest", 2), ("live", 2)]);
    assert!(is_ready(&bench, &first), "the version before stays ready for a way back");
    let moves = bench.models.history("reviews").unwrap();
    assert_eq!((moves[0].from, moves[0].to, moves[0].by.as_str()), (Some(1), 2, BY));
    assert_eq!(moves[2].by, "job 01a");
    bench.models.shut_down();
}

#[tokio::test]
async fn a_version_that_fails_its_check_leaves_the_alias_where_it_was() {
    let bench = Bench::new();
    bench.publish("reviews");
    let damaged = bench.publish_sampled("reviews", "damaged");
    bench.models.promote("reviews@1", "live", BY).await.unwrap();
    let error = bench.models.promote("reviews@2", "live", BY).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert_eq!(aliases(&bench.models.get("reviews").unwrap()), [("latest", 2), ("live", 1)]);
    assert!(matches!(bench.models.stage(&damaged), Some((Stage::Failed(_), 0))));
    for canary in [0.5, 0.0] {
        let set = bench.models.canary("reviews@2", "live", canary, BY).await;
        assert_eq!(set.is_ok(), canary == 0.0, "what ends needs no model");
    }
    bench.models.shut_down();
}

#[tokio::test]
async fn a_way_back_leads_to_the_version_before_until_there_is_none() {
    let bench = Bench::new();
    (0..3).for_each(|_| drop(bench.publish("reviews")));
    for version in ["reviews@1", "reviews@2", "reviews@3"] {
        bench.models.promote(version, "live", BY).await.unwrap();
    }
    for expected in [2, 1] {
        let model = bench.models.rollback("reviews", "live", BY).await.unwrap();
        assert_eq!(aliases(&model)[1], ("live", expected));
    }
    let error = bench.models.rollback("reviews", "live", BY).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Precondition);
    assert_eq!(bench.models.rollback("reviews", "test", BY).await.unwrap_err().kind(), Kind::NotFound);
    bench.models.shut_down();
}

#[tokio::test]
async fn a_canary_takes_its_share_of_the_callers_and_a_promotion_completes_it() {
    let bench = Bench::new();
    (0..2).for_each(|_| drop(bench.publish("reviews")));
    bench.models.promote("reviews@1", "live", BY).await.unwrap();
    let versions = async || {
        let mut versions = Vec::new();
        for user in 0..200 {
            let key = format!("user-{user}");
            let route = bench.models.route("reviews@live", Some(&key)).await.unwrap();
            versions.push(route.version.version);
        }
        versions
    };
    let share = |versions: &[u32]| versions.iter().filter(|version| **version == 2).count();
    assert_eq!(share(&versions().await), 0);
    bench.models.canary("reviews@2", "live", 0.2, BY).await.unwrap();
    let some = versions().await;
    assert!((20..=60).contains(&share(&some)), "{}", share(&some));
    assert_eq!(some, versions().await, "a caller stays with a version");
    assert_eq!(bench.models.route("reviews@1", Some("user-1")).await.unwrap().version.version, 1);
    assert_eq!(bench.models.history("reviews").unwrap()[0].cause, Cause::Canary(0.2));
    bench.models.canary("reviews@2", "live", 0.0, BY).await.unwrap();
    assert_eq!(share(&versions().await), 0);
    bench.models.canary("reviews@2", "live", 0.2, BY).await.unwrap();
    let model = bench.models.promote("reviews@2", "live", BY).await.unwrap();
    assert!(model.settings.canaries.is_empty());
    assert_eq!(share(&versions().await), 200);
    bench.models.shut_down();
}

#[tokio::test]
async fn a_canary_needs_an_alias_that_points_elsewhere_and_a_share() {
    let bench = Bench::new();
    (0..2).for_each(|_| drop(bench.publish("reviews")));
    let kind =
        async |version, share| bench.models.canary(version, "live", share, BY).await.unwrap_err().kind();
    assert_eq!(kind("reviews@2", 0.5).await, Kind::NotFound);
    bench.point("reviews", 1, "live");
    assert_eq!(kind("reviews@1", 0.5).await, Kind::Precondition);
    for share in [1.0, -0.1, f64::NAN] {
        assert_eq!(kind("reviews@2", share).await, Kind::Invalid);
    }
    assert_eq!(kind("reviews", 0.5).await, Kind::Invalid);
}

/// Offers a call to the shadow of `reviews@live`, and waits until it is compared.
async fn compare(bench: &Bench, text: &str, scores: [f32; 2]) -> super::super::shadow::Tally {
    let route = bench.models.route("reviews@live", None).await.unwrap();
    let shadow = route.shadow.unwrap();
    let before = shadow.tally().calls;
    let labels: Arc<[String]> = ["negative".to_owned(), "positive".to_owned()].into();
    shadow.compare(vec![input(text)], labels, vec![scores.to_vec()], None);
    while shadow.tally().calls == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    shadow.tally()
}

#[tokio::test]
async fn a_shadow_answers_beside_an_alias_and_is_compared_until_the_alias_moves() {
    let bench = Bench::new();
    (0..2).for_each(|_| drop(bench.publish("reviews")));
    bench.models.promote("reviews@1", "live", BY).await.unwrap();
    assert!(bench.models.route("reviews@live", None).await.unwrap().shadow.is_none());
    bench.models.set_shadow("reviews@2", "live", true).await.unwrap();
    let route = bench.models.route("reviews@live", None).await.unwrap();
    assert_eq!((route.version.version, route.shadow.unwrap().version().version), (1, 2));
    let tally = compare(&bench, "good", [0.2, 0.8]).await;
    assert_eq!((tally.texts, tally.agreed, tally.largest_difference), (1, 1, 0.0));
    let tally = compare(&bench, "good", [0.6, 0.4]).await;
    assert_eq!((tally.texts, tally.agreed), (2, 1));
    assert!((tally.largest_difference - 0.4).abs() < 1e-6 && (tally.mean_difference() - 0.2).abs() < 1e-6);
    bench.models.promote("reviews@2", "live", BY).await.unwrap();
    assert!(bench.models.shadow_of("reviews", "live").is_none());
    assert!(bench.models.route("reviews@live", None).await.unwrap().shadow.is_none());
    bench.models.shut_down();
}

#[tokio::test]
async fn a_shadow_that_is_busy_drops_what_comes_and_one_whose_version_goes_ends() {
    let bench = Bench::new();
    (0..2).for_each(|_| drop(bench.publish("reviews")));
    bench.point("reviews", 1, "live");
    bench.models.set_shadow("reviews@2", "live", true).await.unwrap();
    let shadow = bench.models.shadow_of("reviews", "live").unwrap();
    let labels: Arc<[String]> = ["negative".to_owned(), "positive".to_owned()].into();
    for _ in 0..50 {
        shadow.compare(vec![input("slow")], labels.clone(), vec![vec![0.7, 0.3]], None);
    }
    assert!(shadow.dropped() >= 40, "{}", shadow.dropped());
    bench.models.delete("reviews@2").unwrap();
    assert!(bench.models.shadow_of("reviews", "live").is_none());
    bench.models.shut_down();
}

#[tokio::test]
async fn a_pinned_version_makes_room_for_none_and_is_pinned_after_a_start() {
    let bench = Bench::with_memory(20);
    let (pinned, other) = (bench.publish_sized("reviews", 15), bench.publish_sized("reviews", 15));
    bench.models.pin("reviews@1", true).await.unwrap();
    assert_eq!(bench.models.load("reviews@2").await.unwrap_err().kind(), Kind::Exhausted);
    let error = bench.models.unload("reviews").unwrap_err();
    assert!(error.message().contains("reviews@1 is pinned"), "{error}");
    let again = bench.started_again();
    again.recall().unwrap();
    again.clone().load_pinned().await;
    assert!(matches!(again.stage(&pinned), Some((Stage::Ready(_), 15))));
    again.shut_down();
    bench.models.pin("reviews@1", false).await.unwrap();
    bench.models.load("reviews@2").await.unwrap();
    assert!(bench.models.stage(&pinned).is_none() && is_ready(&bench, &other));
    bench.models.unload("reviews@2").unwrap();
    assert!(bench.models.stage(&other).is_none());
    bench.models.shut_down();
}

#[tokio::test]
async fn a_precision_that_is_decided_for_a_model_holds_for_what_is_loaded_and_after_a_start() {
    let policy = Policy { precision: ServePrecision::Fp32, max_accuracy_loss: 0.5 };
    let bench = Bench::with_settings(Settings { policy, memory: u64::MAX });
    let version = bench.publish_sampled("reviews", "weights");
    let precision = |models: &Models| match models.stage(&version) {
        Some((Stage::Ready(ready), _)) => ready.report.precision.name(),
        _ => "none",
    };
    bench.models.load("reviews").await.unwrap();
    assert_eq!(precision(&bench.models), "fp32");
    let model = bench.models.set_precision("reviews", Some(ServePrecision::Int8)).await.unwrap();
    assert_eq!(model.settings.precision, Some(ServePrecision::Int8));
    assert_eq!(precision(&bench.models), "int8");
    let again = bench.started_again();
    again.recall().unwrap();
    again.load("reviews").await.unwrap();
    assert_eq!(precision(&again), "int8");
    again.shut_down();
    bench.models.set_precision("reviews", None).await.unwrap();
    assert_eq!(precision(&bench.models), "fp32");
    bench.models.shut_down();
}

#[tokio::test]
async fn no_call_fails_and_each_is_answered_by_one_version_while_an_alias_moves() {
    let bench = Bench::new();
    // The second version takes one label for the other, so that an answer tells which one it is from.
    bench.publish("reviews");
    bench.publish_turned("reviews");
    bench.models.promote("reviews@1", "live", BY).await.unwrap();
    let serving = bench.serving();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let serving = serving.clone();
            tokio::spawn(async move {
                let mut seen = [0u32; 2];
                for _ in 0..200 {
                    let answer = serving
                        .classify("reviews@live", vec![input("good")], &Options::default())
                        .await
                        .unwrap();
                    let version = answer.version.version;
                    let class = if version == 1 { 1 } else { 0 };
                    assert_eq!(answer.predictions[0].as_ref().unwrap().labels, [class]);
                    seen[version as usize - 1] += 1;
                }
                seen
            })
        })
        .collect();
    while !callers.iter().all(tokio::task::JoinHandle::is_finished) {
        bench.models.promote("reviews@2", "live", BY).await.unwrap();
        bench.models.rollback("reviews", "live", BY).await.unwrap();
    }
    for caller in callers {
        assert_eq!(caller.await.unwrap().iter().sum::<u32>(), 200);
    }
    bench.models.shut_down();
}
