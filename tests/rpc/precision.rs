//! How each model computes is its own, and every answer says it.

use std::sync::atomic::Ordering;

use babelward::{
    guard::GuardKind,
    model::{spec, spec::PrecisionChoice},
    proto::{self, Precision, estimate_model_response::Verdict, model::State},
    registry::{LoadPolicy, ModelRole, ModelSpec},
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    fleet::{Fleet, WEIGHTS},
    rig::{self, classify, generate, reason, score, violated},
};

fn declared(id: &str, role: ModelRole, precision: spec::Precision) -> Vec<ModelSpec> {
    vec![ModelSpec {
        precision: Some(PrecisionChoice::Only(precision)),
        guard_kind: Some(GuardKind::ChatDemo),
        ..rig::spec(id, role)
    }]
}

fn of(provenance: Option<proto::Provenance>) -> (String, String) {
    let provenance = provenance.unwrap();
    (provenance.model, provenance.precision)
}

/// What the target's next answer says of how it was computed.
async fn computed(fleet: &Fleet) -> Result<(String, String), Status> {
    let mut client = fleet.rig.generation().await;
    let mut stream = client.generate(generate("[say Hello.]")).await?.into_inner();
    let mut found = None;
    while let Some(response) = stream.message().await? {
        if let Some(proto::generate_response::Event::Started(started)) = response.event {
            found = Some(of(started.provenance));
        }
    }
    Ok(found.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn target_and_guard_say_each_how_it_computed() {
    let models = vec![
        declared("t", ModelRole::Target, spec::Precision::Int8),
        declared("g", ModelRole::Guard, spec::Precision::Bf16),
    ];
    let fleet = Fleet::of(models, 2, false).await;
    assert_eq!(fleet.model("t").await.precision(), Precision::Int8);
    assert_eq!(fleet.model("g").await.precision(), Precision::Bf16);
    let target = || ("t".to_owned(), "int8".to_owned());
    let guard = || ("g".to_owned(), "bf16".to_owned());
    assert_eq!(computed(&fleet).await.unwrap(), target());
    let judged = fleet.rig.safety().await.classify(classify(&["fine"])).await;
    let verdict = judged.unwrap().into_inner().verdict.unwrap();
    assert_eq!(of(verdict.provenance), guard());
    let scored = fleet.rig.scoring().await.score(score("[say Hello.]")).await;
    let sample = scored.unwrap().into_inner().samples.remove(0);
    assert_eq!(of(sample.generation_provenance), target());
    assert_eq!(of(sample.verdict.unwrap().provenance), guard());
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_may_say_how_and_only_one_that_succeeds_changes_it() {
    let fleet = Fleet::start(&[("m", LoadPolicy::Manual)], 1).await;
    let is = async |precision: Precision| fleet.model("m").await.precision() == precision;
    let weights = async |precision| fleet.estimate_in("m", precision).await.weight_bytes;
    assert!(is(Precision::F32).await);
    assert_eq!(weights(Precision::Unspecified).await, WEIGHTS);
    assert_eq!(weights(Precision::Int8).await, WEIGHTS / 2);

    fleet.probe("m").broken.store(true, Ordering::Release);
    fleet.load_in("m", Precision::Int8.into()).await.unwrap_err();
    assert!(is(Precision::F32).await);
    fleet.probe("m").broken.store(false, Ordering::Release);

    let loaded = fleet.load_in("m", Precision::Int8.into()).await.unwrap();
    assert_eq!(
        (loaded.state(), loaded.precision(), loaded.weight_bytes),
        (State::Ready, Precision::Int8, WEIGHTS / 2)
    );
    assert_eq!(computed(&fleet).await.unwrap().1, "int8");
    let estimate = fleet.estimate("m").await;
    assert_eq!(
        (estimate.verdict(), estimate.weight_bytes),
        (Verdict::Resident, WEIGHTS / 2)
    );
    for same in [Precision::Unspecified, Precision::Int8] {
        fleet.load_in("m", same.into()).await.unwrap();
    }
    assert_eq!(fleet.probe("m").opened(), 2);

    // Nobody's model is taken away to be loaded otherwise.
    let status = fleet.load_in("m", Precision::Bf16.into()).await.unwrap_err();
    let (name, metadata) = reason(&status, Code::FailedPrecondition);
    assert_eq!(
        (
            name.as_str(),
            metadata["precision"].as_str(),
            metadata["asked"].as_str()
        ),
        ("PRECISION_MISMATCH", "int8", "bf16")
    );
    assert_eq!(computed(&fleet).await.unwrap().1, "int8");

    // It stays so until a load says otherwise.
    assert_eq!(fleet.unload("m").await.precision(), Precision::Int8);
    assert_eq!(fleet.load("m").await.unwrap().precision(), Precision::Int8);
    fleet.unload("m").await;
    fleet.load_in("m", Precision::Bf16.into()).await.unwrap();
    assert_eq!(computed(&fleet).await.unwrap().1, "bf16");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_precision_that_there_is_not_is_refused_by_name() {
    let fleet = Fleet::start(&[("m", LoadPolicy::Manual)], 1).await;
    let status = fleet.load_in("m", 9).await.unwrap_err();
    assert_eq!(violated(&status), ["precision"]);
    let details = status.get_error_details();
    let told = &details.bad_request().unwrap().field_violations[0].description;
    for known in [
        "PRECISION_MIXED",
        "PRECISION_INT8",
        "PRECISION_BF16",
        "PRECISION_F32",
    ] {
        assert!(told.contains(known), "{told}");
    }
    assert_eq!(fleet.model("m").await.state(), State::Unloaded);
    fleet.stop().await;
}
