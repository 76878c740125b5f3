//! Finds the device that each configured model is loaded onto: the one that it names, or the one that automatic placement
//! chooses by what the model needs on each card.

use std::{path::PathBuf, sync::Arc};

use super::{
    budget::MemoryNeed,
    device_options::{DeviceOptions, MemoryOwner},
    error::RegistryError,
    model::ModelSpec,
    placement::{Card, CardNeed, PassedOver, Place, Wish, place},
};
use crate::{
    backend::{Backend, DecodeLaunch, LoadOptions},
    config::LoadPolicy,
    model::spec::{DeviceChoice, DeviceName, Precision, PrecisionChoice},
};

/// How models are read, and which devices there are for them.
pub(super) struct Placement {
    /// Upper limit on the context window, in tokens.
    pub(super) max_context: Option<usize>,
    /// The choice for models that name no precision.
    pub(super) precision: PrecisionChoice,
    /// The devices.
    pub(super) devices: Vec<PlacementDevice>,
    /// Devices that automatic placement would prefer, and that cannot be used.
    pub(super) unusable: Vec<PassedOver>,
}

/// A device that models can be loaded onto.
pub(super) struct PlacementDevice {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) options: DeviceOptions,
}

impl PlacementDevice {
    fn name(&self) -> DeviceName {
        self.backend.device().name
    }
}

/// Where a model is loaded, and why not elsewhere.
#[derive(Clone)]
pub(super) struct Location {
    /// Index of the device.
    pub(super) device: usize,
    pub(super) passed_over: Vec<PassedOver>,
}

impl Placement {
    /// Index of the device that a model names; `None` where the choice is automatic.
    fn named_device(&self, spec: &ModelSpec) -> Result<Option<usize>, RegistryError> {
        let DeviceChoice::Only(device) = spec.device else {
            return Ok(None);
        };
        let names = || self.devices.iter().map(PlacementDevice::name);
        match names().position(|known| known == device) {
            Some(index) => Ok(Some(index)),
            None => Err(RegistryError::UnknownDevice {
                id: spec.id.clone(),
                device,
                known: names().collect(),
            }),
        }
    }

    /// Indices of the devices that automatic placement prefers: those with memory of their own.
    fn cards(&self) -> Vec<usize> {
        let devices = self.devices.iter().enumerate();
        devices
            .filter(|(_, device)| device.options.memory_owner == MemoryOwner::Device)
            .map(|(index, _)| index)
            .collect()
    }

    /// The device for models that no card holds: the first that uses the host's memory.
    fn host(&self, spec: &ModelSpec, passed_over: &[PassedOver]) -> Result<usize, RegistryError> {
        let mut devices = self.devices.iter();
        let host = devices.position(|device| device.options.memory_owner == MemoryOwner::Host);
        host.ok_or_else(|| RegistryError::NoPlace {
            id: spec.id.clone(),
            passed_over: passed_over.to_vec(),
        })
    }

    /// The precision that a model is computed in on a device.
    pub(super) fn precision_of(&self, spec: &ModelSpec, device: usize) -> Precision {
        let backend = &self.devices[device].backend;
        let best = backend.device().best_precision;
        let requested = spec.precision.unwrap_or(self.precision).or(best);
        backend.effective_precision(&spec.path, requested)
    }

    /// What a model with its adapters needs on a device.
    fn need(&self, unit: &Unit, device: usize, precision: Precision) -> Result<u64, String> {
        let PlacementDevice { backend, options } = &self.devices[device];
        let load = LoadOptions {
            // Nothing is loaded.
            kv_bytes: 0,
            max_context: self.max_context,
            precision,
            batch: options.batch_limits(),
            decode: DecodeLaunch::Recorded,
        };
        let footprint = backend.footprint(&unit.path, &unit.adapters, &load);
        let footprint = footprint.map_err(|error| error.to_string())?;
        Ok(MemoryNeed::new(&footprint, options.kv_sizing()).least())
    }
}

/// Ids that stand for one model wherever it is placed.
struct Unit {
    path: PathBuf,
    adapters: Vec<PathBuf>,
    /// Positions of the ids.
    models: Vec<usize>,
    /// The precision in which it computes on each card.
    precisions: Vec<Precision>,
    is_eager: bool,
}

/// The models and adapters of a configuration, with canonical paths for the models.
pub(super) struct Specs<'a> {
    pub(super) models: &'a [ModelSpec],
    pub(super) adapters: &'a [ModelSpec],
}

impl Specs<'_> {
    /// The ids at these positions as units: those with the same file, and the same precision on every one of `devices`, are
    /// one.
    fn units(&self, positions: &[usize], devices: &[usize], placement: &Placement) -> Vec<Unit> {
        let mut units: Vec<Unit> = Vec::new();
        for &position in positions {
            let spec = &self.models[position];
            let precision = |device: &usize| placement.precision_of(spec, *device);
            let precisions: Vec<Precision> = devices.iter().map(precision).collect();
            let own = self
                .adapters
                .iter()
                .filter(|adapter| adapter.base.as_ref() == Some(&spec.id));
            let is_eager = [spec]
                .into_iter()
                .chain(own.clone())
                .any(|spec| spec.load == LoadPolicy::Eager);
            let same = |unit: &Unit| unit.path == spec.path && unit.precisions == precisions;
            let unit = match units.iter().position(same) {
                Some(index) => &mut units[index],
                None => {
                    units.push(Unit {
                        path: spec.path.clone(),
                        adapters: Vec::new(),
                        models: Vec::new(),
                        precisions,
                        is_eager: false,
                    });
                    let last = units.len() - 1;
                    &mut units[last]
                }
            };
            unit.models.push(position);
            unit.is_eager |= is_eager;
            for adapter in own {
                if !unit.adapters.contains(&adapter.path) {
                    unit.adapters.push(adapter.path.clone());
                }
            }
        }
        units
    }

    /// Where each model is loaded.
    pub(super) fn locations(&self, placement: &Placement) -> Result<Vec<Location>, RegistryError> {
        let named = self.models.iter().map(|spec| placement.named_device(spec));
        let named = named.collect::<Result<Vec<_>, _>>()?;
        let positions = |wanted: Option<usize>| -> Vec<usize> {
            (0..named.len())
                .filter(|&position| named[position] == wanted)
                .collect()
        };
        let card_devices = placement.cards();
        let units = self.units(&positions(None), &card_devices, placement);
        let mut cards = Vec::with_capacity(card_devices.len());
        // The models that name each card.
        let mut named_units = Vec::with_capacity(card_devices.len());
        for &device in &card_devices {
            let mut card = Card {
                name: placement.devices[device].name(),
                budget: placement.devices[device].options.memory.budget,
                eager: 0,
                promised: 0,
            };
            let there = self.units(&positions(Some(device)), &[device], placement);
            // What other models need matters only to those that are placed automatically. The error of a model that cannot be
            // read is found where it is declared.
            if !units.is_empty() {
                for unit in &there {
                    let need = placement.need(unit, device, unit.precisions[0]);
                    card.promise(need.unwrap_or(0), unit.is_eager);
                }
            }
            cards.push(card);
            named_units.push(there);
        }
        let need = |unit: &Unit, index: usize| {
            let precision = unit.precisions[index];
            let shares = |other: &Unit| other.path == unit.path && other.precisions[0] == precision;
            if named_units[index].iter().any(shares) {
                return CardNeed::Shared;
            }
            match placement.need(unit, card_devices[index], precision) {
                Ok(bytes) => CardNeed::Bytes(bytes),
                Err(reason) => CardNeed::Impossible(reason),
            }
        };
        let wish = |unit: &Unit| Wish {
            is_eager: unit.is_eager,
            needs: (0..card_devices.len()).map(|index| need(unit, index)).collect(),
        };
        let wishes: Vec<Wish> = units.iter().map(wish).collect();
        let mut automatic = vec![None; named.len()];
        for (unit, place) in units.iter().zip(place(&mut cards, &wishes)) {
            let mut passed_over = placement.unusable.clone();
            let device = match place {
                Place::Card(index) => card_devices[index],
                Place::NoCard(reasons) => {
                    passed_over.extend(reasons);
                    placement.host(&self.models[unit.models[0]], &passed_over)?
                }
            };
            for &position in &unit.models {
                automatic[position] = Some(Location {
                    device,
                    passed_over: passed_over.clone(),
                });
            }
        }
        let located = named.into_iter().zip(automatic);
        let located = located.map(|(named, automatic)| {
            let by_name = named.map(|device| Location {
                device,
                passed_over: Vec::new(),
            });
            by_name.or(automatic).ok_or(RegistryError::NoDevices)
        });
        located.collect()
    }
}
