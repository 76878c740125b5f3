//! Causal attention over paged keys and values, with grouped query heads (arXiv 2305.13245).
//!
//! A query row goes through the tokens it sees in segments of [`SEGMENT`] tokens that begin at multiples of it.
//! Inside a segment, scores and sums are those of textbook softmax, over positions in ascending order; segments
//! are folded into one another in ascending order, as online softmax does (arXiv 1805.02867). How scores and sums are
//! rounded is said by what computes them: [`floats`] or [`bf16`], as keys and values are stored. None of this
//! depends on which rows share a tile or on who computes a segment: chunked and whole prefill, cached and cold,
//! give the same bits.

mod bf16;
mod cache;
mod floats;
mod query_tile;
mod softmax;
mod worker;

use std::{
    cell::RefCell,
    sync::atomic::{AtomicUsize, Ordering},
};

pub use self::cache::{LayerCache, RopeAngles, rope_and_store};
use self::query_tile::{QueryTile, most_rows};
use super::{AttentionLayer, AttentionShape, KvFormat};
use super::{
    Isa, ThreadPool,
    buffers::sized,
    micro::LANES,
    pool::{DisjointSlices, Order},
};

/// Tokens in a KV block: one vector of key columns.
pub const BLOCK_TOKENS: usize = LANES;

/// One sequence's rows of a packed batch.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSpan<'a> {
    /// Its first row.
    pub first_row: usize,
    /// Its number of rows (new tokens).
    pub rows: usize,
    /// Tokens before the first row's.
    pub context: usize,
    /// Its blocks, in order.
    pub block_table: &'a [u32],
}

/// Tokens in a segment.
const SEGMENT: usize = 128;
/// With fewer tiles than this for each thread, segments of a tile are shared among threads too.
const TILES_PER_THREAD: usize = 4;

thread_local! {
    /// The calling thread's partial results and, for each tile, how many of them are there.
    static PARTIALS: RefCell<(Vec<f32>, Vec<AtomicUsize>)> = RefCell::default();
}

/// Attention of every span's rows over the span's context, or what the window leaves of it, its own rows
/// included.
///
/// `qkv` is `[rows, q | k | v]` with queries rotated already, `out` is `[rows, heads * head_dim]`.
///
/// # Panics
/// When a block table does not cover its span or names a block outside the cache.
pub fn attention(
    pool: &mut ThreadPool,
    isa: Isa,
    layer: AttentionLayer,
    qkv: &[f32],
    spans: &[AttentionSpan<'_>],
    cache: &LayerCache,
    out: &mut [f32],
) {
    let plan = Plan::new(layer, spans, cache.kind(), pool.threads());
    let out = DisjointSlices::new(out);
    PARTIALS.with_borrow_mut(|(partials, arrived)| {
        let len = if plan.split { plan.tasks * plan.stride } else { 0 };
        arrived.clear();
        arrived.resize_with(if plan.split { plan.tiles } else { 0 }, AtomicUsize::default);
        let (partials, arrived) = (DisjointSlices::new(sized(partials, len)), &*arrived);
        // Late tiles see the longest context.
        pool.run_in(Order::Backwards, plan.tasks, &|task| {
            let place = plan.find(task);
            let tile = QueryTile::new(layer, &spans[place.span], place.tile, plan.most_rows);
            if !plan.split {
                return worker::run(isa, &tile, qkv, cache, &out);
            }
            // SAFETY: each task has a partial result of its own.
            let own = unsafe { partials.part(task * plan.stride, plan.stride) };
            let segment = tile.segments().start + place.segment;
            worker::run_segment(isa, &tile, (qkv, cache), segment, own);
            if arrived[place.global_tile].fetch_add(1, Ordering::AcqRel) + 1 == place.segments {
                let first = task - place.segment;
                worker::combine(isa, &tile, cache.kind(), &out, |segment| {
                    // SAFETY: all of the tile's partial results are there, and nobody writes them any more.
                    unsafe { &*partials.part((first + segment) * plan.stride, plan.stride) }
                });
            }
        });
    });
}

/// What tasks a batch's attention consists of.
struct Plan {
    kv_heads: usize,
    /// First task and first tile of each span.
    starts: Vec<(usize, usize)>,
    /// Segments of each tile of each span, or 1 where tiles are not split.
    segments: Vec<usize>,
    tasks: usize,
    tiles: usize,
    /// Of a tile.
    most_rows: usize,
    /// Elements of a task's partial results, at most.
    stride: usize,
    split: bool,
}

/// What a task does.
struct Place {
    span: usize,
    /// Tile of the span's one key head, and that head.
    tile: (usize, usize),
    global_tile: usize,
    segment: usize,
    segments: usize,
}

impl Plan {
    fn new(layer: AttentionLayer, spans: &[AttentionSpan<'_>], kind: KvFormat, threads: usize) -> Self {
        let AttentionShape { heads, kv_heads, .. } = layer.shape;
        let (group, most_rows) = (heads / kv_heads, most_rows(kind));
        let tiles_of = |span: &AttentionSpan<'_>| (span.rows * group).div_ceil(most_rows) * kv_heads;
        let first_tile = |span| QueryTile::new(layer, span, (0, 0), most_rows);
        // The first tile of a span is its largest.
        let stride = spans
            .iter()
            .map(|span| worker::layout(&first_tile(span), kind).len());
        let tiles = spans.iter().map(tiles_of).sum::<usize>();
        let mut plan = Self {
            kv_heads,
            starts: Vec::with_capacity(spans.len()),
            segments: Vec::with_capacity(spans.len()),
            tasks: 0,
            tiles: 0,
            most_rows,
            stride: stride.max().unwrap_or(0),
            // One row each: all tiles of a span see the same segments.
            split: tiles < TILES_PER_THREAD * threads && spans.iter().all(|span| span.rows == 1),
        };
        for span in spans {
            let segments = if plan.split {
                first_tile(span).segments().len()
            } else {
                1
            };
            plan.starts.push((plan.tasks, plan.tiles));
            plan.segments.push(segments);
            plan.tasks += tiles_of(span) * segments;
            plan.tiles += tiles_of(span);
        }
        plan
    }

    fn find(&self, task: usize) -> Place {
        let span = self.starts.partition_point(|&(start, _)| start <= task) - 1;
        let (first_task, first_tile) = self.starts[span];
        let segments = self.segments[span];
        let (tile, segment) = ((task - first_task) / segments, (task - first_task) % segments);
        Place {
            span,
            tile: (tile / self.kv_heads, tile % self.kv_heads),
            global_tile: first_tile + tile,
            segment,
            segments,
        }
    }
}

#[cfg(test)]
mod tests;
