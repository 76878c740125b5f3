//! Where models come from: files, or what a test makes up.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{LoadPolicy, ModelSpec, RegistryError};
use crate::{
    digest,
    model::{
        self,
        estimate::{BatchLimits, Estimate},
        load::{LoadOptions, LoadedModel},
    },
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
}

/// Opens one model, as often as it is loaded.
pub trait ModelLoader: Send + Sync {
    /// What it will take; reads headers only.
    fn estimate(&self) -> Result<Estimate, RegistryError>;

    /// Reads everything; `kv_bytes` is the size of its KV pool.
    fn open(&self, kv_bytes: u64) -> Result<OpenedModel, RegistryError>;
}

/// A model and the ids that stand for it: they are loaded and unloaded together.
pub struct ModelGroup {
    /// At least one.
    pub specs: Vec<ModelSpec>,
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
    options: LoadOptions,
    batch: BatchLimits,
}

impl ModelLoader for ModelFile {
    fn estimate(&self) -> Result<Estimate, RegistryError> {
        model::load::estimate(&self.path, &self.options, self.batch).map_err(|source| RegistryError::Load {
            id: self.id.clone(),
            source,
        })
    }

    fn open(&self, kv_bytes: u64) -> Result<OpenedModel, RegistryError> {
        let id = || self.id.clone();
        let path = &self.path;
        let digest = digest_of(path).map_err(|source| RegistryError::Unreadable {
            id: id(),
            path: path.clone(),
            source,
        })?;
        let tokenizer =
            Tokenizer::open(path).map_err(|source| RegistryError::Tokenizer { id: id(), source })?;
        let template =
            ChatTemplate::open(path).map_err(|source| RegistryError::Template { id: id(), source })?;
        let options = LoadOptions {
            kv_bytes: usize::try_from(kv_bytes).unwrap_or(usize::MAX),
            ..self.options.clone()
        };
        let loaded =
            model::load::load(path, &options).map_err(|source| RegistryError::Load { id: id(), source })?;
        Ok(OpenedModel {
            loaded,
            tokenizer: Arc::new(tokenizer),
            template: template.map(Arc::new),
            digest,
        })
    }
}

/// One group per file, however many ids stand for it.
pub(super) fn group(
    models: Vec<ModelSpec>,
    options: &LoadOptions,
    batch: BatchLimits,
) -> Result<Vec<ModelGroup>, RegistryError> {
    let mut by_path: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut groups: Vec<ModelGroup> = Vec::new();
    for spec in models {
        let path = spec
            .path
            .canonicalize()
            .map_err(|source| RegistryError::Unreadable {
                id: spec.id.clone(),
                path: spec.path.clone(),
                source,
            })?;
        let place = *by_path.entry(path.clone()).or_insert_with(|| {
            groups.push(ModelGroup {
                specs: Vec::new(),
                loader: Box::new(ModelFile {
                    id: spec.id.clone(),
                    path,
                    options: options.clone(),
                    batch,
                }),
            });
            groups.len() - 1
        });
        if let Some(group) = groups.get_mut(place) {
            group.specs.push(spec);
        }
    }
    Ok(groups)
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
        if name == "config.json" || name.ends_with(".safetensors") {
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
