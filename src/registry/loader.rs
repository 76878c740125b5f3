//! Loads models: from files, or, in tests, from wherever a [`ModelLoader`] takes them.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{error::RegistryError, model::ModelSpec, placement::PassedOver};
use crate::{
    backend::{Backend, BatchLimits, DecodeLaunch, Footprint, LoadOptions, LoadedModel},
    classifier::{EncoderKind, LabelSet, labels_of},
    config::LoadPolicy,
    digest,
    files::Stamp,
    guard::model_names,
    model::{
        LoadError,
        spec::{Precision, VerdictHeads},
        verdict_heads_of,
    },
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
    /// What its files call it, by which a guard is known that has no chat template of its own.
    pub names: Vec<String>,
    /// `sha256:<hex>` of the weights.
    pub digest: String,
    /// `sha256:<hex>` of each adapter, in the order of [`LoadedModel::adapters`].
    pub adapter_digests: Vec<String>,
    /// Its kind, if it is a quality estimator.
    pub estimator: Option<EstimatorKind>,
    /// Its labels, if it is a classifier.
    pub labels: Option<LabelSet>,
    /// Its verdict heads, if it has them in place of an output layer.
    pub verdict_heads: Option<VerdictHeads>,
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
    /// Devices that automatic placement preferred to that one, and why it is not there.
    pub passed_over: Vec<PassedOver>,
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
pub(super) struct ModelFile {
    /// The first of its ids, which errors name.
    pub(super) id: String,
    pub(super) path: PathBuf,
    pub(super) adapters: Vec<AdapterFile>,
    pub(super) encoder: Option<EncoderKind>,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) max_context: Option<usize>,
    /// The largest batches that the device's engine makes.
    pub(super) batch: BatchLimits,
}

/// An adapter on disk.
pub(super) struct AdapterFile {
    /// The first of its ids, which errors name.
    pub(super) id: String,
    pub(super) path: PathBuf,
}

impl ModelFile {
    fn adapter_paths(&self) -> Vec<PathBuf> {
        self.adapters.iter().map(|adapter| adapter.path.clone()).collect()
    }

    fn load_options(&self, kv_bytes: u64, precision: Precision) -> LoadOptions {
        LoadOptions {
            kv_bytes: usize::try_from(kv_bytes).unwrap_or(usize::MAX),
            max_context: self.max_context,
            precision,
            batch: self.batch,
            decode: DecodeLaunch::Recorded,
        }
    }

    /// Stamps of all files whose digests are promised.
    fn stamps(&self) -> Result<Vec<Stamp>, RegistryError> {
        let adapters = self.adapters.iter();
        let adapters = adapters.map(|adapter| (adapter.id.as_str(), adapter.path.as_path()));
        let all = std::iter::once((self.id.as_str(), self.path.as_path())).chain(adapters);
        let mut stamps = Vec::new();
        for (id, path) in all {
            let of_path = digested_files(path).and_then(|files| {
                let of_file = |file: &PathBuf| Stamp::of(file);
                files.iter().map(of_file).collect::<std::io::Result<Vec<_>>>()
            });
            stamps.extend(of_path.map_err(|source| unreadable(id, path, source))?);
        }
        Ok(stamps)
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
        // Nothing is loaded, so there is no KV pool.
        let options = self.load_options(0, precision);
        let adapters = self.adapter_paths();
        let footprint = self.backend.footprint(&self.path, &adapters, &options);
        footprint.map_err(|source| self.load_error(source))
    }

    fn open(&self, kv_bytes: u64, precision: Precision) -> Result<OpenedModel, RegistryError> {
        let id = || self.id.clone();
        let path = &self.path;
        let before = self.stamps()?;
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
        let (estimator, labels) = match self.encoder {
            Some(EncoderKind::Estimator(kind)) => (Some(kind), None),
            Some(EncoderKind::Classifier) => {
                let labels = labels_of(path).map_err(|source| RegistryError::Labels { id: id(), source })?;
                (None, Some(labels))
            }
            None => (None, None),
        };
        let verdict_heads = verdict_heads_of(path).map_err(|source| self.load_error(source))?;
        let options = self.load_options(kv_bytes, precision);
        let loaded = self.backend.load(path, &self.adapter_paths(), &options);
        let loaded = loaded.map_err(|source| self.load_error(source))?;
        // Otherwise provenance would name a digest that is not that of the weights.
        if self.stamps()? != before {
            return Err(RegistryError::ChangedMeanwhile { id: id() });
        }
        Ok(OpenedModel {
            loaded,
            tokenizer: Arc::new(tokenizer),
            template: template.map(Arc::new),
            names: model_names(path),
            digest,
            adapter_digests,
            estimator,
            labels,
            verdict_heads,
        })
    }

    fn effective(&self, requested: Precision) -> Precision {
        self.backend.effective_precision(&self.path, requested)
    }
}

/// The error of a path that cannot be read.
pub(super) fn unreadable(id: &str, path: &Path, source: std::io::Error) -> RegistryError {
    RegistryError::Unreadable {
        id: id.to_owned(),
        path: path.to_owned(),
        source,
    }
}

fn digest_for(id: &str, path: &Path) -> Result<String, RegistryError> {
    weights_digest(path).map_err(|source| unreadable(id, path, source))
}

/// The digest by which provenance names a model's weights. For a file, its SHA-256. For a folder, the SHA-256 over the names and digests of its configuration and weights, in the
/// order of their names.
pub(crate) fn weights_digest(path: &Path) -> std::io::Result<String> {
    if !path.is_dir() {
        return digest::of_file(path);
    }
    let mut lines = String::new();
    for file in digested_files(path)? {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        lines.push_str(&format!("{}  {name}\n", digest::of_file(&file)?));
    }
    Ok(digest::of_bytes(lines))
}

/// The files of a model or adapter that its digest covers, in the order of their names.
fn digested_files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if ["config.json", "adapter_config.json"].contains(&name.as_str()) || name.ends_with(".safetensors") {
            names.insert(name);
        }
    }
    Ok(names.into_iter().map(|name| path.join(name)).collect())
}
