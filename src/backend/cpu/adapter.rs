//! LoRA adapters (arXiv 2106.09685), repacked for the kernels.

use super::kernels::{Arena, LowRank};
use crate::{
    backend::LoadedAdapter,
    model::{AdapterError, AdapterWeights, Site},
};

/// An adapter in memory. Its updates are added to the products of its base.
pub(super) struct CpuAdapter {
    rank: usize,
    parameters: u64,
    layers: Vec<[Option<LowRank>; Site::ALL.len()]>,
}

impl CpuAdapter {
    /// Repacks an adapter's matrices.
    ///
    /// # Errors
    /// When the system has no memory for them.
    pub(super) fn pack(weights: AdapterWeights) -> Result<Self, AdapterError> {
        let mut arena = Arena::default();
        let mut layers = Vec::with_capacity(weights.layers.len());
        for parts in weights.layers {
            let mut layer = [const { None }; Site::ALL.len()];
            for (packed, parts) in layer.iter_mut().zip(parts) {
                let pack = LowRank::pack(&mut arena, &parts);
                *packed = pack.map_err(AdapterError::Memory)?;
            }
            layers.push(layer);
        }
        Ok(Self {
            rank: weights.rank,
            parameters: weights.parameters,
            layers,
        })
    }

    /// Bytes that an adapter's matrices will take once they are repacked.
    pub(super) fn bytes_for(weights: &AdapterWeights) -> usize {
        let products = weights.layers.iter().flatten();
        products.map(|parts| LowRank::bytes_for(parts)).sum()
    }

    /// The update of a layer's product; `None` where the adapter leaves the product as it is.
    pub(super) fn update(&self, layer: usize, site: Site) -> Option<&LowRank> {
        self.layers.get(layer)?[site as usize].as_ref()
    }

    /// What provenance says of the adapter.
    pub(super) fn describe(&self) -> LoadedAdapter {
        let updates = self.layers.iter().flatten().flatten();
        LoadedAdapter {
            rank: self.rank,
            parameters: self.parameters,
            resident_bytes: updates.map(LowRank::bytes).sum::<usize>() as u64,
        }
    }
}
