//! Other programs' protocols: their answers are those of `Classify`.

use hone::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use hone::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use hone::inference::{InferTensorContents, ModelInferRequest, ModelReadyRequest, RepositoryIndexRequest};
use hone::tei::info_client::InfoClient;
use hone::tei::predict_client::PredictClient;
use hone::tei::{InfoRequest, PredictPairRequest, PredictRequest, PredictResponse};
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use super::{classify, request, train_sets, with_model};
use crate::harness::daemon::Daemon;

const TEXTS: [&str; 2] = ["a splendid thing", "it was cold"];

fn tei(daemon: &Daemon) -> PredictClient<tonic::transport::Channel> {
    PredictClient::new(daemon.channel.clone())
}

fn of_model<M>(model: &'static str, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-model", model.parse().expect("a name"));
    request
}

fn predict(text: &str, raw_scores: bool) -> PredictRequest {
    PredictRequest { inputs: text.into(), truncate: true, raw_scores, ..PredictRequest::default() }
}

fn scores(answer: &PredictResponse) -> Vec<(String, f32)> {
    answer.predictions.iter().map(|prediction| (prediction.label.clone(), prediction.score)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_text_embeddings_inference_gets_the_same_scores() {
    let (_data, daemon) = with_model().await;
    let same = classify(&daemon, request(&TEXTS)).await.expect("an answer").predictions;
    for (text, same) in TEXTS.into_iter().zip(&same) {
        let answer = tei(&daemon).predict(predict(text, false)).await.expect("an answer");
        let tokens = answer.metadata().get("x-compute-tokens").expect("a header").to_str().expect("a number");
        assert_eq!(tokens, same.tokens.to_string());
        let expected: Vec<_> = same.scores.iter().map(|score| (score.label.clone(), score.score)).collect();
        assert_eq!(scores(answer.get_ref()), expected);
    }
    let info =
        InfoClient::new(daemon.channel.clone()).info(InfoRequest {}).await.expect("an answer").into_inner();
    assert_eq!((info.model_id.as_str(), info.max_input_length, info.model_type), ("toy@1", 32, 1));

    let long = PredictRequest { truncate: false, ..predict(&"warm ".repeat(40), false) };
    let status = tei(&daemon).predict(long.clone()).await.expect_err("it is too long");
    assert_eq!(status.code(), Code::InvalidArgument);
    let requests = tokio_stream::iter([predict(TEXTS[0], false), long, predict(TEXTS[1], false)]);
    let mut answers = tei(&daemon).predict_stream(requests).await.expect("a stream").into_inner();
    assert!(answers.message().await.expect("an answer").is_some());
    assert_eq!(answers.message().await.expect_err("its error").code(), Code::InvalidArgument);
    let triple = PredictPairRequest { inputs: vec!["a".into(); 3], ..PredictPairRequest::default() };
    assert_eq!(tei(&daemon).predict_pair(triple).await.expect_err("no pair").code(), Code::InvalidArgument);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_texts_may_have_several_labels_each_score_is_the_sigmoid_of_its_logit() {
    let (_data, daemon) = with_model().await;
    train_sets(&daemon).await;
    let status = tei(&daemon).predict(predict("warm coffee", false)).await.expect_err("which model?");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("x-model"), "{status}");
    let ask = async |raw| {
        let request = of_model("sets", predict("a warm thing with coffee", raw));
        scores(&tei(&daemon).predict(request).await.expect("an answer").into_inner())
    };
    let (scores, logits) = (ask(false).await, ask(true).await);
    assert_eq!(scores.len(), 3);
    for ((label, score), (of, logit)) in scores.iter().zip(&logits) {
        assert_eq!(label, of);
        assert!((score - 1.0 / (1.0 + (-logit).exp())).abs() < 1e-5, "{label} {score} {logit}");
    }
    daemon.stop().await;
}

fn infer(texts: &[&str]) -> ModelInferRequest {
    let bytes_contents = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    let tensor = InferInputTensor {
        name: "text".into(),
        datatype: "BYTES".into(),
        shape: vec![texts.len() as i64],
        contents: Some(InferTensorContents { bytes_contents, ..InferTensorContents::default() }),
        ..InferInputTensor::default()
    };
    ModelInferRequest { model_name: "toy".into(), inputs: vec![tensor], ..ModelInferRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_open_inference_protocol_gets_the_same_scores_in_both_forms() {
    let (_data, daemon) = with_model().await;
    let mut client = GrpcInferenceServiceClient::new(daemon.channel.clone());
    let same = classify(&daemon, request(&TEXTS)).await.expect("an answer").predictions;
    let answer = client.model_infer(infer(&TEXTS)).await.expect("an answer").into_inner();
    let contents = |name: &str| {
        let tensor = answer.outputs.iter().find(|output| output.name == name).expect("a tensor");
        tensor.contents.clone().expect("contents")
    };
    assert_eq!((answer.model_version.as_str(), answer.raw_output_contents.len()), ("1", 0));
    let labels: Vec<_> = same.iter().map(|prediction| prediction.label.clone().into_bytes()).collect();
    assert_eq!(contents("label").bytes_contents, labels);
    let top: Vec<f32> = same.iter().map(|prediction| prediction.score).collect();
    assert_eq!(contents("score").fp32_contents, top);
    assert_eq!(contents("labels").bytes_contents[0], br#"["positive"]"#);

    let mut raw = infer(&TEXTS);
    raw.inputs[0].contents = None;
    let element = |text: &&str| [&(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat();
    raw.raw_input_contents = vec![TEXTS.iter().flat_map(element).collect()];
    raw.outputs = vec![InferRequestedOutputTensor { name: "score".into(), ..Default::default() }];
    let answer = client.model_infer(raw).await.expect("an answer").into_inner();
    let expected: Vec<u8> = top.iter().flat_map(|score| score.to_le_bytes()).collect();
    assert_eq!(answer.raw_output_contents, [expected]);

    let status = client.model_infer(infer(&[])).await.expect_err("no text");
    assert_eq!(status.get_details_bad_request().expect("details").field_violations[0].field, "inputs");
    let bad = ModelInferRequest { model_version: "7".into(), ..infer(&TEXTS) };
    let mut answers = client
        .model_stream_infer(tokio_stream::iter([bad, infer(&TEXTS)]))
        .await
        .expect("a stream")
        .into_inner();
    let failed = answers.message().await.expect("an answer").expect("an answer");
    assert!(failed.error_message.contains("toy@7"), "{failed:?}");
    let answer = answers.message().await.expect("an answer").expect("an answer");
    assert_eq!((answer.error_message.as_str(), answer.infer_response.expect("it").outputs.len()), ("", 4));
    let ready = client.model_ready(ModelReadyRequest { name: "toy".into(), version: "1".into() }).await;
    assert!(ready.expect("an answer").into_inner().ready);
    let index =
        client.repository_index(RepositoryIndexRequest::default()).await.expect("an answer").into_inner();
    assert_eq!(index.models[0].state, "READY");
    daemon.stop().await;
}
