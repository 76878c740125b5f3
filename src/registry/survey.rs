//! What models would need, without a server: for who looks at a configuration.

use super::{LoadPolicy, ModelGroup, Need, RegistryError, RegistryOptions, loader};
use crate::{model::estimate::BatchLimits, model::spec::Precision};

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
pub fn survey(options: RegistryOptions) -> Result<Vec<Surveyed>, RegistryError> {
    let batch = BatchLimits {
        sequences: options.engine.max_batch_sequences,
        tokens: options.engine.max_batch_tokens,
    };
    let (kv, sequences) = (options.memory.kv, batch.sequences);
    let compute = (options.precision, options.bf16_products);
    let groups = loader::group(options.models, &options.load, compute, batch)?;
    let surveyed = |group: ModelGroup| Surveyed {
        ids: group.specs.iter().map(|spec| spec.id.clone()).collect(),
        policy: group.policy(),
        precision: group.precision,
        need: group
            .loader
            .estimate(group.precision)
            .map(|estimate| Need::new(&estimate, kv, sequences)),
    };
    Ok(groups.into_iter().map(surveyed).collect())
}
