//! A daemon that stops, or is given up, while a job runs.

use std::time::Duration;

use hone::v1;
use hone::v1::event::Kind;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

use super::{Harness, texts};
use crate::jobs::testing::Home;

#[tokio::test]
async fn stopping_cuts_streams_off_interrupts_the_job_and_keeps_the_queue() {
    let home = Home::new();
    let daemon = Harness::start(&home).await;
    let running = daemon.submit("endless").await;
    let queued = daemon.submit("reviews").await;
    let mut events = daemon.watch(&running.id, 0).await;
    while !matches!(events.message().await.unwrap().unwrap().kind, Some(Kind::Step(_))) {}
    let mut health = HealthClient::new(daemon.channel.clone());
    let request = HealthCheckRequest { service: String::new() };
    let mut health = health.watch(request).await.unwrap().into_inner();
    assert_eq!(health.message().await.unwrap().unwrap().status, 1);
    let idle = futures::stream::pending::<v1::ClassifyRequest>();
    let classify = tokio::spawn({
        let mut client = daemon.inference();
        async move { client.classify_stream(idle).await.unwrap().into_inner().message().await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    daemon.stop().await;

    assert_eq!(health.message().await.unwrap().unwrap().status, 2);
    let status = loop {
        match events.message().await {
            Ok(event) => assert!(event.is_some()),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("connect again"), "{status}");
    assert_eq!(classify.await.unwrap().unwrap_err().code(), Code::Unavailable);

    let daemon = Harness::start(&home).await;
    let get = async |id: &str| {
        daemon.training().get(v1::GetJobRequest { job_id: id.into() }).await.unwrap().into_inner()
    };
    let mut events = daemon.watch(&running.id, 0).await;
    let mut states = Vec::new();
    while states.len() < 5 {
        if let Some(Kind::StateChanged(change)) = events.message().await.unwrap().unwrap().kind {
            states.push(change.state());
        }
    }
    use v1::JobState::{Interrupted, Queued, Running};
    assert_eq!(states, [Queued, Running, Interrupted, Queued, Running], "it goes on by itself");
    assert_eq!(get(&queued.id).await.state(), Queued);
    daemon.training().pause(v1::PauseJobRequest { job_id: running.id.clone() }).await.unwrap();
    let mut events = daemon.watch(&queued.id, 0).await;
    while events.message().await.unwrap().is_some() {}
    assert_eq!(get(&queued.id).await.state(), v1::JobState::Succeeded);
    assert_eq!(get(&running.id).await.state(), v1::JobState::Paused);
    daemon.stop().await;
}

#[tokio::test]
async fn a_daemon_that_is_given_up_while_a_job_runs_holds_the_data_folder_until_the_job_has_stopped() {
    let home = Home::new();
    let daemon = Harness::start(&home).await;
    let running = daemon.submit("endless").await;
    let mut events = daemon.watch(&running.id, 0).await;
    while !matches!(events.message().await.unwrap().unwrap().kind, Some(Kind::Step(_))) {}
    daemon.task.abort();
    assert!(daemon.task.await.unwrap_err().is_cancelled());
    let taken = || hone_storage::DataDir::open(home.path()).map(drop).map_err(|error| error.kind());
    assert_eq!(taken(), Err(hone_base::error::Kind::Unavailable));
    daemon.jobs.close();
    for _ in 0..1000 {
        if taken().is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the job does not let go of the folder");
}

#[tokio::test]
async fn a_call_that_goes_on_is_answered_and_a_later_one_is_told_when_to_come_back() {
    let home = Home::new();
    let daemon = Harness::start(&home).await;
    daemon.train("reviews").await;
    daemon.inference().classify(texts("", &["good"])).await.unwrap();
    let mut health = HealthClient::new(daemon.channel.clone());
    let request = HealthCheckRequest { service: "hone.v1.InferenceService".into() };
    let mut health = health.watch(request).await.unwrap().into_inner();
    assert_eq!(health.message().await.unwrap().unwrap().status, 1);
    let running: Vec<_> = (0..8)
        .map(|_| {
            let mut client = daemon.inference();
            tokio::spawn(async move { client.classify(texts("", &["slow"])).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (mut late, address) = (daemon.inference(), daemon.address.clone());
    let stopped = tokio::spawn(daemon.stop());
    assert_eq!(health.message().await.unwrap().unwrap().status, 2);
    let refused = late.classify(texts("", &["good"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let retry = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(retry >= Duration::from_secs(1), "{retry:?}");
    for call in running {
        assert_eq!(call.await.unwrap().unwrap().into_inner().predictions.len(), 1);
    }
    stopped.await.unwrap();
    assert!(tokio::net::TcpStream::connect(&address).await.is_err());
}

#[tokio::test]
async fn calls_that_take_longer_than_the_drain_timeout_do_not_hold_the_daemon_up() {
    let home = Home::new();
    let daemon = Harness::start_with_flags(&home, &["--drain-timeout", "0"]).await;
    daemon.train("reviews").await;
    daemon.inference().classify(texts("", &["good"])).await.unwrap();
    let mut client = daemon.inference();
    let running = tokio::spawn(async move { client.classify(texts("", &["slow", "slow", "slow"])).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    daemon.stop().await;
    drop(running.await.unwrap());
}
