//! Counts the weights of a model while they are read.

use std::collections::HashMap;

use super::weights::TensorData;

/// What a model's weights amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WeightSummary {
    /// Number of parameters.
    pub parameters: u64,
    /// Storage format of most parameters in the file, for example `q4_1`.
    pub dtype: String,
    /// Bytes that the weights take in the device's memory.
    pub bytes: u64,
}

/// Number of parameters that were read so far, by storage format.
#[derive(Default)]
pub(crate) struct ParameterCounts(HashMap<&'static str, u64>);

impl ParameterCounts {
    /// Counts the elements of a tensor.
    pub(crate) fn add(&mut self, data: &TensorData<'_>) {
        *self.0.entry(data.format.name()).or_default() += data.shape.iter().product::<usize>() as u64;
    }

    /// The summary of weights that take `bytes` bytes in the device's memory.
    pub(crate) fn summary(self, bytes: u64) -> WeightSummary {
        let parameters = self.0.values().sum();
        // Of formats with equally many parameters, the last by name, so that the answer is always the same.
        let most = self.0.into_iter().max_by_key(|&(name, count)| (count, name));
        WeightSummary {
            parameters,
            dtype: most.map_or("", |(name, _)| name).to_owned(),
            bytes,
        }
    }
}
