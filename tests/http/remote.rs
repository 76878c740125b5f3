//! A server whose target is another server of ours, behind its door for OpenAI's clients.

use std::time::Duration;

use babelward::{
    proto::{GenerateRequest, Provenance, generate_request::Prompt, generate_response::Event},
    registry::{ModelRole, RemoteSpec},
    remote::{EndpointApi, EndpointOptions},
};

use crate::{
    rig::{BASE, Rig, Setup, TARGET, generate_tokens},
    support::{address, start},
};

/// A server with the target and the base model of another one as its own.
async fn in_front_of(other: &Rig) -> Rig {
    let url = format!("http://{}/v1", address(other));
    let remote = |id: &str, model: &str| RemoteSpec {
        roles: vec![ModelRole::Target],
        guard_kind: None,
        tokenizer: None,
        endpoint: EndpointOptions {
            id: id.to_owned(),
            url: url.parse().unwrap(),
            model: model.to_owned(),
            api: EndpointApi::Both,
            key_file: None,
            ca_file: None,
            concurrency: 4,
            queue: 16,
            stall: Duration::from_secs(60),
        },
    };
    Rig::with(Setup {
        remotes: vec![remote("far", TARGET), remote("far-base", BASE)],
        ..Setup::default()
    })
    .await
}

/// The text of an answer, why it ended, and its provenance.
async fn answer(rig: &Rig, request: GenerateRequest) -> (String, i32, Provenance) {
    let mut stream = rig
        .generation()
        .await
        .generate(request)
        .await
        .unwrap()
        .into_inner();
    let (mut text, mut provenance) = (String::new(), None);
    while let Some(response) = stream.message().await.unwrap() {
        match response.event.unwrap() {
            Event::Started(started) => provenance = started.provenance,
            Event::Delta(delta) => text.push_str(&delta.text),
            Event::Finished(finished) => {
                let usage = finished.usage.unwrap();
                assert!(usage.prompt_tokens > 0);
                return (text, finished.finish_reason, provenance.unwrap());
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("an answer without an end");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_of_ours_answers_as_it_does_itself() {
    let back = start().await;
    let front = in_front_of(&back).await;
    let raw = GenerateRequest {
        model: BASE.to_owned(),
        prompt: Some(Prompt::Text("[say after]".to_owned())),
        ..generate_tokens("", 40)
    };
    for (request, far) in [
        (generate_tokens("[say Bonjour, ça va ? 🦀]", 60), "far"),
        (generate_tokens("babble on", 20), "far"),
        (raw, "far-base"),
    ] {
        let near = answer(&back, request.clone()).await;
        let asked = GenerateRequest {
            model: far.to_owned(),
            ..request
        };
        let (text, reason, provenance) = answer(&front, asked).await;
        assert_eq!((text, reason), (near.0, near.1));
        let remote = provenance.remote.unwrap();
        // The door's fingerprint is the digest of the model that answered.
        assert_eq!(remote.reported_fingerprint, near.2.model_digest);
        assert_eq!(provenance.model, far);
    }
    front.stop().await;
    back.stop().await;
}
