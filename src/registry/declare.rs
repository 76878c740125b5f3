//! Checks the configured models before any is loaded.

use std::{path::PathBuf, sync::Arc};

use super::{
    accounts::{Accounts, DeviceTerms},
    budget::{MemoryNeed, ResidencyTerms},
    device_options::{DeviceOptions, MemoryPlace},
    error::RegistryError,
    loader::{ModelGroup, ModelLoader},
    model::{Declared, DeclaredAdapter, ModelRole},
    placement::PassedOver,
};
use crate::{backend::AdapterIndex, config::LoadPolicy, errors::with_causes, model::spec::Precision};

/// A checked group of ids that is loaded and unloaded as one model.
pub(super) struct DeclaredGroup {
    /// Index of the device that it is loaded onto.
    pub(super) device: usize,
    /// Devices that automatic placement preferred to that one, and why it is not there.
    pub(super) passed_over: Vec<PassedOver>,
    /// The configured precision.
    pub(super) precision: Precision,
    pub(super) loader: Box<dyn ModelLoader>,
    /// Ids that stand for the model.
    pub(super) members: Vec<Arc<Declared>>,
}

impl DeclaredGroup {
    /// The first of its ids.
    pub(super) fn name(&self) -> &str {
        self.members.first().map_or("", |declared| declared.id.as_str())
    }

    /// Whether it is loaded when the server starts.
    pub(super) fn is_eager(&self) -> bool {
        let first = self.members.first();
        first.is_some_and(|declared| declared.policy == LoadPolicy::Eager)
    }
}

/// When a model is loaded, whether it may be evicted, and what it needs. The most eager of its ids decides, and one
/// pinned id pins it. The need of an eager model must be known; others are read again before they are loaded.
pub(super) fn residency_terms(
    group: &ModelGroup,
    devices: &[DeviceOptions],
) -> Result<DeviceTerms, RegistryError> {
    let policy = group.policy();
    let need = match group.loader.footprint(group.precision) {
        Ok(footprint) => Some(MemoryNeed::new(&footprint, devices[group.device].kv_sizing())),
        Err(error) if policy == LoadPolicy::Eager => return Err(error),
        Err(error) => {
            tracing::warn!(
                error = with_causes(&error),
                "a model that is not loaded yet cannot be read"
            );
            None
        }
    };
    Ok(DeviceTerms {
        device: group.device,
        terms: ResidencyTerms {
            policy,
            pinned: group.specs.iter().any(|spec| spec.pinned),
            need,
        },
    })
}

/// Gives each id its position, in the order of the groups.
pub(super) fn declare(groups: Vec<ModelGroup>) -> Result<Vec<DeclaredGroup>, RegistryError> {
    let mut position = 0;
    let mut declared = Vec::with_capacity(groups.len());
    for (index, group) in groups.into_iter().enumerate() {
        let policy = group.policy();
        let mut members = Vec::with_capacity(group.specs.len());
        let mut adapters: Vec<PathBuf> = Vec::new();
        for spec in group.specs {
            if spec.roles.is_empty() {
                return Err(RegistryError::NoRole(spec.id));
            }
            let adapter = spec.base.map(|base| {
                let known = adapters.iter().position(|path| *path == spec.path);
                let index = known.unwrap_or_else(|| {
                    adapters.push(spec.path.clone());
                    adapters.len() - 1
                });
                DeclaredAdapter {
                    base,
                    index: AdapterIndex(index),
                }
            });
            members.push(Arc::new(Declared {
                id: spec.id,
                roles: spec.roles,
                policy,
                adapter,
                remote: None,
                guard_kind: spec.guard_kind,
                position,
                group: index,
            }));
            position += 1;
        }
        declared.push(DeclaredGroup {
            device: group.device,
            passed_over: group.passed_over,
            precision: group.precision,
            loader: group.loader,
            members,
        });
    }
    Ok(declared)
}

/// Position of a role's default: the id that is named, else the first model with the role, else the first adapter with it.
pub(super) fn default_of(
    declared: &[Arc<Declared>],
    role: ModelRole,
    id: Option<String>,
) -> Result<Option<usize>, RegistryError> {
    let mut candidates = declared.iter().filter(|declared| declared.has(role));
    let Some(id) = id else {
        let default = candidates.clone().find(|declared| declared.adapter.is_none());
        return Ok(default
            .or_else(|| candidates.next())
            .map(|declared| declared.position));
    };
    match candidates.find(|declared| declared.id == id) {
        Some(declared) => Ok(Some(declared.position)),
        None => Err(RegistryError::UnknownDefault {
            role: match role {
                ModelRole::Target => "target",
                ModelRole::Guard => "guard",
                ModelRole::Quality => "quality",
                ModelRole::Classifier => "classifier",
            },
            id,
        }),
    }
}

/// The error that the eager models of a device do not fit into its memory budget; `None` when they do.
pub(super) fn over_budget(
    accounts: &Accounts,
    groups: &[DeclaredGroup],
    terms: &[DeviceTerms],
    devices: &[DeviceOptions],
) -> Option<RegistryError> {
    let (pool, ledger) = accounts.over_budget()?;
    let eager = groups.iter().zip(terms).filter(|(_, placed)| {
        accounts.pool_of(placed.device) == pool && placed.terms.policy == LoadPolicy::Eager
    });
    let models = eager.filter_map(|(group, placed)| Some((group.name().to_owned(), placed.terms.need?)));
    let device = devices
        .iter()
        .enumerate()
        .find(|(device, _)| accounts.pool_of(*device) == pool)?
        .1;
    Some(RegistryError::OverBudget {
        place: MemoryPlace::of(device),
        needed: ledger.eager_least(),
        budget: ledger.budget(),
        models: models.collect(),
    })
}
