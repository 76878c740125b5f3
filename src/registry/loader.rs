//! Loads models: from files, or, in tests, from wherever a [`ModelLoader`] takes them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    error::RegistryError,
    model::{ModelRole, ModelSpec},
};
use crate::{
    backend::{Backend, BatchLimits, Footprint, LoadOptions, LoadedModel},
    config::LoadPolicy,
    digest,
    model::{LoadError, spec::Precision, spec::PrecisionChoice},
    quality::EstimatorKind,
    text::{ChatTemplate, Tokenizer},
};

/// The parts of a model that has been read into memory.
pub struct OpenedModel {
    /// Weights and KV pool.
    pub loaded: LoadedModel,
    /// Turns text into its tokens.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template; `None` for base models.
    pub template: Option<Arc<ChatTemplate>>,
    /// `sha256:<hex>` of the weights.
    pub digest: String,
    /// `sha256:<hex>` of each adapter, in the order of [`LoadedModel::adapters`].
    pub adapter_digests: Vec<String>,
    /// Its kind, if it is a quality estimator.
    pub estimator: Option<EstimatorKind>,
}

/// Opens one model, each time that it is loaded.
pub trait ModelLoader: Send + Sync {
    /// What the model will take in this precision. Reads headers only.
    fn footprint(&self, precision: Precision) -> Result<Footprint, RegistryError>;

    /// Reads the model; `kv_bytes` is the size of its KV pool in bytes.
    fn open(&self, kv_bytes: u64, precision: Precision) -> Result<OpenedModel, RegistryError>;

    /// The precision in which the model computes when this one is requested. Not all models have all precisions.
    fn effective(&self, requested: Precision) -> Precision {
        requested
    }
}

/// A model with its adapters, and the ids that stand for them. They are loaded and unloaded together.
pub struct ModelGroup {
    /// The ids; at least one. Those with a base are adapters: one for each path, in the order in which the paths first
    /// appear.
    pub specs: Vec<ModelSpec>,
    /// Index of the device that it is loaded onto.
    pub device: usize,
    /// The precision in which it computes, unless a load names another.
    pub precision: Precision,
    /// Opens the model.
    pub loader: Box<dyn ModelLoader>,
}

impl ModelGroup {
    /// When it is loaded: as the most eager of its ids demands.
    pub(super) fn policy(&self) -> LoadPolicy {
        let policy = self.specs.iter().map(|spec| spec.load).max();
        policy.unwrap_or(LoadPolicy::Manual)
    }
}

/// A model on disk.
struct ModelFile {
    /// The first of its ids, which errors name.
    id: String,
    path: PathBuf,
    adapters: Vec<AdapterFile>,
    estimator: Option<EstimatorKind>,
    backend: Arc<dyn Backend>,
    max_context: Option<usize>,
    batch: BatchLimits,
}

/// An adapter on disk.
struct AdapterFile {
    /// The first of its ids, which errors name.
    id: String,
    path: PathBuf,
}

impl ModelFile {
    fn adapter_paths(&self) -> Vec<PathBuf> {
        self.adapters.iter().map(|adapter| adapter.path.clone()).collect()
    }

    /// The error with the id of the model or adapter that causes it.
    fn load_error(&self, source: LoadError) -> RegistryError {
        let adapter = match &source {
            LoadError::Adapter { path, .. } => self.adapters.iter().find(|adapter| adapter.path == *path),
            LoadError::Io { .. } | LoadError::Invalid { .. } | LoadError::Resources { .. } => None,
        };
        RegistryError::Load {
            id: adapter.map_or(&self.id, |adapter| &adapter.id).clone(),
            source,
        }
    }
}

impl ModelLoader for ModelFile {
    fn footprint(&self, precision: Precision) -> Result<Footprint, RegistryError> {
        let options = LoadOptions {
            // Nothing is loaded.
            kv_bytes: 0,
            max_context: self.max_context,
            precision,
            batch: self.batch,
        };
        let adapters = self.adapter_paths();
        let footprint = self.backend.footprint(&self.path, &adapters, &options);
        footprint.map_err(|source| self.load_error(source))
    }

    fn open(&self, kv_bytes: u64, precision: Precision) -> Result<OpenedModel, RegistryError> {
        let id = || self.id.clone();
        let path = &self.path;
        let digest = digest_for(&self.id, path)?;
        let adapter_digests = self
            .adapters
            .iter()
            .map(|adapter| digest_for(&adapter.id, &adapter.path))
            .collect::<Result<_, _>>()?;
        let tokenizer =
            Tokenizer::open(path).map_err(|source| RegistryError::Tokenizer { id: id(), source })?;
        let template =
            ChatTemplate::open(path).map_err(|source| RegistryError::Template { id: id(), source })?;
        let options = LoadOptions {
            kv_bytes: usize::try_from(kv_bytes).unwrap_or(usize::MAX),
            max_context: self.max_context,
            precision,
            batch: self.batch,
        };
        let loaded = self.backend.load(path, &self.adapter_paths(), &options);
        let loaded = loaded.map_err(|source| self.load_error(source))?;
        Ok(OpenedModel {
            loaded,
            tokenizer: Arc::new(tokenizer),
            template: template.map(Arc::new),
            digest,
            adapter_digests,
            estimator: self.estimator,
        })
    }

    fn effective(&self, requested: Precision) -> Precision {
        self.backend.effective_precision(&self.path, requested)
    }
}

/// How models are read, and which devices there are for them.
pub(super) struct Placement {
    /// Upper limit on the context window, in tokens.
    pub(super) max_context: Option<usize>,
    /// The choice for models that name no precision.
    pub(super) precision: PrecisionChoice,
    /// The devices. A model that names none is loaded onto the first.
    pub(super) devices: Vec<PlacementDevice>,
}

/// A device that models can be loaded onto.
pub(super) struct PlacementDevice {
    pub(super) backend: Arc<dyn Backend>,
    /// The largest batches that its engine makes.
    pub(super) batch: BatchLimits,
}

impl Placement {
    /// Index of the device that a model is loaded onto.
    fn device_of(&self, spec: &ModelSpec) -> Result<usize, RegistryError> {
        let names = || self.devices.iter().map(|device| device.backend.device().name);
        let Some(device) = spec.device else {
            return if self.devices.is_empty() {
                Err(RegistryError::NoDevices)
            } else {
                Ok(0)
            };
        };
        let found = names().position(|known| known == device);
        found.ok_or_else(|| RegistryError::UnknownDevice {
            id: spec.id.clone(),
            device,
            known: names().collect(),
        })
    }
}

/// A group that is being put together.
struct FileGroup {
    specs: Vec<ModelSpec>,
    device: usize,
    precision: Precision,
    file: ModelFile,
}

/// Puts models into groups: one for each file, device and precision, however many ids stand for it. Adapters join the group
/// of their base.
pub(super) fn group(models: Vec<ModelSpec>, placement: &Placement) -> Result<Vec<ModelGroup>, RegistryError> {
    let mut groups: Vec<FileGroup> = Vec::new();
    let (adapters, mut models): (Vec<_>, Vec<_>) = models.into_iter().partition(|spec| spec.base.is_some());
    for spec in &mut models {
        spec.path = canonical(spec)?;
        spec.precision.get_or_insert(placement.precision);
    }
    let judging = automatic_guards(&models, &adapters);
    for spec in models {
        let index = placement.device_of(&spec)?;
        let PlacementDevice { backend, batch } = &placement.devices[index];
        let best = match judging.contains(&spec.path) {
            true => backend.device().best_for_judging,
            false => backend.device().best_for_answering,
        };
        let requested = spec.precision.unwrap_or(placement.precision).or(best);
        let precision = backend.effective_precision(&spec.path, requested);
        let same = |group: &&mut FileGroup| {
            group.file.path == spec.path && group.device == index && group.precision == precision
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.specs.push(spec),
            None => groups.push(FileGroup {
                file: ModelFile {
                    id: spec.id.clone(),
                    path: spec.path.clone(),
                    adapters: Vec::new(),
                    estimator: EstimatorKind::detect(&spec.path),
                    backend: Arc::clone(backend),
                    max_context: placement.max_context,
                    batch: *batch,
                },
                specs: vec![spec],
                device: index,
                precision,
            }),
        }
    }
    for mut spec in adapters {
        spec.path = canonical(&spec)?;
        let is_base = |other: &ModelSpec| other.base.is_none() && Some(&other.id) == spec.base.as_ref();
        let mut known = groups.iter_mut();
        let Some(group) = known.find(|group| group.specs.iter().any(is_base)) else {
            return Err(RegistryError::UnknownBase {
                id: spec.id,
                base: spec.base.unwrap_or_default(),
            });
        };
        let adapters = &mut group.file.adapters;
        if adapters.iter().all(|adapter| adapter.path != spec.path) {
            adapters.push(AdapterFile {
                id: spec.id.clone(),
                path: spec.path.clone(),
            });
        }
        group.specs.push(spec);
    }
    for group in &groups {
        check_roles(&group.specs, &group.file)?;
    }
    let boxed = |group: FileGroup| ModelGroup {
        specs: group.specs,
        device: group.device,
        precision: group.precision,
        loader: Box::new(group.file),
    };
    Ok(groups.into_iter().map(boxed).collect())
}

/// Files with an id whose precision is automatic and that is a guard, or has an adapter that is one. All ids of such a
/// file whose precision is automatic get that of guards, so that they share the file's weights.
fn automatic_guards(models: &[ModelSpec], adapters: &[ModelSpec]) -> BTreeSet<PathBuf> {
    let judges = |spec: &ModelSpec| spec.roles.contains(&ModelRole::Guard);
    let automatic = models
        .iter()
        .filter(|spec| spec.precision == Some(PrecisionChoice::Auto));
    let judging = automatic.filter(|spec| {
        let mut own = adapters
            .iter()
            .filter(|adapter| adapter.base.as_ref() == Some(&spec.id));
        judges(spec) || own.any(judges)
    });
    judging.map(|spec| spec.path.clone()).collect()
}

/// A quality estimator has only that role, and no other model has it.
fn check_roles(specs: &[ModelSpec], file: &ModelFile) -> Result<(), RegistryError> {
    for spec in specs {
        match file.estimator {
            Some(kind)
                if spec.base.is_some() || spec.roles.iter().any(|role| *role != ModelRole::Quality) =>
            {
                return Err(RegistryError::OnlyEstimator {
                    id: spec.id.clone(),
                    kind: kind.name(),
                });
            }
            None if spec.roles.contains(&ModelRole::Quality) => {
                return Err(RegistryError::NoEstimator {
                    id: spec.id.clone(),
                    path: spec.path.clone(),
                });
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

fn canonical(spec: &ModelSpec) -> Result<PathBuf, RegistryError> {
    spec.path
        .canonicalize()
        .map_err(|source| unreadable(&spec.id, &spec.path, source))
}

fn unreadable(id: &str, path: &Path, source: std::io::Error) -> RegistryError {
    RegistryError::Unreadable {
        id: id.to_owned(),
        path: path.to_owned(),
        source,
    }
}

fn digest_for(id: &str, path: &Path) -> Result<String, RegistryError> {
    digest_of(path).map_err(|source| unreadable(id, path, source))
}

/// For a file, its SHA-256. For a folder, the SHA-256 over the names and digests of its configuration and weights, in the
/// order of their names.
fn digest_of(path: &Path) -> std::io::Result<String> {
    if !path.is_dir() {
        return digest::of_file(path);
    }
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if ["config.json", "adapter_config.json"].contains(&name.as_str()) || name.ends_with(".safetensors") {
            names.insert(name);
        }
    }
    let mut lines = String::new();
    for name in names {
        let digest = digest::of_file(&path.join(&name))?;
        lines.push_str(&format!("{digest}  {name}\n"));
    }
    Ok(digest::of_bytes(lines))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::{DeviceFinding, DeviceInfo, DeviceMemory, cpu::CpuBackend},
        model::spec::DeviceName,
    };

    fn spec(id: &str, path: &Path, precision: Option<PrecisionChoice>) -> ModelSpec {
        ModelSpec {
            id: id.to_owned(),
            path: path.to_owned(),
            device: None,
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

    /// The processor, with other preferences or another name.
    struct Renamed {
        cpu: CpuBackend,
        device: DeviceInfo,
    }

    impl Renamed {
        fn new(name: DeviceName, best_for_judging: Precision) -> Self {
            let cpu = CpuBackend::new(1);
            let device = DeviceInfo {
                name,
                best_for_judging,
                best_for_answering: Precision::Int8,
                ..cpu.device().clone()
            };
            Self { cpu, device }
        }
    }

    impl Backend for Renamed {
        fn device(&self) -> &DeviceInfo {
            &self.device
        }

        fn memory(&self) -> Option<DeviceMemory> {
            self.cpu.memory()
        }

        fn self_test(&self) -> Vec<DeviceFinding> {
            self.cpu.self_test()
        }

        fn effective_precision(&self, path: &Path, asked: Precision) -> Precision {
            self.cpu.effective_precision(path, asked)
        }

        fn footprint(
            &self,
            path: &Path,
            adapters: &[PathBuf],
            options: &LoadOptions,
        ) -> Result<Footprint, LoadError> {
            self.cpu.footprint(path, adapters, options)
        }

        fn load(
            &self,
            path: &Path,
            adapters: &[PathBuf],
            options: &LoadOptions,
        ) -> Result<LoadedModel, LoadError> {
            self.cpu.load(path, adapters, options)
        }
    }

    fn placed(models: Vec<ModelSpec>, devices: Vec<Renamed>) -> Result<Vec<ModelGroup>, RegistryError> {
        let batch = BatchLimits {
            sequences: 1,
            tokens: 1,
        };
        let device = |device| PlacementDevice {
            backend: Arc::new(device),
            batch,
        };
        let placement = Placement {
            max_context: None,
            precision: PrecisionChoice::Auto,
            devices: devices.into_iter().map(device).collect(),
        };
        group(models, &placement)
    }

    /// Ids and precision of each group on a device that is fastest at judging in this precision, where nothing else is
    /// said.
    fn grouped_on(models: Vec<ModelSpec>, best_for_judging: Precision) -> Vec<(Vec<String>, Precision)> {
        let groups = placed(models, vec![Renamed::new(DeviceName::Cpu, best_for_judging)]).unwrap();
        let ids = |group: &ModelGroup| group.specs.iter().map(|spec| spec.id.clone()).collect();
        groups.iter().map(|group| (ids(group), group.precision)).collect()
    }

    fn grouped(models: Vec<ModelSpec>) -> Vec<(Vec<String>, Precision)> {
        grouped_on(models, Precision::Int8)
    }

    #[test]
    fn a_model_is_loaded_onto_the_device_that_it_names() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let on = |id, device| ModelSpec {
            device,
            ..spec(id, file.path(), None)
        };
        let devices = || {
            [DeviceName::Cpu, DeviceName::Cuda(0)]
                .map(|name| Renamed::new(name, Precision::Int8))
                .into_iter()
                .collect()
        };
        let models = vec![
            on("a", None),
            on("b", Some(DeviceName::Cuda(0))),
            on("c", Some(DeviceName::Cpu)),
        ];
        let groups = placed(models, devices()).unwrap();
        let found: Vec<_> = groups
            .iter()
            .map(|group| (group.device, group.specs.len()))
            .collect();
        assert_eq!(found, [(0, 2), (1, 1)]);
        let error = placed(vec![on("a", Some(DeviceName::Cuda(1)))], devices())
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
    fn guards_with_automatic_precision_compute_in_bf16_where_there_are_tiles() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let other = tempfile::NamedTempFile::new().unwrap();
        let models = || {
            vec![
                // Two ids of one file: the guard decides for both, and they are one model.
                spec("target", file.path(), None),
                guard(spec("guard", file.path(), Some(PrecisionChoice::Auto))),
                spec("alone", other.path(), None),
            ]
        };
        let found = grouped_on(models(), Precision::Bf16);
        let expected = [
            (ids(["target", "guard"]), Precision::Bf16),
            (ids(["alone"]), Precision::Int8),
        ];
        assert_eq!(found, expected);
        let found = grouped_on(models(), Precision::Int8);
        let expected = [
            (ids(["target", "guard"]), Precision::Int8),
            (ids(["alone"]), Precision::Int8),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_configured_precision_is_kept_and_decides_for_no_other_id() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let models = vec![
            spec("target", file.path(), None),
            guard(spec("exact", file.path(), only(Precision::F32))),
        ];
        let expected = [
            (ids(["target"]), Precision::Int8),
            (ids(["exact"]), Precision::F32),
        ];
        assert_eq!(grouped_on(models, Precision::Bf16), expected);
    }

    #[test]
    fn an_adapter_that_is_a_guard_makes_its_base_compute_as_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let models = |roles| {
            let adapter = ModelSpec {
                base: Some("base".to_owned()),
                roles,
                ..spec("tuned", file.path(), None)
            };
            vec![spec("base", file.path(), None), adapter]
        };
        for (roles, precision) in [
            (vec![ModelRole::Guard], Precision::Bf16),
            (vec![ModelRole::Target], Precision::Int8),
        ] {
            let expected = [(ids(["base", "tuned"]), precision)];
            assert_eq!(grouped_on(models(roles), Precision::Bf16), expected);
        }
    }

    #[test]
    fn estimators_in_int8_and_f32_are_one_model() {
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
        ];
        let expected = [(ids(["a", "b"]), Precision::F32), (ids(["c"]), Precision::Bf16)];
        assert_eq!(grouped(models), expected);
    }
}
