//! What tiles load. Each row is a line of the cache, because rows that lie across two lines take longer to load.

use super::sizes::TILE_OUTPUTS;

/// A word of each of a tile's outputs, `[TILE_OUTPUTS][4]`, in one line of the cache.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct TileWords(pub [u8; 4 * TILE_OUTPUTS]);

impl Default for TileWords {
    fn default() -> Self {
        Self([0; 4 * TILE_OUTPUTS])
    }
}

/// A value of each of a tile's outputs, in one line of the cache.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub(super) struct TileFloats(pub [f32; TILE_OUTPUTS]);
