//! Puts configured models into groups that are loaded as one.

use std::{path::PathBuf, sync::Arc};

use super::{
    error::RegistryError,
    loader::{AdapterFile, ModelFile, ModelGroup, unreadable},
    locate::{Location, Placement, Specs},
    model::{ModelRole, ModelSpec},
};
use crate::{
    classifier::EncoderKind,
    model::spec::{Precision, VerdictHeads},
};

/// A group that is being put together.
struct FileGroup {
    specs: Vec<ModelSpec>,
    location: Location,
    precision: Precision,
    file: ModelFile,
}

/// Puts models into groups: one for each file, device and precision, however many ids stand for it. Adapters join the group
/// of their base, and so they are on its device.
pub(super) fn group(models: Vec<ModelSpec>, placement: &Placement) -> Result<Vec<ModelGroup>, RegistryError> {
    if placement.devices.is_empty() {
        return Err(RegistryError::NoDevices);
    }
    let mut groups: Vec<FileGroup> = Vec::new();
    let (adapters, mut models): (Vec<_>, Vec<_>) = models.into_iter().partition(|spec| spec.base.is_some());
    for spec in &mut models {
        spec.path = canonical(spec)?;
    }
    let specs = Specs {
        models: &models,
        adapters: &adapters,
    };
    let locations = specs.locations(placement)?;
    for (spec, location) in models.into_iter().zip(locations) {
        let device = location.device;
        let precision = placement.precision_of(&spec, device);
        let same = |group: &&mut FileGroup| {
            group.file.path == spec.path && group.location.device == device && group.precision == precision
        };
        match groups.iter_mut().find(same) {
            Some(group) => {
                let known = &mut group.location.passed_over;
                let new = location
                    .passed_over
                    .into_iter()
                    .filter(|passed| !known.contains(passed));
                let new: Vec<_> = new.collect();
                known.extend(new);
                group.specs.push(spec);
            }
            None => groups.push(FileGroup {
                file: ModelFile {
                    id: spec.id.clone(),
                    path: spec.path.clone(),
                    adapters: Vec::new(),
                    encoder: EncoderKind::detect(&spec.path),
                    backend: Arc::clone(&placement.devices[device].backend),
                    max_context: placement.max_context,
                    batch: placement.devices[device].options.batch_limits(),
                },
                specs: vec![spec],
                location,
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
        device: group.location.device,
        passed_over: group.location.passed_over,
        precision: group.precision,
        loader: Box::new(group.file),
    };
    Ok(groups.into_iter().map(boxed).collect())
}

/// A quality estimator and a classifier have only that role, and no other model has it. A model with verdict heads is only a guard.
fn check_roles(specs: &[ModelSpec], file: &ModelFile) -> Result<(), RegistryError> {
    for spec in specs {
        let has_other = |than: ModelRole| spec.base.is_some() || spec.roles.iter().any(|role| *role != than);
        match file.encoder {
            Some(EncoderKind::Classifier) if has_other(ModelRole::Classifier) => {
                return Err(RegistryError::OnlyClassifier { id: spec.id.clone() });
            }
            Some(EncoderKind::Estimator(kind)) if has_other(ModelRole::Quality) => {
                return Err(RegistryError::OnlyEstimator {
                    id: spec.id.clone(),
                    kind: kind.name(),
                });
            }
            None if has_other(ModelRole::Guard) && VerdictHeads::are_in(&file.path) => {
                return Err(RegistryError::OnlyGuard { id: spec.id.clone() });
            }
            None if spec.roles.contains(&ModelRole::Quality) => {
                return Err(RegistryError::NoEstimator {
                    id: spec.id.clone(),
                    path: spec.path.clone(),
                });
            }
            None if spec.roles.contains(&ModelRole::Classifier) => {
                return Err(RegistryError::NoClassifier {
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
