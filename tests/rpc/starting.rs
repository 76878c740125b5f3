//! Before the models are loaded: the server answers what it can, and says of the rest that it is loading.

use babelward::{
    guard::GuardKind,
    proto::{self, model::State},
    registry::{LoadPolicy, ModelRole, ModelSpec},
};
use tonic::{Code, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use crate::{
    fleet::Fleet,
    rig::{self, Rig, classify, eventually, reason, requests, score},
};

/// A guard and a target that are loaded at the start, and one that is loaded when asked for.
async fn fleet() -> Fleet {
    let guard = ModelSpec {
        guard_kind: Some(GuardKind::ChatDemo),
        ..rig::spec("guard", ModelRole::Guard)
    };
    let lazy = ModelSpec {
        load: LoadPolicy::Lazy,
        ..rig::spec("lazy", ModelRole::Target)
    };
    let models = vec![
        vec![guard],
        vec![rig::spec("target", ModelRole::Target)],
        vec![lazy],
    ];
    let fleet = Fleet::starting(models, 3, true).await;
    for id in ["guard", "target"] {
        fleet.probe(id).loading.close();
    }
    fleet
}

async fn health(rig: &Rig, service: &str) -> ServingStatus {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(rig.channel().await)
        .check(request)
        .await
        .unwrap();
    answer.into_inner().status()
}

async fn states(rig: &Rig) -> Vec<State> {
    let request = proto::ListModelsRequest::default();
    let list = rig
        .models()
        .await
        .list_models(request)
        .await
        .unwrap()
        .into_inner();
    list.models.iter().map(proto::Model::state).collect()
}

fn refused(status: &Status, ready: &str) {
    let (reason, metadata) = reason(status, Code::Unavailable);
    assert_eq!(reason, "SERVER_LOADING");
    assert_eq!(
        (metadata["readyModels"].as_str(), metadata["models"].as_str()),
        (ready, "2")
    );
    assert!(status.get_error_details().retry_info().is_some());
    assert!(status.message().contains("loading"), "{}", status.message());
}

const DEPENDENT: [&str; 5] = [
    "",
    "babelward.v1.GenerationService",
    "babelward.v1.SafetyService",
    "babelward.v1.ScoringService",
    "babelward.v1.AdminService",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_loading_says_so_until_all_eager_models_are_ready() {
    let fleet = fleet().await;
    let rig = &fleet.rig;
    let loading = fleet.load_eager();
    eventually("the first is being loaded", || {
        fleet.probe("guard").loading.is_blocked()
    })
    .await;
    for service in DEPENDENT {
        assert_eq!(health(rig, service).await, ServingStatus::NotServing, "{service}");
    }
    assert_eq!(
        health(rig, "babelward.v1.ModelService").await,
        ServingStatus::Serving
    );
    assert_eq!(
        states(rig).await,
        [State::Loading, State::Loading, State::Unloaded]
    );

    refused(
        &rig.safety().await.classify(classify(&["hi"])).await.unwrap_err(),
        "0",
    );
    refused(&rig.scoring().await.score(score("hi")).await.unwrap_err(), "0");
    refused(&fleet.ask("lazy").await.unwrap_err(), "0");
    refused(&fleet.load("lazy").await.unwrap_err(), "0");
    let (_send, receive) = requests::<proto::ClassifyStreamRequest>();
    refused(
        &rig.safety().await.classify_stream(receive).await.unwrap_err(),
        "0",
    );
    let count = proto::CountTokensRequest {
        text: "hi".to_owned(),
        ..Default::default()
    };
    refused(&rig.models().await.count_tokens(count).await.unwrap_err(), "0");

    fleet.probe("guard").loading.open();
    eventually("the second is being loaded", || {
        fleet.probe("target").loading.is_blocked()
    })
    .await;
    assert_eq!(states(rig).await, [State::Ready, State::Loading, State::Unloaded]);
    refused(
        &rig.safety().await.classify(classify(&["hi"])).await.unwrap_err(),
        "1",
    );
    assert_eq!(
        health(rig, "babelward.v1.SafetyService").await,
        ServingStatus::NotServing
    );

    fleet.probe("target").loading.open();
    loading.await.unwrap().unwrap();
    rig.safety().await.classify(classify(&["hi"])).await.unwrap();
    fleet.ask("lazy").await.unwrap();
    let mut watch = HealthClient::new(rig.channel().await);
    let everything = HealthCheckRequest::default();
    let mut watch = watch.watch(everything).await.unwrap().into_inner();
    while watch.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_while_it_loads_stops() {
    let mut fleet = fleet().await;
    let loading = fleet.load_eager();
    eventually("the first is being loaded", || {
        fleet.probe("guard").loading.is_blocked()
    })
    .await;
    fleet.rig.begin_stop().await.unwrap().unwrap();
    for id in ["guard", "target"] {
        fleet.probe(id).loading.open();
    }
    // Nobody waits for it any more: it ends either way.
    let _ = loading.await.unwrap();
}
