//! Calls of the proto files over HTTP, by the Connect protocol.

use axum::body::Body;
use babelward::proto;
use http::{Method, Request};
use prost::Message as _;
use serde_json::{Value, json};

use crate::{
    rig::{GUARD, TARGET, classify, score},
    support::{BREAD, CLASSIFY, Client, address, as_json, from_json, post, start, types, with_header},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_over_http_has_the_bits_of_one_over_grpc() {
    let rig = crate::support::start().await;
    let mut client = Client::connect(address(&rig)).await;
    for contents in [&["How do I bake bread?"][..], &["How?", "[unsafe] answer"]] {
        let request = classify(contents);
        let answer = client.post(CLASSIFY, &as_json("ClassifyRequest", &request)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("content-type")),
            (200, "application/json")
        );
        let over_http: proto::ClassifyResponse = from_json("ClassifyResponse", &answer.body);
        let over_grpc = rig.safety().await.classify(request).await.unwrap().into_inner();
        let figures = |response: &proto::ClassifyResponse| {
            let verdict = response.verdict.clone().unwrap();
            (
                verdict.unsafe_score.map(f64::to_bits),
                verdict.label_mass.to_bits(),
                verdict.label,
                verdict.raw_output,
                verdict.categories,
                verdict.provenance,
            )
        };
        assert_eq!(figures(&over_http), figures(&over_grpc));
        assert_eq!(answer.json()["verdict"]["provenance"]["model"], GUARD);
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_those_of_the_proto_or_those_of_json() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    for field in ["categoryProbabilities", "category_probabilities"] {
        let mut request: Value = serde_json::from_str(BREAD).unwrap();
        request[field] = true.into();
        let answer = client.post(CLASSIFY, &request.to_string()).await;
        assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
        assert_eq!(answer.json()["verdict"]["label"], "LABEL_SAFE");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_messages_are_answered_with_protobuf_and_their_errors_with_json() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let ask = |message: Vec<u8>| {
        let request = post(CLASSIFY, "").map(|_| Body::from(message));
        with_header(request, "content-type", "application/proto")
    };
    let answer = client.send(ask(classify(&["hi"]).encode_to_vec())).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("content-type")),
        (200, "application/proto")
    );
    let response = proto::ClassifyResponse::decode(answer.body.as_slice()).unwrap();
    assert_eq!(response.verdict.unwrap().label(), proto::Label::Safe);
    let refused = client.send(ask(Vec::new())).await;
    assert_eq!(refused.reason(400), "INVALID_FIELDS");
    assert_eq!(refused.fields(), ["conversation"]);
    rig.stop().await;
}

/// Each call of the proto files, asked with an empty message: it reaches its service, which answers or says what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_answered_or_says_how_its_streams_are_sent() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let (mut unary, mut streams) = (0, 0);
    for service in types().services() {
        for method in service.methods() {
            let path = format!("/{}/{}", service.full_name(), method.name());
            let answer = client.post(&path, "{}").await;
            if method.is_client_streaming() || method.is_server_streaming() {
                streams += 1;
                assert_eq!(answer.reason(415), "HTTP_UNSUPPORTED", "{path}");
                let says = answer.json()["message"].as_str().unwrap().to_owned();
                assert!(says.contains("application/connect+json"), "{path}: {says}");
                continue;
            }
            unary += 1;
            match answer.status.as_u16() {
                200 => assert!(answer.json().is_object(), "{path}"),
                400 => assert!(
                    ["INVALID_FIELDS", "NO_DEFAULT_MODEL"].contains(&answer.reason(400).as_str()),
                    "{path}: {answer:?}"
                ),
                403 => assert_eq!(answer.reason(403), "ADMIN_DISABLED", "{path}"),
                404 => assert_eq!(answer.reason(404), "MODEL_NOT_FOUND", "{path}"),
                other => panic!("{path}: {other} {}", String::from_utf8_lossy(&answer.body)),
            }
        }
    }
    assert!(unary >= 13 && streams >= 6, "{unary} {streams}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_and_scores_are_answered() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let models = client
        .post("/babelward.v1.ModelService/ListModels", "{}")
        .await
        .json();
    let names: Vec<_> = models["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| &model["name"])
        .collect();
    assert!(
        names.contains(&&json!(TARGET)) && names.contains(&&json!(GUARD)),
        "{names:?}"
    );
    let scored = client
        .post(
            "/babelward.v1.ScoringService/Score",
            &as_json("ScoreRequest", &score("[say Hello.]")),
        )
        .await;
    let over_http: proto::ScoreResponse = from_json("ScoreResponse", &scored.body);
    let over_grpc = rig
        .scoring()
        .await
        .score(score("[say Hello.]"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(over_http.samples[0].text, over_grpc.samples[0].text);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_as_over_grpc() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let health = "/grpc.health.v1.Health/Check";
    assert_eq!(
        client.post(health, "{}").await.json(),
        json!({"status": "SERVING"})
    );
    let guards = client
        .post(health, r#"{"service":"babelward.v1.SafetyService"}"#)
        .await;
    assert_eq!(guards.json(), json!({"status": "SERVING"}));
    let unknown = client.post(health, r#"{"service":"x"}"#).await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.json()["code"].clone()),
        (404, json!("not_found"))
    );
    let large = client
        .post(health, &json!({"service": "x".repeat(2000)}).to_string())
        .await;
    assert_eq!(large.status.as_u16(), 400);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_keeps_its_id_and_trace() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let request = with_header(post(CLASSIFY, BREAD), "x-request-id", "run-7");
    let answer = client.send(with_header(request, "traceparent", TRACE)).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("x-request-id")),
        (200, "run-7")
    );
    assert!(
        answer
            .header("traceresponse")
            .starts_with("00-0af7651916cd43dd8448eb211c80319c-")
    );
    // An error says it too, and one that has none gets one.
    let refused = client
        .send(with_header(post(CLASSIFY, "{}"), "x-request-id", "run-8"))
        .await;
    assert_eq!(refused.header("x-request-id"), "run-8");
    assert_eq!(refused.detail("google.rpc.RequestInfo")["requestId"], "run-8");
    let made = client
        .send(with_header(post(CLASSIFY, "{}"), "x-request-id", "not sound"))
        .await;
    let id = made.header("x-request-id").to_owned();
    assert_eq!(id.len(), 16);
    assert_eq!(made.detail("google.rpc.RequestInfo")["requestId"], id);
    let lost = client.post("/nowhere", "{}").await;
    assert_eq!(lost.header("x-request-id").len(), 16);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_but_posts() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    for method in [Method::GET, Method::PUT, Method::OPTIONS, Method::DELETE] {
        let request = Request::builder()
            .method(method)
            .uri(CLASSIFY)
            .header("host", "localhost");
        let answer = client.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.reason(405), "HTTP_UNSUPPORTED");
        assert_eq!(answer.header("allow"), "POST");
        assert!(
            answer
                .headers
                .keys()
                .all(|name| !name.as_str().starts_with("access-control-"))
        );
    }
    rig.stop().await;
}
