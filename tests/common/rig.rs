//! A real server on a free port, with a scripted model behind SmolLM2's tokenizer and chat template.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use babelward::{
    backend::{Backend, Determinism, Footprint, LanguageModel, LoadedModel, cpu::CpuBackend},
    engine::{Clock, Driver, EngineConfig, ModelStats, TenantWeights},
    guard::{GuardKind, Policy},
    model::spec::{DeviceChoice, Precision},
    proto::{
        self, admin_service_client::AdminServiceClient, generation_service_client::GenerationServiceClient,
        model_service_client::ModelServiceClient, quality_service_client::QualityServiceClient,
        safety_service_client::SafetyServiceClient, scoring_service_client::ScoringServiceClient,
    },
    registry::{
        DeterminismPolicy, DeviceOptions, KvSize, LoadPolicy, MemoryOptions, MemoryOwner, ModelGroup,
        ModelLoader, ModelRole, ModelSpec, OpenedModel, Registry, RegistryError, RemoteSpec, StartOptions,
    },
    rpc::{self, Listeners, Security, ServeError, ServerOptions},
    text::{ChatTemplate, Tokenizer},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt as _;

use crate::{
    common,
    scripted::{Gate, Scripted},
};

/// The target, the guard, and a target without a chat template. The first two share one resident model.
pub const TARGET: &str = "tiny";
pub const GUARD: &str = "tiny-ward";
pub const BASE: &str = "base";

/// What a test wants to be different.
pub struct Setup {
    pub options: ServerOptions,
    pub queue_items: usize,
    /// What the guard is.
    pub guard: GuardKind,
    /// SmolLM2's without another one. It needs the tokens of ChatML.
    pub tokenizer: Option<Arc<Tokenizer>>,
    /// Models that endpoints compute, behind the scripted ones.
    pub remotes: Vec<RemoteSpec>,
    pub policies: Vec<Policy>,
    pub blocks: usize,
    pub context: usize,
    pub gate: Gate,
    pub clock: Clock,
    pub driver: Driver,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            options: ServerOptions::default(),
            queue_items: 2048,
            guard: GuardKind::ChatDemo,
            tokenizer: None,
            remotes: Vec::new(),
            policies: Vec::new(),
            blocks: 8192,
            context: 4096,
            gate: Gate::default(),
            clock: Clock::default(),
            driver: Driver::default(),
        }
    }
}

pub struct Rig {
    pub address: SocketAddr,
    /// Of the HTTP port, if there is one.
    pub http_address: Option<SocketAddr>,
    /// Of the listener for AdminService alone, if there is one.
    pub admin_address: Option<SocketAddr>,
    pub registry: Arc<Registry>,
    pub gate: Gate,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<Result<(), ServeError>>>,
}

impl Rig {
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> Self {
        Self::on(setup, local().await).await
    }

    /// The same with TLS, authentication or quotas.
    pub async fn protected(setup: Setup, security: Security) -> Self {
        Self::on(
            setup,
            Listeners {
                security,
                ..local().await
            },
        )
        .await
    }

    /// The same with these listeners.
    pub async fn on(setup: Setup, listeners: Listeners) -> Self {
        let gate = setup.gate.clone();
        let (options, model_gate) = (setup.options.clone(), gate.clone());
        let registry = tokio::task::spawn_blocking(move || registry(&setup, &model_gate));
        Self::serve_on(listeners, registry.await.unwrap(), options, gate)
    }

    /// A server for models that are made elsewhere.
    pub async fn serve(registry: Arc<Registry>, options: ServerOptions, gate: Gate) -> Self {
        Self::serve_on(local().await, registry, options, gate)
    }

    fn serve_on(listeners: Listeners, registry: Arc<Registry>, options: ServerOptions, gate: Gate) -> Self {
        let address = listeners.calls.local_addr().unwrap();
        let http = listeners.http.as_ref();
        let http_address = http.map(|http| http.listener.local_addr().unwrap());
        let admin = listeners.admin.as_ref();
        let admin_address = admin.map(|listener| listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let server = tokio::spawn(rpc::serve_on(listeners, Arc::clone(&registry), options, shutdown));
        Self {
            address,
            http_address,
            admin_address,
            registry,
            gate,
            stop: Some(stop),
            server: Some(server),
        }
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address))
            .unwrap()
            .connect()
            .await
            .unwrap()
    }

    pub async fn generation(&self) -> GenerationServiceClient<Channel> {
        GenerationServiceClient::new(self.channel().await)
    }

    pub async fn safety(&self) -> SafetyServiceClient<Channel> {
        SafetyServiceClient::new(self.channel().await)
    }

    pub async fn scoring(&self) -> ScoringServiceClient<Channel> {
        ScoringServiceClient::new(self.channel().await)
    }

    pub async fn quality(&self) -> QualityServiceClient<Channel> {
        QualityServiceClient::new(self.channel().await)
    }

    pub async fn models(&self) -> ModelServiceClient<Channel> {
        ModelServiceClient::new(self.channel().await)
    }

    pub async fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel().await)
    }

    /// Queue and pool of the model behind [`TARGET`] and [`GUARD`].
    pub fn stats(&self) -> ModelStats {
        self.registry.stats(self.registry.find(TARGET).unwrap())
    }

    /// Nothing waits, nothing runs, and every block but the pinned ones is free.
    pub fn is_idle(&self) -> bool {
        let stats = self.stats();
        stats.queued == 0
            && stats.running == 0
            && stats.free_blocks + stats.pinned_blocks == stats.total_blocks
    }

    /// Waits until the engine has nothing left to do.
    pub async fn idle(&self) {
        eventually("the pool is full again", || self.is_idle()).await;
    }

    /// Waits until a forward pass is held back by the closed gate.
    pub async fn blocked(&self) {
        eventually("a forward pass begins", || self.gate.is_blocked()).await;
    }

    /// Asks the server to stop; the result tells how it did.
    pub fn begin_stop(&mut self) -> JoinHandle<Result<(), ServeError>> {
        let _ = self.stop.take().unwrap().send(());
        self.server.take().unwrap()
    }

    /// Stops the server and waits for it.
    pub async fn stop(mut self) {
        self.gate.open();
        self.begin_stop().await.unwrap().unwrap();
    }
}

/// A listener on a free port, without TLS and authentication.
pub async fn local() -> Listeners {
    Listeners::unprotected(TcpListener::bind("127.0.0.1:0").await.unwrap())
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Else the engine's thread could not be joined.
        self.gate.open();
    }
}

/// The scripted models of a server, which are not loaded yet.
pub fn scripted_groups(setup: &Setup, gate: &Gate) -> Vec<ModelGroup> {
    let (_, template) = text();
    let group = |specs: Vec<ModelSpec>, template| ModelGroup {
        specs,
        device: 0,
        passed_over: Vec::new(),
        precision: Precision::F32,
        loader: Box::new(ScriptedLoader {
            template,
            tokenizer: setup.tokenizer.clone().unwrap_or_else(|| text().0),
            context: setup.context,
            blocks: setup.blocks,
            gate: gate.clone(),
        }),
    };
    vec![
        group(
            vec![
                spec(TARGET, ModelRole::Target),
                ModelSpec {
                    guard_kind: Some(setup.guard),
                    ..spec(GUARD, ModelRole::Guard)
                },
            ],
            Some(template),
        ),
        group(vec![spec(BASE, ModelRole::Target)], None),
    ]
}

/// The models of a server, loaded.
pub fn registry(setup: &Setup, gate: &Gate) -> Arc<Registry> {
    let groups = scripted_groups(setup, gate);
    let memory = MemoryOptions {
        budget: u64::MAX,
        kv: KvSize::Auto,
    };
    let mut options = StartOptions {
        remotes: setup.remotes.clone(),
        policies: setup.policies.clone(),
        ..start_options(memory, setup.queue_items, setup.clock.clone())
    };
    options.devices[0].engine.driver = setup.driver.clone();
    let registry = Registry::prepare_groups(groups, options).unwrap();
    registry.load_eager().unwrap();
    registry
}

/// An eager model of one role.
pub fn spec(id: &str, role: ModelRole) -> ModelSpec {
    ModelSpec {
        id: id.to_owned(),
        path: PathBuf::new(),
        device: DeviceChoice::Auto,
        base: None,
        roles: vec![role],
        guard_kind: None,
        precision: None,
        load: LoadPolicy::Eager,
        pinned: false,
    }
}

pub fn start_options(memory: MemoryOptions, queue_items: usize, clock: Clock) -> StartOptions {
    let cpu = CpuBackend::new(1);
    StartOptions {
        default_target: None,
        default_guard: None,
        default_quality: None,
        remotes: Vec::new(),
        policies: Vec::new(),
        determinism: DeterminismPolicy::Report,
        devices: vec![DeviceOptions {
            info: cpu.device().clone(),
            memory,
            memory_owner: MemoryOwner::Host,
            engine: EngineConfig {
                name: "engine-test".to_owned(),
                model_names: Vec::new(),
                max_batch_sequences: 64,
                max_batch_tokens: 8192,
                queue_items,
                queue_tokens: 1 << 24,
                step_target: None,
                cost_prior: cpu.device().cost_prior,
                execution: cpu.device().execution,
                tenant_weights: TenantWeights::default(),
                clock,
                driver: Driver::default(),
            },
        }],
    }
}

/// Makes the scripted model.
struct ScriptedLoader {
    template: Option<Arc<ChatTemplate>>,
    tokenizer: Arc<Tokenizer>,
    context: usize,
    blocks: usize,
    gate: Gate,
}

impl ModelLoader for ScriptedLoader {
    fn footprint(&self, _precision: Precision) -> Result<Footprint, RegistryError> {
        Ok(footprint(1, self.context))
    }

    fn open(&self, _kv_bytes: u64, precision: Precision) -> Result<OpenedModel, RegistryError> {
        let tokenizer = || Arc::clone(&self.tokenizer);
        let model = Scripted::new(tokenizer(), self.context, self.blocks, self.gate.clone());
        let bytes = ModelBytes { weights: 1, kv: 0 };
        Ok(OpenedModel {
            tokenizer: tokenizer(),
            ..opened(Box::new(model), bytes, precision, self.template.clone())
        })
    }
}

/// What a made-up model takes: so many bytes of weights, and a byte of cache for each token.
pub fn footprint(weight_bytes: u64, context_length: usize) -> Footprint {
    Footprint {
        architecture: "scripted".to_owned(),
        context_length,
        held_tokens: context_length,
        weight_bytes,
        scratch_bytes: 0,
        kv_block_bytes: 16,
        kv_most_bytes: None,
        block_tokens: 16,
    }
}

/// What a made-up model takes.
pub struct ModelBytes {
    pub weights: u64,
    pub kv: u64,
}

pub fn opened(
    model: Box<dyn LanguageModel>,
    bytes: ModelBytes,
    precision: Precision,
    template: Option<Arc<ChatTemplate>>,
) -> OpenedModel {
    OpenedModel {
        loaded: LoadedModel {
            model,
            architecture: "scripted".to_owned(),
            layers: 1,
            parameters: 1,
            dtype: "f32".to_owned(),
            precision,
            determinism: Determinism::BatchInvariant,
            weight_bytes: bytes.weights,
            kv_bytes: bytes.kv,
            adapters: Vec::new(),
        },
        tokenizer: text().0,
        template,
        digest: babelward::digest::of_bytes("scripted"),
        names: Vec::new(),
        adapter_digests: Vec::new(),
        estimator: None,
        labels: None,
        verdict_heads: None,
    }
}

/// SmolLM2's tokenizer and chat template, read once.
pub fn text() -> (Arc<Tokenizer>, Arc<ChatTemplate>) {
    static TEXT: OnceLock<(Arc<Tokenizer>, Arc<ChatTemplate>)> = OnceLock::new();
    TEXT.get_or_init(|| {
        let path = common::smollm2();
        (
            Arc::new(Tokenizer::open(&path).unwrap()),
            Arc::new(ChatTemplate::open(&path).unwrap().unwrap()),
        )
    })
    .clone()
}

/// Yields until a condition holds; fails the test when it does not for a minute.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "waited in vain: {what}"
        );
        tokio::task::yield_now().await;
    }
}

pub fn message(role: proto::Role, content: &str) -> proto::Message {
    proto::Message {
        role: role.into(),
        content: content.to_owned(),
        ..proto::Message::default()
    }
}

/// USER, ASSISTANT, USER, ...
pub fn conversation(contents: &[&str]) -> proto::Conversation {
    let roles = [proto::Role::User, proto::Role::Assistant].into_iter().cycle();
    proto::Conversation {
        messages: contents
            .iter()
            .zip(roles)
            .map(|(content, role)| message(role, content))
            .collect(),
    }
}

pub fn generate(content: &str) -> proto::GenerateRequest {
    proto::GenerateRequest {
        prompt: Some(proto::generate_request::Prompt::Conversation(conversation(&[
            content,
        ]))),
        stopping: Some(proto::StoppingParams {
            max_new_tokens: 16,
            ..Default::default()
        }),
        sampling: Some(proto::SamplingParams {
            seed: Some(1),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The same with a number of tokens.
pub fn generate_tokens(content: &str, max_new_tokens: u32) -> proto::GenerateRequest {
    let mut request = generate(content);
    request.stopping.as_mut().unwrap().max_new_tokens = max_new_tokens;
    request
}

pub fn classify(contents: &[&str]) -> proto::ClassifyRequest {
    proto::ClassifyRequest {
        model: String::new(),
        conversation: Some(conversation(contents)),
        ..Default::default()
    }
}

pub fn score(content: &str) -> proto::ScoreRequest {
    proto::ScoreRequest {
        generate: Some(generate(content)),
        keep_text: true,
        ..Default::default()
    }
}

/// Reason and metadata of an error, whose code must be this.
pub fn reason(status: &Status, code: Code) -> (String, std::collections::HashMap<String, String>) {
    assert_eq!(status.code(), code, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().expect("every error has ErrorInfo");
    assert_eq!(info.domain, "babelward");
    assert!(
        !details
            .request_info()
            .expect("every error names its call")
            .request_id
            .is_empty()
    );
    (info.reason.clone(), info.metadata.clone())
}

/// Paths of the violated fields of an error.
pub fn violated(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details
        .bad_request()
        .map(|bad| bad.field_violations.clone())
        .unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

/// An item's error as a status.
pub fn item_status(error: &proto::ItemStatus) -> Status {
    use prost::Message as _;
    Status::with_details(
        Code::from(error.code),
        error.message.clone(),
        error.encode_to_vec().into(),
    )
}

/// Reason of an item's error, whose code must be this.
pub fn item_reason(error: &proto::ItemStatus, code: Code) -> String {
    let status = item_status(error);
    assert_eq!(status.code(), code, "{status:?}");
    status
        .get_error_details()
        .error_info()
        .expect("every error has ErrorInfo")
        .reason
        .clone()
}

/// Requests for a stream: what is sent here arrives there, until it is dropped.
pub fn requests<T: Send + 'static>() -> (
    tokio::sync::mpsc::UnboundedSender<T>,
    tokio_stream::wrappers::UnboundedReceiverStream<T>,
) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    (
        sender,
        tokio_stream::wrappers::UnboundedReceiverStream::new(receiver),
    )
}
