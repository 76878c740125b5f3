//! Several models and one budget: loading, evicting, pinning and unloading while calls come in.

use std::sync::atomic::Ordering;

use babelward::{
    engine::Clock,
    guard::GuardKind,
    model::spec::Precision,
    proto::{self, estimate_model_response::Verdict, model::State},
    registry::{
        self, KvSize, LoadPolicy, MemoryOptions, ModelGroup, ModelRole, ModelSpec, ModelState, Registry,
    },
};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt as _;

use crate::{
    fleet::{EACH, Fleet, KV, Probe, WEIGHTS, answer},
    raw::Raw,
    rig::{self, classify, eventually, reason},
};

#[tokio::test(flavor = "multi_thread")]
async fn clients_manage_models_only_where_that_is_allowed() {
    let spec = rig::spec("only", ModelRole::Target);
    let fleet = Fleet::of(vec![vec![spec]], 1, false).await;
    let mut admin = fleet.rig.admin().await;
    let name = || "only".to_owned();
    let refused = [
        admin
            .load_model(proto::LoadModelRequest {
                name: name(),
                ..Default::default()
            })
            .await
            .unwrap_err(),
        admin
            .unload_model(proto::UnloadModelRequest {
                name: name(),
                drain_timeout: None,
            })
            .await
            .unwrap_err(),
        admin
            .pin_model(proto::PinModelRequest {
                name: name(),
                pinned: true,
            })
            .await
            .unwrap_err(),
        admin
            .estimate_model(proto::EstimateModelRequest {
                name: name(),
                ..Default::default()
            })
            .await
            .unwrap_err(),
    ];
    for status in refused {
        assert_eq!(reason(&status, Code::PermissionDenied).0, "ADMIN_DISABLED");
        assert!(status.message().contains("--allow-admin"));
    }
    assert_eq!(fleet.ask("only").await.unwrap(), "Hello.");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manual_model_is_estimated_loaded_used_and_unloaded_with_its_memory() {
    let fleet = Fleet::start(&[("a", LoadPolicy::Eager), ("m", LoadPolicy::Manual)], 3).await;
    assert_eq!(fleet.model("m").await.state(), State::Unloaded);
    let status = fleet.ask("m").await.unwrap_err();
    let (name, metadata) = reason(&status, Code::FailedPrecondition);
    assert_eq!(
        (name.as_str(), metadata["model"].as_str()),
        ("MODEL_NOT_LOADED", "m")
    );
    assert!(status.message().contains("babelward models load"));

    let estimate = fleet.estimate("m").await;
    assert_eq!(estimate.verdict(), Verdict::Fits);
    assert_eq!(
        (
            estimate.weight_bytes,
            estimate.kv_minimum_bytes,
            estimate.kv_proposed_bytes
        ),
        (WEIGHTS, KV, KV)
    );
    assert_eq!(
        (estimate.available_bytes, estimate.budget_bytes),
        (2 * EACH, 3 * EACH)
    );
    assert_eq!(fleet.probe("m").opened(), 0);

    let loaded = fleet.load("m").await.unwrap();
    assert_eq!(loaded.state(), State::Ready);
    assert_eq!(
        (loaded.resident_bytes, loaded.weight_bytes, loaded.kv_bytes),
        (EACH, WEIGHTS, KV)
    );
    assert_eq!(fleet.ask("m").await.unwrap(), "Hello.");
    assert!(fleet.model("m").await.kv_touched_bytes > 0 || KV < 8192);
    // Twice is once.
    fleet.load("m").await.unwrap();
    assert_eq!(fleet.probe("m").opened(), 1);
    assert_eq!(fleet.estimate("m").await.verdict(), Verdict::Resident);

    let unloaded = fleet.unload("m").await;
    assert_eq!((unloaded.state(), unloaded.resident_bytes), (State::Unloaded, 0));
    assert_eq!(fleet.probe("m").dropped(), 1, "its memory is the system's again");
    assert_eq!(memory(&fleet), (3 * EACH, 2 * EACH));
    assert_eq!(fleet.unload("m").await.state(), State::Unloaded);
    let status = fleet.ask("m").await.unwrap_err();
    assert_eq!(reason(&status, Code::FailedPrecondition).0, "MODEL_NOT_LOADED");
    assert_eq!(fleet.ask("a").await.unwrap(), "Hello.");
    // And again.
    fleet.load("m").await.unwrap();
    assert_eq!(fleet.ask("m").await.unwrap(), "Hello.");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_requests_share_one_load_while_others_are_answered() {
    let fleet = Fleet::start(&[("a", LoadPolicy::Eager), ("l", LoadPolicy::Lazy)], 2).await;
    fleet.probe("l").loading.close();
    let mut calls = Vec::new();
    for _ in 0..8 {
        let client = fleet.rig.generation().await;
        calls.push(tokio::spawn(async move { answer(client, "l").await }));
    }
    eventually("it is being opened", || fleet.probe("l").loading.is_blocked()).await;
    assert_eq!(fleet.model("l").await.state(), State::Loading);
    assert_eq!(fleet.ask("a").await.unwrap(), "Hello.");
    // One that cannot wait so long.
    let request = proto::GenerateRequest {
        model: "l".to_owned(),
        ..rig::generate("[say Hello.]")
    };
    let client = Raw::connect(fleet.rig.address).await;
    let status = client.call("GenerationService/Generate", "1S", request).await;
    assert_eq!(reason(&status, Code::DeadlineExceeded).1["stage"], "queue");
    fleet.probe("l").loading.open();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "Hello.");
    }
    assert_eq!(fleet.probe("l").opened(), 1);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_idle_lazy_model_used_longest_ago_makes_room_and_pinned_ones_never() {
    let lazy = ["x", "y", "z"].map(|id| (id, LoadPolicy::Lazy));
    let models = [&[("a", LoadPolicy::Eager)][..], &lazy].concat();
    let fleet = Fleet::start(&models, 3).await;
    for id in ["x", "y", "x"] {
        fleet.ask(id).await.unwrap();
    }
    assert_eq!(fleet.resident(), ["a", "x", "y"]);
    let estimate = fleet.estimate("z").await;
    assert_eq!(estimate.verdict(), Verdict::FitsAfterEviction);
    assert_eq!(estimate.would_evict, ["y"]);
    fleet.ask("z").await.unwrap();
    assert_eq!(fleet.resident(), ["a", "x", "z"]);
    assert_eq!(fleet.probe("y").dropped(), 1);

    fleet.pin("x", true).await;
    fleet.ask("y").await.unwrap();
    assert_eq!(fleet.resident(), ["a", "x", "y"]);
    fleet.pin("y", true).await;
    let estimate = fleet.estimate("z").await;
    assert_eq!(estimate.verdict(), Verdict::DoesNotFit);
    // The eager one never makes room by itself, but could be unloaded.
    assert_eq!(estimate.could_unload, ["a"]);
    let by_request = fleet.ask("z").await.unwrap_err();
    let by_load = fleet.load("z").await.unwrap_err();
    for status in [by_request, by_load] {
        let (name, metadata) = reason(&status, Code::ResourceExhausted);
        assert_eq!(name, "DEVICE_MEMORY");
        assert_eq!(metadata["neededBytes"], EACH.to_string());
        assert_eq!(metadata["availableBytes"], "0");
        assert_eq!(metadata["budgetBytes"], (3 * EACH).to_string());
        assert_eq!(metadata["couldUnload"], "a");
        assert!(status.get_error_details().retry_info().is_none());
    }
    assert_eq!(fleet.model("z").await.state(), State::Unloaded);
    fleet.unload("a").await;
    fleet.ask("z").await.unwrap();
    assert_eq!(fleet.resident(), ["x", "y", "z"]);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_model_makes_no_room_before_it_has_answered() {
    let fleet = Fleet::start(&[("x", LoadPolicy::Lazy), ("y", LoadPolicy::Lazy)], 1).await;
    fleet.ask("x").await.unwrap();
    fleet.probe("x").running.close();
    let client = fleet.rig.generation().await;
    let open = tokio::spawn(async move { answer(client, "x").await });
    eventually("x computes", || fleet.probe("x").running.is_blocked()).await;
    let status = fleet.ask("y").await.unwrap_err();
    let (name, metadata) = reason(&status, Code::ResourceExhausted);
    assert_eq!(
        (name.as_str(), metadata["couldUnload"].as_str()),
        ("DEVICE_MEMORY", "x")
    );
    assert!(
        status.get_error_details().retry_info().is_some(),
        "soon it is idle"
    );
    fleet.probe("x").running.open();
    assert_eq!(open.await.unwrap().unwrap(), "Hello.");
    eventually("x is idle", || {
        let registry = &fleet.rig.registry;
        let need = registry
            .estimate_model(registry.find("y").unwrap(), None)
            .unwrap();
        matches!(need.feasibility, registry::Feasibility::Fits { .. })
    })
    .await;
    assert_eq!(fleet.ask("y").await.unwrap(), "Hello.");
    assert_eq!(fleet.resident(), ["y"]);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unloading_lets_open_work_finish_and_takes_nothing_new() {
    let fleet = Fleet::start(&[("a", LoadPolicy::Eager), ("b", LoadPolicy::Eager)], 2).await;
    fleet.probe("b").running.close();
    let client = fleet.rig.generation().await;
    let open = tokio::spawn(async move { answer(client, "b").await });
    eventually("b computes", || fleet.probe("b").running.is_blocked()).await;
    let mut admin = fleet.rig.admin().await;
    let unload = proto::UnloadModelRequest {
        name: "b".to_owned(),
        drain_timeout: None,
    };
    let unloading = tokio::spawn(async move { admin.unload_model(unload).await });
    eventually("b drains", || fleet.state("b") == ModelState::Draining).await;
    let status = fleet.ask("b").await.unwrap_err();
    assert_eq!(reason(&status, Code::Unavailable).0, "MODEL_UNLOADING");
    fleet.probe("b").running.open();
    assert_eq!(open.await.unwrap().unwrap(), "Hello.");
    unloading.await.unwrap().unwrap();
    assert_eq!(fleet.resident(), ["a"]);
    assert_eq!(fleet.ask("a").await.unwrap(), "Hello.");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_when_the_time_is_over_is_told() {
    let fleet = Fleet::start(&[("b", LoadPolicy::Eager)], 1).await;
    fleet.probe("b").running.close();
    let client = fleet.rig.generation().await;
    let open = tokio::spawn(async move { answer(client, "b").await });
    eventually("b computes", || fleet.probe("b").running.is_blocked()).await;
    let mut admin = fleet.rig.admin().await;
    let unload = proto::UnloadModelRequest {
        name: "b".to_owned(),
        drain_timeout: Some(prost_types::Duration { seconds: 0, nanos: 1 }),
    };
    let unloading = tokio::spawn(async move { admin.unload_model(unload).await });
    eventually("the engine is told", || fleet.resident().is_empty()).await;
    // A step is never cut short.
    fleet.probe("b").running.open();
    unloading.await.unwrap().unwrap();
    match open.await.unwrap() {
        Err(status) => assert_eq!(reason(&status, Code::Unavailable).0, "MODEL_UNLOADING"),
        // Its last step was the one that was under way.
        Ok(text) => assert_eq!(text, "Hello."),
    }
    assert_eq!(fleet.probe("b").dropped(), 1);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_hear_of_each_step_and_ids_of_one_model_go_together() {
    let guard = ModelSpec {
        guard_kind: Some(GuardKind::ChatDemo),
        load: LoadPolicy::Manual,
        ..rig::spec("g", ModelRole::Guard)
    };
    let target = ModelSpec {
        load: LoadPolicy::Manual,
        ..rig::spec("t", ModelRole::Target)
    };
    let fleet = Fleet::of(vec![vec![target, guard]], 1, true).await;
    let mut changes = fleet
        .rig
        .models()
        .await
        .watch_models(proto::WatchModelsRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut health = HealthClient::new(fleet.rig.channel().await);
    let safety = HealthCheckRequest {
        service: "babelward.v1.SafetyService".to_owned(),
    };
    let mut health = health.watch(safety).await.unwrap().into_inner();
    let mut becomes = async |wanted: ServingStatus| {
        while health.message().await.unwrap().unwrap().status() != wanted {}
    };
    let mut told = async |state: State| {
        for id in ["t", "g"] {
            let model = changes.message().await.unwrap().unwrap().model.unwrap();
            assert_eq!((model.name.as_str(), model.state()), (id, state));
        }
    };
    told(State::Unloaded).await;
    becomes(ServingStatus::NotServing).await;
    fleet.load("t").await.unwrap();
    told(State::Loading).await;
    told(State::Ready).await;
    becomes(ServingStatus::Serving).await;
    let judged = fleet.rig.safety().await.classify(classify(&["fine"])).await;
    judged.unwrap();
    fleet.unload("g").await;
    told(State::Draining).await;
    told(State::Unloaded).await;
    becomes(ServingStatus::NotServing).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_serves_while_a_lazy_model_would_be_loaded_for_it() {
    let fleet = Fleet::start(&[("l", LoadPolicy::Lazy)], 1).await;
    // A first call makes sure that the server has looked at its models.
    fleet.model("l").await;
    let mut health = HealthClient::new(fleet.rig.channel().await);
    let generation = HealthCheckRequest {
        service: "babelward.v1.GenerationService".to_owned(),
    };
    let mut health = health.watch(generation).await.unwrap().into_inner();
    while health.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
    assert_eq!(fleet.probe("l").opened(), 0);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_loaded_says_so_until_it_can() {
    let fleet = Fleet::start(&[("l", LoadPolicy::Lazy)], 1).await;
    fleet.probe("l").broken.store(true, Ordering::Release);
    for _ in 0..2 {
        let status = fleet.ask("l").await.unwrap_err();
        let (name, metadata) = reason(&status, Code::FailedPrecondition);
        assert_eq!(name, "MODEL_LOAD_FAILED");
        assert!(
            !metadata.contains_key("cause"),
            "whoever asks is not told about files"
        );
    }
    assert_eq!(
        fleet.probe("l").opened(),
        1,
        "requests do not try again and again"
    );
    let model = fleet.model("l").await;
    assert_eq!(model.state(), State::Failed);
    assert!(!model.error.contains("secret"));
    assert_eq!(memory(&fleet).1, EACH, "its room is free");
    let status = fleet.load("l").await.unwrap_err();
    let (_, metadata) = reason(&status, Code::FailedPrecondition);
    assert!(metadata["cause"].contains("secret/place"));
    fleet.probe("l").broken.store(false, Ordering::Release);
    assert_eq!(fleet.load("l").await.unwrap().state(), State::Ready);
    assert_eq!(fleet.ask("l").await.unwrap(), "Hello.");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eager_models_that_do_not_fit_are_an_error_at_the_start() {
    let spec = |id| vec![rig::spec(id, ModelRole::Target)];
    let group = |id| ModelGroup {
        specs: spec(id),
        device: 0,
        passed_over: Vec::new(),
        precision: Precision::F32,
        loader: Box::new(Probe::default()),
    };
    let memory = MemoryOptions {
        budget: 2 * EACH - 1,
        kv: KvSize::Fixed(KV),
    };
    let options = rig::start_options(memory, 16, Clock::default());
    let groups = vec![group("first"), group("second")];
    let started = tokio::task::spawn_blocking(move || Registry::prepare_groups(groups, options).map(drop));
    let error = started.await.unwrap().unwrap_err();
    let shown = error.to_string();
    for part in ["need 2.3 KiB, 1 B more than", "first 1.2 KiB", "second 1.2 KiB"] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
}

/// Bytes that there are for models, and bytes that are free.
fn memory(fleet: &Fleet) -> (u64, u64) {
    let (_, memory) = fleet.rig.registry.devices().remove(0);
    (memory.budget, memory.available)
}
