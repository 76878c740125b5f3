//! Softmax over a row's tokens, one segment after the other (arXiv 1805.02867).

use super::{
    exp2::exp2,
    query_tile::{QueryHead, QueryTile, scaled},
    sizes::{MOST_TILE_ROWS, SEGMENT},
};
use crate::backend::cpu::kernels::{
    disjoint::DisjointSlices,
    elementwise::exp,
    isa::{Isa, per_isa},
};

/// The state of softmax for a tile's rows, over some of their tokens. `base` is e or 2 ([`Base`]).
pub(super) struct SoftmaxState<'a> {
    /// The largest score, `[rows]`.
    pub maxima: &'a mut [f32],
    /// The sum of `base^(score - maximum)`, `[rows]`.
    pub denominators: &'a mut [f32],
    /// The sum of `base^(score - maximum) * value`, `[at least rows, width]`.
    pub weighted_sums: &'a mut [f32],
    /// Elements of a row of `weighted_sums`, at least a head's dimensions.
    width: usize,
}

/// Sizes of a [`SoftmaxState`].
#[derive(Clone, Copy)]
pub(super) struct StateLayout {
    /// Rows of the tile.
    pub rows: usize,
    /// Rows of weighted sums, of which those behind the tile's rows hold anything.
    pub sum_rows: usize,
    /// Elements of a row of weighted sums.
    pub width: usize,
}

impl StateLayout {
    /// Elements in all.
    pub(super) fn len(self) -> usize {
        2 * self.rows + self.sum_rows * self.width
    }
}

impl<'a> SoftmaxState<'a> {
    /// A state in `memory`, with the values that are there.
    ///
    /// # Panics
    /// When `memory` is shorter than the layout.
    pub(super) fn new(memory: &'a mut [f32], layout: StateLayout) -> Self {
        let (maxima, rest) = memory.split_at_mut(layout.rows);
        let (denominators, rest) = rest.split_at_mut(layout.rows);
        Self {
            maxima,
            denominators,
            weighted_sums: &mut rest[..layout.sum_rows * layout.width],
            width: layout.width,
        }
    }

    /// Merges a segment's state into that of the segments before it, for the rows that see the segment.
    pub(super) fn merge(
        &mut self,
        isa: Isa,
        tile: &QueryTile<'_>,
        segment: usize,
        added: &SoftmaxState<'_>,
        base: Base,
    ) {
        let merge = Merge {
            rows: tile.rows,
            modes: std::array::from_fn(|row| {
                if row >= tile.rows || tile.seen(row, segment).is_none() {
                    RowMerge::Skip
                } else if tile.visible(row).start / SEGMENT == segment {
                    RowMerge::Replace
                } else {
                    RowMerge::Add
                }
            }),
            base,
        };
        merge_rows(isa, self, added, &merge);
    }

    /// Writes the attention of each row to `out`, `[tokens, heads, head_dim]`, once all of the row's segments are
    /// merged.
    pub(super) fn finish(&self, isa: Isa, tile: &QueryTile<'_>, out: &DisjointSlices<'_, f32>) {
        let shape = tile.layer.shape;
        let rows = self.weighted_sums.chunks_exact(self.width).take(tile.rows);
        for (row, sums) in rows.enumerate() {
            let QueryHead { token, head } = tile.query_head(row);
            // SAFETY: a token's query head is a row of one tile, and a tile is finished by one task only, so nobody
            // else has these elements.
            let out = unsafe { out.part((token * shape.heads + head) * shape.head_dim, shape.head_dim) };
            scaled(isa, sums, 1.0 / self.denominators[row], out);
        }
    }
}

/// The number whose powers scores are exponents of.
#[derive(Clone, Copy)]
pub(super) enum Base {
    E,
    Two,
}

/// What is merged.
struct Merge {
    rows: usize,
    modes: [RowMerge; MOST_TILE_ROWS],
    base: Base,
}

/// How a segment is merged into a row's state.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RowMerge {
    /// Not at all: the row does not see the segment.
    Skip,
    /// As the first segment that the row sees.
    Replace,
    /// To those before.
    Add,
}

per_isa! {
    /// See [`SoftmaxState::merge`].
    fn merge_rows(isa; state: &mut SoftmaxState<'_>, added: &SoftmaxState<'_>, merge: &Merge) {
        let width = state.width;
        for row in 0..merge.rows {
            if merge.modes[row] == RowMerge::Skip {
                continue;
            }
            let sums = &mut state.weighted_sums[row * width..][..width];
            let added_sums = &added.weighted_sums[row * width..][..width];
            if merge.modes[row] == RowMerge::Replace {
                state.maxima[row] = added.maxima[row];
                state.denominators[row] = added.denominators[row];
                sums.copy_from_slice(added_sums);
                continue;
            }
            let (old, new) = (state.maxima[row], added.maxima[row]);
            let maximum = if new > old { new } else { old };
            let factors = match merge.base {
                Base::E => [exp(old - maximum), exp(new - maximum)],
                Base::Two => [exp2(old - maximum), exp2(new - maximum)],
            };
            state.maxima[row] = maximum;
            state.denominators[row] =
                added.denominators[row].mul_add(factors[1], state.denominators[row] * factors[0]);
            for (sum, added) in sums.iter_mut().zip(added_sums) {
                *sum = added.mul_add(factors[1], *sum * factors[0]);
            }
        }
    }
}
