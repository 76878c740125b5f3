//! A server whose models load, run and break as a test decides, within a budget of so many of them.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use babelward::{
    backend::{Footprint, ForwardBatch, LanguageModel, ModelLimits, StepError, StepOutput},
    engine::Clock,
    model::spec::Precision,
    proto::{self, generation_service_client::GenerationServiceClient},
    registry::{
        KvSize, LoadPolicy, MemoryOptions, ModelGroup, ModelLoader, ModelRole, ModelSpec, ModelState,
        OpenedModel, Registry, RegistryError,
    },
    rpc::ServerOptions,
};
use tokio::task::JoinHandle;
use tonic::{Status, transport::Channel};

use crate::{
    rig::{self, ModelBytes, Rig},
    scripted::{Gate, Scripted},
};

/// Bytes of weights and of the KV pool of every model here.
pub const WEIGHTS: u64 = 1000;
pub const KV: u64 = 200;
pub const EACH: u64 = WEIGHTS + KV;

/// A model that computes in int8 takes half: so that estimates show which precision they are for.
fn weights(precision: Precision) -> u64 {
    match precision {
        Precision::Int8 => WEIGHTS / 2,
        Precision::Mixed | Precision::Bf16 | Precision::F32 => WEIGHTS,
    }
}

/// What a test sees and decides of a model.
#[derive(Clone, Default)]
pub struct Probe {
    /// Holds back loading.
    pub loading: Gate,
    /// Holds back forward passes.
    pub running: Gate,
    pub broken: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

impl Probe {
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Acquire)
    }

    pub fn dropped(&self) -> usize {
        self.dropped.load(Ordering::Acquire)
    }
}

impl ModelLoader for Probe {
    fn footprint(&self, precision: Precision) -> Result<Footprint, RegistryError> {
        Ok(rig::footprint(weights(precision), 4096))
    }

    fn open(&self, kv_bytes: u64, precision: Precision) -> Result<OpenedModel, RegistryError> {
        self.opened.fetch_add(1, Ordering::AcqRel);
        self.loading.pass();
        if self.broken.load(Ordering::Acquire) {
            return Err(RegistryError::Unreadable {
                id: "broken".to_owned(),
                path: PathBuf::from("secret/place"),
                source: std::io::ErrorKind::NotFound.into(),
            });
        }
        let (tokenizer, template) = rig::text();
        let model = Counted(
            Scripted::new(tokenizer, 4096, 8192, self.running.clone()),
            Arc::clone(&self.dropped),
        );
        let bytes = ModelBytes {
            weights: weights(precision),
            kv: kv_bytes,
        };
        Ok(rig::opened(Box::new(model), bytes, precision, Some(template)))
    }
}

/// Says when it is dropped.
struct Counted(Scripted, Arc<AtomicUsize>);

impl LanguageModel for Counted {
    fn limits(&self) -> &ModelLimits {
        self.0.limits()
    }

    fn submit(&mut self, batch: &ForwardBatch, output: StepOutput) -> Result<(), StepError> {
        self.0.submit(batch, output)
    }

    fn wait(&mut self) -> Result<StepOutput, StepError> {
        self.0.wait()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_add(1, Ordering::AcqRel);
    }
}

/// A server with room for so many of its models.
pub struct Fleet {
    pub rig: Rig,
    probes: BTreeMap<String, Probe>,
}

impl Fleet {
    pub async fn start(models: &[(&str, LoadPolicy)], room: u64) -> Self {
        let specs = models.iter().map(|(id, load)| ModelSpec {
            load: *load,
            ..rig::spec(id, ModelRole::Target)
        });
        Self::of(specs.map(|spec| vec![spec]).collect(), room, true).await
    }

    pub async fn of(models: Vec<Vec<ModelSpec>>, room: u64, allow_admin: bool) -> Self {
        let fleet = Self::starting(models, room, allow_admin).await;
        fleet.load_eager().await.unwrap().unwrap();
        fleet
    }

    /// One whose eager models are not loaded yet.
    pub async fn starting(models: Vec<Vec<ModelSpec>>, room: u64, allow_admin: bool) -> Self {
        let mut probes = BTreeMap::new();
        let mut groups = Vec::new();
        for specs in models {
            let probe = Probe::default();
            for spec in &specs {
                probes.insert(spec.id.clone(), probe.clone());
            }
            groups.push(ModelGroup {
                device: 0,
                passed_over: Vec::new(),
                precision: specs[0]
                    .precision
                    .map_or(Precision::F32, |choice| choice.or(Precision::F32)),
                specs,
                loader: Box::new(probe),
            });
        }
        let memory = MemoryOptions {
            budget: room * EACH,
            kv: KvSize::Fixed(KV),
        };
        let options = rig::start_options(memory, 2048, Clock::default());
        let registry = tokio::task::spawn_blocking(move || Registry::prepare_groups(groups, options));
        let options = ServerOptions {
            allow_admin,
            ..Default::default()
        };
        Self {
            rig: Rig::serve(registry.await.unwrap().unwrap(), options, Gate::default()).await,
            probes,
        }
    }

    pub fn load_eager(&self) -> JoinHandle<Result<(), RegistryError>> {
        let registry = Arc::clone(&self.rig.registry);
        tokio::task::spawn_blocking(move || registry.load_eager())
    }

    pub fn probe(&self, id: &str) -> &Probe {
        &self.probes[id]
    }

    pub async fn model(&self, id: &str) -> proto::Model {
        let request = proto::GetModelRequest { name: id.to_owned() };
        let response = self.rig.models().await.get_model(request).await.unwrap();
        response.into_inner().model.unwrap()
    }

    pub fn state(&self, id: &str) -> ModelState {
        let registry = &self.rig.registry;
        registry.state(registry.find(id).unwrap())
    }

    /// A short answer of a model.
    pub async fn ask(&self, id: &str) -> Result<String, Status> {
        answer(self.rig.generation().await, id).await
    }

    pub async fn load(&self, id: &str) -> Result<proto::Model, Status> {
        self.load_in(id, proto::Precision::Unspecified.into()).await
    }

    pub async fn load_in(&self, id: &str, precision: i32) -> Result<proto::Model, Status> {
        let request = proto::LoadModelRequest {
            name: id.to_owned(),
            precision,
            ..Default::default()
        };
        let response = self.rig.admin().await.load_model(request).await?;
        Ok(response.into_inner().model.unwrap())
    }

    pub async fn unload(&self, id: &str) -> proto::Model {
        let request = proto::UnloadModelRequest {
            name: id.to_owned(),
            drain_timeout: None,
        };
        let response = self.rig.admin().await.unload_model(request).await.unwrap();
        response.into_inner().model.unwrap()
    }

    pub async fn pin(&self, id: &str, pinned: bool) {
        let request = proto::PinModelRequest {
            name: id.to_owned(),
            pinned,
        };
        let response = self.rig.admin().await.pin_model(request).await.unwrap();
        assert_eq!(response.into_inner().model.unwrap().pinned, pinned);
    }

    pub async fn estimate(&self, id: &str) -> proto::EstimateModelResponse {
        self.estimate_in(id, proto::Precision::Unspecified).await
    }

    pub async fn estimate_in(&self, id: &str, precision: proto::Precision) -> proto::EstimateModelResponse {
        let request = proto::EstimateModelRequest {
            name: id.to_owned(),
            precision: precision.into(),
        };
        let response = self.rig.admin().await.estimate_model(request).await;
        response.unwrap().into_inner()
    }

    pub async fn stop(mut self) {
        self.rig.begin_stop().await.unwrap().unwrap();
    }

    /// Which models are in memory.
    pub fn resident(&self) -> Vec<&str> {
        let registry = &self.rig.registry;
        let ids = self.probes.keys().map(String::as_str);
        ids.filter(|id| registry.resident(registry.find(id).unwrap()).is_some())
            .collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Else a test that fails would wait for its models for ever.
        for probe in self.probes.values() {
            probe.loading.open();
            probe.running.open();
        }
    }
}

pub async fn answer(mut client: GenerationServiceClient<Channel>, id: &str) -> Result<String, Status> {
    let request = proto::GenerateRequest {
        model: id.to_owned(),
        ..rig::generate("[say Hello.]")
    };
    let mut stream = client.generate(request).await?.into_inner();
    let mut text = String::new();
    while let Some(event) = stream.message().await? {
        if let Some(proto::generate_response::Event::Delta(delta)) = event.event {
            text.push_str(&delta.text);
        }
    }
    Ok(text)
}
