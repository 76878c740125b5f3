//! EstimateQuality with tiny random CometKiwi and MetricX models, whose scores their references have told.

use std::{path::PathBuf, sync::Arc};

use babelward::{
    backend::{Backend, LoadOptions, cpu::CpuBackend},
    engine::Clock,
    model::{spec::Precision, spec::PrecisionChoice},
    proto::{self, Capability, QualityMetric, model::State, quality_result::Result as PairResult},
    registry::{KvSize, MemoryOptions, ModelRole, ModelSpec, Registry, RegistryOptions},
    rpc::ServerOptions,
};
use tonic::Code;

use crate::{
    common,
    estimators::{Case, Pair, case},
    rig::{self, Rig, item_reason, item_status, reason, violated},
    scripted::Gate,
};

pub const KIWI: &str = "kiwi";

fn spec(id: &str, path: PathBuf, role: ModelRole) -> ModelSpec {
    ModelSpec {
        path,
        ..rig::spec(id, role)
    }
}

fn registry_options(models: Vec<ModelSpec>) -> RegistryOptions {
    let memory = MemoryOptions {
        budget: 1 << 30,
        kv: KvSize::Fixed(256 << 20),
    };
    RegistryOptions {
        models,
        max_context: None,
        precision: PrecisionChoice::Only(Precision::Int8),
        backends: vec![Arc::new(CpuBackend::new(2))],
        unusable: Vec::new(),
        start: rig::start_options(memory, 2048, Clock::default()),
    }
}

/// A server of one estimator from its folder.
async fn kiwi(case: &Case) -> Rig {
    let path = case.folder.path().to_owned();
    let options = registry_options(vec![spec(KIWI, path, ModelRole::Quality)]);
    let registry = tokio::task::spawn_blocking(move || Registry::load(options));
    let registry = registry.await.unwrap().unwrap();
    Rig::serve(registry, ServerOptions::default(), Gate::default()).await
}

fn pair(pair: &Pair) -> proto::TranslationPair {
    proto::TranslationPair {
        id: String::new(),
        source: pair.source.clone(),
        translation: pair.translation.clone(),
    }
}

pub fn texts(source: &str, translation: &str) -> proto::TranslationPair {
    proto::TranslationPair {
        id: String::new(),
        source: source.to_owned(),
        translation: translation.to_owned(),
    }
}

pub fn request(pairs: Vec<proto::TranslationPair>) -> proto::EstimateQualityRequest {
    proto::EstimateQualityRequest {
        pairs,
        ..Default::default()
    }
}

pub fn estimate(result: &proto::QualityResult) -> &proto::QualityEstimate {
    match result.result.as_ref().unwrap() {
        PairResult::Estimate(estimate) => estimate,
        PairResult::Error(error) => panic!("{error:?}"),
    }
}

fn error(result: &proto::QualityResult) -> &proto::ItemStatus {
    match result.result.as_ref().unwrap() {
        PairResult::Error(error) => error,
        PairResult::Estimate(estimate) => panic!("{estimate:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_are_the_references_in_order_and_the_same_alone() {
    let case = case("comet", "sparsemax-norm-sigmoid");
    let rig = kiwi(&case).await;
    let mut client = rig.quality().await;
    let all = request(case.pairs.iter().map(pair).collect());
    let answer = client.estimate_quality(all).await.unwrap().into_inner();
    assert_eq!(answer.metric(), QualityMetric::CometKiwi);
    let provenance = answer.provenance.unwrap();
    assert_eq!(
        (provenance.model.as_str(), provenance.precision.as_str()),
        (KIWI, "f32")
    );
    assert!(
        provenance.model_digest.starts_with("sha256:") && provenance.tokenizer_digest.starts_with("sha256:")
    );
    assert_eq!(answer.results.len(), case.pairs.len());
    for (index, (result, expected)) in answer.results.iter().zip(&case.pairs).enumerate() {
        assert_eq!(result.id, index.to_string());
        let found = estimate(result);
        assert!(
            (found.score - expected.score).abs() < 2e-5,
            "{found:?} {expected:?}"
        );
        assert_eq!(found.usage.unwrap().prompt_tokens as usize, expected.tokens.len());
        let alone = client
            .estimate_quality(request(vec![pair(expected)]))
            .await
            .unwrap()
            .into_inner();
        let alone = estimate(&alone.results[0]);
        assert_eq!(alone.score.to_bits(), found.score.to_bits());
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metricx_gives_errors_of_0_to_25_and_cuts_nothing_off() {
    for (name, architecture) in [("v23-bf16", "metricx-23"), ("v24", "metricx-24")] {
        let case = case("metricx", name);
        // A window that the longest pair does not fit into.
        let path = case.folder.path().join("config.json");
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json["metricx_max_input_tokens"] = 201.into();
        std::fs::write(&path, json.to_string()).unwrap();
        let rig = kiwi(&case).await;
        let mut client = rig.quality().await;
        // An RPC's source is never empty.
        let pairs: Vec<_> = case.pairs.iter().filter(|pair| !pair.source.is_empty()).collect();
        let all = request(pairs.iter().copied().map(pair).collect());
        let answer = client.estimate_quality(all).await.unwrap().into_inner();
        assert_eq!(answer.metric(), QualityMetric::Metricx);
        for (result, expected) in answer.results.iter().zip(&pairs) {
            if expected.tokens.len() > 200 {
                let long = error(result);
                assert_eq!(item_reason(long, Code::InvalidArgument), "INPUT_TOO_LONG");
                assert!(long.message.contains("200"), "{}", long.message);
            } else {
                let found = estimate(result).score;
                assert!((found - expected.score).abs() < 2e-5, "{found} {expected:?}");
                assert!((0.0..=25.0).contains(&found));
            }
        }
        let mut service = rig.models().await;
        let models = service.list_models(proto::ListModelsRequest::default());
        let models = models.await.unwrap().into_inner().models;
        assert_eq!(models[0].architecture, format!("{architecture} mt5"));
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_pair_ends_that_pair_only() {
    let case = case("comet", "softmax");
    let rig = kiwi(&case).await;
    let mut client = rig.quality().await;
    let mut pairs = vec![
        texts("", "Hallo"),
        texts("word ".repeat(400).as_str(), "Wort"),
        pair(&case.pairs[0]),
    ];
    pairs[2].id = "good".to_owned();
    let answer = client
        .estimate_quality(request(pairs))
        .await
        .unwrap()
        .into_inner();
    let empty = error(&answer.results[0]);
    assert_eq!(item_reason(empty, Code::InvalidArgument), "INVALID_FIELDS");
    assert_eq!(violated(&item_status(empty)), ["pairs[0].source"]);
    // Nothing is ever cut off.
    let long = error(&answer.results[1]);
    assert_eq!(item_reason(long, Code::InvalidArgument), "INPUT_TOO_LONG");
    assert!(long.message.contains("128"), "{}", long.message);
    assert_eq!(answer.results[2].id, "good");
    assert!((estimate(&answer.results[2]).score - case.pairs[0].score).abs() < 2e-5);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_ends_it() {
    let case = case("comet", "softmax");
    let rig = kiwi(&case).await;
    let mut client = rig.quality().await;
    let status = client.estimate_quality(request(Vec::new())).await.unwrap_err();
    assert_eq!(violated(&status), ["pairs"]);
    let mut wrong = request(vec![texts("a", "b"); 257]);
    wrong.priority = 77;
    wrong.model = "x".repeat(200);
    wrong.pairs[3].id = "y".repeat(200);
    let status = client.estimate_quality(wrong).await.unwrap_err();
    assert_eq!(violated(&status), ["model", "priority", "pairs", "pairs[3].id"]);
    let mut twice = request(vec![texts("a", "b"); 2]);
    twice.pairs[0].id = "1".to_owned();
    let status = client.estimate_quality(twice).await.unwrap_err();
    assert_eq!(reason(&status, Code::InvalidArgument).0, "ITEM_ID_OPEN");
    let mut unknown = request(vec![texts("a", "b")]);
    unknown.model = "kiwis".to_owned();
    let status = client.estimate_quality(unknown).await.unwrap_err();
    let (name, metadata) = reason(&status, Code::NotFound);
    assert_eq!(
        (name.as_str(), metadata["didYouMean"].as_str()),
        ("MODEL_NOT_FOUND", KIWI)
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_estimator_does_nothing_else_and_nothing_else_is_one() {
    let case = case("comet", "xl-sparsemax");
    let rig = kiwi(&case).await;
    let mut generate = rig::generate("hi");
    generate.model = KIWI.to_owned();
    let status = rig.generation().await.generate(generate).await.unwrap_err();
    let (name, metadata) = reason(&status, Code::FailedPrecondition);
    assert_eq!(
        (name.as_str(), metadata["has"].as_str()),
        ("CAPABILITY_MISSING", "estimate_quality")
    );
    let mut classify = rig::classify(&["hi"]);
    classify.model = KIWI.to_owned();
    let status = rig.safety().await.classify(classify).await.unwrap_err();
    assert_eq!(reason(&status, Code::FailedPrecondition).1["needs"], "classify");
    rig.stop().await;

    let rig = Rig::start().await;
    let mut client = rig.quality().await;
    let status = client
        .estimate_quality(request(vec![texts("a", "b")]))
        .await
        .unwrap_err();
    let (name, metadata) = reason(&status, Code::FailedPrecondition);
    assert_eq!(
        (name.as_str(), metadata["needs"].as_str()),
        ("NO_DEFAULT_MODEL", "estimate_quality")
    );
    let mut target = request(vec![texts("a", "b")]);
    target.model = rig::TARGET.to_owned();
    let status = client.estimate_quality(target).await.unwrap_err();
    assert_eq!(reason(&status, Code::FailedPrecondition).0, "CAPABILITY_MISSING");
    rig.stop().await;
}

#[test]
fn a_role_that_does_not_fit_the_folder_is_told_before_anything_is_loaded() {
    let case = case("comet", "softmax");
    let path = case.folder.path().to_owned();
    let refused = |spec: ModelSpec| {
        Registry::load(registry_options(vec![spec]))
            .err()
            .unwrap()
            .to_string()
    };
    let found = refused(spec(KIWI, path.clone(), ModelRole::Guard));
    assert!(
        found.contains("`kiwi` is a quality estimator (comet-kiwi)"),
        "{found}"
    );
    std::fs::write(
        path.join("config.json"),
        r#"{"architectures": ["LlamaForCausalLM"]}"#,
    )
    .unwrap();
    let found = refused(spec(KIWI, path, ModelRole::Quality));
    assert!(
        found.contains("is not the folder of a quality estimator"),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn models_tell_of_an_estimator_and_it_is_unloaded_and_loaded_within_the_budget() {
    let case = case("comet", "xl-softmax-norm");
    let path = case.folder.path().to_owned();
    let options = registry_options(vec![spec(KIWI, path, ModelRole::Quality)]);
    let registry = tokio::task::spawn_blocking(move || Registry::load(options))
        .await
        .unwrap()
        .unwrap();
    let server = ServerOptions {
        allow_admin: true,
        ..Default::default()
    };
    let rig = Rig::serve(registry, server, Gate::default()).await;
    let list = proto::ListModelsRequest {
        capability: Capability::EstimateQuality.into(),
        ..Default::default()
    };
    let models = rig
        .models()
        .await
        .list_models(list)
        .await
        .unwrap()
        .into_inner()
        .models;
    let [model] = models.as_slice() else {
        panic!("{models:?}")
    };
    assert_eq!(model.architecture, "comet-kiwi xlm-roberta-xl");
    assert_eq!(
        (model.context_tokens, model.state(), model.dtype.as_str()),
        (128, State::Ready, "f32")
    );
    // A pool for tokens is small, however much each model's cache may take.
    assert!(model.kv_bytes > 0 && model.kv_bytes < 1 << 20, "{model:?}");
    let mut admin = rig.admin().await;
    let name = KIWI.to_owned();
    let estimate = admin.estimate_model(proto::EstimateModelRequest {
        name: name.clone(),
        ..Default::default()
    });
    let estimate = estimate.await.unwrap().into_inner();
    assert!(
        estimate.weight_bytes >= model.weight_bytes,
        "{estimate:?} {model:?}"
    );
    let unload = proto::UnloadModelRequest {
        name: name.clone(),
        drain_timeout: None,
    };
    admin.unload_model(unload).await.unwrap();
    let status = rig
        .quality()
        .await
        .estimate_quality(request(vec![texts("a", "b")]))
        .await
        .unwrap_err();
    assert_eq!(reason(&status, Code::FailedPrecondition).0, "MODEL_NOT_LOADED");
    let load = proto::LoadModelRequest {
        name,
        ..Default::default()
    };
    admin.load_model(load).await.unwrap();
    let answer = rig
        .quality()
        .await
        .estimate_quality(request(vec![pair(&case.pairs[0])]))
        .await
        .unwrap();
    let score = self::estimate(&answer.into_inner().results[0]).score;
    assert!((score - case.pairs[0].score).abs() < 2e-5);
    rig.stop().await;
}

#[test]
fn the_window_that_is_served_can_be_smaller() {
    let case = case("comet", "softmax");
    let options = LoadOptions {
        max_context: Some(20),
        ..common::load_options(Precision::F32, 1 << 16)
    };
    let loaded = CpuBackend::new(1)
        .load(case.folder.path(), &[], &options)
        .unwrap();
    assert_eq!(loaded.model.limits().context_length, 20);
}
