//! Lists of a daemon that has been used for long: many jobs, and some with many labels.

use hone_storage::JobEvent;
use std::collections::HashMap;

use super::*;
use crate::jobs::testing::{epoch, metrics};
use hone_train::event::{LabelMetrics, Metrics, TestMetrics};

/// What a gRPC client takes that says nothing else, and a quarter of what Hone's own takes.
const CLIENT_LIMIT: usize = 4 << 20;

const JOBS: usize = 10_000;
const LABELS: usize = 1_000;

/// Metrics of a thousand labels.
fn of_many_labels() -> Metrics {
    let label = |number| LabelMetrics {
        label: format!("a label with a name of usual length {number}"),
        precision: 0.123_456,
        recall: 0.654_321,
        f1: 0.5,
        rows: 1_000 + number,
        threshold: None,
    };
    Metrics { labels: (0..LABELS as u64).map(label).collect(), ..metrics() }
}

/// Fills the data folder of a daemon that has run one job: 10,000 jobs, of which 40 have a thousand labels and 30 epochs;
/// 300 versions of one model with as many labels.
fn fill(home: &Home) {
    let mut database = rusqlite::Connection::open(home.path().join("hone.db")).unwrap();
    let transaction = database.transaction().unwrap();
    let body = |event: &JobEvent| serde_json::to_string(event).unwrap();
    let whole =
        hone_train::event::EpochMetrics { train: of_many_labels(), validation: of_many_labels(), ..epoch() };
    let test = JobEvent::Test(TestMetrics { metrics: of_many_labels(), epoch: 1, seconds: 1.0 });
    let (small, large, test) = (body(&JobEvent::Epoch(epoch())), body(&JobEvent::Epoch(whole)), body(&test));
    for number in 1..JOBS {
        let id = format!("00{number:024}");
        transaction
            .execute(
                "INSERT INTO jobs (id, state, spec, created, last_event) SELECT ?1, state, spec, created, 1 FROM jobs \
                 ORDER BY id DESC LIMIT 1",
                [&id],
            )
            .unwrap();
        let log = |number: i64, kind: &str, body: &str| {
            let statement = "INSERT INTO events (job, number, time, kind, body) VALUES (?1, ?2, 0, ?3, ?4)";
            transaction.execute(statement, rusqlite::params![id, number, kind, body]).unwrap();
        };
        if number % 250 == 0 {
            (1..=30).for_each(|number| log(number, "epoch", &large));
            log(31, "test", &test);
        } else {
            log(1, "epoch", &small);
        }
    }
    for version in 2..=300 {
        let metrics = serde_json::to_string(&of_many_labels()).unwrap();
        transaction
            .execute(
                "INSERT INTO versions (model, version, record) SELECT model, ?1, json_set(record, '$.version', ?1, \
                 '$.validation', json(?2)) FROM versions WHERE version = 1",
                rusqlite::params![version, metrics],
            )
            .unwrap();
    }
    transaction.commit().unwrap();
}

#[tokio::test]
async fn no_page_of_a_daemon_with_10_000_jobs_and_1_000_labels_is_larger_than_a_client_takes() {
    let home = Home::new();
    let daemon = Harness::start(&home).await;
    daemon.train("reviews").await;
    daemon.stop().await;
    fill(&home);
    let daemon = Harness::start(&home).await;

    for without_labels in [false, true] {
        let (mut ids, mut pages, mut page_token) = (Vec::new(), 0, String::new());
        loop {
            let request = v1::ListJobsRequest { page_token, without_labels, ..Default::default() };
            let page = daemon.training().list(request).await.unwrap().into_inner();
            assert!(page.encoded_len() < CLIENT_LIMIT, "{}", page.encoded_len());
            pages += 1;
            ids.extend(page.jobs.into_iter().map(|job| job.id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(ids.len(), JOBS);
        assert!(ids.is_sorted_by(|one, next| one > next), "each once, the newest first");
        assert!(pages > 1);
    }
    // A client that knows no pages gets the first one.
    let first = daemon.training().list(v1::ListJobsRequest::default()).await.unwrap().into_inner();
    assert!(first.jobs.len() > 100);
    let large = v1::GetJobRequest { job_id: format!("00{:024}", 250) };
    let large = daemon.training().get(large).await.unwrap().into_inner();
    assert!(large.encoded_len() < CLIENT_LIMIT && large.labels_left_out);
    assert_eq!((large.epochs.len(), large.test.unwrap().metrics.unwrap().labels.len()), (30, LABELS));

    let (mut versions, mut page_token) = (HashMap::<String, Vec<u32>>::new(), String::new());
    loop {
        let request = v1::ListModelsRequest { page_token, ..Default::default() };
        let page = daemon.models().list(request).await.unwrap().into_inner();
        assert!(page.encoded_len() < CLIENT_LIMIT, "{}", page.encoded_len());
        for model in page.models {
            assert_eq!(model.aliases.len(), 1, "each part of a model has its aliases");
            versions
                .entry(model.name)
                .or_default()
                .extend(model.versions.iter().map(|version| version.version));
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(versions, HashMap::from([("reviews".to_owned(), (1..=300).rev().collect())]));
    daemon.stop().await;
}

#[tokio::test]
async fn a_page_has_as_many_records_as_were_asked_for_and_names_the_next_one() {
    let home = Home::new();
    let daemon = Harness::start(&home).await;
    for name in ["a", "b", "c"] {
        daemon.train(name).await;
        daemon.upload(vec![header(name), chunk(name.as_bytes())]).await.unwrap();
    }
    let (mut jobs, mut models, mut datasets) = (Vec::new(), Vec::new(), Vec::new());
    let mut tokens = [String::new(), String::new(), String::new()];
    for _ in 0..2 {
        let [a, b, c] = tokens;
        let request = v1::ListJobsRequest { page_size: 2, page_token: a, ..Default::default() };
        let found = daemon.training().list(request).await.unwrap().into_inner();
        jobs.push(found.jobs.len());
        let request = v1::ListModelsRequest { page_size: 2, page_token: b };
        let of_models = daemon.models().list(request).await.unwrap().into_inner();
        models.push(of_models.models.iter().map(|model| model.name.clone()).collect::<Vec<_>>());
        let request = v1::ListDatasetsRequest { page_size: 2, page_token: c };
        let of_datasets = daemon.datasets().list(request).await.unwrap().into_inner();
        datasets.push(of_datasets.datasets.len());
        tokens = [found.next_page_token, of_models.next_page_token, of_datasets.next_page_token];
    }
    // The data set of the demonstration is the fourth one.
    assert_eq!((jobs, datasets), (vec![2, 1], vec![2, 2]));
    assert_eq!(models, [vec!["a", "b"], vec!["c"]]);
    assert_eq!(&tokens[..2], ["", ""]);
    for token in ["no token", &"x".repeat(300)] {
        let request = v1::ListDatasetsRequest { page_token: token.into(), ..Default::default() };
        let status = daemon.datasets().list(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with("`page_token`: "), "{status}");
    }
    let request = v1::ListModelsRequest { page_token: "a@live".into(), ..Default::default() };
    assert_eq!(daemon.models().list(request).await.unwrap_err().code(), Code::InvalidArgument);
    daemon.stop().await;
}
