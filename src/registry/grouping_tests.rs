use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    budget::KvSize,
    device_options::{DeviceOptions, MemoryOptions, MemoryOwner},
    error::RegistryError,
    grouping::group,
    loader::ModelGroup,
    locate::{Placement, PlacementDevice},
    model::{ModelRole, ModelSpec},
    placement::{PassReason, PassedOver},
};
use crate::{
    backend::{
        Backend, DeviceFinding, DeviceInfo, DeviceMemory, Execution, Footprint, LoadOptions, LoadedModel,
        cpu::CpuBackend,
    },
    config::LoadPolicy,
    engine::{Clock, Driver, EngineConfig, TenantWeights},
    model::{
        LoadError,
        spec::{DeviceChoice, DeviceName, Precision, PrecisionChoice},
    },
};

fn spec(id: &str, path: &Path, precision: Option<PrecisionChoice>) -> ModelSpec {
    ModelSpec {
        id: id.to_owned(),
        path: path.to_owned(),
        device: DeviceChoice::Auto,
        base: None,
        roles: vec![ModelRole::Target],
        guard_kind: None,
        precision,
        load: LoadPolicy::Eager,
        pinned: false,
    }
}

fn guard(spec: ModelSpec) -> ModelSpec {
    ModelSpec {
        roles: vec![ModelRole::Guard],
        ..spec
    }
}

fn only(precision: Precision) -> Option<PrecisionChoice> {
    Some(PrecisionChoice::Only(precision))
}

/// A device whose models need as many bytes as their files have, and nothing for KV pools.
struct Scripted {
    device: DeviceInfo,
    /// Bytes of its own memory; `None` for a device that uses the host's.
    own: Option<u64>,
}

impl Scripted {
    fn cpu(best_precision: Precision) -> Self {
        let device = DeviceInfo {
            best_precision,
            ..CpuBackend::new(1).device().clone()
        };
        Self { device, own: None }
    }

    fn card(number: u32, own: u64) -> Self {
        let mut card = Self::cpu(Precision::Int8);
        (card.device.name, card.own) = (DeviceName::Cuda(number), Some(own));
        card
    }

    fn options(&self) -> DeviceOptions {
        DeviceOptions {
            info: self.device.clone(),
            memory: MemoryOptions {
                budget: self.own.unwrap_or(u64::MAX),
                kv: KvSize::Auto,
            },
            memory_owner: match self.own {
                Some(_) => MemoryOwner::Device,
                None => MemoryOwner::Host,
            },
            engine: EngineConfig {
                name: "engine-test".to_owned(),
                model_names: Vec::new(),
                max_batch_sequences: 1,
                max_batch_tokens: 1,
                queue_items: 1,
                queue_tokens: 1,
                step_target: None,
                cost_prior: self.device.cost_prior,
                execution: Execution::Synchronous,
                tenant_weights: TenantWeights::default(),
                clock: Clock::default(),
                driver: Driver::default(),
            },
        }
    }
}

impl Backend for Scripted {
    fn device(&self) -> &DeviceInfo {
        &self.device
    }

    fn memory(&self) -> Option<DeviceMemory> {
        self.own.map(|own| DeviceMemory {
            total: own,
            free: own,
        })
    }

    fn self_test(&self) -> Vec<DeviceFinding> {
        Vec::new()
    }

    fn effective_precision(&self, path: &Path, asked: Precision) -> Precision {
        CpuBackend::new(1).effective_precision(path, asked)
    }

    fn footprint(
        &self,
        path: &Path,
        adapters: &[PathBuf],
        _options: &LoadOptions,
    ) -> Result<Footprint, LoadError> {
        let files = [path].into_iter().chain(adapters.iter().map(PathBuf::as_path));
        let bytes = files.map(|file| std::fs::metadata(file).unwrap().len());
        Ok(Footprint {
            architecture: "scripted".to_owned(),
            context_length: 16,
            held_tokens: 16,
            weight_bytes: bytes.sum(),
            scratch_bytes: 0,
            kv_block_bytes: 1,
            kv_most_bytes: Some(0),
            block_tokens: 16,
        })
    }

    fn load(
        &self,
        path: &Path,
        adapters: &[PathBuf],
        options: &LoadOptions,
    ) -> Result<LoadedModel, LoadError> {
        CpuBackend::new(1).load(path, adapters, options)
    }
}

/// A card that cannot be used.
fn broken() -> PassedOver {
    PassedOver {
        device: DeviceName::Cuda(7),
        reason: PassReason::Unusable("the driver is too old".to_owned()),
    }
}

fn placed(models: Vec<ModelSpec>, devices: Vec<Scripted>) -> Result<Vec<ModelGroup>, RegistryError> {
    let device = |device: Scripted| PlacementDevice {
        options: device.options(),
        backend: Arc::new(device),
    };
    let placement = Placement {
        max_context: None,
        precision: PrecisionChoice::Auto,
        devices: devices.into_iter().map(device).collect(),
        unusable: vec![broken()],
    };
    group(models, &placement)
}

/// A file of so many bytes.
fn file_of(bytes: usize) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![0; bytes]).unwrap();
    file
}

/// A group that is expected: its ids, its device, and the cards that were passed over for it.
fn expected<const N: usize>(
    ids: [&str; N],
    device: usize,
    passed: &[u32],
) -> (Vec<String>, usize, Vec<DeviceName>) {
    let passed = passed.iter().map(|number| DeviceName::Cuda(*number));
    (ids.map(str::to_owned).to_vec(), device, passed.collect())
}

fn located(groups: &[ModelGroup]) -> Vec<(Vec<String>, usize, Vec<DeviceName>)> {
    let shown = |group: &ModelGroup| {
        let ids = group.specs.iter().map(|spec| spec.id.clone()).collect();
        let passed = group.passed_over.iter().map(|passed| passed.device).collect();
        (ids, group.device, passed)
    };
    groups.iter().map(shown).collect()
}

#[test]
fn automatic_models_are_placed_on_cards_and_an_adapter_goes_with_its_base() {
    let [small, large, adapter] = [40, 90, 30].map(file_of);
    let models = vec![
        spec("small", small.path(), None),
        spec("large", large.path(), None),
        ModelSpec {
            base: Some("small".to_owned()),
            ..spec("tuned", adapter.path(), None)
        },
    ];
    let on = |cards: [u64; 2]| {
        let cpu = Scripted::cpu(Precision::Int8);
        placed(
            models.clone(),
            vec![cpu, Scripted::card(0, cards[0]), Scripted::card(1, cards[1])],
        )
        .unwrap()
    };
    // 90 onto the larger card, and 40 with its adapter of 30 onto the other.
    let both = [
        expected(["small", "tuned"], 1, &[7]),
        expected(["large"], 2, &[7]),
    ];
    assert_eq!(located(&on([70, 100])), both);

    // With a byte less, the base and its adapter go to the processor together, and both cards say why.
    let groups = on([69, 100]);
    let one = [
        expected(["small", "tuned"], 0, &[7, 0, 1]),
        expected(["large"], 2, &[7]),
    ];
    assert_eq!(located(&groups), one);
    let reasons: Vec<String> = groups[0].passed_over.iter().map(PassedOver::to_string).collect();
    assert_eq!(
        reasons,
        [
            "cuda:7 cannot be used: the driver is too old",
            "cuda:0 has 69 B left of its 69 B for models, and the model needs 70 B there",
            "cuda:1 has 10 B left of its 100 B for models, and the model needs 70 B there",
        ]
    );
}

#[test]
fn a_model_that_names_a_card_keeps_its_room_and_shares_its_weights() {
    let [first, second] = [60, 50].map(file_of);
    let on = |id, file: &tempfile::NamedTempFile, device| ModelSpec {
        device: DeviceChoice::Only(device),
        ..spec(id, file.path(), None)
    };
    let models = vec![
        on("here", &second, DeviceName::Cpu),
        spec("other", second.path(), None),
        on("named", &first, DeviceName::Cuda(0)),
        spec("same", first.path(), None),
    ];
    let groups = placed(
        models,
        vec![Scripted::cpu(Precision::Int8), Scripted::card(0, 100)],
    )
    .unwrap();
    // 60 of the card's 100 bytes are the named model's.
    let wanted = [
        expected(["here", "other"], 0, &[7, 0]),
        expected(["named", "same"], 1, &[7]),
    ];
    assert_eq!(located(&groups), wanted);
}

#[test]
fn without_a_processor_a_model_that_no_card_holds_is_refused_with_the_numbers() {
    let file = file_of(11);
    let error = placed(vec![spec("a", file.path(), None)], vec![Scripted::card(0, 10)]);
    assert_eq!(
        error.err().unwrap().to_string(),
        "model `a`: no device can take it: cuda:7 cannot be used: the driver is too old; cuda:0 has 10 B left of its \
         10 B for models, and the model needs 11 B there"
    );
}

/// Ids and precision of each group on a device that is fastest in this precision, where nothing else is said.
fn grouped_on(models: Vec<ModelSpec>, best_precision: Precision) -> Vec<(Vec<String>, Precision)> {
    let groups = placed(models, vec![Scripted::cpu(best_precision)]).unwrap();
    let ids = |group: &ModelGroup| group.specs.iter().map(|spec| spec.id.clone()).collect();
    groups.iter().map(|group| (ids(group), group.precision)).collect()
}

fn grouped(models: Vec<ModelSpec>) -> Vec<(Vec<String>, Precision)> {
    grouped_on(models, Precision::Int8)
}

#[test]
fn a_model_is_loaded_onto_the_device_that_it_names() {
    let file = file_of(1);
    let on = |id, device| ModelSpec {
        device: DeviceChoice::Only(device),
        ..spec(id, file.path(), None)
    };
    let devices = || vec![Scripted::cpu(Precision::Int8), Scripted::card(0, 0)];
    let models = vec![
        on("a", DeviceName::Cpu),
        on("b", DeviceName::Cuda(0)),
        on("c", DeviceName::Cpu),
    ];
    let groups = placed(models, devices()).unwrap();
    let found: Vec<_> = groups
        .iter()
        .map(|group| (group.device, group.specs.len()))
        .collect();
    assert_eq!(found, [(0, 2), (1, 1)]);
    let error = placed(vec![on("a", DeviceName::Cuda(1))], devices())
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "model `a`: there is no device `cuda:1`; there are cpu, cuda:0"
    );
}

fn ids<const N: usize>(ids: [&str; N]) -> Vec<String> {
    ids.map(str::to_owned).to_vec()
}

#[test]
fn ids_of_one_file_share_a_model_when_they_have_the_same_precision() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let spec = |id, precision| spec(id, file.path(), precision);
    let adapter = ModelSpec {
        base: Some("guard".to_owned()),
        ..spec("tuned", None)
    };
    let models = vec![
        adapter,
        spec("target", None),
        spec("guard", only(Precision::Bf16)),
        spec("other", only(Precision::Int8)),
    ];
    let expected = [
        (ids(["target", "other"]), Precision::Int8),
        (ids(["guard", "tuned"]), Precision::Bf16),
    ];
    assert_eq!(grouped(models), expected);
}

#[test]
fn an_automatic_precision_is_the_fastest_of_the_device_in_every_role() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let other = tempfile::NamedTempFile::new().unwrap();
    let adapter = ModelSpec {
        base: Some("alone".to_owned()),
        roles: vec![ModelRole::Guard],
        ..spec("tuned", other.path(), None)
    };
    let models = vec![
        spec("target", file.path(), None),
        guard(spec("guard", file.path(), Some(PrecisionChoice::Auto))),
        spec("alone", other.path(), None),
        adapter,
    ];
    for best in Precision::ALL {
        let expected = [(ids(["target", "guard"]), best), (ids(["alone", "tuned"]), best)];
        assert_eq!(grouped_on(models.clone(), best), expected);
    }
}

#[test]
fn a_configured_precision_is_kept_and_decides_for_no_other_id() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let models = vec![
        spec("target", file.path(), None),
        guard(spec("exact", file.path(), only(Precision::F32))),
        spec("named", file.path(), only(Precision::Int8)),
    ];
    let expected = [
        (ids(["target"]), Precision::Mixed),
        (ids(["exact"]), Precision::F32),
        (ids(["named"]), Precision::Int8),
    ];
    assert_eq!(grouped_on(models, Precision::Mixed), expected);
}

#[test]
fn estimators_in_mixed_int8_and_f32_are_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"{"architectures": ["UnifiedMetric"]}"#;
    std::fs::write(folder.path().join("config.json"), config).unwrap();
    let spec = |id, precision| ModelSpec {
        roles: vec![ModelRole::Quality],
        ..spec(id, folder.path(), precision)
    };
    let models = vec![
        spec("a", None),
        spec("b", only(Precision::F32)),
        spec("c", only(Precision::Bf16)),
        spec("d", only(Precision::Int8)),
    ];
    let expected = [
        (ids(["a", "b", "d"]), Precision::F32),
        (ids(["c"]), Precision::Bf16),
    ];
    assert_eq!(grouped_on(models, Precision::Mixed), expected);
}
