//! Launches of attention: whole, or divided into segments where that keeps the card busy.

use std::sync::Arc;

use super::{
    arguments::AttentionArgs,
    buffer::Buffer,
    driver::{CardDescription, DeviceAddress, DriverError, LaunchSize, Queue},
    inputs::StepInputs,
    kernels::{Kernel, attention_shared_bytes},
    launcher::Launcher,
    scratch_sizes::{partial_bytes_of_row, tiles_of_rows},
    tiles::TileSet,
};
use crate::model::spec::AttentionShape;

/// Threads of a block of attention.
pub(super) const ATTENTION_THREADS: u32 = 128;
/// Attention that has fewer blocks of threads than this for each multiprocessor is divided into segments.
const BLOCKS_FOR_EACH_MULTIPROCESSOR: usize = 2;
/// The largest heads for which there is [`Kernel::AttentionWhole`]: larger ones' sums do not fit in registers twice.
pub(super) const MOST_WHOLE_HEAD: usize = 128;

/// Attention of one model.
pub(super) struct Attention {
    pub shape: AttentionShape,
    shared_bytes: u32,
    /// Blocks of threads that keep the card busy.
    enough_blocks: usize,
    /// Sums of segments.
    partial: Buffer,
}

impl Attention {
    /// Attention on this card, with so many bytes for the sums of segments.
    pub(super) fn new(
        queue: &Arc<dyn Queue>,
        card: &CardDescription,
        shape: AttentionShape,
        partial_bytes: usize,
    ) -> Result<Self, DriverError> {
        Ok(Self {
            shape,
            shared_bytes: attention_shared_bytes(shape.head_dim),
            enough_blocks: card.multiprocessors as usize * BLOCKS_FOR_EACH_MULTIPROCESSOR,
            partial: Buffer::new(queue, partial_bytes)?,
        })
    }

    /// The kernels that it launches.
    pub(super) fn kernels(shape: AttentionShape) -> Vec<Kernel> {
        let head = shape.head_dim as u32;
        let mut kernels = vec![Kernel::AttentionSplit { head }, Kernel::AttentionFold { head }];
        if shape.head_dim <= MOST_WHOLE_HEAD {
            kernels.push(Kernel::AttentionWhole { head });
        }
        kernels
    }

    /// Attends with the queries of these tiles.
    pub(super) fn run(
        &self,
        launcher: &mut Launcher,
        inputs: &StepInputs,
        set: TileSet,
        mut argument: AttentionArgs,
    ) {
        let (shape, shared_bytes, enough_blocks) = (self.shape, self.shared_bytes, self.enough_blocks);
        if set.count == 0 {
            return;
        }
        let head = shape.head_dim as u32;
        let is_enough = set.count * shape.kv_heads >= enough_blocks || set.segments == 1;
        if is_enough && shape.head_dim <= MOST_WHOLE_HEAD {
            let size = LaunchSize {
                grid: [set.count as u32, shape.kv_heads as u32, 1],
                threads: ATTENTION_THREADS,
                shared_bytes,
            };
            return launcher.launch(Kernel::AttentionWhole { head }, size, &argument);
        }
        // As many tiles at a time as there is memory for the sums of their rows' segments.
        let row_bytes = partial_bytes_of_row(shape, set.segments);
        let at_a_time = tiles_of_rows(self.partial.bytes() / row_bytes, inputs.limits.group);
        for first in (0..set.count).step_by(at_a_time) {
            let count = at_a_time.min(set.count - first) as u32;
            argument.tiles = set.at(first);
            // The sums lie by row: those of the first row here are to be at the beginning.
            let before = inputs.row_of_tile(&set, first) * row_bytes;
            argument.partial = DeviceAddress(self.partial.address().0.wrapping_sub(before as u64));
            let size = LaunchSize {
                grid: [count, shape.kv_heads as u32, set.segments as u32],
                threads: ATTENTION_THREADS,
                shared_bytes,
            };
            launcher.launch(Kernel::AttentionSplit { head }, size, &argument);
            let size = LaunchSize {
                grid: [count, shape.kv_heads as u32, set.most_rows as u32],
                threads: 32,
                shared_bytes: 0,
            };
            launcher.launch(Kernel::AttentionFold { head }, size, &argument);
        }
    }
}
