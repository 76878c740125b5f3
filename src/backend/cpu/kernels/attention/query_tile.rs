//! Which query rows are computed together, and which tokens they see.

use std::ops::Range;

use super::{
    cache::BlockHead,
    sizes::{BLOCK_TOKENS, MOST_TILE_ROWS, SEGMENT},
    span::AttentionSpan,
};
use crate::{
    backend::cpu::kernels::isa::{Isa, per_isa},
    model::spec::AttentionLayer,
};

/// Query rows of a span that read the same keys: row `r` is of token `r / group` and head `r % group`, where `group`
/// query heads share a key head.
pub(super) struct QueryTile<'a> {
    pub layer: AttentionLayer,
    /// The key head that is read.
    pub kv_head: usize,
    /// Number of rows.
    pub rows: usize,
    span: &'a AttentionSpan<'a>,
    /// The token and head of each row, so that they need not be divided out again.
    row_heads: [RowHead; MOST_TILE_ROWS],
}

/// Where a row's queries are.
#[derive(Clone, Copy, Default)]
struct RowHead {
    /// Token, counted from the span's first row.
    token: u32,
    /// Query head, counted from the first that shares the key head.
    head: u32,
}

/// Which tile of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TileIndex {
    /// Index of the tile among those that read the key head.
    pub tile: usize,
    /// The key head.
    pub kv_head: usize,
}

impl TileIndex {
    /// The first tile of a span.
    pub(super) const FIRST: Self = Self { tile: 0, kv_head: 0 };
}

/// A token of the batch and one of its query heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueryHead {
    /// Row of the batch.
    pub token: usize,
    pub head: usize,
}

impl<'a> QueryTile<'a> {
    /// A tile of a span whose tiles have `most` rows each, but for the last.
    pub(super) fn new(
        layer: AttentionLayer,
        span: &'a AttentionSpan<'a>,
        index: TileIndex,
        most: usize,
    ) -> Self {
        let group = layer.shape.heads / layer.shape.kv_heads;
        let first = index.tile * most;
        let rows = most.min(span.rows * group - first);
        let mut row_heads = [RowHead::default(); MOST_TILE_ROWS];
        let (mut token, mut head) = (first / group, first % group);
        for row_head in &mut row_heads[..rows] {
            *row_head = RowHead {
                token: token as u32,
                head: head as u32,
            };
            head += 1;
            if head == group {
                (token, head) = (token + 1, 0);
            }
        }
        Self {
            layer,
            kv_head: index.kv_head,
            rows,
            span,
            row_heads,
        }
    }

    /// Positions that a row sees.
    pub(super) fn visible(&self, row: usize) -> Range<usize> {
        let end = self.span.context + self.row_heads[row].token as usize + 1;
        self.layer.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// Segments that any of the tile's rows sees.
    pub(super) fn segments(&self) -> Range<usize> {
        // Later rows see later tokens.
        self.visible(0).start / SEGMENT..self.visible(self.rows - 1).end.div_ceil(SEGMENT)
    }

    /// The part of a segment that a row sees, counted from the segment's first token; `None` where it sees none of it.
    pub(super) fn seen(&self, row: usize, segment: usize) -> Option<Range<usize>> {
        let (visible, start) = (self.visible(row), segment * SEGMENT);
        let (from, to) = (visible.start.max(start), visible.end.min(start + SEGMENT));
        (from < to).then(|| from - start..to - start)
    }

    /// The part of a segment that any of these rows sees, counted from the segment's first token. It is empty where
    /// none sees any.
    pub(super) fn seen_by(&self, rows: Range<usize>, segment: usize) -> Range<usize> {
        let start = segment * SEGMENT;
        let from = self.visible(rows.start).start.max(start) - start;
        let to = self.visible(rows.end - 1).end.min(start + SEGMENT);
        from..to.saturating_sub(start).max(from)
    }

    /// The key head's part of the cache's block that holds a position.
    pub(super) fn block_head(&self, position: usize) -> BlockHead {
        BlockHead {
            block: self.span.block_table[position / BLOCK_TOKENS] as usize,
            head: self.kv_head,
        }
    }

    /// Writes a row's queries, which are in `qkv`, times `scale` to `out`.
    pub(super) fn query(&self, isa: Isa, qkv: &[f32], row: usize, scale: f32, out: &mut [f32]) {
        let shape = self.layer.shape;
        let QueryHead { token, head } = self.query_head(row);
        let query = &qkv[token * shape.qkv_width() + head * shape.head_dim..][..shape.head_dim];
        scaled(isa, query, scale, out);
    }

    /// A row's token in the batch, and its query head.
    pub(super) fn query_head(&self, row: usize) -> QueryHead {
        let RowHead { token, head } = self.row_heads[row];
        let group = self.layer.shape.heads / self.layer.shape.kv_heads;
        QueryHead {
            token: self.span.first_row + token as usize,
            head: self.kv_head * group + head as usize,
        }
    }
}

per_isa! {
    /// `out = x * factor`
    pub(super) fn scaled(isa; x: &[f32], factor: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * factor;
        }
    }
}
