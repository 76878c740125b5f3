//! A server whose adapters are models of their own: SmolLM2 and two made-up LoRA adapters over its weights.

use std::{net::SocketAddr, path::Path, sync::Arc};

use babelward::{
    backend::{Backend, cpu::CpuBackend},
    engine::{Clock, Driver, EngineConfig, TenantWeights},
    errors::with_causes,
    guard::GuardKind,
    model::spec::{DeviceChoice, Precision, PrecisionChoice},
    proto::{
        self, generate_response::Event, generation_service_client::GenerationServiceClient,
        model_service_client::ModelServiceClient, safety_service_client::SafetyServiceClient,
    },
    registry::{
        DeterminismPolicy, DeviceOptions, KvSize, LoadPolicy, MemoryOptions, MemoryOwner, ModelRole,
        ModelSpec, Registry, RegistryError, RegistryOptions, StartOptions,
    },
    rpc::{self, ServerOptions},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{Code, transport::Channel};

use crate::{
    adapter_files::{AdapterFiles, Sizes},
    common,
};

const BASE: &str = "smol";
const POLITE: &str = "smol-polite";
const JUDGE: &str = "smol-judge";
const LAYERS: usize = 30;
const SIZES: Sizes = Sizes {
    hidden: 576,
    keys: 192,
};

fn spec(id: &str, base: Option<&str>, path: &Path, roles: &[ModelRole]) -> ModelSpec {
    ModelSpec {
        id: id.to_owned(),
        path: path.to_owned(),
        device: DeviceChoice::Auto,
        base: base.map(str::to_owned),
        roles: roles.to_vec(),
        guard_kind: Some(GuardKind::ChatDemo),
        precision: None,
        load: LoadPolicy::Eager,
        pinned: false,
    }
}

fn options(models: Vec<ModelSpec>) -> RegistryOptions {
    let cpu = CpuBackend::new(2);
    RegistryOptions {
        models,
        max_context: None,
        precision: PrecisionChoice::Only(Precision::Int8),
        start: StartOptions {
            default_target: Some(BASE.to_owned()),
            default_guard: Some(BASE.to_owned()),
            default_quality: None,
            remotes: Vec::new(),
            policies: Vec::new(),
            determinism: DeterminismPolicy::Report,
            devices: vec![DeviceOptions {
                info: cpu.device().clone(),
                memory: MemoryOptions {
                    budget: 2 << 30,
                    kv: KvSize::Fixed(128 << 20),
                },
                memory_owner: MemoryOwner::Host,
                engine: EngineConfig {
                    name: "engine-test".to_owned(),
                    model_names: Vec::new(),
                    max_batch_sequences: 16,
                    max_batch_tokens: 256,
                    queue_items: 64,
                    queue_tokens: 1 << 16,
                    step_target: None,
                    cost_prior: cpu.device().cost_prior,
                    execution: cpu.device().execution,
                    tenant_weights: TenantWeights::default(),
                    clock: Clock::default(),
                    driver: Driver::default(),
                },
            }],
        },
        backends: vec![Arc::new(cpu)],
        unusable: Vec::new(),
    }
}

/// A server with the base in both roles, one adapter as target and one as guard.
struct Server {
    address: SocketAddr,
    registry: Arc<Registry>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), rpc::ServeError>>,
    _adapters: [TempDir; 2],
}

impl Server {
    async fn start() -> Self {
        let adapters = [1, 2].map(|salt| AdapterFiles::made_up(LAYERS, SIZES, 4, salt).write());
        let both = [ModelRole::Target, ModelRole::Guard];
        let models = vec![
            spec(BASE, None, &common::smollm2(), &both),
            spec(POLITE, Some(BASE), adapters[0].path(), &both[..1]),
            spec(JUDGE, Some(BASE), adapters[1].path(), &both[1..]),
        ];
        let loading = tokio::task::spawn_blocking(|| Registry::load(options(models)));
        let registry = loading.await.unwrap().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serve = rpc::serve(listener, Arc::clone(&registry), ServerOptions::default(), async {
            let _ = stopped.await;
        });
        Self {
            address,
            registry,
            stop,
            serving: tokio::spawn(serve),
            _adapters: adapters,
        }
    }

    async fn channel(&self) -> Channel {
        let url = format!("http://{}", self.address);
        Channel::from_shared(url).unwrap().connect().await.unwrap()
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.serving.await.unwrap().unwrap();
        assert!(self.registry.shutdown());
    }
}

fn conversation(content: &str) -> Option<proto::Conversation> {
    Some(proto::Conversation {
        messages: vec![proto::Message {
            role: proto::Role::User.into(),
            content: content.to_owned(),
            ..proto::Message::default()
        }],
    })
}

/// A model's answer.
struct Answer {
    text: String,
    cached_tokens: u32,
    provenance: proto::Provenance,
}

/// The greedy answer of a model.
async fn generate(channel: &Channel, model: &str, content: &str) -> Answer {
    let prompt = conversation(content).map(proto::generate_request::Prompt::Conversation);
    let request = proto::GenerateRequest {
        model: model.to_owned(),
        prompt,
        sampling: Some(proto::SamplingParams {
            temperature: Some(0.0),
            ..Default::default()
        }),
        stopping: Some(proto::StoppingParams {
            max_new_tokens: 12,
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut client = GenerationServiceClient::new(channel.clone());
    let mut events = client.generate(request).await.unwrap().into_inner();
    let (mut text, mut provenance) = (String::new(), None);
    while let Some(response) = events.message().await.unwrap() {
        match response.event.unwrap() {
            Event::Delta(delta) => text.push_str(&delta.text),
            Event::Finished(finished) => {
                return Answer {
                    text,
                    cached_tokens: finished.usage.unwrap().cached_prompt_tokens,
                    provenance: provenance.unwrap(),
                };
            }
            Event::Started(started) => provenance = started.provenance,
            other => panic!("{other:?} without a guard"),
        }
    }
    panic!("the stream ended early")
}

async fn classify(channel: &Channel, model: &str, content: &str) -> proto::Verdict {
    let request = proto::ClassifyRequest {
        model: model.to_owned(),
        conversation: conversation(content),
        ..Default::default()
    };
    let mut client = SafetyServiceClient::new(channel.clone());
    let response = client.classify(request).await.unwrap();
    response.into_inner().verdict.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn adapters_answer_as_models_of_their_own_and_share_no_cache() {
    let server = Server::start().await;
    let channel = server.channel().await;
    let prompts = ["How do I bake bread?", "Name three rivers.", "What is a comet?"];
    let mut alone = Vec::new();
    for prompt in prompts {
        for model in [BASE, POLITE] {
            alone.push(generate(&channel, model, prompt).await);
        }
    }
    // SmolLM2's template begins with a system text of more than a block, and so does the base's pinned policy.
    let cached = |index: usize| alone[index].cached_tokens;
    assert!(cached(0) > 0);
    assert_eq!(cached(1), 0, "an adapter finds nothing of its base's");
    assert!(cached(3) > 0, "but its own");
    let changed = |pair: &[Answer]| pair[0].text != pair[1].text;
    assert!(alone.chunks_exact(2).any(changed), "the adapter changes nothing");
    let (base, polite) = (&alone[0].provenance, &alone[1].provenance);
    assert_eq!((base.model.as_str(), polite.model.as_str()), (BASE, POLITE));
    assert_eq!(base.model_digest, polite.model_digest);
    assert!(base.adapter_digest.is_empty() && polite.adapter_digest.starts_with("sha256:"));

    // All at once, and a guard beside them.
    let tasks: Vec<_> = prompts
        .iter()
        .flat_map(|prompt| [BASE, POLITE].map(|model| (model, *prompt)))
        .map(|(model, prompt)| {
            let channel = channel.clone();
            tokio::spawn(async move { generate(&channel, model, prompt).await })
        })
        .collect();
    let verdict = classify(&channel, JUDGE, prompts[0]).await;
    for (task, alone) in tasks.into_iter().zip(&alone) {
        assert_eq!(task.await.unwrap().text, alone.text);
    }
    let again = classify(&channel, JUDGE, prompts[0]).await;
    assert_eq!(
        again.unsafe_score.unwrap().to_bits(),
        verdict.unsafe_score.unwrap().to_bits()
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_judges_with_a_pinned_policy_text_of_its_own() {
    let server = Server::start().await;
    let channel = server.channel().await;
    let (base, judge) = (
        classify(&channel, "", "How do I bake bread?").await,
        classify(&channel, JUDGE, "How do I bake bread?").await,
    );
    assert_ne!(base.unsafe_score, judge.unsafe_score);
    let cached = |verdict: &proto::Verdict| verdict.usage.as_ref().unwrap().cached_prompt_tokens;
    // Both find it with their first verdict; the target adapter has none.
    assert!(cached(&base) >= 16 && cached(&base) == cached(&judge));
    let base_model = &server.registry.list()[0];
    let stats = server.registry.stats(base_model);
    let pinned = stats.pinned_blocks as u32;
    assert!(pinned.is_multiple_of(2) && pinned >= 2 * cached(&base) / 16);
    assert!(base.provenance.unwrap().adapter_digest.is_empty());
    assert!(!judge.provenance.unwrap().adapter_digest.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_show_an_adapter_beside_its_base() {
    let server = Server::start().await;
    let mut client = ModelServiceClient::new(server.channel().await);
    let listed = client
        .list_models(proto::ListModelsRequest::default())
        .await
        .unwrap();
    let models = listed.into_inner().models;
    let names: Vec<_> = models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(names, [BASE, POLITE, JUDGE]);
    assert_eq!(models[0].adapter, None);
    for model in &models[1..] {
        let adapter = model.adapter.as_ref().unwrap();
        assert_eq!((adapter.base.as_str(), adapter.rank), (BASE, 4));
        // For each layer A and B of queries (576 to 576) and values (576 to 192).
        assert_eq!(adapter.parameters, 30 * 4 * (576 + 576 + 576 + 192));
        assert!(adapter.resident_bytes >= 4 * adapter.parameters);
        assert!(adapter.resident_bytes < models[0].resident_bytes / 20);
        let shared = (models[0].resident_bytes, &models[0].digest, models[0].parameters);
        assert_eq!((model.resident_bytes, &model.digest, model.parameters), shared);
        assert_eq!(model.context_tokens, models[0].context_tokens);
    }
    let digest = |index: usize| models[index].adapter.as_ref().unwrap().digest.clone();
    assert_ne!(digest(1), digest(2));
    assert_eq!(
        models[1].capabilities().collect::<Vec<_>>(),
        [proto::Capability::Generate]
    );
    assert_eq!(
        models[2].capabilities().collect::<Vec<_>>(),
        [proto::Capability::Classify]
    );

    // An adapter has the roles of its own.
    let request = proto::ClassifyRequest {
        model: POLITE.to_owned(),
        conversation: conversation("Hello"),
        ..Default::default()
    };
    let mut safety = SafetyServiceClient::new(server.channel().await);
    let status = safety.classify(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    server.stop().await;
}

#[test]
fn what_is_wrong_names_the_adapters_id() {
    let model = common::smollm2();
    let refused = |spec: ModelSpec, base_path: &Path| {
        let base = self::spec(BASE, None, base_path, &[ModelRole::Target]);
        match Registry::load(options(vec![base, spec])) {
            Err(error) => error,
            Ok(_) => panic!("it was loaded"),
        }
    };
    let target = [ModelRole::Target];
    let folder = AdapterFiles::made_up(LAYERS, Sizes { hidden: 512, ..SIZES }, 4, 1).write();
    let error = refused(spec(POLITE, Some(BASE), folder.path(), &target), &model);
    let said = format!(
        "model `{POLITE}` cannot be loaded: the adapter {} cannot be used: tensor \
         `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`: the shape is [4, 512], expected [4, 576]",
        folder.path().canonicalize().unwrap().display()
    );
    assert_eq!(with_causes(&error), said);
    let error = refused(spec(POLITE, Some("no-such"), folder.path(), &target), &model);
    assert!(matches!(error, RegistryError::UnknownBase { .. }));
    assert_eq!(
        error.to_string(),
        format!("adapter `{POLITE}`: its base `no-such` is not a configured model")
    );
    let error = refused(
        spec(POLITE, Some(BASE), Path::new("no/such/folder"), &target),
        &model,
    );
    assert!(
        error
            .to_string()
            .starts_with(&format!("model `{POLITE}`: cannot read no/such/folder"))
    );
}
