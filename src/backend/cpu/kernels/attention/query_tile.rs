//! Which query rows are computed together, and what they see.

use std::ops::Range;

use super::{AttentionLayer, AttentionSpan, KvFormat, SEGMENT, bf16, floats};
use crate::backend::cpu::kernels::{Isa, isa::per_isa};

/// Query rows that read the same keys: row `r` is token `r / group`, head `r % group`.
pub(super) struct QueryTile<'a> {
    pub layer: AttentionLayer,
    pub kv_head: usize,
    pub rows: usize,
    span: &'a AttentionSpan<'a>,
    /// Of each row its token, counted from the span's first, and its head, from the key head's first.
    places: [(u32, u32); MOST_ROWS],
}

/// Most rows of any tile.
pub(super) const MOST_ROWS: usize = if floats::TILE_ROWS > bf16::TILE_ROWS {
    floats::TILE_ROWS
} else {
    bf16::TILE_ROWS
};

/// Most query rows of a tile: so many share a block that has been expanded.
pub(super) fn most_rows(kind: KvFormat) -> usize {
    match kind {
        KvFormat::F32 | KvFormat::F16 => floats::TILE_ROWS,
        KvFormat::Bf16 => bf16::TILE_ROWS,
    }
}

impl<'a> QueryTile<'a> {
    /// Tile `tile` of those that read `kv_head`, `most` rows each.
    pub(super) fn new(
        layer: AttentionLayer,
        span: &'a AttentionSpan<'a>,
        (tile, kv_head): (usize, usize),
        most: usize,
    ) -> Self {
        let group = layer.shape.heads / layer.shape.kv_heads;
        let first = tile * most;
        let rows = most.min(span.rows * group - first);
        let mut places = [(0, 0); MOST_ROWS];
        let (mut token, mut head) = (first / group, first % group);
        for place in &mut places[..rows] {
            *place = (token as u32, head as u32);
            head += 1;
            if head == group {
                (token, head) = (token + 1, 0);
            }
        }
        Self {
            layer,
            kv_head,
            rows,
            span,
            places,
        }
    }

    /// Positions that a row sees.
    pub(super) fn visible(&self, row: usize) -> Range<usize> {
        let end = self.span.context + self.places[row].0 as usize + 1;
        self.layer.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// Segments that any of its rows sees.
    pub(super) fn segments(&self) -> Range<usize> {
        // Later rows see later tokens.
        self.visible(0).start / SEGMENT..self.visible(self.rows - 1).end.div_ceil(SEGMENT)
    }

    /// The part of a segment that a row sees, counted from the segment's first token.
    pub(super) fn seen(&self, row: usize, segment: usize) -> Option<Range<usize>> {
        let (visible, start) = (self.visible(row), segment * SEGMENT);
        let (from, to) = (visible.start.max(start), visible.end.min(start + SEGMENT));
        (from < to).then(|| from - start..to - start)
    }

    /// The part of a segment that any of these rows sees, counted from the segment's first token; empty when none
    /// does.
    pub(super) fn seen_by(&self, rows: Range<usize>, segment: usize) -> Range<usize> {
        let start = segment * SEGMENT;
        let from = self.visible(rows.start).start.max(start) - start;
        let to = self.visible(rows.end - 1).end.min(start + SEGMENT);
        from..to.saturating_sub(start).max(from)
    }

    /// The cache's block with the tokens of a position's block, and the head that is read of it.
    pub(super) fn place(&self, position: usize) -> (usize, usize) {
        (
            self.span.block_table[position / super::BLOCK_TOKENS] as usize,
            self.kv_head,
        )
    }

    /// A row's queries in `qkv`, scaled.
    pub(super) fn query(&self, isa: Isa, qkv: &[f32], row: usize, scale: f32, out: &mut [f32]) {
        let shape = self.layer.shape;
        let (token, head) = self.query_head(row);
        let query = &qkv[token * shape.qkv_width() + head * shape.head_dim..][..shape.head_dim];
        scaled(isa, query, scale, out);
    }

    /// A row's token in the batch, and its head.
    pub(super) fn query_head(&self, row: usize) -> (usize, usize) {
        let (token, head) = self.places[row];
        let group = self.layer.shape.heads / self.layer.shape.kv_heads;
        (
            self.span.first_row + token as usize,
            self.kv_head * group + head as usize,
        )
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
