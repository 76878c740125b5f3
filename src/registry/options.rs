//! What the registry is started with.

use std::sync::Arc;

use super::{
    device_options::DeviceOptions,
    error::RegistryError,
    grouping::group,
    loader::ModelGroup,
    locate::{Placement, PlacementDevice},
    model::{ModelSpec, RemoteSpec},
    placement::PassedOver,
};
use crate::{backend::Backend, config::DeterminismPolicy, guard::Policy, model::spec::PrecisionChoice};

/// Everything [`Registry::prepare`](super::Registry::prepare) needs.
#[derive(Clone)]
pub struct RegistryOptions {
    /// The models to load; at least one unless there are [`StartOptions::remotes`]. Ids with the same canonical path, device and precision share one resident model.
    pub models: Vec<ModelSpec>,
    /// Upper limit on the context window, in tokens. A model's own window counts where it is shorter.
    pub max_context: Option<usize>,
    /// The precision of models whose [`ModelSpec::precision`] is absent.
    pub precision: PrecisionChoice,
    /// What loads and computes models: one for each of [`StartOptions::devices`], in the same order.
    pub backends: Vec<Arc<dyn Backend>>,
    /// Devices that automatic placement would prefer to those, and why they cannot be used.
    pub unusable: Vec<PassedOver>,
    /// Everything that does not depend on where the models come from.
    pub start: StartOptions,
}

impl RegistryOptions {
    /// Puts the models into groups that are loaded as one.
    pub(super) fn groups(&self) -> Result<Vec<ModelGroup>, RegistryError> {
        let devices = self.backends.iter().zip(&self.start.devices);
        let devices = devices.map(|(backend, options)| PlacementDevice {
            backend: Arc::clone(backend),
            options: options.clone(),
        });
        let placement = Placement {
            max_context: self.max_context,
            precision: self.precision,
            devices: devices.collect(),
            unusable: self.unusable.clone(),
        };
        group(self.models.clone(), &placement)
    }
}

/// What [`Registry::prepare_groups`](super::Registry::prepare_groups) needs besides models.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// The target for requests that name none; the first target when absent.
    pub default_target: Option<String>,
    /// The guard for requests that name none; the first guard when absent.
    pub default_guard: Option<String>,
    /// The quality estimator for requests that name none; the first one when absent.
    pub default_quality: Option<String>,
    /// The models that endpoints compute.
    pub remotes: Vec<RemoteSpec>,
    /// The policies by which requests may let guards judge. Each name occurs once.
    pub policies: Vec<Policy>,
    /// What is done about a model whose results may depend on what else is in its batch.
    pub determinism: DeterminismPolicy,
    /// The devices that models are loaded onto; at least one.
    pub devices: Vec<DeviceOptions>,
}

impl StartOptions {
    /// Leaves out the devices that none of these models is loaded onto, so that no engine is started for them and their
    /// memory stays free for others.
    pub(super) fn leave_out_idle_devices(&mut self, groups: &mut [ModelGroup]) {
        let is_used = |device: usize| groups.iter().any(|group| group.device == device);
        let used: Vec<usize> = (0..self.devices.len())
            .filter(|&device| is_used(device))
            .collect();
        if used.is_empty() {
            return;
        }
        self.devices = used.iter().map(|&device| self.devices[device].clone()).collect();
        for group in groups {
            group.device = used
                .iter()
                .position(|&device| device == group.device)
                .unwrap_or(group.device);
        }
    }
}
