//! LoRA adapters (arXiv 2106.09685) as candle's tensors, in f32.

use candle_core::{Device, Tensor};

use crate::{
    backend::LoadedAdapter,
    model::{AdapterError, AdapterWeights, Site, spec::LowRankPart},
};

/// An adapter on the device. Its updates are added to the products of its base.
pub(super) struct CandleAdapter {
    rank: usize,
    parameters: u64,
    layers: Vec<[Vec<LowRankUpdate>; Site::ALL.len()]>,
}

/// An update `B · A` of neighbouring outputs of a product.
struct LowRankUpdate {
    first_output: usize,
    /// `[rank, inputs]`
    a: Tensor,
    /// `[outputs, rank]`
    b: Tensor,
}

impl CandleAdapter {
    /// Brings an adapter's matrices to the device.
    ///
    /// # Errors
    /// When the device has no memory for them.
    pub(super) fn load(weights: AdapterWeights, device: &Device) -> Result<Self, AdapterError> {
        let update = |part: LowRankPart| -> candle_core::Result<LowRankUpdate> {
            Ok(LowRankUpdate {
                first_output: part.first_output,
                a: Tensor::from_vec(part.a, (part.rank, part.inputs), device)?,
                b: Tensor::from_vec(part.b, (part.outputs, part.rank), device)?,
            })
        };
        let mut layers = Vec::with_capacity(weights.layers.len());
        for sites in weights.layers {
            let mut layer = [const { Vec::new() }; Site::ALL.len()];
            for (updates, parts) in layer.iter_mut().zip(sites) {
                let loaded: candle_core::Result<Vec<_>> = parts.into_iter().map(update).collect();
                *updates = loaded.map_err(|error| AdapterError::Memory(std::io::Error::other(error)))?;
            }
            layers.push(layer);
        }
        Ok(Self {
            rank: weights.rank,
            parameters: weights.parameters,
            layers,
        })
    }

    /// Bytes that an adapter's matrices will take.
    pub(super) fn bytes_for(weights: &AdapterWeights) -> u64 {
        let parts = weights.layers.iter().flatten().flatten();
        parts
            .map(|part| 4 * (part.rank * (part.inputs + part.outputs)) as u64)
            .sum()
    }

    /// What provenance says of the adapter.
    pub(super) fn describe(&self) -> LoadedAdapter {
        let updates = self.layers.iter().flatten().flatten();
        LoadedAdapter {
            rank: self.rank,
            parameters: self.parameters,
            resident_bytes: updates
                .map(|update| 4 * (update.a.elem_count() + update.b.elem_count()) as u64)
                .sum(),
        }
    }

    /// What the adapter adds to the product of `x` at this point, in rows of `width`; `None` where it leaves the product as
    /// it is.
    pub(super) fn update(
        &self,
        layer: usize,
        site: Site,
        x: &Tensor,
        width: usize,
    ) -> candle_core::Result<Option<Tensor>> {
        let mut sum: Option<Tensor> = None;
        let updates = self.layers.get(layer).map(|sites| &sites[site as usize]);
        for update in updates.into_iter().flatten() {
            let delta = x.matmul(&update.a.t()?)?.matmul(&update.b.t()?)?;
            let after = width.saturating_sub(update.first_output + delta.dim(1)?);
            let delta = delta.pad_with_zeros(1, update.first_output, after)?;
            sum = Some(match sum {
                Some(sum) => (sum + delta)?,
                None => delta,
            });
        }
        Ok(sum)
    }
}
