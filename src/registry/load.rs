//! From a configuration to resident models.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::SystemTime,
};

use super::{ModelEntry, ModelParts, ModelRole, ModelSpec, RegistryError, RegistryOptions, Resident};
use crate::{
    digest,
    engine::{
        CancelFlag, EngineHandle, Event, ModelIndex, OutputSpec, Priority, Sampling, SequenceError,
        SequenceRequest, Tenant,
    },
    guard::Guard,
    model::{self, Device, LanguageModel},
    text::{ChatTemplate, Tokenizer},
};

/// Opens each path once, however many ids stand for it.
pub(super) fn open_all(options: &RegistryOptions) -> Result<Vec<ModelParts>, RegistryError> {
    let mut by_path: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut groups: Vec<(PathBuf, Vec<ModelSpec>)> = Vec::new();
    for spec in &options.models {
        let path = spec
            .path
            .canonicalize()
            .map_err(|source| unreadable(spec, source))?;
        let group = *by_path.entry(path.clone()).or_insert_with(|| {
            groups.push((path, Vec::new()));
            groups.len() - 1
        });
        if let Some((_, specs)) = groups.get_mut(group) {
            specs.push(spec.clone());
        }
    }
    groups
        .into_iter()
        .map(|(path, specs)| open(&path, specs, options))
        .collect()
}

fn open(path: &Path, specs: Vec<ModelSpec>, options: &RegistryOptions) -> Result<ModelParts, RegistryError> {
    let Some(first) = specs.first() else {
        return Err(RegistryError::NoModels);
    };
    let id = || first.id.clone();
    let digest = digest_of(path).map_err(|source| unreadable(first, source))?;
    let tokenizer = Tokenizer::open(path).map_err(|source| RegistryError::Tokenizer { id: id(), source })?;
    let template = ChatTemplate::open(path).map_err(|source| RegistryError::Template { id: id(), source })?;
    let loaded =
        model::load::load(path, &options.load).map_err(|source| RegistryError::Load { id: id(), source })?;
    Ok(ModelParts {
        tokenizer: Arc::new(tokenizer),
        template: template.map(Arc::new),
        loaded,
        digest,
        specs,
    })
}

fn unreadable(spec: &ModelSpec, source: std::io::Error) -> RegistryError {
    RegistryError::Unreadable {
        id: spec.id.clone(),
        path: spec.path.clone(),
        source,
    }
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

type Assembled = (Vec<Arc<ModelEntry>>, Vec<Box<dyn LanguageModel>>);

/// One entry per id, one model per part.
pub(super) fn assemble(parts: Vec<ModelParts>) -> Result<Assembled, RegistryError> {
    let mut entries = Vec::new();
    let mut models = Vec::new();
    for (index, part) in parts.into_iter().enumerate() {
        let layers = part.loaded.layers;
        let resident = Arc::new(Resident {
            index: ModelIndex(index),
            tokenizer: part.tokenizer,
            template: part.template,
            architecture: part.loaded.architecture,
            parameters: part.loaded.parameters,
            dtype: part.loaded.dtype,
            precision: part.loaded.precision,
            device: Device::Cpu,
            resident_bytes: part.loaded.weight_bytes + part.loaded.kv_bytes,
            digest: part.digest,
            limits: part.loaded.model.limits().clone(),
            ready_at: SystemTime::now(),
        });
        models.push(part.loaded.model);
        for spec in part.specs {
            if spec.roles.is_empty() {
                return Err(RegistryError::NoRole(spec.id));
            }
            let guard = guard_of(&spec, &resident, layers)?;
            entries.push(Arc::new(ModelEntry {
                id: spec.id,
                roles: spec.roles,
                resident: Arc::clone(&resident),
                guard,
                position: entries.len(),
            }));
        }
    }
    if entries.is_empty() {
        return Err(RegistryError::NoModels);
    }
    Ok((entries, models))
}

fn guard_of(
    spec: &ModelSpec,
    resident: &Resident,
    layers: usize,
) -> Result<Option<Arc<Guard>>, RegistryError> {
    if !spec.roles.contains(&ModelRole::Guard) {
        return Ok(None);
    }
    let kind = spec
        .guard_kind
        .unwrap_or_else(|| Guard::detect(&resident.tokenizer, layers));
    Guard::new(kind, Arc::clone(&resident.tokenizer), resident.template.clone())
        .map(|guard| Some(Arc::new(guard)))
        .map_err(|source| RegistryError::Guard {
            id: spec.id.clone(),
            source,
        })
}

/// Computes what all prompts of each guard begin with, and keeps it in the prefix cache for good.
pub(super) fn pin_prefixes(engine: &EngineHandle, entries: &[Arc<ModelEntry>]) -> Result<(), RegistryError> {
    let mut done: BTreeSet<(usize, Vec<u32>)> = BTreeSet::new();
    for entry in entries {
        let Some(guard) = &entry.guard else { continue };
        let prefixes = guard.policy_prefixes().map_err(|source| RegistryError::Guard {
            id: entry.id.clone(),
            source,
        })?;
        for prefix in prefixes {
            let model = entry.resident.index;
            if !prefix.is_empty() && done.insert((model.0, prefix.clone())) {
                pin(engine, entry, prefix)?;
            }
        }
    }
    Ok(())
}

fn pin(engine: &EngineHandle, entry: &ModelEntry, prefix: Vec<u32>) -> Result<(), RegistryError> {
    let (sender, receiver) = mpsc::channel();
    let request = SequenceRequest {
        model: entry.resident.index,
        adapter: None,
        prompt: prefix,
        output: OutputSpec {
            max_new_tokens: 0,
            eos: Arc::from([]),
            sampling: Sampling::greedy(),
            logprobs: None,
            probe: None,
            stop: None,
            pin_prompt: true,
        },
        priority: Priority::Interactive,
        tenant: Tenant::default(),
        deadline: None,
        cancel: CancelFlag::default(),
        events: Box::new(move |event| sender.send(event).is_ok()),
    };
    engine
        .submit(request)
        .map_err(|source| RegistryError::PrefixRefused {
            id: entry.id.clone(),
            source,
        })?;
    for event in receiver {
        match event {
            Event::Finished(_) => return Ok(()),
            Event::Failed(source) => {
                return Err(RegistryError::PrefixFailed {
                    id: entry.id.clone(),
                    source,
                });
            }
            Event::Started { .. } | Event::Probe(_) | Event::Token(_) => {}
        }
    }
    Err(RegistryError::PrefixFailed {
        id: entry.id.clone(),
        source: SequenceError::ShuttingDown,
    })
}
