//! What weights are read.

use std::collections::HashMap;

use super::weights::TensorData;

/// What was found while weights were read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    /// Number of parameters.
    pub parameters: u64,
    /// Storage type of most of them.
    pub dtype: String,
    /// Bytes in memory.
    pub bytes: u64,
}

/// Parameters by storage type.
#[derive(Default)]
pub(crate) struct Tally(HashMap<&'static str, u64>);

impl Tally {
    pub(crate) fn add(&mut self, data: &TensorData<'_>) {
        *self.0.entry(data.format.name()).or_default() += data.shape.iter().product::<usize>() as u64;
    }

    /// With the bytes that the weights take in memory.
    pub(crate) fn census(self, bytes: u64) -> Census {
        let parameters = self.0.values().sum();
        let most = self.0.into_iter().max_by_key(|&(name, count)| (count, name));
        Census {
            parameters,
            dtype: most.map_or("", |(name, _)| name).to_owned(),
            bytes,
        }
    }
}
