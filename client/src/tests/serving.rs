//! `client models`: promotion, history, and how versions are served.

use hone::v1;
use hone::v1::{AliasMoveCause, ServingState};
use prost_types::Timestamp;

use super::client;
use super::stub::Stub;

/// A model with a version that is served in another precision than was asked for, and one that is not loaded.
fn reviews() -> v1::Model {
    let check = v1::ServingCheck { rows: 872, accuracy_loss_points: 0.1147, largest_change: 0.0623 };
    let serving = v1::Serving {
        state: ServingState::Ready.into(),
        bytes: 91 << 20,
        pinned: true,
        precision: "bf16".into(),
        asked: "int8".into(),
        reasons: vec!["int8 loses 0.80 points of accuracy".into()],
        check: Some(check),
        ..Default::default()
    };
    let version = |version, serving| v1::ModelVersion { version, serving, ..Default::default() };
    let not_loaded = v1::Serving { state: ServingState::NotLoaded.into(), ..Default::default() };
    let shadow = v1::Shadow {
        version: 1,
        calls: 10,
        dropped: 2,
        texts: 20,
        agreed: 19,
        flipped: 1,
        mean_difference: 0.0125,
        largest_difference: 0.5,
        ..Default::default()
    };
    let canary = v1::Canary { version: 1, share: 0.05 };
    let live = v1::Alias { name: "live".into(), version: 2, canary: Some(canary), shadow: Some(shadow) };
    v1::Model {
        name: "reviews".into(),
        versions: vec![version(2, Some(serving)), version(1, Some(not_loaded))],
        aliases: vec![live],
        precision: Some("int8".into()),
    }
}

#[tokio::test]
async fn a_model_is_shown_with_how_it_is_served_and_who_shares_its_aliases() {
    let stub = Stub::start().await;
    stub.script().models = vec![reviews()];
    let ran = client(&stub, &["models", "show", "reviews"]).await;
    for words in [
        "reviews@2  ready, pinned",
        "bf16",
        "0.11 points",
        "0.0623",
        "reviews@2: int8 loses 0.80 points of accuracy",
        "precision: int8 is asked for",
        "reviews@live: version 1 answers 5% of its callers",
        "19 of 20 texts have the same labels (95%), 1 do not",
        "10 calls compared, 2 dropped",
    ] {
        assert!(ran.out.contains(words), "{words}: {}", ran.out);
    }
    let json = &client(&stub, &["models", "show", "reviews", "--json"]).await.json()[0];
    assert_eq!(json["versions"][0]["serving"]["check"]["rows"], 872);
    assert_eq!(json["versions"][1]["serving"]["state"], "not_loaded");
    assert_eq!(json["shared"]["live"]["canary"]["share"], 0.05);
    assert_eq!(json["shared"]["live"]["shadow"]["flipped"], 1);
}

#[tokio::test]
async fn a_promotion_names_its_alias_its_share_or_its_shadow() {
    let stub = Stub::start().await;
    for (line, alias, canary, shadow, told) in [
        ("reviews@2", "live", None, None, "reviews@live is version 2 now"),
        ("reviews@2 production", "production", None, None, "reviews@production is version 2 now"),
        ("reviews@2 --alias test", "test", None, None, "reviews@test is version 2 now"),
        (
            "reviews@2 --canary 5%",
            "live",
            Some(0.05),
            None,
            "reviews@2 answers 5% of the callers of reviews@live now",
        ),
        ("reviews@2 --canary 0", "live", Some(0.0), None, "reviews@live is shared with no other version now"),
        ("reviews@2 --shadow", "live", None, Some(true), "reviews@2 answers beside reviews@live now"),
        ("reviews@2 --shadow=off", "live", None, Some(false), "nothing answers beside reviews@live any more"),
    ] {
        let words = ["models", "promote"].into_iter().chain(line.split(' '));
        let ran = client(&stub, &words.collect::<Vec<_>>()).await;
        assert_eq!((ran.code, ran.out.trim_end()), (0, told), "{ran:?}");
        let sent = stub.script().promoted.take();
        let model = "reviews@2".to_owned();
        assert_eq!(
            sent,
            Some(v1::PromoteModelRequest { model, alias: alias.into(), canary, shadow }),
            "{line}"
        );
    }
    let ran = client(&stub, &["models", "rollback", "reviews"]).await;
    assert_eq!(ran.out, "reviews@live is version 1 now\n", "the version before");
}

#[tokio::test]
async fn a_history_tells_who_moved_which_alias_when() {
    let stub = Stub::start().await;
    let moved = |from, to, cause: AliasMoveCause, share| v1::AliasMove {
        time: Some(Timestamp { seconds: 1_795_000_000, nanos: 0 }),
        alias: "live".into(),
        from,
        to,
        cause: cause.into(),
        share,
        by: "10.0.0.7 (grpc-python/1.66)".into(),
    };
    stub.script().moves = vec![
        moved(2, 3, AliasMoveCause::Canary, 0.05),
        moved(1, 2, AliasMoveCause::RolledBack, 0.0),
        moved(0, 1, AliasMoveCause::Promoted, 0.0),
    ];
    let ran = client(&stub, &["models", "history", "reviews"]).await;
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(lines[1].contains("live   2     3   canary 5%"), "{}", ran.out);
    assert!(lines[2].contains("rolled back  10.0.0.7 (grpc-python/1.66)"), "{}", ran.out);
    assert!(lines[3].contains("-     1   promoted"), "{}", ran.out);
    let json = client(&stub, &["models", "history", "reviews", "--json"]).await.json();
    assert_eq!((&json[0]["cause"], &json[0]["share"]), (&"canary".into(), &0.05.into()));
    assert_eq!((&json[2]["from"], &json[2]["share"]), (&serde_json::Value::Null, &serde_json::Value::Null));
}

#[tokio::test]
async fn what_is_loaded_is_changed_by_name() {
    let stub = Stub::start().await;
    stub.script().models = vec![reviews()];
    for line in [
        "load reviews@2",
        "unload reviews",
        "pin reviews@live",
        "unpin reviews@2",
        "set reviews --precision int8",
    ] {
        let words = ["models"].into_iter().chain(line.split(' '));
        let ran = client(&stub, &words.collect::<Vec<_>>()).await;
        assert!(ran.code == 0 && ran.out.contains("reviews@2  ready, pinned"), "{line}: {ran:?}");
    }
    assert_eq!(client(&stub, &["models", "load", "films"]).await.code, 4);
}
