//! Where models come from: files, or what a test makes up.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{LoadPolicy, ModelRole, ModelSpec, RegistryError};
use crate::{
    backend::cpu::kernels::Bf16Products,
    digest,
    model::spec::{Precision, PrecisionChoice},
    model::{
        self,
        estimate::{BatchLimits, Estimate},
        load::{LoadError, LoadOptions, LoadedModel},
    },
    quality::{self, EstimatorKind},
    text::{ChatTemplate, Tokenizer},
};

/// A model in memory, in parts.
pub struct OpenedModel {
    /// Weights and KV pool.
    pub loaded: LoadedModel,
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// Its chat template; base models have none.
    pub template: Option<Arc<ChatTemplate>>,
    /// `sha256:<hex>` of the weights.
    pub digest: String,
    /// The same of each adapter, in the order of [`LoadedModel::adapters`].
    pub adapter_digests: Vec<String>,
    /// Which quality estimator it is, when it is one.
    pub estimator: Option<EstimatorKind>,
}

/// Opens one model, as often as it is loaded.
pub trait ModelLoader: Send + Sync {
    /// What it will take when it computes so; reads headers only.
    fn estimate(&self, precision: Precision) -> Result<Estimate, RegistryError>;

    /// Reads everything; `kv_bytes` is the size of its KV pool.
    fn open(&self, kv_bytes: u64, precision: Precision) -> Result<OpenedModel, RegistryError>;

    /// How it computes when it is asked to compute so: not all models have all precisions.
    fn effective(&self, asked: Precision) -> Precision {
        asked
    }
}

/// A model with its adapters, and the ids that stand for them: they are loaded and unloaded together.
pub struct ModelGroup {
    /// At least one. Those with a base are adapters: one for each path, in the order in which the paths first appear.
    pub specs: Vec<ModelSpec>,
    /// How it computes, unless a load asks for something else.
    pub precision: Precision,
    /// Opens it.
    pub loader: Box<dyn ModelLoader>,
}

impl ModelGroup {
    /// The most eager of its ids decides when it is loaded.
    pub(super) fn policy(&self) -> LoadPolicy {
        let policy = self.specs.iter().map(|spec| spec.load).max();
        policy.unwrap_or(LoadPolicy::Manual)
    }
}

/// A model on disk.
struct ModelFile {
    /// The first of its ids, for errors.
    id: String,
    path: PathBuf,
    adapters: Vec<AdapterFile>,
    estimator: Option<EstimatorKind>,
    options: LoadOptions,
    batch: BatchLimits,
}

/// An adapter on disk.
struct AdapterFile {
    /// The first of its ids, for errors.
    id: String,
    path: PathBuf,
}

impl ModelFile {
    fn adapter_paths(&self) -> Vec<PathBuf> {
        self.adapters.iter().map(|adapter| adapter.path.clone()).collect()
    }

    /// With the id that is to blame.
    fn load_error(&self, source: LoadError) -> RegistryError {
        let adapter = match &source {
            LoadError::Adapter { path, .. } => self.adapters.iter().find(|adapter| adapter.path == *path),
            LoadError::Io { .. } | LoadError::Invalid { .. } => None,
        };
        RegistryError::Load {
            id: adapter.map_or(&self.id, |adapter| &adapter.id).clone(),
            source,
        }
    }
}

impl ModelLoader for ModelFile {
    fn estimate(&self, precision: Precision) -> Result<Estimate, RegistryError> {
        let options = LoadOptions {
            precision,
            ..self.options.clone()
        };
        let estimate = match self.estimator {
            Some(kind) => quality::estimate(kind, &self.path, &options),
            None => model::load::estimate(&self.path, &self.adapter_paths(), &options, self.batch),
        };
        estimate.map_err(|source| self.load_error(source))
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
            precision,
            ..self.options.clone()
        };
        let loaded = match self.estimator {
            Some(kind) => quality::load(kind, path, &options),
            None => model::load::load_with_adapters(path, &self.adapter_paths(), &options),
        };
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

    fn effective(&self, asked: Precision) -> Precision {
        effective(self.estimator, asked)
    }
}

fn effective(estimator: Option<EstimatorKind>, asked: Precision) -> Precision {
    match estimator {
        Some(_) => quality::effective_precision(asked),
        None => asked,
    }
}

/// One group per file and precision, however many ids stand for it; adapters join their base's. A model that says
/// nothing of its precision has the one of `compute`, and `compute` says what this processor has for bf16.
pub(super) fn group(
    models: Vec<ModelSpec>,
    options: &LoadOptions,
    (precision, bf16_products): (PrecisionChoice, Bf16Products),
    batch: BatchLimits,
) -> Result<Vec<ModelGroup>, RegistryError> {
    let mut groups: Vec<(Vec<ModelSpec>, Precision, ModelFile)> = Vec::new();
    let (adapters, mut models): (Vec<_>, Vec<_>) = models.into_iter().partition(|spec| spec.base.is_some());
    for spec in &mut models {
        spec.path = canonical(spec)?;
        spec.precision.get_or_insert(precision);
    }
    let judging = judging(&models, &adapters);
    for spec in models {
        let estimator = EstimatorKind::detect(&spec.path);
        let best = match judging.contains(&spec.path) {
            true => bf16_products.best_for_judging(),
            false => bf16_products.best_for_answering(),
        };
        let precision = effective(estimator, spec.precision.unwrap_or(precision).or(best));
        let mut known = groups.iter_mut();
        match known.find(|(_, other, file)| file.path == spec.path && *other == precision) {
            Some((specs, ..)) => specs.push(spec),
            None => {
                let file = ModelFile {
                    id: spec.id.clone(),
                    path: spec.path.clone(),
                    adapters: Vec::new(),
                    estimator,
                    options: options.clone(),
                    batch,
                };
                groups.push((vec![spec], precision, file));
            }
        }
    }
    for mut spec in adapters {
        spec.path = canonical(&spec)?;
        let is_base = |other: &ModelSpec| other.base.is_none() && Some(&other.id) == spec.base.as_ref();
        let mut known = groups.iter_mut();
        let Some((specs, _, file)) = known.find(|(specs, ..)| specs.iter().any(is_base)) else {
            return Err(RegistryError::UnknownBase {
                id: spec.id,
                base: spec.base.unwrap_or_default(),
            });
        };
        if file.adapters.iter().all(|adapter| adapter.path != spec.path) {
            file.adapters.push(AdapterFile {
                id: spec.id.clone(),
                path: spec.path.clone(),
            });
        }
        specs.push(spec);
    }
    for (specs, _, file) in &groups {
        check_roles(specs, file)?;
    }
    let boxed = |(specs, precision, file): (_, _, ModelFile)| ModelGroup {
        specs,
        precision,
        loader: Box::new(file),
    };
    Ok(groups.into_iter().map(boxed).collect())
}

/// Files whose precision is left to the server, and which judge by one of the ids that leave it so, or by an adapter of
/// one: all such ids of a file compute alike, so that they share its weights.
fn judging(models: &[ModelSpec], adapters: &[ModelSpec]) -> BTreeSet<PathBuf> {
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

/// A quality estimator can do nothing else, and nothing else can do what it does.
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

/// Of a file: its SHA-256. Of a folder: the SHA-256 over the names and digests of its configuration and
/// weights, in the order of their names.
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

    fn spec(id: &str, path: &Path, precision: Option<PrecisionChoice>) -> ModelSpec {
        ModelSpec {
            id: id.to_owned(),
            path: path.to_owned(),
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

    /// Ids and precision of each group, where nothing else is said.
    fn grouped_on(models: Vec<ModelSpec>, bf16_products: Bf16Products) -> Vec<(Vec<String>, Precision)> {
        let options = LoadOptions {
            threads: 1,
            kv_bytes: 0,
            max_context: None,
            precision: Precision::F32,
        };
        let batch = BatchLimits {
            sequences: 1,
            tokens: 1,
        };
        let groups = group(models, &options, (PrecisionChoice::Auto, bf16_products), batch).unwrap();
        let ids = |group: &ModelGroup| group.specs.iter().map(|spec| spec.id.clone()).collect();
        groups.iter().map(|group| (ids(group), group.precision)).collect()
    }

    fn grouped(models: Vec<ModelSpec>) -> Vec<(Vec<String>, Precision)> {
        grouped_on(models, Bf16Products::Vectors)
    }

    fn ids<const N: usize>(ids: [&str; N]) -> Vec<String> {
        ids.map(str::to_owned).to_vec()
    }

    #[test]
    fn ids_of_one_file_share_a_model_when_they_compute_alike() {
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
    fn guards_that_leave_it_to_the_server_compute_in_bf16_where_there_are_tiles() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let other = tempfile::NamedTempFile::new().unwrap();
        let models = || {
            vec![
                // One file by two ids: the guard decides for both, and they are one model.
                spec("target", file.path(), None),
                guard(spec("guard", file.path(), Some(PrecisionChoice::Auto))),
                spec("alone", other.path(), None),
            ]
        };
        let found = grouped_on(models(), Bf16Products::Tiles);
        let expected = [
            (ids(["target", "guard"]), Precision::Bf16),
            (ids(["alone"]), Precision::Int8),
        ];
        assert_eq!(found, expected);
        let found = grouped_on(models(), Bf16Products::Vectors);
        let expected = [
            (ids(["target", "guard"]), Precision::Int8),
            (ids(["alone"]), Precision::Int8),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_said_stays_and_decides_for_nobody_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let models = vec![
            spec("target", file.path(), None),
            guard(spec("exact", file.path(), only(Precision::F32))),
        ];
        let expected = [
            (ids(["target"]), Precision::Int8),
            (ids(["exact"]), Precision::F32),
        ];
        assert_eq!(grouped_on(models, Bf16Products::Tiles), expected);
    }

    #[test]
    fn an_adapter_that_judges_makes_its_base_compute_as_a_guard() {
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
            assert_eq!(grouped_on(models(roles), Bf16Products::Tiles), expected);
        }
    }

    #[test]
    fn estimators_have_no_int8_to_differ_in() {
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
