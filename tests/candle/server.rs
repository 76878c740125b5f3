//! A real server whose only device is candle's: it generates and classifies, and says where.

use std::sync::Arc;

use babelward::{
    backend::Backend,
    engine::Clock,
    guard::GuardKind,
    model::spec::{Precision, PrecisionChoice},
    proto,
    registry::{KvSize, MemoryOptions, ModelRole, ModelSpec, Registry, RegistryOptions},
    rpc::ServerOptions,
};

use crate::{
    common,
    rig::{self, Rig},
    scripted::Gate,
};

const TARGET: &str = "target";
const GUARD: &str = "guard";

async fn serve() -> Rig {
    let candle: Arc<dyn Backend> = Arc::new(common::candle());
    let memory = MemoryOptions {
        budget: 2 << 30,
        kv: KvSize::Fixed(256 << 20),
    };
    let mut start = rig::start_options(memory, 64, Clock::default());
    start.devices[0].info = candle.device().clone();
    start.devices[0].engine.max_batch_tokens = 512;
    start.devices[0].engine.max_batch_sequences = 8;
    let spec = |id: &str, role| ModelSpec {
        path: common::smollm2(),
        ..rig::spec(id, role)
    };
    let options = RegistryOptions {
        models: vec![
            spec(TARGET, ModelRole::Target),
            ModelSpec {
                guard_kind: Some(GuardKind::ChatDemo),
                ..spec(GUARD, ModelRole::Guard)
            },
        ],
        max_context: Some(1024),
        precision: PrecisionChoice::Only(Precision::F32),
        backends: vec![candle],
        unusable: Vec::new(),
        start,
    };
    let registry = tokio::task::spawn_blocking(move || Registry::load(options))
        .await
        .unwrap();
    Rig::serve(registry.unwrap(), ServerOptions::default(), Gate::default()).await
}

async fn answer(rig: &Rig, text: &str) -> (String, proto::Provenance) {
    let mut stream = rig
        .generation()
        .await
        .generate(rig::generate(text))
        .await
        .unwrap()
        .into_inner();
    let (mut words, mut provenance) = (String::new(), None);
    while let Some(response) = stream.message().await.unwrap() {
        match response.event.unwrap() {
            proto::generate_response::Event::Started(started) => provenance = started.provenance,
            proto::generate_response::Event::Delta(delta) => words.push_str(&delta.text),
            proto::generate_response::Event::Finished(_) => {}
            other => panic!("{other:?} without a guard"),
        }
    }
    (words, provenance.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_generates_and_classifies_on_candle_alone() {
    let rig = serve().await;
    let prompts = [
        "Name a colour.",
        "Count to three.",
        "What is the capital of France?",
    ];
    let (first, second, third, verdict) = tokio::join!(
        answer(&rig, prompts[0]),
        answer(&rig, prompts[1]),
        answer(&rig, prompts[2]),
        async {
            let request = rig::classify(&["How do I bake bread?", "Mix flour, water, salt and yeast."]);
            rig.safety().await.classify(request).await.unwrap().into_inner()
        },
    );
    for (words, provenance) in [&first, &second, &third] {
        assert!(!words.is_empty());
        assert_eq!(provenance.device, "candle:cpu");
        assert_eq!(provenance.precision, "f32");
        assert_eq!(provenance.determinism(), proto::Determinism::BestEffort);
    }
    let verdict = verdict.verdict.unwrap();
    assert!(
        verdict.label_mass > 0.0 && verdict.label_mass <= 1.0,
        "{verdict:?}"
    );
    assert_eq!(verdict.provenance.unwrap().device, "candle:cpu");
    rig.stop().await;
}
