//! Tables of rotary angles in a card's memory.

use std::sync::Arc;

use super::{
    buffer::Buffer,
    driver::{DeviceAddress, DriverError, Queue},
};
use crate::model::spec::{ModelConfig, Rope, RopeStyle, Rotation};

/// The cosines and sines of all positions, for each set of frequencies that layers rotate with.
pub(super) struct RopeTables {
    global: Table,
    local: Option<Table>,
}

struct Table {
    cos: Buffer,
    sin: Buffer,
    pairs: usize,
    style: RopeStyle,
}

/// What a layer rotates with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Angles {
    /// `[position, pair]`
    pub cos: DeviceAddress,
    /// `[position, pair]`
    pub sin: DeviceAddress,
    /// Pairs of dimensions that are rotated; 0 where a layer does not rotate.
    pub pairs: usize,
    pub style: RopeStyle,
}

impl RopeTables {
    /// Bytes that the tables of a model take.
    pub(super) fn bytes_for(config: &ModelConfig) -> usize {
        let pairs = |rope: &Rope| rope.frequencies.len();
        let all = pairs(&config.rope) + config.local_rope.as_ref().map_or(0, pairs);
        2 * size_of::<f32>() * config.context_length * all
    }

    pub(super) fn new(queue: &Arc<dyn Queue>, config: &ModelConfig) -> Result<Self, DriverError> {
        let table = |rope: &Rope| Table::new(queue, rope, config.context_length);
        Ok(Self {
            global: table(&config.rope)?,
            local: config.local_rope.as_ref().map(table).transpose()?,
        })
    }

    /// The angles for layers with this rotation.
    pub(super) fn of(&self, rotation: Rotation) -> Angles {
        match (rotation, &self.local) {
            (Rotation::None, _) => Angles {
                cos: DeviceAddress::NULL,
                sin: DeviceAddress::NULL,
                pairs: 0,
                style: RopeStyle::Halves,
            },
            (Rotation::Local, Some(local)) => local.angles(),
            (Rotation::Global, _) | (Rotation::Local, None) => self.global.angles(),
        }
    }
}

impl Table {
    fn new(queue: &Arc<dyn Queue>, rope: &Rope, positions: usize) -> Result<Self, DriverError> {
        let (cos, sin): (Vec<f32>, Vec<f32>) =
            (0..positions).flat_map(|position| rope.angles(position)).unzip();
        Ok(Self {
            cos: Buffer::holding(queue, &cos)?,
            sin: Buffer::holding(queue, &sin)?,
            pairs: rope.frequencies.len(),
            style: rope.style,
        })
    }

    fn angles(&self) -> Angles {
        Angles {
            cos: self.cos.address(),
            sin: self.sin.address(),
            pairs: self.pairs,
            style: self.style,
        }
    }
}
