//! Chooses between AMX tiles and vectors.

#[cfg(target_arch = "x86_64")]
use super::tiles::{TileOperands, TileQueries};
use super::vectors::VectorOperands;
#[cfg(target_arch = "x86_64")]
use crate::backend::cpu::kernels::isa::IsaKind;
use crate::backend::cpu::kernels::{
    attention::{
        cache::LayerCache,
        query_tile::QueryTile,
        softmax::{SoftmaxState, StateLayout},
    },
    bf16::{RUN, RUN_PAIRS},
    isa::Isa,
};

/// Sizes of a tile's softmax state: whole AMX tiles of weighted sums.
pub(in crate::backend::cpu::kernels::attention) fn layout(tile: &QueryTile<'_>) -> StateLayout {
    StateLayout {
        rows: tile.rows,
        sum_rows: tile.rows.next_multiple_of(RUN_PAIRS),
        width: tile.layer.shape.head_dim.next_multiple_of(RUN),
    }
}

/// A worker's copy of what the products of a segment read. The buffers grow to the largest tile and stay.
#[derive(Default)]
pub(in crate::backend::cpu::kernels::attention) struct Bf16Operands {
    vectors: VectorOperands,
    #[cfg(target_arch = "x86_64")]
    tiles: TileOperands,
}

/// Operands whose queries are loaded.
pub(in crate::backend::cpu::kernels::attention) enum LoadedQueries<'a> {
    Vectors(Isa, &'a mut VectorOperands),
    #[cfg(target_arch = "x86_64")]
    Tiles(TileQueries<'a>),
}

impl Bf16Operands {
    /// Rounds a tile's queries.
    pub(in crate::backend::cpu::kernels::attention) fn load_queries(
        &mut self,
        isa: Isa,
        tile: &QueryTile<'_>,
        qkv: &[f32],
    ) -> LoadedQueries<'_> {
        #[cfg(target_arch = "x86_64")]
        if isa.0 == IsaKind::Amx {
            // SAFETY: `Isa::available` makes `IsaKind::Amx` only where it has found AMX-BF16 and AVX-512 F, BW and
            // BF16, and the system has granted tile data.
            return LoadedQueries::Tiles(unsafe { self.tiles.load_queries(isa, tile, qkv) });
        }
        self.vectors.load_queries(isa, tile, qkv);
        LoadedQueries::Vectors(isa, &mut self.vectors)
    }
}

impl LoadedQueries<'_> {
    /// Computes softmax over a segment's tokens into `state`, for the rows that see any. The state of other rows is
    /// anything. `tile` is the one whose queries are loaded.
    pub(in crate::backend::cpu::kernels::attention) fn attend(
        &mut self,
        tile: &QueryTile<'_>,
        cache: &LayerCache,
        segment: usize,
        state: &mut SoftmaxState<'_>,
    ) {
        match self {
            Self::Vectors(isa, operands) => operands.attend(*isa, tile, cache, segment, state),
            #[cfg(target_arch = "x86_64")]
            Self::Tiles(queries) => queries.attend(tile, cache, segment, state),
        }
    }
}
