//! Attention of a batch: starts its tasks.

use std::{
    cell::RefCell,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    cache::LayerCache,
    query_tile::QueryTile,
    span::AttentionSpan,
    tasks::TaskList,
    worker::{self, TileWork},
};
use crate::{
    backend::cpu::kernels::{
        buffers::scratch_slice, compute::Compute, disjoint::DisjointSlices, pool::Order,
    },
    model::spec::AttentionLayer,
};

thread_local! {
    /// What tasks of the regions that the calling thread starts leave for one another.
    static SHARED: RefCell<SharedResults> = RefCell::default();
}

/// Results of segments, where threads share a tile's segments.
#[derive(Default)]
struct SharedResults {
    /// The softmax state of each task.
    states: Vec<f32>,
    /// The number of segments that are done, for each tile.
    done: Vec<AtomicUsize>,
}

/// Attention of each span's rows over the span's context and its own rows, or over what the window leaves of these.
///
/// `qkv` is `[rows, q | k | v]` with queries rotated already, `out` is `[rows, heads * head_dim]`.
///
/// # Panics
/// When a block table does not cover its span or names a block outside of the cache.
pub fn attention(
    compute: &mut Compute,
    layer: AttentionLayer,
    qkv: &[f32],
    spans: &[AttentionSpan<'_>],
    cache: &LayerCache,
    out: &mut [f32],
) {
    let isa = compute.isa;
    let list = TaskList::new(layer, spans, cache.format(), compute.pool.threads());
    let out = DisjointSlices::new(out);
    SHARED.with_borrow_mut(|shared| {
        let (states, tiles) = if list.shares_segments {
            (list.tasks * list.state_len, list.tiles)
        } else {
            (0, 0)
        };
        shared.done.clear();
        shared.done.resize_with(tiles, AtomicUsize::default);
        let states = DisjointSlices::new(scratch_slice(&mut shared.states, states));
        let done = shared.done.as_slice();
        // Later tiles of a span see a longer context and take longer. Where each span is one row, what a worker reads next lies
        // behind what it has read, when tasks ascend: with 32 sequences of 540 tokens that takes 6 % less.
        let order = if list.single_rows {
            Order::Ascending
        } else {
            Order::Descending
        };
        compute.pool.run_in(order, list.tasks, &|index| {
            let task = list.task(index);
            let tile = QueryTile::new(layer, &spans[task.span], task.tile, list.tile_rows);
            let work = TileWork {
                isa,
                tile: &tile,
                qkv,
                cache,
            };
            if !list.shares_segments {
                return worker::run(work, &out);
            }
            // SAFETY: `index` is this task's only, and so are these elements until `done` counts the task, which is
            // after the slice's last use.
            let own = unsafe { states.part(index * list.state_len, list.state_len) };
            worker::run_segment(work, tile.segments().start + task.segment, own);
            if done[task.batch_tile].fetch_add(1, Ordering::AcqRel) + 1 == task.segments {
                let first = index - task.segment;
                worker::combine(work, &out, |segment| {
                    // SAFETY: the tile's tasks are `first..first + task.segments`. All of them are done, as the
                    // counter says (it acquires what they released), so nobody writes these elements any more, and
                    // this task only reads them, hence the shared slice.
                    unsafe { &*states.part((first + segment) * list.state_len, list.state_len) }
                });
            }
        });
    });
}
