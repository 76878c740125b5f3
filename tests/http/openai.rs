//! OpenAI's interface: what it answers is what our own calls answer, in OpenAI's shapes.

use babelward::{
    auth::{QuotaLimits, Quotas, Scope},
    config::{DoorSettings, OnFailure},
    proto::{self, GenerateRequest, generate_request::Prompt, generate_response::Event},
    rpc::Security,
};
use serde_json::{Value, json};

use crate::{
    credentials::{KeyFile, checked},
    rig::{BASE, GUARD, Rig, Setup, TARGET, classify, conversation},
    support::{Answer, Client, RawStream, address, listeners_with, post, protected, start, with_header},
};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const MODERATIONS: &str = "/v1/moderations";

/// Several sentences, with characters of several bytes.
const TEXT: &str = "First mix the flour. Größere Brote brauchen länger. 👩‍👩‍👧 bake it until it is brown!";

/// A chat whose last message is this one.
fn chat(content: &str) -> Value {
    json!({"model": TARGET, "messages": [{"role": "user", "content": content}], "max_tokens": 200})
}

/// The same with more fields.
fn with(mut request: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        request[name] = value.clone();
    }
    request
}

/// What an error says: its status, code and parameter. It has all four fields.
fn error(answer: &Answer) -> (u16, String, Option<String>) {
    assert_eq!(answer.header("content-type"), "application/json");
    assert!(!answer.header("x-request-id").is_empty());
    let body = answer.json();
    let error = body["error"].as_object().unwrap();
    let names: Vec<_> = error.keys().map(String::as_str).collect();
    assert_eq!(names, ["message", "type", "param", "code"], "{body}");
    assert!(!error["message"].as_str().unwrap().is_empty());
    (
        answer.status.as_u16(),
        error["code"].as_str().unwrap().to_owned(),
        error["param"].as_str().map(str::to_owned),
    )
}

fn refusal(status: u16, code: &str, param: &str) -> (u16, String, Option<String>) {
    (
        status,
        code.to_owned(),
        Some(param.to_owned()).filter(|param| !param.is_empty()),
    )
}

/// The objects of a stream, and whether it ended with `[DONE]`.
fn pieces(answer: &Answer) -> (Vec<Value>, bool) {
    assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), "text/event-stream");
    let text = std::str::from_utf8(&answer.body).unwrap();
    let mut data: Vec<_> = text
        .split_terminator("\n\n")
        .filter(|event| !event.starts_with(':'))
        .collect();
    let is_done = data.pop_if(|last| *last == "data: [DONE]").is_some();
    let objects = data.into_iter().map(|event| {
        let json = event.strip_prefix("data: ").unwrap();
        serde_json::from_str(json).unwrap()
    });
    (objects.collect(), is_done)
}

/// The text of a chat's pieces.
fn streamed_text(pieces: &[Value]) -> String {
    let deltas = pieces
        .iter()
        .map(|piece| &piece["choices"][0]["delta"]["content"]);
    deltas
        .map(|content| content.as_str().unwrap_or_default())
        .collect()
}

/// What Generate says itself: its text, and its end.
async fn generated(rig: &Rig, request: GenerateRequest) -> (String, proto::GenerateFinished) {
    let mut stream = rig
        .generation()
        .await
        .generate(request)
        .await
        .unwrap()
        .into_inner();
    let (mut text, mut end) = (String::new(), None);
    while let Some(response) = stream.message().await.unwrap() {
        match response.event.unwrap() {
            Event::Delta(delta) => text.push_str(&delta.text),
            Event::Finished(finished) => end = Some(finished),
            _ => {}
        }
    }
    (text, end.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_and_a_whole_answer_have_the_text_of_generate() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    // An answer that ends, one that is sampled up to the limit, and one that a stop sequence ends.
    for (content, more, reason) in [
        (format!("[say {TEXT}]"), json!({"temperature": 0}), "stop"),
        (
            "talk".to_owned(),
            json!({"seed": 7, "max_tokens": 12, "temperature": 0.8, "top_p": 0.9}),
            "length",
        ),
        (
            format!("[say {TEXT}]"),
            json!({"stop": ["brauchen", "zzz"]}),
            "stop",
        ),
    ] {
        let request = with(chat(&content), more.clone());
        let whole = client.post(CHAT, &request.to_string()).await;
        assert_eq!(whole.status.as_u16(), 200, "{whole:?}");
        let body = whole.json();
        let choice = &body["choices"][0];
        assert_eq!(choice["finish_reason"], reason);
        let text = choice["message"]["content"].as_str().unwrap();
        let id = body["id"].as_str().unwrap();
        assert_eq!(id, format!("chatcmpl-{}", whole.header("x-request-id")));

        let stream = with(
            request,
            json!({"stream": true, "stream_options": {"include_usage": true}}),
        );
        let (streamed, is_done) = pieces(&client.post(CHAT, &stream.to_string()).await);
        assert!(is_done);
        let (usage, told) = streamed.split_last().unwrap();
        assert_eq!(streamed_text(told), text);
        assert_eq!(told[0]["choices"][0]["delta"]["role"], "assistant");
        assert_eq!(told.last().unwrap()["choices"][0]["finish_reason"], reason);
        assert_eq!(usage["choices"], json!([]));
        assert_eq!(
            usage["usage"]["completion_tokens"],
            body["usage"]["completion_tokens"]
        );

        let number = |name: &str| more[name].as_f64();
        let (generated, finished) = generated(
            &rig,
            GenerateRequest {
                prompt: Some(Prompt::Conversation(conversation(&[&content]))),
                sampling: Some(proto::SamplingParams {
                    temperature: number("temperature"),
                    top_p: number("top_p"),
                    seed: more["seed"].as_u64(),
                    ..proto::SamplingParams::default()
                }),
                stopping: Some(proto::StoppingParams {
                    max_new_tokens: more["max_tokens"].as_u64().unwrap_or(200) as u32,
                    stop_sequences: match more["stop"].is_null() {
                        true => Vec::new(),
                        false => vec!["brauchen".to_owned(), "zzz".to_owned()],
                    },
                }),
                ..GenerateRequest::default()
            },
        )
        .await;
        assert_eq!(generated, text);
        let tokens = finished.usage.unwrap();
        assert_eq!(body["usage"]["prompt_tokens"], tokens.prompt_tokens);
        assert_eq!(body["usage"]["completion_tokens"], tokens.completion_tokens);
        // The whole prompt has been computed before, up to its last block.
        assert_eq!(
            usage["usage"]["prompt_tokens_details"]["cached_tokens"],
            tokens.cached_prompt_tokens
        );
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_that_was_drawn_gives_the_same_answer_again() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let request = with(chat("talk"), json!({"max_tokens": 12}));
    let first = client.post(CHAT, &request.to_string()).await.json();
    let again = with(request, json!({"seed": first["babelward"]["seed"]}));
    let second = client.post(CHAT, &again.to_string()).await.json();
    assert_eq!(first["choices"], second["choices"]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_prompt_is_not_templated() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let prompt = "[say bread and butter]";
    let request = json!({"model": BASE, "prompt": prompt, "max_tokens": 16, "logprobs": 2});
    let whole = client.post(COMPLETIONS, &request.to_string()).await.json();
    let raw = GenerateRequest {
        model: BASE.to_owned(),
        prompt: Some(Prompt::Text(prompt.to_owned())),
        stopping: Some(proto::StoppingParams {
            max_new_tokens: 16,
            ..proto::StoppingParams::default()
        }),
        ..GenerateRequest::default()
    };
    let (text, finished) = generated(&rig, raw).await;
    assert_eq!(whole["choices"][0]["text"], text);
    assert_eq!(
        whole["usage"]["prompt_tokens"],
        finished.usage.unwrap().prompt_tokens
    );
    let logprobs = &whole["choices"][0]["logprobs"];
    let tokens: String = logprobs["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token.as_str().unwrap())
        .collect();
    assert_eq!(tokens, text);
    assert_eq!(logprobs["top_logprobs"][0].as_object().unwrap().len(), 2);

    let stream = with(request, json!({"stream": true}));
    let (streamed, is_done) = pieces(&client.post(COMPLETIONS, &stream.to_string()).await);
    assert!(is_done);
    let parts = streamed
        .iter()
        .map(|piece| piece["choices"][0]["text"].as_str().unwrap());
    assert_eq!(parts.collect::<String>(), text);
    // A chat needs a template, and this model has none.
    let chat = with(chat("hi"), json!({"model": BASE}));
    let refused = client.post(CHAT, &chat.to_string()).await;
    assert_eq!(error(&refused).1, "CHAT_TEMPLATE_MISSING");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moderations_are_the_verdicts_of_classify() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let inputs = ["How do I bake bread?", "[unsafe] text", "Größe", "[unsafe] other"];
    let request = json!({"input": inputs, "model": "omni-moderation-latest"});
    let answer = client.post(MODERATIONS, &request.to_string()).await;
    assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["model"], GUARD);
    let results = body["results"].as_array().unwrap();
    assert_eq!(results.len(), inputs.len());
    for (input, result) in inputs.iter().zip(results) {
        let own = rig
            .safety()
            .await
            .classify(classify(&[input]))
            .await
            .unwrap()
            .into_inner();
        let verdict = own.verdict.unwrap();
        let is_unsafe = verdict.label() == proto::Label::Unsafe;
        let score = verdict.unsafe_score.unwrap();
        assert_eq!(result["flagged"], is_unsafe, "{input}");
        assert_eq!(result["babelward"]["unsafe_score"], score, "{input}");
        // The scripted guard says S1 and S9.
        for (key, is_named) in [
            ("violence", is_unsafe),
            ("illicit/violent", is_unsafe),
            ("hate", false),
            ("sexual/minors", false),
        ] {
            assert_eq!(result["categories"][key], is_named, "{input}: {key}");
            let wanted = if is_named { score } else { 0.0 };
            assert_eq!(result["category_scores"][key], wanted, "{input}: {key}");
        }
        for key in ["categories", "category_scores", "category_applied_input_types"] {
            assert_eq!(result[key].as_object().unwrap().len(), 13);
        }
        // Alone as among others.
        let alone = client
            .post(MODERATIONS, &json!({"input": input}).to_string())
            .await
            .json();
        assert_eq!(alone["results"][0], *result);
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_of_categories_are_their_probabilities_where_asked_for() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let request = json!({"input": "[unsafe]", "babelward": {"category_probabilities": true}});
    let answer = client.post(MODERATIONS, &request.to_string()).await.json();
    let result = &answer["results"][0];
    assert_eq!(
        result["babelward"]["category_scores_from"],
        "category_probabilities"
    );
    let score = |key: &str| result["category_scores"][key].as_f64().unwrap();
    // The guard names S1 first, with certainty.
    let unsafe_score = result["babelward"]["unsafe_score"].as_f64().unwrap();
    assert!((score("violence") - unsafe_score).abs() < 1e-6, "{result}");
    assert!(score("hate") < 1e-6, "{result}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_without_a_verdict_is_never_said_to_be_safe() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    for (input, wanted) in [
        (
            json!(["fine", "[odd]"]),
            refusal(500, "VERDICT_UNDETERMINED", "input[1]"),
        ),
        (json!("[odd]"), refusal(500, "VERDICT_UNDETERMINED", "input")),
        (json!(["[nan]", "fine"]), refusal(500, "NUMERIC_FAULT", "")),
        (json!(["fine", ""]), refusal(400, "INVALID_FIELDS", "input[1]")),
        (json!(vec!["fine"; 257]), refusal(400, "INVALID_FIELDS", "input")),
        (
            json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]),
            refusal(400, "INVALID_FIELDS", "input[1]"),
        ),
    ] {
        let answer = client
            .post(MODERATIONS, &json!({"input": input}).to_string())
            .await;
        assert_eq!(error(&answer), wanted, "{answer:?}");
    }
    // A server that fails open does so for guardrail callers, and never says that a text was judged safe.
    let open = DoorSettings {
        on_failure: OnFailure::Open,
        ..DoorSettings::default()
    };
    let open = Rig::on(Setup::default(), listeners_with(open).await).await;
    let mut client = Client::connect(address(&open)).await;
    let answer = client.post(MODERATIONS, r#"{"input": "[odd]"}"#).await;
    assert_eq!(error(&answer).1, "VERDICT_UNDETERMINED");
    open.stop().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_of_the_server_flags_by_the_score() {
    let settings = DoorSettings {
        unsafe_score: Some(0.0),
        ..DoorSettings::default()
    };
    let rig = Rig::on(Setup::default(), listeners_with(settings).await).await;
    let mut client = Client::connect(address(&rig)).await;
    let answer = client.post(MODERATIONS, r#"{"input": "fine"}"#).await.json();
    assert_eq!(answer["results"][0]["flagged"], true);
    assert_eq!(answer["results"][0]["babelward"]["label"], "safe");
    rig.stop().await;
}

/// The prompt after which the target says this, without the markers that the guard looks for.
fn hidden(text: &str) -> String {
    let cut = ["unsafe", "nan", "odd"]
        .iter()
        .fold(text.to_owned(), |text, marker| {
            text.replace(
                &format!("[{marker}]"),
                &format!("[{}[cut]{}]", &marker[..1], &marker[1..]),
            )
        });
    format!("[say {cut}]")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_ends_an_unsafe_answer_with_the_content_filter() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let guarded = json!({"babelward": {"guard": GUARD}});
    let blocked = with(chat(&hidden("Bake it. [unsafe] Then eat it.")), guarded.clone());
    let whole = client.post(CHAT, &blocked.to_string()).await.json();
    assert_eq!(whole["choices"][0]["finish_reason"], "content_filter");
    assert_eq!(whole["babelward"]["guard"]["reason"], "policy");
    assert_eq!(whole["babelward"]["guard"]["categories"], json!(["S1", "S9"]));
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(!text.contains("unsafe"), "{text}");
    let stream = with(blocked, json!({"stream": true}));
    let (streamed, is_done) = pieces(&client.post(CHAT, &stream.to_string()).await);
    assert!(is_done);
    assert_eq!(streamed_text(&streamed), text);
    let last = streamed.last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "content_filter");

    // What the guard lets pass is the whole answer.
    let passed = with(chat(&hidden(TEXT)), guarded);
    let passed = client.post(CHAT, &passed.to_string()).await.json();
    assert_eq!(passed["choices"][0]["message"]["content"], TEXT);
    assert_eq!(passed["choices"][0]["finish_reason"], "stop");
    assert_eq!(passed["babelward"]["guard"]["reason"], "complete");
    assert_eq!(passed["babelward"]["guard"]["unguarded"], false);
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_fails_gives_an_error_and_no_end() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    for (marker, code) in [("[nan]", "NUMERIC_FAULT"), ("[odd]", "VERDICT_UNDETERMINED")] {
        // Looks at the beginning pass, so that some of it has been sent when the guard fails.
        let text = hidden(&format!("{TEXT} {TEXT} {marker} Then eat it."));
        let request = with(chat(&text), json!({"babelward": {"guard": GUARD}}));
        let whole = client.post(CHAT, &request.to_string()).await;
        assert_eq!(error(&whole), refusal(500, code, ""));
        let stream = with(request, json!({"stream": true}));
        let (streamed, is_done) = pieces(&client.post(CHAT, &stream.to_string()).await);
        assert!(!is_done);
        let (last, before) = streamed.split_last().unwrap();
        assert_eq!(last["error"]["code"], code);
        assert_eq!(last["error"]["type"], "server_error");
        assert!(
            before
                .iter()
                .all(|piece| piece["choices"][0]["finish_reason"].is_null())
        );
        let sent = streamed_text(before);
        assert!(
            !sent.is_empty() && format!("{TEXT} {TEXT}").starts_with(&sent),
            "{sent}"
        );
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_guard_every_answer_and_fail_open() {
    let settings = DoorSettings {
        guards_answers: true,
        on_failure: OnFailure::Open,
        ..DoorSettings::default()
    };
    let rig = Rig::on(Setup::default(), listeners_with(settings).await).await;
    let mut client = Client::connect(address(&rig)).await;
    let blocked = chat(&hidden("Bake it. [unsafe] Then eat it."));
    let blocked = client.post(CHAT, &blocked.to_string()).await.json();
    assert_eq!(blocked["choices"][0]["finish_reason"], "content_filter");
    let text = "Bake it. [odd] Then eat it.";
    let failed = client.post(CHAT, &chat(&hidden(text)).to_string()).await.json();
    assert_eq!(failed["choices"][0]["message"]["content"], text);
    assert_eq!(failed["babelward"]["guard"]["unguarded"], true);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_the_field_that_the_caller_sent() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let invalid = |param: &str| refusal(400, "INVALID_FIELDS", param);
    for (more, wanted) in [
        (json!({"temperature": 3}), invalid("temperature")),
        (json!({"temperature": "hot"}), invalid("temperature")),
        (json!({"max_tokens": 1_000_000}), invalid("max_tokens")),
        (
            json!({"max_tokens": null, "max_completion_tokens": 0}),
            invalid("max_completion_tokens"),
        ),
        (json!({"stop": vec!["a"; 9]}), invalid("stop")),
        (json!({"stop": ["a", ""]}), invalid("stop[1]")),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            invalid("top_logprobs"),
        ),
        (json!({"top_logprobs": 2}), invalid("logprobs")),
        (json!({"n": 2}), invalid("n")),
        (json!({"tools": [{"type": "function"}]}), invalid("tools")),
        (json!({"frobnicate": 1}), invalid("frobnicate")),
        (json!({"messages": []}), invalid("messages")),
        (
            json!({"messages": [{"role": "user", "content": "a"},
                {"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]}]}),
            refusal(400, "CONVERSATION_SHAPE", "messages[1].tool_calls"),
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}),
            invalid("messages[0].content[0]"),
        ),
        (json!({"model": "tinny"}), refusal(404, "MODEL_NOT_FOUND", "")),
        (json!({"model": GUARD}), refusal(400, "CAPABILITY_MISSING", "")),
        (
            json!({"babelward": {"guard": "nobody"}}),
            refusal(404, "MODEL_NOT_FOUND", ""),
        ),
        (
            json!({"babelward": {"guard": GUARD, "policy": ""}}),
            invalid("babelward.policy"),
        ),
    ] {
        let answer = client
            .post(CHAT, &with(chat("hi"), more.clone()).to_string())
            .await;
        assert_eq!(
            error(&answer),
            wanted,
            "{more}: {}",
            String::from_utf8_lossy(&answer.body)
        );
        // Nothing of a stream has begun either, so it has a status.
        let stream = with(with(chat("hi"), more.clone()), json!({"stream": true}));
        let answer = client.post(CHAT, &stream.to_string()).await;
        assert_eq!(error(&answer), wanted, "{more}, streamed");
    }
    let several = with(chat("hi"), json!({"n": 2, "top_p": 0}));
    let message = client.post(CHAT, &several.to_string()).await.json()["error"]["message"].clone();
    assert!(
        message.as_str().unwrap().starts_with("n is not supported here"),
        "{message}"
    );
    for body in ["", "{", "[]", "{\"model\": \"\\ud800\"}"] {
        assert_eq!(
            error(&client.post(CHAT, body).await).1,
            "INVALID_FIELDS",
            "{body}"
        );
    }
    let no_json = with_header(post(CHAT, "{}"), "content-type", "text/plain");
    assert_eq!(error(&client.send(no_json).await).0, 415);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_scopes_and_quotas_are_those_of_the_calls() {
    let keys = KeyFile::new();
    let full = keys.add("full", &[Scope::Classify, Scope::Generate]);
    let writer = keys.add("writer", &[Scope::Generate]);
    let small = keys.add("small", &[Scope::Classify, Scope::Generate]);
    let limits = QuotaLimits {
        requests: Some(1),
        tokens: None,
    };
    let others = ["full", "writer"].map(|name| {
        let tenant = babelward::engine::Tenant::named(name).unwrap();
        (tenant, QuotaLimits::default())
    });
    let security = Security {
        quotas: Quotas::new(limits, others),
        ..checked(&keys.open())
    };
    let rig = protected(Default::default(), security).await;
    let mut client = Client::connect(address(&rig)).await;
    let bearer = |key: &str| format!("Bearer {key}");
    let as_key = |path: &str, body: &Value, key: &str| {
        with_header(post(path, &body.to_string()), "authorization", &bearer(key))
    };
    let input = json!({"input": "fine"});

    let refused = client.post(MODERATIONS, &input.to_string()).await;
    assert_eq!(error(&refused), refusal(401, "CREDENTIALS_MISSING", ""));
    assert_eq!(refused.json()["error"]["type"], "authentication_error");
    let refused = client.send(as_key(MODERATIONS, &input, "nobody")).await;
    assert_eq!(error(&refused), refusal(401, "CREDENTIALS_INVALID", ""));
    let refused = client.send(as_key(MODERATIONS, &input, &writer)).await;
    assert_eq!(error(&refused), refusal(403, "SCOPE_MISSING", ""));
    let guarded = with(chat("[say hi]"), json!({"babelward": {"guard": GUARD}}));
    let refused = client.send(as_key(CHAT, &guarded, &writer)).await;
    assert_eq!(error(&refused), refusal(403, "SCOPE_MISSING", ""));
    for (path, body, key) in [
        (MODERATIONS, &input, &full),
        (CHAT, &guarded, &full),
        (CHAT, &chat("[say hi]"), &writer),
        (MODERATIONS, &input, &small),
    ] {
        let answer = client.send(as_key(path, body, key)).await;
        assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
    }
    let refused = client.send(as_key(MODERATIONS, &input, &small)).await;
    assert_eq!(error(&refused), refusal(429, "QUOTA_REQUESTS", ""));
    assert_eq!(refused.json()["error"]["type"], "rate_limit_error");
    assert!(refused.header("retry-after").parse::<u64>().unwrap() >= 1);
    rig.stop().await;
}

/// The request of a path.
fn get(path: &str) -> http::Request<axum::body::Body> {
    let request = http::Request::get(path).header("host", "localhost");
    request.body(axum::body::Body::empty()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_those_of_the_server() {
    let rig = start().await;
    let mut client = Client::connect(address(&rig)).await;
    let list = client.send(get("/v1/models")).await.json();
    assert_eq!(list["object"], "list");
    let ids: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].clone())
        .collect();
    for id in [TARGET, GUARD, BASE] {
        assert!(ids.contains(&json!(id)), "{ids:?}");
        let one = client.send(get(&format!("/v1/models/{id}"))).await.json();
        assert!(list["data"].as_array().unwrap().contains(&one), "{one}");
    }
    let guard = client.send(get(&format!("/v1/models/{GUARD}"))).await.json();
    assert_eq!(guard["babelward"]["capabilities"], json!(["classify"]));
    assert_eq!(guard["babelward"]["state"], "ready");
    let missing = client.send(get("/v1/models/no/such")).await;
    assert_eq!(error(&missing), refusal(404, "MODEL_NOT_FOUND", ""));
    rig.stop().await;
}

/// The bytes of a POST.
fn raw_post(path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_cancels_its_answer() {
    for is_streamed in [true, false] {
        let rig = start().await;
        rig.gate.close();
        let request = with(chat("talk"), json!({"max_tokens": 3500, "stream": is_streamed}));
        let mut connection = RawStream::connect(&rig).await;
        connection.say(&raw_post(CHAT, &request.to_string())).await;
        rig.blocked().await;
        drop(connection);
        rig.gate.open();
        rig.idle().await;
        assert!(rig.gate.passes() < 3000, "the work went on");
        rig.stop().await;
    }
}
