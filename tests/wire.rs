//! What a caller of online prediction can say and gets back, in each protocol, from a real daemon.

mod http;
mod protocols;

use hone::v1::upload_dataset_request::Part;
use hone::v1::{
    ClassifyRequest, ClassifyResponse, Columns, Input, TruncationSide, UploadDatasetRequest, UploadHeader,
};
use tonic::codec::CompressionEncoding;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::harness::daemon::Daemon;
use crate::harness::toy_sets;

/// A daemon with a model of two labels, `toy`.
async fn with_model() -> (tempfile::TempDir, Daemon) {
    let data = tempfile::tempdir().expect("a folder");
    let daemon = Daemon::start(data.path()).await;
    daemon.train_toy().await;
    (data, daemon)
}

/// Trains a model whose texts may have several labels, `sets`.
async fn train_sets(daemon: &Daemon) {
    let columns = Some(Columns { label_separator: Some("|".into()), ..Columns::default() });
    let header =
        UploadHeader { name: "sets.csv".into(), columns: columns.clone(), ..UploadHeader::default() };
    let parts = [Part::Header(header), Part::Chunk(toy_sets(200, 1).into_bytes())];
    let parts = parts.map(|part| UploadDatasetRequest { part: Some(part) });
    let train = daemon.datasets().upload(tokio_stream::iter(parts)).await.expect("an upload").into_inner();
    let mut spec = daemon.toy_spec().await;
    spec.name = Some("sets".into());
    spec.train = Some(hone::v1::DataSource { dataset_id: train.id, name: None });
    spec.test = None;
    spec.columns = columns;
    let job = daemon.start_job(spec).await.expect("a job");
    daemon.watch(&job.id, 0).await.expect("events");
}

fn request(texts: &[&str]) -> ClassifyRequest {
    let inputs = texts.iter().map(|text| Input { text: (*text).into(), text_pair: None }).collect();
    ClassifyRequest { model: "toy".into(), inputs, ..ClassifyRequest::default() }
}

async fn classify(daemon: &Daemon, request: ClassifyRequest) -> Result<ClassifyResponse, Status> {
    Ok(daemon.inference().classify(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_says_which_scores_it_wants_and_its_id_comes_back() {
    let (_data, daemon) = with_model().await;
    let all = classify(&daemon, request(&["a splendid thing"])).await.expect("an answer");
    assert_eq!(all.predictions[0].scores.len(), 2);
    assert!(all.predictions[0].scores.iter().all(|score| score.logit.is_none()));
    let asked = ClassifyRequest {
        top_k: 1,
        return_logits: true,
        request_id: "mine".into(),
        priority: 5,
        routing_key: "a user".into(),
        ..request(&["a splendid thing", "it was cold"])
    };
    let answer = classify(&daemon, asked.clone()).await.expect("an answer");
    assert_eq!(answer.request_id, "mine");
    for prediction in &answer.predictions {
        assert_eq!(prediction.scores.len(), 1);
        assert_eq!(prediction.scores[0].label, prediction.label);
    }
    let both = classify(&daemon, ClassifyRequest { top_k: 0, ..asked }).await.expect("an answer");
    let scores = &both.predictions[0].scores;
    let difference = scores[0].logit.expect("a logit") - scores[1].logit.expect("a logit");
    let odds = (scores[0].score / scores[1].score).ln();
    assert!((difference - odds).abs() < 1e-3 * odds.abs().max(1.0), "{difference} {odds}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_text_is_cut_on_the_side_that_is_asked_for_or_is_an_error_of_its_own() {
    let (_data, daemon) = with_model().await;
    // Each letter is a token.
    let long = "a b c d e f ".repeat(10);
    let with = |side: TruncationSide, max_length| ClassifyRequest {
        truncation_side: side.into(),
        max_length,
        ..request(&["a fine day", &long])
    };
    for (side, kept) in [(TruncationSide::Right, "a b c d"), (TruncationSide::Left, "c d e f")] {
        let cut = classify(&daemon, with(side, 6)).await.expect("an answer").predictions.remove(1);
        assert_eq!((cut.tokens, cut.truncated), (6, true));
        let whole = classify(&daemon, request(&[kept])).await.expect("an answer").predictions.remove(0);
        assert_eq!(cut, hone::v1::Prediction { truncated: true, ..whole });
    }

    let fine = classify(&daemon, request(&["a fine day"])).await.expect("an answer").predictions;
    let answer = classify(&daemon, with(TruncationSide::None, 0)).await.expect("an answer");
    assert_eq!(answer.predictions[0], fine[0]);
    let error = answer.predictions[1].error.as_ref().expect("an error");
    assert_eq!((error.code, error.field.as_str()), (Code::InvalidArgument as i32, "inputs[1].text"));
    assert!(error.message.contains("at most 32"), "{error:?}");

    let whole = ClassifyRequest { all_or_nothing: true, ..with(TruncationSide::None, 0) };
    let status = classify(&daemon, whole).await.expect_err("all or nothing");
    assert_eq!(status.code(), Code::InvalidArgument);
    let violations = status.get_details_bad_request().expect("details").field_violations;
    assert_eq!(violations[0].field, "inputs[1].text");
    let status =
        classify(&daemon, with(TruncationSide::Right, 33)).await.expect_err("more than the model takes");
    assert_eq!(status.get_details_bad_request().expect("details").field_violations[0].field, "max_length");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_score_below_the_least_is_no_label_and_thresholds_are_not_overruled() {
    let (_data, daemon) = with_model().await;
    let with = |min_score| ClassifyRequest { min_score: Some(min_score), ..request(&["a splendid thing"]) };
    let labelled = classify(&daemon, with(0.0)).await.expect("an answer").predictions.remove(0);
    assert_eq!((labelled.label.as_str(), labelled.labels.len()), ("positive", 1));
    let none = classify(&daemon, with(1.0)).await.expect("an answer").predictions.remove(0);
    assert_eq!((none.label.as_str(), none.labels.len(), none.score), ("", 0, labelled.score));
    train_sets(&daemon).await;
    let sets = ClassifyRequest { model: "sets".into(), ..with(0.5) };
    let status = classify(&daemon, sets).await.expect_err("each label has a threshold");
    assert_eq!(status.get_details_bad_request().expect("details").field_violations[0].field, "min_score");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_requests_are_answered_alike_and_have_a_bound() {
    let (_data, daemon) = with_model().await;
    let plain = classify(&daemon, request(&["a splendid thing"; 900])).await.expect("an answer");
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut client = daemon.inference().send_compressed(encoding).accept_compressed(encoding);
        let answer = client.classify(request(&["a splendid thing"; 900])).await.expect("an answer");
        let used = answer.metadata().get("grpc-encoding").expect("it is compressed").to_str().expect("text");
        assert_eq!(used, if encoding == CompressionEncoding::Gzip { "gzip" } else { "zstd" });
        assert_eq!(answer.into_inner().predictions, plain.predictions);
        let small = client.classify(request(&["a fine day"])).await.expect("an answer").into_inner();
        assert_eq!(small.predictions.len(), 1);
        // 40 MiB that are a few KiB on the wire.
        let bomb = "x".repeat(1 << 20);
        let status = client.classify(request(&[bomb.as_str(); 40])).await.expect_err("too large");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let requests = tokio_stream::iter([request(&["a fine day"]), request(&["it was cold"])]);
        let mut answers = client.classify_stream(requests).await.expect("a stream").into_inner();
        while answers.message().await.expect("an answer").is_some() {}
    }
    daemon.stop().await;
}
