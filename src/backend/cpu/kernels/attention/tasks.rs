//! Which tasks a batch's attention consists of.

use super::{
    query_tile::{QueryTile, TileIndex},
    sizes::tile_rows,
    span::AttentionSpan,
    worker,
};
use crate::model::spec::{AttentionLayer, AttentionShape, KvFormat};

/// Fewest tiles for each thread whose segments are not shared among threads.
const TILES_PER_THREAD: usize = 4;

/// The tasks of a batch's attention: a tile each, or one segment of a tile where there are few tiles.
pub(super) struct TaskList {
    kv_heads: usize,
    spans: Vec<SpanTasks>,
    /// Number of tasks.
    pub tasks: usize,
    /// Number of tiles of all spans.
    pub tiles: usize,
    /// Most rows of a tile.
    pub tile_rows: usize,
    /// Elements of the softmax state of the largest tile.
    pub state_len: usize,
    /// Whether each span is one row, so that tasks take about as long as one another.
    pub single_rows: bool,
    /// Whether a task is one segment of a tile.
    pub shares_segments: bool,
}

/// The tasks of one span.
struct SpanTasks {
    first_task: usize,
    /// Index of its first tile over all spans.
    first_tile: usize,
    /// Tasks of each of its tiles.
    tasks_per_tile: usize,
}

/// What a task computes.
pub(super) struct AttentionTask {
    /// Index of the span.
    pub span: usize,
    /// Which tile of the span, and of which key head.
    pub tile: TileIndex,
    /// Index of the tile over all spans.
    pub batch_tile: usize,
    /// The segment, counted from the first that the tile sees, where tasks are segments; otherwise 0.
    pub segment: usize,
    /// Number of the tile's tasks.
    pub segments: usize,
}

impl TaskList {
    pub(super) fn new(
        layer: AttentionLayer,
        spans: &[AttentionSpan<'_>],
        format: KvFormat,
        threads: usize,
    ) -> Self {
        let AttentionShape { heads, kv_heads, .. } = layer.shape;
        let (group, tile_rows) = (heads / kv_heads, tile_rows(format));
        let tiles_of = |span: &AttentionSpan<'_>| (span.rows * group).div_ceil(tile_rows) * kv_heads;
        // The first tile of a span has the most rows.
        let first_tile = |span| QueryTile::new(layer, span, TileIndex::FIRST, tile_rows);
        let state_len = spans
            .iter()
            .map(|span| worker::layout(&first_tile(span), format).len());
        let tiles = spans.iter().map(tiles_of).sum::<usize>();
        let single_rows = spans.iter().all(|span| span.rows == 1);
        let mut list = Self {
            kv_heads,
            spans: Vec::with_capacity(spans.len()),
            tasks: 0,
            tiles: 0,
            tile_rows,
            state_len: state_len.max().unwrap_or(0),
            single_rows,
            // With one row each, all tiles of a span see the same segments.
            shares_segments: tiles < TILES_PER_THREAD * threads && single_rows,
        };
        for span in spans {
            let tasks_per_tile = if list.shares_segments {
                first_tile(span).segments().len()
            } else {
                1
            };
            list.spans.push(SpanTasks {
                first_task: list.tasks,
                first_tile: list.tiles,
                tasks_per_tile,
            });
            list.tasks += tiles_of(span) * tasks_per_tile;
            list.tiles += tiles_of(span);
        }
        list
    }

    /// The task of this index.
    pub(super) fn task(&self, index: usize) -> AttentionTask {
        let span = self.spans.partition_point(|span| span.first_task <= index) - 1;
        let SpanTasks {
            first_task,
            first_tile,
            tasks_per_tile,
        } = self.spans[span];
        let tile = (index - first_task) / tasks_per_tile;
        AttentionTask {
            span,
            tile: TileIndex {
                tile: tile / self.kv_heads,
                kv_head: tile % self.kv_heads,
            },
            batch_tile: first_tile + tile,
            segment: (index - first_task) % tasks_per_tile,
            segments: tasks_per_tile,
        }
    }
}
