//! LoRA adapters (arXiv 2106.09685), repacked for the kernels.

use std::path::{Path, PathBuf};

use super::kernels::{Arena, LowRank};
use crate::{
    backend::LoadedAdapter,
    model::{
        AdapterError, AdapterWeights, Base, HeadOrder, LoadFault, Site, WeightSource,
        spec::{FeedForward, ModelConfig},
    },
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

/// Gives each adapter of a decoder to `work`.
///
/// # Errors
/// When an adapter cannot be used, or the decoder takes none; names the adapter.
pub(super) fn adapters_of<T>(
    paths: &[PathBuf],
    config: &ModelConfig,
    source: &dyn WeightSource,
    work: impl Fn(&Path, &Base<'_>) -> Result<T, AdapterError>,
) -> Result<Vec<T>, LoadFault> {
    if let (Some(path), FeedForward::Plain) = (paths.first(), config.feed_forward) {
        let what = format!("an adapter of a `{}` model", config.architecture);
        return Err(LoadFault::Adapter(path.clone(), AdapterError::Unsupported(what)));
    }
    let gguf_architecture = source.gguf_architecture();
    let base = Base {
        config,
        heads: HeadOrder::of(gguf_architecture),
        gguf_architecture,
    };
    let each = |path: &PathBuf| work(path, &base).map_err(|error| LoadFault::Adapter(path.clone(), error));
    paths.iter().map(each).collect()
}
