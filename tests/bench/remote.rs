//! A run whose target is an endpoint on another machine, judged by a guard on the server.

use std::{collections::BTreeSet, time::Duration};

use babelward::{
    bench::settings::RunSettings,
    registry::{ModelRole, RemoteSpec},
    remote::{EndpointApi, EndpointOptions},
};

use crate::{
    endpoint::{Endpoint, Piece, Reply, chat_piece, undescribed, usage, usage_piece},
    rig::{Rig, Setup},
    runs::{begin, client, dataset, finish, results, settings},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_a_remote_target_says_where_it_was() {
    let endpoint = Endpoint::start(|asked| {
        undescribed(asked, "served").unwrap_or_else(|| {
            Reply::events(vec![
                chat_piece("fine", Some("stop")),
                usage_piece(usage(5, 1)),
                Piece::done(),
            ])
        })
    })
    .await;
    let rig = Rig::with(Setup {
        remotes: vec![RemoteSpec {
            roles: vec![ModelRole::Target],
            guard_kind: None,
            tokenizer: None,
            endpoint: EndpointOptions {
                id: "big".to_owned(),
                url: endpoint.url().parse().unwrap(),
                model: "served".to_owned(),
                api: EndpointApi::Chat,
                key_file: None,
                ca_file: None,
                concurrency: 2,
                queue: 256,
                stall: Duration::from_secs(60),
            },
        }],
        ..Setup::default()
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let settings = RunSettings {
        target: "big".to_owned(),
        ..settings(4)
    };
    let run = begin(&path, &dataset(), settings);
    let info = finish(run, &client(&rig).await).await;
    let targets: Vec<_> = info.provenance.targets.iter().collect();
    let [target] = targets[..] else {
        panic!("{targets:?}");
    };
    assert_eq!(target.remote, format!("served at {}", endpoint.url()));
    assert_eq!(
        (target.device.as_str(), target.determinism.as_str()),
        ("remote", "BEST_EFFORT")
    );
    // Five prompts in two languages with two seeds. Where a verdict fails, as some do for a target here, the client asks again.
    let asked: BTreeSet<_> = endpoint
        .bodies("/v1/chat/completions")
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(asked.len(), 5 * 2 * 2);
    assert_eq!(results(&path).lines().count(), 5 * 2 * 2);
    rig.stop().await;
}
