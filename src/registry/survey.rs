//! What the models of a configuration would need, without starting a server.

use super::{
    budget::MemoryNeed, error::RegistryError, loader::ModelGroup, options::RegistryOptions,
    placement::PassedOver,
};
use crate::{config::LoadPolicy, model::spec::Precision};

/// What one model would need.
#[derive(Debug)]
pub struct SurveyedModel {
    /// Ids that stand for the model.
    pub ids: Vec<String>,
    /// When it would be loaded.
    pub policy: LoadPolicy,
    /// Index of the device that it would be loaded onto, in [`StartOptions::devices`](super::StartOptions::devices).
    pub device: usize,
    /// Devices that automatic placement preferred to that one, and why it is not there.
    pub passed_over: Vec<PassedOver>,
    /// The precision in which it would compute.
    pub precision: Precision,
    /// Memory that it needs, or the reason why that is not known.
    pub need: Result<MemoryNeed, RegistryError>,
}

/// Reads the headers of all models.
///
/// # Errors
/// Names the path that cannot be read.
pub fn survey(options: &RegistryOptions) -> Result<Vec<SurveyedModel>, RegistryError> {
    let devices = &options.start.devices;
    let surveyed = |group: ModelGroup| SurveyedModel {
        ids: group.specs.iter().map(|spec| spec.id.clone()).collect(),
        policy: group.policy(),
        device: group.device,
        precision: group.precision,
        need: group
            .loader
            .footprint(group.precision)
            .map(|footprint| MemoryNeed::new(&footprint, devices[group.device].kv_sizing())),
        passed_over: group.passed_over,
    };
    Ok(options.groups()?.into_iter().map(surveyed).collect())
}
