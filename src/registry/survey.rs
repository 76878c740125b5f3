//! What models would need, without a server: for who looks at a configuration.

use super::{LoadPolicy, ModelGroup, Need, RegistryError, RegistryOptions};
use crate::model::spec::Precision;

/// A model that would be loaded as one.
#[derive(Debug)]
pub struct Surveyed {
    /// Ids that stand for it.
    pub ids: Vec<String>,
    /// When it would be loaded.
    pub policy: LoadPolicy,
    /// How it would compute.
    pub precision: Precision,
    /// What it needs, or why that is not known.
    pub need: Result<Need, RegistryError>,
}

/// Reads the headers of all models.
///
/// # Errors
/// When a path cannot be read.
pub fn survey(options: &RegistryOptions) -> Result<Vec<Surveyed>, RegistryError> {
    let groups = options.groups()?;
    let surveyed = |group: ModelGroup| Surveyed {
        ids: group.specs.iter().map(|spec| spec.id.clone()).collect(),
        policy: group.policy(),
        precision: group.precision,
        need: group
            .loader
            .footprint(group.precision)
            .map(|footprint| options.start.devices[group.device].need(&footprint)),
    };
    Ok(groups.into_iter().map(surveyed).collect())
}
