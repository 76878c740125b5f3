//! Quotas: how many requests and tokens a tenant gets in a minute, and what it is told beyond that.

use std::sync::Arc;

use babelward::{
    auth::{QuotaLimits, Quotas, Scope},
    engine::Tenant,
    proto::{self, generation_service_client::GenerationServiceClient},
    rpc::{Limits, Security, ServerOptions},
};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{
    credentials::{KeyFile, checked, with_key},
    rig::{Rig, Setup, classify, eventually, generate_tokens, item_reason, item_status, reason, requests},
};

fn per_minute(requests: Option<u32>, tokens: Option<u32>) -> QuotaLimits {
    QuotaLimits { requests, tokens }
}

/// A server with quotas, and the keys of the tenants `small` and `large`, of which the second has no limits.
async fn limited(limits: QuotaLimits) -> (Rig, [String; 2], KeyFile) {
    limited_with(Setup::default(), limits).await
}

async fn limited_with(setup: Setup, limits: QuotaLimits) -> (Rig, [String; 2], KeyFile) {
    let keys = KeyFile::new();
    let of = |tenant| keys.add(tenant, &[Scope::Classify, Scope::Generate, Scope::Score]);
    let of_tenants = [of("small"), of("large")];
    let unlimited = [(Tenant::named("large").unwrap(), QuotaLimits::default())];
    let security = Security {
        quotas: Quotas::new(limits, unlimited),
        ..checked(&keys.open())
    };
    (Rig::protected(setup, security).await, of_tenants, keys)
}

/// What a refusal says of when to come back: at all, and the same in details and trailer.
fn comes_back(status: &Status) -> bool {
    let delay = status
        .get_error_details()
        .retry_info()
        .and_then(|info| info.retry_delay);
    assert_eq!(
        status.metadata().get("grpc-retry-pushback-ms").is_some(),
        delay.is_some()
    );
    delay.is_some_and(|delay| !delay.is_zero())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_a_tenants_quota_are_told_when_to_come_back() {
    let (rig, [small, large], _keys) = limited(per_minute(Some(2), None)).await;
    let mut safety = rig.safety().await;
    for _ in 0..2 {
        safety
            .classify(with_key(&small, classify(&["hi"])))
            .await
            .unwrap();
    }
    let status = safety
        .classify(with_key(&small, classify(&["hi"])))
        .await
        .unwrap_err();
    let (name, metadata) = reason(&status, Code::ResourceExhausted);
    assert_eq!(
        (name.as_str(), metadata["perMinute"].as_str()),
        ("QUOTA_REQUESTS", "2")
    );
    assert!(comes_back(&status));
    for _ in 0..5 {
        safety
            .classify(with_key(&large, classify(&["hi"])))
            .await
            .unwrap();
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_item_of_a_batch_or_stream_is_a_request() {
    let (rig, [small, _], _keys) = limited(per_minute(Some(3), None)).await;
    let batch = proto::BatchClassifyRequest {
        items: (0..2)
            .map(|number| proto::BatchClassifyItem {
                id: format!("{number}"),
                request: Some(classify(&["hi"])),
            })
            .collect(),
    };
    let answer = rig.safety().await.batch_classify(with_key(&small, batch)).await;
    let results = answer.unwrap().into_inner().results;
    let is_answer = |result: &proto::BatchClassifyResult| {
        matches!(
            result.result,
            Some(proto::batch_classify_result::Result::Response(_))
        )
    };
    assert!(results.iter().all(is_answer));
    let (send, receive) = requests();
    for id in ["third", "fourth"] {
        send.send(proto::ClassifyStreamRequest {
            id: id.to_owned(),
            action: Some(proto::classify_stream_request::Action::Classify(classify(&[
                "hi",
            ]))),
            timeout: None,
        })
        .unwrap();
    }
    drop(send);
    let stream = rig
        .safety()
        .await
        .classify_stream(with_key(&small, receive))
        .await;
    let mut stream = stream.unwrap().into_inner();
    let mut refused = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        if let Some(proto::classify_stream_response::Result::Error(error)) = answer.result {
            assert_eq!(item_reason(&error, Code::ResourceExhausted), "QUOTA_REQUESTS");
            let details = item_status(&error).get_error_details();
            assert!(details.retry_info().is_some());
            refused.push(answer.id);
        }
    }
    assert_eq!(refused, ["fourth"]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_reserved_for_the_longest_answer_and_the_rest_is_given_back() {
    let (rig, [small, large], _keys) = limited(per_minute(None, Some(1000))).await;
    let mut generation = rig.generation().await;
    let mut ask = async |key: &str, tokens: u32| -> Result<(), Status> {
        let request = with_key(key, generate_tokens("[say yes] hi", tokens));
        let mut answer = generation.generate(request).await?.into_inner();
        while answer.message().await?.is_some() {}
        Ok(())
    };
    // Each may have 600 tokens and has a few, so that one after the other fits.
    for _ in 0..4 {
        ask(&small, 600).await.unwrap();
        rig.idle().await;
    }
    let status = ask(&small, 2000).await.unwrap_err();
    let (name, metadata) = reason(&status, Code::ResourceExhausted);
    assert_eq!(
        (name.as_str(), metadata["perMinute"].as_str()),
        ("QUOTA_TOKENS", "1000")
    );
    assert!(!comes_back(&status), "it never fits");
    ask(&large, 2000).await.unwrap();
    // Two at the same time do not fit.
    rig.gate.close();
    let mut other = rig.generation().await;
    let request = with_key(&small, generate_tokens("[say yes] hi", 600));
    let open = tokio::spawn(async move {
        let mut answer = other.generate(request).await?.into_inner();
        while answer.message().await?.is_some() {}
        Ok::<_, Status>(())
    });
    rig.blocked().await;
    let status = ask(&small, 600).await.unwrap_err();
    assert_eq!(reason(&status, Code::ResourceExhausted).0, "QUOTA_TOKENS");
    assert!(comes_back(&status));
    rig.gate.open();
    open.await.unwrap().unwrap();
    rig.idle().await;
    rig.stop().await;
}

/// What has been computed is paid for, also if the client reads nothing of it and goes away.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_read_is_paid_for() {
    let (rig, [small, _], _keys) = limited(per_minute(None, Some(1000))).await;
    // Not even one message fits into this window.
    let channel = Channel::from_shared(format!("http://{}", rig.address))
        .unwrap()
        .initial_stream_window_size(1)
        .connect()
        .await
        .unwrap();
    let mut deaf = GenerationServiceClient::new(channel);
    // Endless words, so that the whole answer is computed.
    let request = with_key(&small, generate_tokens("hi", 600));
    let answer = deaf.generate(request).await.unwrap();
    eventually("the answer is computed", || rig.gate.passes() >= 600).await;
    drop((answer, deaf));
    rig.idle().await;
    let mut generation = rig.generation().await;
    let again = async {
        let request = with_key(&small, generate_tokens("hi", 600));
        let mut answer = generation.generate(request).await?.into_inner();
        while answer.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    let status = again.await.unwrap_err();
    assert_eq!(reason(&status, Code::ResourceExhausted).0, "QUOTA_TOKENS");
    rig.stop().await;
}

/// The name in the header belongs to nobody without authentication, so no quota can depend on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_one_quota_over_all_of_its_keys_and_connections() {
    let keys = KeyFile::new();
    let one = keys.add("team", &[Scope::Classify]);
    let text = std::fs::read_to_string(keys.path()).unwrap();
    std::fs::write(keys.path(), text.replace("id = \"team\"", "id = \"team-1\"")).unwrap();
    let two = keys.add("team", &[Scope::Classify]);
    let security = Security {
        quotas: Quotas::new(per_minute(Some(2), None), []),
        ..checked(&keys.open())
    };
    let rig = Arc::new(Rig::protected(Setup::default(), security).await);
    let mut codes = Vec::new();
    for key in [&one, &two, &one, &two] {
        let answer = rig
            .safety()
            .await
            .classify(with_key(key, classify(&["hi"])))
            .await;
        codes.push(answer.map_or_else(|status| status.code(), |_| Code::Ok));
    }
    assert_eq!(
        codes,
        [
            Code::Ok,
            Code::Ok,
            Code::ResourceExhausted,
            Code::ResourceExhausted
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_a_request_also_where_it_has_no_items() {
    for with_pairs in [false, true] {
        let (rig, [small, _], _keys) = limited(per_minute(Some(2), None)).await;
        let mut last = Status::ok("");
        for _ in 0..3 {
            last = match with_pairs {
                false => {
                    let batch = with_key(&small, proto::BatchClassifyRequest::default());
                    let answer = rig.safety().await.batch_classify(batch).await;
                    answer.err().unwrap_or(Status::ok(""))
                }
                true => {
                    let pairs = with_key(&small, proto::EstimateQualityRequest::default());
                    let answer = rig.quality().await.estimate_quality(pairs).await;
                    answer.err().unwrap_or(Status::ok(""))
                }
            };
        }
        assert_eq!(reason(&last, Code::ResourceExhausted).0, "QUOTA_REQUESTS");
        assert!(comes_back(&last));
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counting_the_tokens_of_a_text_uses_as_many_of_the_quota() {
    let (rig, [small, large], _keys) = limited(per_minute(None, Some(100))).await;
    let mut models = rig.models().await;
    let mut count = async |key: &str, words: usize| {
        let request = proto::CountTokensRequest {
            model: String::new(),
            text: "word ".repeat(words),
        };
        let answer = models.count_tokens(with_key(key, request)).await;
        answer.map(|answer| answer.into_inner().tokens)
    };
    let counted = count(&small, 60).await.unwrap();
    assert!((50..=100).contains(&counted), "{counted}");
    let status = count(&small, 60).await.unwrap_err();
    assert_eq!(reason(&status, Code::ResourceExhausted).0, "QUOTA_TOKENS");
    assert!(comes_back(&status));
    let status = count(&small, 20_000).await.unwrap_err();
    assert_eq!(reason(&status, Code::ResourceExhausted).0, "QUOTA_TOKENS");
    assert!(!comes_back(&status), "it never fits");
    assert!(count(&large, 20_000).await.unwrap() > 10_000);
    rig.stop().await;
}

/// Otherwise a tenant without tokens would keep the threads busy that turn the texts of all tenants into tokens.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_the_quota_cannot_pay_for_is_refused_before_it_is_worked_on() {
    let setup = Setup {
        options: ServerOptions {
            limits: Limits {
                // Less than a long text needs: whatever begins to work on one is refused for that.
                text_memory: 16 << 10,
                ..Default::default()
            },
            ..Default::default()
        },
        ..Default::default()
    };
    let (rig, [small, large], _keys) = limited_with(setup, per_minute(None, Some(10))).await;
    let long = "word ".repeat(10_000);
    let mut generation = rig.generation().await;
    let mut ask = async |key: &str| {
        let request = with_key(key, generate_tokens(&long, 20));
        let mut answer = match generation.generate(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return status,
        };
        answer.message().await.unwrap_err()
    };
    assert_eq!(
        reason(&ask(&small).await, Code::ResourceExhausted).0,
        "QUOTA_TOKENS"
    );
    assert_ne!(
        ask(&large).await.get_error_details().error_info().unwrap().reason,
        "QUOTA_TOKENS"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_fits_the_model_and_not_the_quota_is_the_quotas_to_refuse() {
    let (rig, [small, _], _keys) = limited(per_minute(None, Some(1000))).await;
    let mut safety = rig.safety().await;
    // Of the 4096 tokens of the model.
    let long = "word ".repeat(2000);
    let status = safety
        .classify(with_key(&small, classify(&[&long])))
        .await
        .unwrap_err();
    assert_eq!(reason(&status, Code::ResourceExhausted).0, "QUOTA_TOKENS");
    assert!(!comes_back(&status), "it never fits");
    let longest = "word ".repeat(20_000);
    let status = safety
        .classify(with_key(&small, classify(&[&longest])))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    rig.stop().await;
}

/// Of which the tenant could pay for some.
#[tokio::test(flavor = "multi_thread")]
async fn windows_that_the_quota_cannot_pay_for_together_are_not_judged() {
    let narrow = Setup {
        context: 1200,
        ..Setup::default()
    };
    let (rig, [small, large], _keys) = limited_with(narrow, per_minute(None, Some(1500))).await;
    let windowed = || proto::ClassifyRequest {
        windows: Some(proto::Windows::default()),
        ..classify(&[&"word ".repeat(3000)])
    };
    let mut safety = rig.safety().await;
    let status = safety.classify(with_key(&small, windowed())).await.unwrap_err();
    assert_eq!(reason(&status, Code::ResourceExhausted).0, "QUOTA_TOKENS");
    assert!(!comes_back(&status), "it never fits");
    let answer = safety.classify(with_key(&large, windowed())).await.unwrap();
    let verdict = answer.into_inner().verdict.unwrap();
    assert!(verdict.windows.len() > 2, "{verdict:?}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_call_that_was_left_are_given_back() {
    let (rig, [small, _], _keys) = limited(per_minute(None, Some(1000))).await;
    rig.gate.close();
    let mut other = rig.generation().await;
    let request = with_key(&small, generate_tokens("[say yes] hi", 800));
    let open = tokio::spawn(async move {
        let mut answer = other.generate(request).await.unwrap().into_inner();
        while answer.message().await.unwrap().is_some() {}
    });
    rig.blocked().await;
    let mut generation = rig.generation().await;
    let again = with_key(&small, generate_tokens("[say yes] hi", 800));
    let mut answer = generation.generate(again).await.unwrap().into_inner();
    let status = answer.message().await.unwrap_err();
    assert_eq!(reason(&status, Code::ResourceExhausted).0, "QUOTA_TOKENS");
    // Its client is gone.
    open.abort();
    assert!(open.await.unwrap_err().is_cancelled());
    rig.gate.open();
    rig.idle().await;
    let again = with_key(&small, generate_tokens("[say yes] hi", 800));
    let mut answer = generation.generate(again).await.unwrap().into_inner();
    while answer.message().await.unwrap().is_some() {}
    rig.stop().await;
}
