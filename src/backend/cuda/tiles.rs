//! Tiles of query rows, which attention computes together.

use super::{arguments::Tile, driver::DeviceAddress};

/// Packed query rows of a tile: of a token, one for each query head of a key head. As in `attention.cu`.
pub(super) const TILE_ROWS: usize = 64;

/// Tokens after which attention folds its sums, at absolute positions. As in `attention.cu`.
pub(super) const SEGMENT_TOKENS: usize = 256;

/// Neighbouring rows of one sequence whose queries attend.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// Index of the first row.
    pub first_row: usize,
    /// Number of rows.
    pub rows: usize,
    /// Position of the first row in its sequence.
    pub context: usize,
    /// Index of the sequence's block table among the step's tables.
    pub table: usize,
}

/// Tiles of a step that attention computes in one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TileSet {
    /// Where they are in the card's memory.
    pub address: DeviceAddress,
    /// Where they are in the host's memory, in bytes from the beginning of the step's inputs.
    pub offset: usize,
    /// Number of tiles that stand for tokens.
    pub written: usize,
    /// The most packed rows of any tile.
    pub most_rows: usize,
    /// Number of tiles that are launched.
    pub count: usize,
    /// The most segments that a tile's tokens lie in, counted from position 0.
    pub segments: usize,
}

impl TileSet {
    /// The address of a tile.
    pub(super) fn at(&self, tile: usize) -> DeviceAddress {
        self.address.offset(tile * size_of::<Tile>())
    }
}

/// Most tiles of batches with so many rows and sequences, when `group` query heads share a key head.
pub(super) fn most_tiles(rows: usize, sequences: usize, group: usize) -> usize {
    (rows * group).div_ceil(TILE_ROWS) + sequences
}

/// Writes the tiles of the spans to the beginning of `tiles`.
pub(super) fn write_tiles(spans: impl Iterator<Item = Span>, group: usize, tiles: &mut [Tile]) -> TileSet {
    let mut set = TileSet::default();
    for span in spans {
        let packed = span.rows * group;
        for first in (0..packed).step_by(TILE_ROWS) {
            let rows = TILE_ROWS.min(packed - first);
            let last_token = span.context + (first + rows - 1) / group;
            set.segments = set.segments.max(last_token / SEGMENT_TOKENS + 1);
            set.most_rows = set.most_rows.max(rows);
            tiles[set.count] = Tile {
                first_row: span.first_row as u32,
                sequence_row: first as u32,
                rows: rows as u32,
                context: span.context as u32,
                table: span.table as u32,
            };
            set.count += 1;
        }
    }
    set.written = set.count;
    set
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every packed row is in exactly one tile, and there are no more tiles than room is made for.
        #[test]
        fn tiles_cover_every_query_once(
            sizes in prop::collection::vec((1usize..200, 0usize..3000), 1..12),
            group in 1usize..72,
        ) {
            let rows = sizes.iter().map(|(rows, _)| rows).sum::<usize>();
            let most = most_tiles(rows, sizes.len(), group);
            let mut tiles = vec![Tile { first_row: 0, sequence_row: 0, rows: 0, context: 0, table: 0 }; most];
            let mut first_row = 0;
            let spans: Vec<Span> = sizes.iter().enumerate().map(|(table, &(rows, context))| {
                first_row += rows;
                Span { first_row: first_row - rows, rows, context, table }
            }).collect();
            let set = write_tiles(spans.iter().copied(), group, &mut tiles);
            prop_assert!(set.count <= most);
            let mut seen = vec![0; rows * group];
            for tile in &tiles[..set.count] {
                let span = spans[tile.table as usize];
                prop_assert_eq!(tile.context as usize, span.context);
                for row in tile.sequence_row..tile.sequence_row + tile.rows {
                    seen[tile.first_row as usize * group + row as usize] += 1;
                }
            }
            prop_assert!(seen.iter().all(|count| *count == 1));
            let longest = sizes.iter().map(|(rows, context)| rows + context).max().unwrap_or(0);
            prop_assert_eq!(set.segments, longest.div_ceil(SEGMENT_TOKENS));
        }
    }
}
