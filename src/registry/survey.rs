//! What the models of a configuration would need, without starting a server.

use super::{budget::MemoryNeed, error::RegistryError, loader::ModelGroup, options::RegistryOptions};
use crate::{config::LoadPolicy, model::spec::Precision};

/// What one model would need.
#[derive(Debug)]
pub struct SurveyedModel {
    /// Ids that stand for the model.
    pub ids: Vec<String>,
    /// When it would be loaded.
    pub policy: LoadPolicy,
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
        precision: group.precision,
        need: group
            .loader
            .footprint(group.precision)
            .map(|footprint| MemoryNeed::new(&footprint, devices[group.device].kv_sizing())),
    };
    Ok(options.groups()?.into_iter().map(surveyed).collect())
}
