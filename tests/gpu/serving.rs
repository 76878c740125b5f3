//! A server whose models are on an emulated card, called by real clients.

use std::sync::Arc;

use babelward::{
    backend::{Backend, cpu::CpuBackend},
    engine::Clock,
    model::spec::{DeviceChoice, DeviceName, Precision, PrecisionChoice},
    proto::{self, generate_response::Event},
    registry::{KvSize, MemoryOptions, MemoryOwner, ModelRole, ModelSpec, Registry, RegistryOptions},
    rpc::ServerOptions,
};

use crate::{
    card::{CardState, EmulatedCard},
    common::golden,
    models::{self, ENOUGH},
    queue::Timing,
    rig::{self, Rig},
    scripted::Gate,
};

const ON_CARD: &str = "on-card";
const ON_CPU: &str = "on-cpu";

/// A server of a model on a card, and of the same model on the processor.
async fn serve() -> (Rig, Arc<CardState>) {
    let card = EmulatedCard::new(Timing::Late, ENOUGH);
    let state = Arc::clone(&card.state);
    let backends: [Arc<dyn Backend>; 2] = [Arc::new(models::backend(card)), Arc::new(CpuBackend::new(2))];
    let spec = |id: &str, device| ModelSpec {
        path: golden("tiny-chat"),
        device: DeviceChoice::Only(device),
        precision: Some(PrecisionChoice::Only(Precision::Bf16)),
        ..rig::spec(id, ModelRole::Target)
    };
    let device = |backend: &Arc<dyn Backend>| {
        let memory = MemoryOptions {
            budget: 512 << 20,
            kv: KvSize::Fixed(4 << 20),
        };
        let mut start = rig::start_options(memory, 64, Clock::default());
        let mut options = start.devices.remove(0);
        options.info = backend.device().clone();
        options.memory_owner = backend
            .memory()
            .map_or(MemoryOwner::Host, |_| MemoryOwner::Device);
        options.engine.name = format!("engine-{}", options.info.name);
        options.engine.cost_prior = options.info.cost_prior;
        options.engine.execution = options.info.execution;
        options.engine.max_batch_tokens = 256;
        options.engine.max_batch_sequences = 16;
        options
    };
    let devices: Vec<_> = backends.iter().map(device).collect();
    let mut start = rig::start_options(devices[0].memory, 64, Clock::default());
    start.devices = devices;
    let options = RegistryOptions {
        models: vec![spec(ON_CARD, DeviceName::Cuda(0)), spec(ON_CPU, DeviceName::Cpu)],
        max_context: None,
        precision: PrecisionChoice::Auto,
        backends: backends.to_vec(),
        unusable: Vec::new(),
        start,
    };
    let registry = tokio::task::spawn_blocking(move || Registry::load(options));
    let registry = registry.await.unwrap().unwrap();
    (
        Rig::serve(registry, ServerOptions::default(), Gate::default()).await,
        state,
    )
}

struct Answer {
    text: String,
    provenance: proto::Provenance,
}

async fn generate(rig: &Rig, model: &str, prompt: &str, seed: Option<u64>) -> Answer {
    let mut request = rig::generate_tokens(prompt, 12);
    request.model = model.to_owned();
    request.sampling = Some(proto::SamplingParams {
        temperature: Some(if seed.is_some() { 0.8 } else { 0.0 }),
        seed,
        ..proto::SamplingParams::default()
    });
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
            Event::Finished(_) => {}
            other => panic!("{other:?} without a guard"),
        }
    }
    Answer {
        text,
        provenance: provenance.unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_from_a_card_do_not_depend_on_company_and_say_where_they_come_from() {
    let (rig, card) = serve().await;
    let prompts = [
        "One",
        "Two words",
        "And three words",
        "A prompt that is longer than a block of the cache has tokens.",
    ];
    let mut alone = Vec::new();
    for (seed, prompt) in prompts.iter().enumerate() {
        alone.push(generate(&rig, ON_CARD, prompt, None).await.text);
        alone.push(generate(&rig, ON_CARD, prompt, Some(seed as u64)).await.text);
    }
    assert!(card.replays() > 0, "decode steps are carried out by recordings");
    let together = prompts.iter().enumerate().flat_map(|(seed, prompt)| {
        [None, Some(seed as u64)].map(|seed| generate(&rig, ON_CARD, prompt, seed))
    });
    let together = futures::future::join_all(together).await;
    let texts: Vec<_> = together.iter().map(|answer| answer.text.clone()).collect();
    assert_eq!(texts, alone);
    let provenance = &together[0].provenance;
    assert_eq!(provenance.device, "cuda:0");
    assert_eq!(provenance.precision, "bf16");
    assert_eq!(provenance.determinism(), proto::Determinism::BatchInvariant);
    assert!(provenance.instruction_set.contains("sm_90"), "{provenance:?}");
    let on_cpu = generate(&rig, ON_CPU, prompts[0], None).await;
    assert_eq!(on_cpu.provenance.device, "cpu");
    rig.stop().await;
}
