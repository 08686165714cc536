//! Plain HTTP: what is served is what `docs/openapi.json` says.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{classify, request, train_sets, with_model};
use crate::harness::daemon::Daemon;

const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// The status, the head and the JSON of a response.
async fn call(daemon: &Daemon, head: &str, body: &str) -> (u16, String, Value) {
    let address = daemon.address.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    let (line, more) = head.split_once('\n').unwrap_or((head, ""));
    let more: String = more.lines().map(|line| format!("{line}\r\n")).collect();
    let length = if more.contains("Content-Length") {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    let request =
        format!("{line} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{length}{more}\r\n{body}");
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.expect("a response");
    let response = String::from_utf8(response).expect("text");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, head.to_ascii_lowercase(), serde_json::from_str(body).expect("JSON"))
}

/// Why a value is not as a schema says, if it is not; of JSON Schema what the document uses.
fn violation(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    let wrong = |why: &str| Some(format!("{value} is not {why} of {schema}"));
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = document.pointer(reference.trim_start_matches('#')).expect("a schema");
        return violation(document, schema, value);
    }
    if let Some(options) = schema["oneOf"].as_array() {
        let fits = options.iter().any(|option| violation(document, option, value).is_none());
        return if fits { None } else { wrong("one") };
    }
    if schema.get("const").is_some_and(|only| only != value) {
        return wrong("the constant");
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        return wrong("a value");
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        kind => kind.as_str().into_iter().collect::<Vec<_>>(),
    };
    let has_type = |kind: &&str| match *kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => value.is_null(),
    };
    if !types.is_empty() && !types.iter().any(has_type) {
        return wrong("of the type");
    }
    if let Some(members) = value.as_array() {
        return members.iter().find_map(|member| violation(document, &schema["items"], member));
    }
    let fields = value.as_object()?;
    let missing = |name: &&Value| !fields.contains_key(name.as_str().unwrap_or_default());
    if let Some(name) = schema["required"].as_array().and_then(|names| names.iter().find(missing)) {
        return wrong(&format!("complete without {name}"));
    }
    fields.iter().find_map(|(name, field)| match schema["properties"].get(name) {
        Some(schema) => violation(document, schema, field),
        None if schema["additionalProperties"] == json!(false) => wrong(&format!("with {name}")),
        None => None,
    })
}

/// The response to a request, which the document must describe.
async fn described(daemon: &Daemon, head: &str, body: &str) -> (u16, String, Value) {
    let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
    let (status, headers, answer) = call(daemon, head, body).await;
    let mut words = head.split_whitespace();
    let (method, path) = (words.next().expect("a method").to_lowercase(), words.next().expect("a path"));
    let operation = &document["paths"][path][method];
    let response = &operation["responses"][status.to_string()];
    assert!(response.is_object(), "{head}: {status} is not described: {answer}");
    let schema = &response["content"]["application/json"]["schema"];
    assert_eq!(violation(&document, schema, &answer), None, "{head}");
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        let line = format!("{}: ", name.to_lowercase());
        assert!(
            headers.contains(&line) || header["required"] == json!(false),
            "{head}: {headers} lacks {name}"
        );
    }
    if status == 200 && !body.is_empty() {
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        let sent = serde_json::from_str(body).expect("JSON");
        assert_eq!(violation(&document, schema, &sent), None, "{head}: the request");
    }
    (status, headers, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_is_what_the_document_says() {
    let (_data, daemon) = with_model().await;
    let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
    assert_eq!(described(&daemon, "GET /openapi.json", "").await.2, document);
    assert_eq!(described(&daemon, "GET /health", "").await.0, 200);
    assert_eq!(described(&daemon, "GET /info", "").await.2["model_id"], "toy@1");

    let same = classify(&daemon, request(&["a splendid thing"])).await.expect("an answer").predictions;
    let asked = json!({
        "model": "toy", "inputs": [{ "text": "a splendid thing" }, { "text": "warm ".repeat(40), "text_pair": null }],
        "return_logits": true, "truncation_side": "none", "request_id": "mine", "priority": -5, "min_score": 0.0,
    });
    let (status, _, answer) = described(&daemon, "POST /v1/classify", &asked.to_string()).await;
    assert_eq!((status, &answer["request_id"]), (200, &json!("mine")));
    assert_eq!(answer["predictions"][0]["label"], same[0].label);
    assert_eq!(answer["predictions"][0]["score"].as_f64().map(|score| score as f32), Some(same[0].score));
    assert_eq!(answer["predictions"][1]["error"]["field"], "inputs[1].text");
    let none = json!({ "texts": ["a fine day"], "min_score": 1.0 }).to_string();
    assert_eq!(
        described(&daemon, "POST /v1/classify", &none).await.2["predictions"][0]["label"],
        Value::Null
    );

    for (body, field) in [
        ("{", None),
        (r#"{"text":"a"}"#, None),
        (r#"{"texts":[]}"#, Some("inputs")),
        (r#"{"texts":["a"],"min_score":2}"#, Some("min_score")),
        (r#"{"texts":["a"],"inputs":[{"text":"a"}]}"#, Some("texts")),
    ] {
        let (status, _, answer) = described(&daemon, "POST /v1/classify", body).await;
        assert_eq!((status, answer["error"]["field"].as_str()), (400, field), "{body}");
    }
    let (status, _, answer) =
        described(&daemon, "POST /v1/classify", r#"{"model":"nobody","texts":["a"]}"#).await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("NOT_FOUND")));
    assert_eq!(described(&daemon, "POST /v1/classify\nx-timeout-ms: 0", r#"{"texts":["a"]}"#).await.0, 504);
    let long = "POST /v1/classify\nContent-Length: 40000000";
    assert_eq!(described(&daemon, long, r#"{"texts":["a"#).await.0, 413);
    assert_eq!(call(&daemon, "GET /v1/classify", "").await.0, 405);
    assert_eq!(call(&daemon, "GET /nothing", "").await.0, 404);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_json_of_text_embeddings_inference_is_served() {
    let (_data, daemon) = with_model().await;
    let predict = async |body: Value| described(&daemon, "POST /predict", &body.to_string()).await;
    let (_, headers, one) = predict(json!({ "inputs": "a splendid thing" })).await;
    assert_eq!(one[0]["label"], "positive");
    assert!(headers.contains("x-compute-characters: 16"), "{headers}");
    assert_eq!(predict(json!({ "inputs": ["a splendid thing"] })).await.2, one);
    let pair = predict(json!({ "inputs": ["a splendid thing", "it was cold"] })).await.2;
    assert!(pair[0]["label"].is_string());
    let many =
        predict(json!({ "inputs": [["a splendid thing"], ["a splendid thing", "it was cold"]] })).await.2;
    assert_eq!((&many[0], &many[1]), (&one, &pair));
    let raw = predict(json!({ "inputs": "a splendid thing", "raw_scores": true })).await.2;
    assert!(raw[0]["score"].as_f64() > raw[1]["score"].as_f64() && raw[1]["score"].as_f64() < Some(0.0));

    let long = json!({ "inputs": "warm ".repeat(40) });
    let (status, _, failed) = predict(long.clone()).await;
    assert_eq!((status, &failed["error_type"]), (400, &json!("validation")));
    let (status, ..) = predict(json!({ "inputs": long["inputs"], "truncate": true })).await;
    assert_eq!(status, 200);
    for body in
        [json!({}), json!({ "inputs": [] }), json!({ "inputs": ["a", "b", "c"] }), json!({ "inputs": [[]] })]
    {
        assert_eq!(predict(body).await.0, 400);
    }
    train_sets(&daemon).await;
    let (status, _, failed) = predict(json!({ "inputs": "a fine day" })).await;
    assert_eq!(status, 400);
    assert!(failed["error"].as_str().is_some_and(|why| why.contains("x-model")), "{failed}");
    let named = "POST /predict\nx-model: toy";
    assert_eq!(described(&daemon, named, r#"{"inputs":"a fine day"}"#).await.0, 200);
    daemon.stop().await;
}
