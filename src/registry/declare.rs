//! What the configuration says of models, checked before anything is loaded.

use std::{path::PathBuf, sync::Arc};

use super::{
    Declared, DeclaredAdapter, DeviceOptions, LoadPolicy, ModelGroup, ModelRole, RegistryError,
    accounts::Accounts, budget::Terms, residency::Group,
};
use crate::{backend::AdapterIndex, errors::with_causes};

/// How a model is to be treated: the most eager of its ids decides, and one pinned id pins it. What an eager
/// model needs must be known; for the others there is time.
pub(super) fn terms(group: &ModelGroup, device: &DeviceOptions) -> Result<Terms, RegistryError> {
    let policy = group.policy();
    let need = match group.loader.footprint(group.precision) {
        Ok(footprint) => Some(device.need(&footprint)),
        Err(error) if policy == LoadPolicy::Eager => return Err(error),
        Err(error) => {
            tracing::warn!(
                error = with_causes(&error),
                "a model that is not loaded yet cannot be read"
            );
            None
        }
    };
    Ok(Terms {
        policy,
        pinned: group.specs.iter().any(|spec| spec.pinned),
        need,
    })
}

/// Ids with their places, in the order of the groups.
pub(super) fn declare(groups: Vec<ModelGroup>) -> Result<Vec<Group>, RegistryError> {
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
                guard_kind: spec.guard_kind,
                position,
                group: index,
            }));
            position += 1;
        }
        declared.push(Group {
            device: group.device,
            precision: group.precision,
            loader: group.loader,
            members,
        });
    }
    Ok(declared)
}

/// The place of a role's default: the one that is named, or the first that has the role; adapters come last.
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
            },
            id,
        }),
    }
}

/// The error when the models that are to be loaded at the start do not fit onto their device.
pub(super) fn over_budget(
    accounts: &Accounts,
    groups: &[Group],
    terms: &[(usize, Terms)],
) -> Option<RegistryError> {
    let (device, ledger) = accounts.over_budget()?;
    let eager = groups
        .iter()
        .zip(terms)
        .filter(|(_, (on, terms))| *on == device && terms.policy == LoadPolicy::Eager);
    let models = eager.filter_map(|(group, (_, terms))| Some((group.name().to_owned(), terms.need?.least())));
    Some(RegistryError::OverBudget {
        needed: ledger.eager_least(),
        budget: ledger.budget(),
        models: models.collect(),
    })
}
