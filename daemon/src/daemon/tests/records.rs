//! Records that are damaged: all else works, and they are told and can be deleted.

use hone::v1;
use hone::v1::event::Kind;
use tonic::Code;

use super::{Harness, texts};
use crate::jobs::testing::Home;

#[tokio::test]
async fn a_data_folder_with_a_damaged_record_of_each_kind_opens_and_all_else_works() {
    let home = Home::new();
    let daemon = Harness::start(&home).await;
    daemon.train("reviews").await;
    daemon.train("reviews").await;
    daemon.train("topics").await;
    let jobs = daemon.training().list(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs;
    daemon
        .models()
        .promote(v1::PromoteModelRequest {
            model: "topics@1".into(),
            alias: "live".into(),
            ..Default::default()
        })
        .await
        .unwrap();
    daemon.stop().await;
    let (newest, oldest) = (&jobs[0].id, &jobs[2].id);
    let database = rusqlite::Connection::open(home.path().join("hone.db")).unwrap();
    database.pragma_update(None, "foreign_keys", false).unwrap();
    for damage in [
        // As a validation loss that was NaN was recorded.
        "UPDATE versions SET record = json_set(record, '$.validation.loss', null) WHERE model = 'reviews' AND version = 2".to_owned(),
        "UPDATE aliases SET version = 7 WHERE name = 'live'".to_owned(),
        "INSERT INTO datasets (id, created, record) VALUES (printf('%064d', 7), 1, '{}')".to_owned(),
        format!("UPDATE jobs SET spec = 'null' WHERE id = '{newest}'"),
        format!("UPDATE events SET body = 'null' WHERE job = '{oldest}' AND number = 3"),
        format!("UPDATE events SET body = 'null' WHERE job = '{oldest}' AND kind = 'epoch'"),
    ] {
        assert!(database.execute(&damage, []).unwrap() > 0, "{damage}");
    }
    drop(database);

    let daemon = Harness::start(&home).await;
    let ids = |records: Vec<v1::UnreadableRecord>| {
        assert!(records.iter().all(|record| !record.why.is_empty()));
        records.into_iter().map(|record| record.id).collect::<Vec<_>>()
    };
    let listed = daemon.training().list(v1::ListJobsRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.jobs.len(), 2);
    let unreadable = ids(listed.unreadable);
    assert_eq!(unreadable.len(), 2, "{unreadable:?}");
    assert_eq!(unreadable[0], *newest);
    assert!(unreadable[1].starts_with(oldest.as_str()), "{unreadable:?}");
    let models = daemon.models().list(v1::ListModelsRequest::default()).await.unwrap().into_inner();
    assert_eq!(models.models.iter().map(|model| model.versions.len()).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(ids(models.unreadable), ["reviews@2", "topics@live"]);
    let datasets = daemon.datasets().list(v1::ListDatasetsRequest::default()).await.unwrap().into_inner();
    let damaged = ids(datasets.unreadable);
    assert_eq!(damaged.len(), 1);

    let mut events = daemon.watch(oldest, 0).await;
    let mut numbers = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        if event.number == 3 {
            let Some(Kind::Notice(notice)) = event.kind else { panic!("{event:?}") };
            assert!(notice.message.contains("this entry of the log is lost"), "{notice:?}");
        }
        numbers.push(event.number);
    }
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());

    daemon.inference().classify(texts("topics", &["good"])).await.unwrap();
    daemon.inference().classify(texts("reviews@1", &["good"])).await.unwrap();
    let status = daemon.inference().classify(texts("reviews", &["good"])).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    assert!(status.message().contains("use reviews@1"), "{status}");

    for model in ["reviews@2", "topics@live"] {
        daemon.models().delete(v1::DeleteModelRequest { model: model.into() }).await.unwrap();
    }
    daemon.datasets().delete(v1::DeleteDatasetRequest { id: damaged[0].clone() }).await.unwrap();
    for job in [newest, oldest] {
        daemon.training().delete(v1::DeleteJobRequest { job_id: job.clone() }).await.unwrap();
    }
    daemon.inference().classify(texts("reviews", &["good"])).await.unwrap();
    assert!(!home.path().join("models/reviews/2").exists());
    let left = daemon.training().list(v1::ListJobsRequest::default()).await.unwrap().into_inner();
    assert_eq!((left.jobs.len(), left.unreadable.len()), (1, 0));
    daemon.train("reviews").await;
    daemon.stop().await;
}
