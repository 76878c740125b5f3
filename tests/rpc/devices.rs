//! Two devices in one server: the processor, and a small scripted one with other blocks, other promises, memory of its own,
//! and steps that are computed only when they are waited for. The engine and the registry know nothing else of either.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use babelward::{
    backend::{
        Backend, CostPrior, Determinism, DeviceFinding, DeviceInfo, DeviceMemory, Execution, Footprint,
        ForwardBatch, LanguageModel, LoadOptions, LoadedModel, ModelLimits, StepError, StepOutput,
        cpu::CpuBackend,
    },
    engine::{Clock, scripted::ScriptedModel},
    model::{
        LoadError,
        spec::{DeviceChoice, DeviceName, Precision, PrecisionChoice},
    },
    proto::{self, model::State},
    registry::{
        DeterminismPolicy, DeviceOptions, KvSize, LoadFailure, LoadPolicy, LoadRefusal, MemoryOptions,
        MemoryOwner, ModelRole, ModelSpec, PassReason, PassedOver, Registry, RegistryError, RegistryOptions,
    },
    rpc::ServerOptions,
};
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    common,
    rig::{self, Rig, reason},
    scripted::Gate,
};

/// Tokens in a block of the scripted device, and bytes that such a block takes.
const BLOCK_TOKENS: usize = 5;
const BLOCK_BYTES: u64 = 7;
/// Bytes of a scripted model's weights, and of its KV pool.
const WEIGHTS: u64 = 1000;
const POOL: u64 = 700;

/// The name of the scripted device.
const CARD: DeviceName = DeviceName::Cuda(0);

const ON_CPU: &str = "on-cpu";
const SCRIPTED: &str = "scripted-a";
const OTHER: &str = "scripted-b";

/// A device that computes from a script.
struct ScriptedDevice {
    info: DeviceInfo,
    fault: Fault,
    /// What a model of it promises once it is loaded.
    measured: Determinism,
    /// A file that gets one more byte whenever a model is read.
    grows: Option<PathBuf>,
}

/// The fault that every step of the scripted device ends with, once a test has set one.
type Fault = Arc<Mutex<Option<StepError>>>;

/// A model of it: a step is only remembered when it is submitted.
struct LazyModel {
    model: ScriptedModel,
    submitted: Option<(ForwardBatch, StepOutput)>,
    fault: Fault,
}

impl ScriptedDevice {
    fn new(fault: Fault) -> Self {
        Self {
            info: DeviceInfo {
                name: CARD,
                architecture: "script-1".to_owned(),
                best_precision: Precision::F32,
                determinism: Determinism::BestEffort,
                execution: Execution::Asynchronous,
                cost_prior: CostPrior {
                    step: Duration::from_micros(10),
                    token: Duration::from_micros(1),
                    row: Duration::from_micros(1),
                    positions: Duration::ZERO,
                },
            },
            fault,
            measured: Determinism::BestEffort,
            grows: None,
        }
    }

    /// Whose models are measured to be batch invariant, although the device does not promise it.
    fn invariant() -> Self {
        Self {
            measured: Determinism::BatchInvariant,
            ..Self::new(Arc::default())
        }
    }
}

impl Backend for ScriptedDevice {
    fn device(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory(&self) -> Option<DeviceMemory> {
        Some(DeviceMemory {
            total: WEIGHTS + POOL,
            free: WEIGHTS + POOL,
        })
    }

    fn self_test(&self) -> Vec<DeviceFinding> {
        Vec::new()
    }

    fn effective_precision(&self, _path: &Path, asked: Precision) -> Precision {
        asked
    }

    fn footprint(
        &self,
        _path: &Path,
        _adapters: &[PathBuf],
        _options: &LoadOptions,
    ) -> Result<Footprint, LoadError> {
        Ok(Footprint {
            architecture: "scripted".to_owned(),
            context_length: 256,
            held_tokens: 256,
            weight_bytes: WEIGHTS,
            scratch_bytes: 0,
            kv_block_bytes: BLOCK_BYTES,
            kv_most_bytes: None,
            block_tokens: BLOCK_TOKENS,
        })
    }

    fn load(
        &self,
        _path: &Path,
        _adapters: &[PathBuf],
        options: &LoadOptions,
    ) -> Result<LoadedModel, LoadError> {
        if let Some(path) = &self.grows {
            let mut file = OpenOptions::new().append(true).open(path).unwrap();
            file.write_all(b" ").unwrap();
        }
        let limits = ModelLimits {
            vocab_size: rig::text().0.vocab_size(),
            context_length: 256,
            block_size: BLOCK_TOKENS,
            num_blocks: options.kv_bytes / BLOCK_BYTES as usize,
            window: None,
        };
        Ok(LoadedModel {
            kv_bytes: limits.num_blocks as u64 * BLOCK_BYTES,
            model: Box::new(LazyModel {
                model: ScriptedModel::hashing(limits),
                submitted: None,
                fault: Arc::clone(&self.fault),
            }),
            architecture: "scripted".to_owned(),
            layers: 1,
            parameters: 1,
            dtype: "f32".to_owned(),
            precision: options.precision,
            determinism: self.measured,
            weight_bytes: WEIGHTS,
            adapters: Vec::new(),
        })
    }
}

impl LanguageModel for LazyModel {
    fn limits(&self) -> &ModelLimits {
        self.model.limits()
    }

    fn submit(&mut self, batch: &ForwardBatch, output: StepOutput) -> Result<(), StepError> {
        self.submitted = Some((batch.clone(), output));
        Ok(())
    }

    fn wait(&mut self) -> Result<StepOutput, StepError> {
        let (batch, output) = self.submitted.take().ok_or(StepError::NotSubmitted)?;
        if let Some(fault) = self.fault.lock().unwrap().clone() {
            return Err(fault);
        }
        self.model.forward(&batch, output)
    }
}

/// Options of a server with the processor and the scripted device, which has room for one model.
fn options(models: Vec<ModelSpec>, card: ScriptedDevice) -> RegistryOptions {
    let cpu: Arc<dyn Backend> = Arc::new(CpuBackend::new(2));
    let scripted: Arc<dyn Backend> = Arc::new(card);
    let device = |backend: &Arc<dyn Backend>, kv| {
        let own = backend.memory().map(|memory| memory.free);
        let memory = MemoryOptions {
            budget: own.unwrap_or(1 << 30),
            kv: KvSize::Fixed(kv),
        };
        let mut start = rig::start_options(memory, 64, Clock::default());
        let mut options = start.devices.remove(0);
        options.info = backend.device().clone();
        options.memory_owner = own.map_or(MemoryOwner::Host, |_| MemoryOwner::Device);
        options.engine.name = format!("engine-{}", options.info.name);
        options.engine.cost_prior = options.info.cost_prior;
        options.engine.execution = options.info.execution;
        options
    };
    let devices: Vec<DeviceOptions> = vec![device(&cpu, 64 << 20), device(&scripted, POOL)];
    let mut start = rig::start_options(devices[0].memory, 64, Clock::default());
    start.devices = devices;
    RegistryOptions {
        models,
        max_context: None,
        precision: PrecisionChoice::Auto,
        backends: vec![cpu, scripted],
        unusable: Vec::new(),
        start,
    }
}

/// A target of the small model's file.
fn target(id: &str, device: DeviceChoice, precision: Precision) -> ModelSpec {
    ModelSpec {
        path: common::smollm2(),
        device,
        precision: Some(PrecisionChoice::Only(precision)),
        ..rig::spec(id, ModelRole::Target)
    }
}

const ON_CARD: DeviceChoice = DeviceChoice::Only(CARD);

/// One model on the processor and two on the scripted device.
fn one_and_two() -> Vec<ModelSpec> {
    vec![
        target(ON_CPU, DeviceChoice::Only(DeviceName::Cpu), Precision::Int8),
        target(SCRIPTED, ON_CARD, Precision::F32),
        // In another precision it is a model of its own, though the file is the same.
        ModelSpec {
            load: LoadPolicy::Lazy,
            ..target(OTHER, ON_CARD, Precision::Bf16)
        },
    ]
}

async fn load(options: RegistryOptions) -> Result<Arc<Registry>, RegistryError> {
    tokio::task::spawn_blocking(move || Registry::load(options))
        .await
        .unwrap()
}

async fn serve(options: RegistryOptions) -> Rig {
    let registry = load(options).await.unwrap();
    Rig::serve(registry, ServerOptions::default(), Gate::default()).await
}

async fn two_devices(fault: &Fault) -> Rig {
    serve(options(one_and_two(), ScriptedDevice::new(Arc::clone(fault)))).await
}

/// An answer, where it was computed and what it took.
struct Answer {
    text: String,
    provenance: proto::Provenance,
    usage: proto::Usage,
}

async fn generate(rig: &Rig, model: &str) -> Result<Answer, tonic::Status> {
    let request = proto::GenerateRequest {
        model: model.to_owned(),
        ..rig::generate("The same words for every device, and more of them than a block has tokens.")
    };
    let mut stream = rig.generation().await.generate(request).await?.into_inner();
    let (mut text, mut provenance, mut usage) = (String::new(), None, None);
    while let Some(response) = stream.message().await? {
        match response.event.unwrap() {
            proto::generate_response::Event::Started(started) => provenance = started.provenance,
            proto::generate_response::Event::Delta(delta) => text.push_str(&delta.text),
            proto::generate_response::Event::Finished(finished) => usage = finished.usage,
            other => panic!("{other:?} without a guard"),
        }
    }
    Ok(Answer {
        text,
        provenance: provenance.unwrap(),
        usage: usage.unwrap(),
    })
}

async fn model(rig: &Rig, model: &str) -> proto::Model {
    let request = proto::GetModelRequest {
        name: model.to_owned(),
    };
    let response = rig.models().await.get_model(request).await.unwrap();
    response.into_inner().model.unwrap()
}

async fn state(rig: &Rig, id: &str) -> State {
    model(rig, id).await.state()
}

fn service(name: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: name.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_of_two_devices_serve_side_by_side_each_with_its_own_promises() {
    let rig = two_devices(&Arc::default()).await;
    let (on_cpu, scripted) = tokio::join!(generate(&rig, ON_CPU), generate(&rig, SCRIPTED));
    let (on_cpu, scripted) = (on_cpu.unwrap(), scripted.unwrap());
    assert_ne!(on_cpu.text, scripted.text);
    let promises = |answer: &Answer| {
        let provenance = &answer.provenance;
        let determinism = provenance.determinism();
        (
            provenance.device.clone(),
            determinism,
            provenance.precision.clone(),
        )
    };
    let expected =
        |device: &str, determinism, precision: &str| (device.to_owned(), determinism, precision.to_owned());
    let batch_invariant = proto::Determinism::BatchInvariant;
    assert_eq!(promises(&on_cpu), expected("cpu", batch_invariant, "int8"));
    let best_effort = proto::Determinism::BestEffort;
    assert_eq!(promises(&scripted), expected("cuda:0", best_effort, "f32"));
    assert_eq!(scripted.provenance.instruction_set, "script-1");

    // Each finds its prompt again in blocks of its own size.
    for (model, block, first) in [(ON_CPU, 16, on_cpu), (SCRIPTED, BLOCK_TOKENS, scripted)] {
        let again = generate(&rig, model).await.unwrap();
        assert_eq!(again.text, first.text, "{model}");
        let whole = (again.usage.prompt_tokens as usize - 1) / block * block;
        assert_eq!(again.usage.cached_prompt_tokens as usize, whole, "{model}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_one_device_reaches_its_callers_and_nobody_else() {
    let fault = Fault::default();
    let rig = two_devices(&fault).await;
    let before = generate(&rig, SCRIPTED).await.unwrap().text;
    *fault.lock().unwrap() = Some(StepError::Device("the script says so".to_owned()));
    let (failed, on_cpu) = tokio::join!(generate(&rig, SCRIPTED), generate(&rig, ON_CPU));
    assert_eq!(reason(&failed.err().unwrap(), Code::Internal).0, "DEVICE_FAULT");
    assert!(!on_cpu.unwrap().text.is_empty());
    *fault.lock().unwrap() = None;
    assert_eq!(generate(&rig, SCRIPTED).await.unwrap().text, before);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_refuses_at_once_says_why_and_the_other_goes_on() {
    let fault = Fault::default();
    let rig = two_devices(&fault).await;
    generate(&rig, SCRIPTED).await.unwrap();
    let mut health = HealthClient::new(rig.channel().await);
    let mut watch = health.watch(service("")).await.unwrap().into_inner();
    while watch.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}

    *fault.lock().unwrap() = Some(StepError::DeviceLost("it fell off the bus".to_owned()));
    let refused = generate(&rig, SCRIPTED).await.err().unwrap();
    let (name, metadata) = reason(&refused, Code::Unavailable);
    assert_eq!(
        (name.as_str(), metadata["device"].as_str()),
        ("DEVICE_LOST", "cuda:0")
    );
    assert!(refused.message().contains("`cuda:0`"), "{}", refused.message());
    // From now on, whatever the device would do, and for models that are not in memory too.
    *fault.lock().unwrap() = None;
    for id in [SCRIPTED, OTHER] {
        let refused = generate(&rig, id).await.err().unwrap();
        assert_eq!(reason(&refused, Code::Unavailable).0, "DEVICE_LOST", "{id}");
        let described = model(&rig, id).await;
        assert_eq!(described.state(), State::Failed);
        assert_eq!(
            described.error,
            "its device `cuda:0` is lost (it fell off the bus); restart the server"
        );
        let declared = rig.registry.find(id).unwrap();
        let loaded = rig.registry.load_model(declared, None).await;
        assert!(
            matches!(loaded, Err(LoadRefusal::Failed(LoadFailure::DeviceLost(_)))),
            "{loaded:?}"
        );
    }
    assert!(!generate(&rig, ON_CPU).await.unwrap().text.is_empty());
    assert_eq!(state(&rig, ON_CPU).await, State::Ready);

    // The server as a whole is not what it was, and a service is if another device has what it needs.
    while watch.message().await.unwrap().unwrap().status() != ServingStatus::NotServing {}
    for serving in ["babelward.v1.GenerationService", "babelward.v1.ModelService"] {
        let answer = health.check(service(serving)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{serving}");
    }
    // Its memory can be given back.
    let scripted = rig.registry.find(SCRIPTED).unwrap();
    rig.registry.unload_model(scripted, Duration::from_secs(60)).await;
    assert_eq!(state(&rig, SCRIPTED).await, State::Failed);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_device_has_its_own_memory() {
    let rig = two_devices(&Arc::default()).await;
    let memory = |rig: &Rig| -> Vec<(DeviceName, u64)> {
        let devices = rig.registry.devices().into_iter();
        devices
            .map(|(info, memory)| (info.name, memory.available))
            .collect()
    };
    let [(cpu, free), (scripted, none)] = &memory(&rig)[..] else {
        panic!("two devices");
    };
    assert_eq!((*cpu, *scripted, *none), (DeviceName::Cpu, CARD, 0));
    assert!(*free > 0);
    // There is room for one on the scripted device, and an eager model is never evicted.
    let refused = generate(&rig, OTHER).await.err().unwrap();
    let (name, metadata) = reason(&refused, Code::ResourceExhausted);
    assert_eq!(
        (name.as_str(), metadata["couldUnload"].as_str()),
        ("DEVICE_MEMORY", SCRIPTED)
    );
    let bytes = |key: &str| metadata[key].parse::<u64>().unwrap();
    assert_eq!(metadata["device"], "cuda:0");
    assert_eq!(
        [
            bytes("weightBytes"),
            bytes("scratchBytes"),
            bytes("kvMinimumBytes")
        ],
        [WEIGHTS, 0, POOL]
    );
    assert_eq!(
        [
            bytes("neededBytes"),
            bytes("availableBytes"),
            bytes("budgetBytes")
        ],
        [WEIGHTS + POOL, 0, WEIGHTS + POOL]
    );
    let scripted = rig.registry.find(SCRIPTED).unwrap();
    rig.registry.unload_model(scripted, Duration::from_secs(60)).await;
    generate(&rig, OTHER).await.unwrap();
    assert_eq!(
        (
            state(&rig, ON_CPU).await,
            state(&rig, SCRIPTED).await,
            state(&rig, OTHER).await
        ),
        (State::Ready, State::Unloaded, State::Ready)
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_automatic_model_that_the_card_does_not_hold_says_why_it_is_elsewhere() {
    let models = vec![
        target("first", DeviceChoice::Auto, Precision::F32),
        target("second", DeviceChoice::Auto, Precision::Int8),
    ];
    let broken = PassedOver {
        device: DeviceName::Cuda(1),
        reason: PassReason::Unusable("the driver is too old".to_owned()),
    };
    let rig = serve(RegistryOptions {
        unusable: vec![broken],
        ..options(models, ScriptedDevice::new(Arc::default()))
    })
    .await;
    let told = "cuda:1 cannot be used: the driver is too old";
    let card = "cuda:0 has 0 B left of its 1.7 KiB for models, and the model needs 1.7 KiB there";
    for (id, device, note) in [
        ("first", "cuda:0", told.to_owned()),
        ("second", "cpu", format!("{told}; {card}")),
    ] {
        let described = model(&rig, id).await;
        assert_eq!(
            (described.device.as_str(), &described.device_note),
            (device, &note)
        );
        let provenance = generate(&rig, id).await.unwrap().provenance;
        assert_eq!(
            (provenance.device.as_str(), &provenance.device_note),
            (device, &note)
        );
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_models_is_left_alone() {
    let models = vec![target("only", DeviceChoice::Auto, Precision::F32)];
    let rig = serve(options(models, ScriptedDevice::new(Arc::default()))).await;
    let devices: Vec<_> = rig.registry.devices().iter().map(|(info, _)| info.name).collect();
    assert_eq!(devices, [CARD]);
    let described = model(&rig, "only").await;
    assert_eq!(
        (described.device.as_str(), described.device_note.as_str()),
        ("cuda:0", "")
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_measured_of_a_model_counts_and_not_what_its_device_promises() {
    let rig = serve(options(one_and_two(), ScriptedDevice::invariant())).await;
    let provenance = generate(&rig, SCRIPTED).await.unwrap().provenance;
    assert_eq!(provenance.determinism(), proto::Determinism::BatchInvariant);
    rig.stop().await;
}

/// A server of one model on the scripted device, where models must be batch invariant.
fn required(load: LoadPolicy, card: ScriptedDevice) -> RegistryOptions {
    let model = ModelSpec {
        load,
        ..target(SCRIPTED, ON_CARD, Precision::F32)
    };
    let mut options = options(vec![model], card);
    options.start.determinism = DeterminismPolicy::Required;
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn required_determinism_refuses_what_a_device_cannot_promise() {
    let best_effort = || ScriptedDevice::new(Arc::default());
    let error = load(required(LoadPolicy::Eager, best_effort())).await;
    let error = error.err().unwrap();
    assert!(matches!(&error, RegistryError::NotDeterministic { id, device: CARD, .. } if id == SCRIPTED));
    let shown = error.to_string();
    for part in [
        "`scripted-a`",
        "in f32 on cuda:0",
        "models.ID.device",
        "\"report\"",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    load(required(LoadPolicy::Eager, ScriptedDevice::invariant()))
        .await
        .unwrap();

    // A model that is loaded later is refused when it is, and its room is free again.
    let rig = serve(required(LoadPolicy::Lazy, best_effort())).await;
    let refused = generate(&rig, SCRIPTED).await.err().unwrap();
    assert_eq!(reason(&refused, Code::FailedPrecondition).0, "MODEL_LOAD_FAILED");
    assert_eq!(state(&rig, SCRIPTED).await, State::Failed);
    let free = rig
        .registry
        .devices()
        .iter()
        .map(|(_, memory)| memory.available)
        .min();
    assert_eq!(free, Some(WEIGHTS + POOL));
    rig.stop().await;
}

/// Provenance would name the digest of what was there before.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_file_changes_between_its_digest_and_its_weights_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(common::golden("tiny-chat")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let spec = ModelSpec {
        path: folder.path().to_owned(),
        ..target(SCRIPTED, ON_CARD, Precision::F32)
    };
    let quiet = ScriptedDevice::new(Arc::default());
    load(options(vec![spec.clone()], quiet)).await.unwrap();
    let changing = ScriptedDevice {
        grows: Some(folder.path().join("config.json")),
        ..ScriptedDevice::new(Arc::default())
    };
    let error = load(options(vec![spec], changing)).await.err().unwrap();
    assert!(matches!(error, RegistryError::ChangedMeanwhile { .. }), "{error}");
}
