//! Change under load: aliases that move while services call, with a real daemon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hone::v1::{
    ClassifyRequest, ClassifyResponse, GetModelRequest, Hyperparameters, Input, LoadModelRequest, Model,
    ModelHistoryRequest, ModelReadyRequest, PinModelRequest, Prediction, PromoteModelRequest,
    RollbackModelRequest, ServingState, UnloadModelRequest,
};
use tonic::{Code, Status};

use crate::harness::daemon::{Calls, Daemon};

const TEXTS: [&str; 3] = ["a splendid thing", "the dreadful thing it was", "truly wonderful and"];

async fn classify(calls: &Calls, model: &str) -> Result<ClassifyResponse, Status> {
    let inputs = TEXTS.iter().map(|text| Input { text: (*text).into(), text_pair: None }).collect();
    let request = ClassifyRequest { model: model.into(), inputs, ..Default::default() };
    Ok(calls.inference().classify(request).await?.into_inner())
}

/// A daemon with two versions of `toy` that answer differently.
async fn with_two_versions() -> (tempfile::TempDir, Daemon) {
    let data = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(data.path()).await;
    for seed in [1, 2] {
        let mut spec = daemon.toy_spec().await;
        let of = spec.hyperparameters.take().unwrap_or_default();
        spec.hyperparameters = Some(Hyperparameters { seed: Some(seed), ..of });
        let job = daemon.start_job(spec).await.expect("a job");
        daemon.watch(&job.id, 0).await.expect("events");
    }
    (data, daemon)
}

fn promotion(model: &str) -> PromoteModelRequest {
    PromoteModelRequest { model: model.into(), alias: "live".into(), ..Default::default() }
}

async fn promote(daemon: &Calls, model: &str) -> Result<Model, Status> {
    Ok(daemon.models().promote(promotion(model)).await?.into_inner())
}

async fn get(daemon: &Calls) -> Model {
    daemon.models().get(GetModelRequest { name: "toy".into() }).await.expect("a model").into_inner()
}

fn live(model: &Model) -> u32 {
    model.aliases.iter().find(|alias| alias.name == "live").map_or(0, |alias| alias.version)
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_promotions_and_ways_back_fail_no_call_and_each_answer_is_of_one_version() {
    let (_data, daemon) = with_two_versions().await;
    let mut expected: Vec<Vec<Prediction>> = Vec::new();
    for version in ["toy@1", "toy@2"] {
        expected.push(classify(&daemon, version).await.expect("an answer").predictions);
    }
    assert_ne!(expected[0], expected[1], "an answer tells which version it is from");
    promote(&daemon, "toy@1").await.expect("promoted");
    let (done, expected) = (Arc::new(AtomicBool::new(false)), Arc::new(expected));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (done, expected) = (done.clone(), expected.clone());
            let calls = Calls::to(daemon.address.clone());
            tokio::spawn(async move {
                let mut answered = [0u32; 2];
                while !done.load(Ordering::Relaxed) {
                    let answer = classify(&calls, "toy@live").await.expect("an answer");
                    let place = answer.version as usize - 1;
                    assert_eq!(answer.predictions, expected[place]);
                    answered[place] += 1;
                }
                answered
            })
        })
        .collect();
    for _ in 0..150 {
        assert_eq!(live(&promote(&daemon, "toy@2").await.expect("promoted")), 2);
        let back = RollbackModelRequest { name: "toy".into(), alias: "live".into() };
        assert_eq!(live(&daemon.models().rollback(back).await.expect("back").into_inner()), 1);
    }
    done.store(true, Ordering::Relaxed);
    let mut answered = [0; 2];
    for caller in callers {
        let of_caller = caller.await.expect("no failed call and no wrong answer");
        answered = [answered[0] + of_caller[0], answered[1] + of_caller[1]];
    }
    assert!(answered[0] > 0 && answered[1] > 0, "{answered:?}");
    let request = ModelHistoryRequest { name: "toy".into() };
    let history = daemon.models().history(request).await.expect("a history").into_inner().moves;
    assert_eq!(history.len(), 303, "two publications, one promotion, and 150 there and back");
    assert!(history[0].by.contains("127.0.0.1"), "{:?}", history[0]);
    assert!(history[302].by.starts_with("job "), "{:?}", history[302]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_answers_is_checked_with_the_sample_that_its_training_recorded() {
    let (_data, daemon) = with_two_versions().await;
    classify(&daemon, "toy@2").await.expect("an answer");
    let model = get(&daemon).await;
    let serving = model.versions[0].serving.clone().expect("how it is served");
    assert_eq!(serving.state(), ServingState::Ready);
    let check = serving.check.expect("a check");
    assert!(check.rows >= 64 && check.accuracy_loss_points.abs() < 5.0, "{check:?}");
    assert!(
        serving.bytes > 0 && ["fp32", "bf16"].contains(&&*serving.precision) && serving.asked == "auto",
        "{serving:?}"
    );
    let other = model.versions[1].serving.clone().expect("how it is served");
    assert_eq!(other.state(), ServingState::NotLoaded);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_with_other_weights_than_were_trained_is_refused_and_the_alias_stays() {
    let (_data, daemon) = with_two_versions().await;
    promote(&daemon, "toy@1").await.expect("promoted");
    let folder = daemon.data().join("models/toy");
    let [first, second] = ["1", "2"].map(|version| folder.join(version).join("model.safetensors"));
    std::fs::copy(&first, &second).expect("the weights of the other version, of the same size");
    let status = promote(&daemon, "toy@2").await.expect_err("the check");
    assert_eq!(status.code(), Code::DataLoss, "{status}");
    assert!(status.message().contains("does not reproduce the logits"), "{status}");
    let model = get(&daemon).await;
    assert_eq!(live(&model), 1);
    let serving = model.versions[0].serving.clone().expect("how it is served");
    assert!(serving.state() == ServingState::Failed && serving.error.contains("logits"), "{serving:?}");
    classify(&daemon, "toy@live").await.expect("an answer");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_is_loaded_when_the_daemon_starts_and_readiness_is_told_by_model() {
    let (data, daemon) = with_two_versions().await;
    daemon.models().pin(PinModelRequest { model: "toy@1".into(), pinned: true }).await.expect("pinned");
    daemon.stop().await;
    let daemon = Daemon::start(data.path()).await;
    let ready = async |model: &str| {
        let request = ModelReadyRequest { model: model.into() };
        daemon.models().ready(request).await.expect("readiness").into_inner()
    };
    while !ready("toy@1").await.ready {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let other = ready("toy@2").await;
    assert!(!other.ready && other.serving.is_some_and(|s| s.state() == ServingState::NotLoaded));
    let unload = daemon.models().unload(UnloadModelRequest { model: "toy@1".into() }).await;
    assert_eq!(unload.expect_err("pinned").code(), Code::FailedPrecondition);
    daemon.models().load(LoadModelRequest { model: "toy@2".into() }).await.expect("loaded");
    assert!(ready("toy@2").await.ready);
    let missing = daemon.models().ready(ModelReadyRequest { model: "toy@9".into() }).await;
    assert_eq!(missing.expect_err("no such version").code(), Code::NotFound);
    daemon.stop().await;
}
