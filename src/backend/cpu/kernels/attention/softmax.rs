//! Softmax over a row's tokens, one segment after the other (arXiv 1805.02867).

use super::{
    SEGMENT,
    bf16::exp2,
    query_tile::{MOST_ROWS, QueryTile, scaled},
};
use crate::backend::cpu::kernels::{Isa, elementwise::exp, isa::per_isa, pool::DisjointSlices};

/// Results of a tile's rows over some of their tokens.
pub(super) struct Softmax<'a> {
    /// `[rows]`: the largest score.
    pub tops: &'a mut [f32],
    /// `[rows]`: sums of `e^(score - top)`.
    pub totals: &'a mut [f32],
    /// `[at least rows, width]`: sums of `e^(score - top) * value`.
    pub sums: &'a mut [f32],
    /// Of a row of sums; at least a head's dimensions.
    width: usize,
}

/// How results lie in memory.
#[derive(Clone, Copy)]
pub(super) struct SoftmaxLayout {
    /// Of results.
    pub rows: usize,
    /// Of sums, some of them without a meaning.
    pub sum_rows: usize,
    /// Of sums.
    pub width: usize,
}

impl SoftmaxLayout {
    /// Elements in all.
    pub(super) fn len(self) -> usize {
        2 * self.rows + self.sum_rows * self.width
    }
}

impl<'a> Softmax<'a> {
    /// # Panics
    /// When `memory` is shorter than the layout.
    pub(super) fn new(memory: &'a mut [f32], layout: SoftmaxLayout) -> Self {
        let (tops, rest) = memory.split_at_mut(layout.rows);
        let (totals, rest) = rest.split_at_mut(layout.rows);
        Self {
            tops,
            totals,
            sums: &mut rest[..layout.sum_rows * layout.width],
            width: layout.width,
        }
    }

    /// Adds a segment's results to those of the segments before it. Scores are exponents of what `power` computes.
    pub(super) fn fold(
        &mut self,
        isa: Isa,
        tile: &QueryTile<'_>,
        segment: usize,
        part: &Softmax<'_>,
        power: Power,
    ) {
        let fold = Fold {
            first: std::array::from_fn(|row| {
                let seen = row < tile.rows && tile.seen(row, segment).is_some();
                seen.then(|| tile.visible(row).start / SEGMENT == segment)
            }),
            rows: tile.rows,
            power,
        };
        fold_rows(isa, self, part, &fold);
    }

    /// Writes what all of a row's segments give to `out`, `[tokens, heads, head_dim]`.
    pub(super) fn finish(&self, isa: Isa, tile: &QueryTile<'_>, out: &DisjointSlices<'_, f32>) {
        let shape = tile.layer.shape;
        for (row, sums) in self.sums.chunks_exact(self.width).enumerate().take(tile.rows) {
            let (token, head) = tile.query_head(row);
            // SAFETY: each (token, head) belongs to one tile.
            let out = unsafe { out.part((token * shape.heads + head) * shape.head_dim, shape.head_dim) };
            scaled(isa, sums, 1.0 / self.totals[row], out);
        }
    }
}

/// What scores are exponents of.
#[derive(Clone, Copy)]
pub(super) enum Power {
    Natural,
    Two,
}

/// Which rows a segment is added to.
struct Fold {
    /// Of each row whether the segment is the first that it sees; absent where it does not see it.
    first: [Option<bool>; MOST_ROWS],
    rows: usize,
    power: Power,
}

per_isa! {
    fn fold_rows(isa; state: &mut Softmax<'_>, part: &Softmax<'_>, fold: &Fold) {
        let width = state.width;
        for row in 0..fold.rows {
            let Some(first) = fold.first[row] else {
                continue;
            };
            let sums = &mut state.sums[row * width..][..width];
            let added = &part.sums[row * width..][..width];
            if first {
                (state.tops[row], state.totals[row]) = (part.tops[row], part.totals[row]);
                sums.copy_from_slice(added);
                continue;
            }
            let (old, new) = (state.tops[row], part.tops[row]);
            let top = if new > old { new } else { old };
            let factors = match fold.power {
                Power::Natural => [exp(old - top), exp(new - top)],
                Power::Two => [exp2(old - top), exp2(new - top)],
            };
            state.tops[row] = top;
            state.totals[row] = part.totals[row].mul_add(factors[1], state.totals[row] * factors[0]);
            for (sum, added) in sums.iter_mut().zip(added) {
                *sum = added.mul_add(factors[1], *sum * factors[0]);
            }
        }
    }
}
