//! ModelService.

use babelward::proto::{self, Capability, model::State};
use tonic::Code;

use crate::rig::{BASE, GUARD, Rig, TARGET, classify, eventually, reason, text, violated};

fn names(response: &proto::ListModelsResponse) -> Vec<&str> {
    response.models.iter().map(|model| model.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_in_pages_and_by_capability() {
    let rig = Rig::start().await;
    let mut client = rig.models().await;
    let mut list = async |page_size: i32, page_token: &str, capability: Capability| {
        client
            .list_models(proto::ListModelsRequest {
                page_size,
                page_token: page_token.to_owned(),
                capability: capability.into(),
            })
            .await
            .map(tonic::Response::into_inner)
    };
    let all = list(0, "", Capability::Unspecified).await.unwrap();
    assert_eq!(names(&all), [TARGET, GUARD, BASE]);
    assert_eq!(all.next_page_token, "");
    let guards = list(0, "", Capability::Classify).await.unwrap();
    assert_eq!(names(&guards), [GUARD]);

    let first = list(1, "", Capability::Generate).await.unwrap();
    assert_eq!(names(&first), [TARGET]);
    let second = list(1, &first.next_page_token, Capability::Generate)
        .await
        .unwrap();
    assert_eq!(
        (names(&second), second.next_page_token.as_str()),
        (vec![BASE], "")
    );

    let status = list(-1, "seven", Capability::Unspecified).await.unwrap_err();
    assert_eq!(violated(&status), ["page_size", "page_token"]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_tells_what_it_is() {
    let rig = Rig::start().await;
    let mut client = rig.models().await;
    let mut get = async |name: &str| {
        client
            .get_model(proto::GetModelRequest {
                name: name.to_owned(),
            })
            .await
            .map(|response| response.into_inner().model.unwrap())
    };
    let (target, guard) = (get(TARGET).await.unwrap(), get(GUARD).await.unwrap());
    assert_eq!(target.state(), State::Ready);
    assert_eq!(target.capabilities, [i32::from(Capability::Generate)]);
    assert_eq!(guard.capabilities, [i32::from(Capability::Classify)]);
    // Two ids, one resident model.
    assert_eq!(target.digest, guard.digest);
    assert_eq!(target.context_tokens, 4096);
    assert!(target.ready_time.is_some());
    assert_eq!(violated(&get("").await.unwrap_err()), ["name"]);
    let (name, metadata) = reason(&get("tiny-wrad").await.unwrap_err(), Code::NotFound);
    assert_eq!(
        (name.as_str(), metadata["didYouMean"].as_str()),
        ("MODEL_NOT_FOUND", GUARD)
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_hear_of_every_model_first_and_of_draining_last() {
    let mut rig = Rig::start().await;
    let mut stream = rig
        .models()
        .await
        .watch_models(proto::WatchModelsRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut told = async |count: usize| {
        let mut told = Vec::new();
        for _ in 0..count {
            let model = stream.message().await.unwrap().unwrap().model.unwrap();
            told.push((model.name.clone(), model.state()));
        }
        told
    };
    let each = |state| [TARGET, GUARD, BASE].map(|name| (name.to_owned(), state));
    assert_eq!(told(3).await, each(State::Ready));
    let server = rig.begin_stop();
    assert_eq!(told(3).await, each(State::Draining));
    assert!(stream.message().await.unwrap().is_none());
    server.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_counted_as_plain_text() {
    let rig = Rig::start().await;
    let mut client = rig.models().await;
    let (tokenizer, _) = text();
    for counted in ["", "The quick brown fox.", "<|im_start|>", &"long ".repeat(5000)] {
        let request = proto::CountTokensRequest {
            model: String::new(),
            text: counted.to_owned(),
        };
        let tokens = client.count_tokens(request).await.unwrap().into_inner().tokens;
        assert_eq!(tokens as usize, tokenizer.encode_plain(counted).unwrap().len());
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_models_have_done_is_counted() {
    let rig = Rig::start().await;
    let mut client = rig.models().await;
    let mut ask = async || {
        let asked = client.get_server_stats(proto::GetServerStatsRequest {}).await;
        asked.unwrap().into_inner()
    };
    let before = ask().await;
    // The target and the guard share one model.
    let ids: Vec<_> = before.models.iter().map(|model| model.names.clone()).collect();
    assert_eq!(ids, [vec![TARGET, GUARD], vec![BASE]]);
    assert!(before.verdicts.is_empty(), "{:?}", before.verdicts);
    let mut expected = rig.stats().tokens;
    let mut safety = rig.safety().await;
    for contents in [&["How?"][..], &["How?"], &["How?", "[unsafe] answer"]] {
        let response = safety.classify(classify(contents)).await.unwrap().into_inner();
        let usage = response.verdict.unwrap().usage.unwrap();
        expected.computed += u64::from(usage.prompt_tokens - usage.cached_prompt_tokens);
        expected.cached += u64::from(usage.cached_prompt_tokens);
        expected.generated += u64::from(usage.completion_tokens);
    }
    assert!(expected.cached > 0, "the second prompt is that of the first");
    rig.idle().await;
    eventually("the last step is counted", || rig.stats().tokens == expected).await;
    let after = ask().await;
    let shared = &after.models[0];
    let tokens = (
        shared.computed_prompt_tokens,
        shared.cached_prompt_tokens,
        shared.generated_tokens,
    );
    assert_eq!(tokens, (expected.computed, expected.cached, expected.generated));
    assert_eq!(
        (shared.queue_depth, shared.in_flight, shared.kv_usage),
        (0, 0, 0.0)
    );
    assert_eq!(
        after.models[1], before.models[1],
        "nobody has used the other model"
    );
    let verdicts = proto::VerdictCounts {
        guard: GUARD.to_owned(),
        safe_count: 2,
        unsafe_count: 1,
        ..Default::default()
    };
    assert_eq!(after.verdicts, [verdicts]);
    rig.stop().await;
}
