//! What the models of a configuration would need, without starting a server.

use super::{
    budget::{KvSizing, MemoryNeed},
    error::RegistryError,
    loader::{self, DefaultPrecision, ModelGroup},
    options::RegistryOptions,
};
use crate::{config::LoadPolicy, kernels::Precision, model::estimate::BatchLimits};

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
pub fn survey(options: RegistryOptions) -> Result<Vec<SurveyedModel>, RegistryError> {
    let batch = BatchLimits {
        sequences: options.start.engine.max_batch_sequences,
        tokens: options.start.engine.max_batch_tokens,
    };
    let kv = KvSizing {
        size: options.start.memory.kv,
        batch_sequences: batch.sequences,
    };
    let precision = DefaultPrecision {
        choice: options.precision,
        bf16_products: options.bf16_products,
    };
    let groups = loader::group(options.models, &options.load, precision, batch)?;
    let surveyed = |group: ModelGroup| SurveyedModel {
        ids: group.specs.iter().map(|spec| spec.id.clone()).collect(),
        policy: group.policy(),
        precision: group.precision,
        need: group
            .loader
            .estimate(group.precision)
            .map(|estimate| MemoryNeed::new(&estimate, kv)),
    };
    Ok(groups.into_iter().map(surveyed).collect())
}
