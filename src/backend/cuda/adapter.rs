//! LoRA adapters (arXiv 2106.09685) in a card's memory.

use std::sync::Arc;

use super::{
    arguments::LowRankPart,
    buffer::Buffer,
    driver::{DeviceAddress, DriverError, Queue},
};
use crate::{
    backend::LoadedAdapter,
    model::{AdapterWeights, Site},
};

/// Most parts of a product that an adapter updates by themselves: queries, keys and values.
pub(super) const PARTS: usize = 3;

/// All adapters of a model.
pub(super) struct Adapters {
    count: usize,
    /// For each layer and [`Site`], the parts of each adapter, `[adapter, part]`; `None` where no adapter updates anything.
    sites: Vec<[Option<SiteParts>; Site::ALL.len()]>,
    /// The largest rank of any update.
    pub max_rank: usize,
    /// The matrices.
    _matrices: Vec<Buffer>,
}

/// The updates of one product.
pub(super) struct SiteParts {
    table: Buffer,
    /// The most outputs that one part updates.
    pub most_outputs: usize,
}

impl SiteParts {
    pub(super) fn table(&self) -> DeviceAddress {
        self.table.address()
    }
}

impl Adapters {
    /// Bytes of an adapter's matrices.
    pub(super) fn bytes_for(weights: &AdapterWeights) -> usize {
        let parts = weights.layers.iter().flatten().flatten();
        parts
            .map(|part| size_of::<f32>() * part.rank * (part.inputs + part.outputs))
            .sum()
    }

    /// The largest rank of any update.
    pub(super) fn max_rank_of(adapters: &[AdapterWeights]) -> usize {
        adapters.iter().map(|adapter| adapter.rank).max().unwrap_or(0)
    }

    /// What provenance says of an adapter.
    pub(super) fn describe(weights: &AdapterWeights) -> LoadedAdapter {
        LoadedAdapter {
            rank: weights.rank,
            parameters: weights.parameters,
            resident_bytes: Self::bytes_for(weights) as u64,
        }
    }

    /// Copies adapters to the card.
    pub(super) fn new(
        queue: &Arc<dyn Queue>,
        layers: usize,
        adapters: &[AdapterWeights],
    ) -> Result<Self, DriverError> {
        let mut matrices = Vec::new();
        let mut sites = Vec::with_capacity(layers);
        for layer in 0..layers {
            let mut parts_of = [const { None }; Site::ALL.len()];
            for site in Site::ALL {
                parts_of[site as usize] = site_parts(queue, adapters, (layer, site), &mut matrices)?;
            }
            sites.push(parts_of);
        }
        Ok(Self {
            count: adapters.len(),
            sites,
            max_rank: Self::max_rank_of(adapters),
            _matrices: matrices,
        })
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The updates of a layer's product; `None` where no adapter changes it.
    pub(super) fn at(&self, layer: usize, site: Site) -> Option<&SiteParts> {
        self.sites.get(layer)?[site as usize].as_ref()
    }
}

fn site_parts(
    queue: &Arc<dyn Queue>,
    adapters: &[AdapterWeights],
    at: (usize, Site),
    matrices: &mut Vec<Buffer>,
) -> Result<Option<SiteParts>, DriverError> {
    let (layer, site) = at;
    let none = LowRankPart {
        a: DeviceAddress::NULL,
        b: DeviceAddress::NULL,
        rank: 0,
        first_output: 0,
        outputs: 0,
        padding: 0,
    };
    let mut table = vec![none; adapters.len() * PARTS];
    let mut most_outputs = 0;
    for (adapter, entries) in adapters.iter().zip(table.chunks_exact_mut(PARTS)) {
        let parts = adapter
            .layers
            .get(layer)
            .map_or(&[][..], |sites| &sites[site as usize]);
        for (part, entry) in parts.iter().zip(entries) {
            let (a, b) = (Buffer::holding(queue, &part.a)?, Buffer::holding(queue, &part.b)?);
            *entry = LowRankPart {
                a: a.address(),
                b: b.address(),
                rank: part.rank as u32,
                first_output: part.first_output as u32,
                outputs: part.outputs as u32,
                padding: 0,
            };
            most_outputs = most_outputs.max(part.outputs);
            matrices.extend([a, b]);
        }
    }
    if most_outputs == 0 {
        return Ok(None);
    }
    Ok(Some(SiteParts {
        table: Buffer::holding(queue, &table)?,
        most_outputs,
    }))
}
