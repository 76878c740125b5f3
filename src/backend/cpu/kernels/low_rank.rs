//! Low-rank updates of products (LoRA, arXiv 2106.09685): `out += B · (A · x)` for some rows, in f32.
//!
//! The inputs are cut in chunks of [`CHUNK_INPUTS`]. `A · x` of a chunk is one chain of fused multiply-adds in
//! ascending order that starts from 0, and the chunks' results are added in ascending order. `B` times that is one
//! chain, which is added to what the row has. So the bits of a row depend on the row alone.
//!
//! Rows with the same update are one task. Where there are few tasks, threads share each: first its chunks of inputs,
//! then its outputs. With 8 sequences over 16 adapters that gained 11 %, together with weights in large pages. An
//! adapter of rank 1 costs two thirds of what one of rank 16 does, so most of the cost is the additional parallel
//! regions of a step.

use std::{
    cell::RefCell,
    io,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    arena::{Arena, Buffer},
    buffers::scratch_slice,
    compute::Compute,
    disjoint::DisjointSlices,
    isa::Isa,
    micro::{self, LANES, Tile, TileSize, WIDE_ROWS},
    output::Output,
    panel::PANEL,
    pool::{Order, wait_for},
    row_groups::{RowGroups, UpdatedRow},
};
use crate::model::spec::LowRankPart;

/// Inputs in a chunk. The weights of a chunk stay in the cache until the task's next rows are multiplied with them, and
/// threads can share a single row by chunks.
const CHUNK_INPUTS: usize = 256;
/// Fewest tasks for each thread that are not shared among threads.
const TASKS_PER_THREAD: usize = 4;

/// All updates of the products of one input, repacked.
pub struct LowRank {
    inputs: usize,
    /// The sum of the parts' ranks, rounded up to whole vectors.
    width: usize,
    /// A of all parts side by side, `[inputs][width]`.
    a: Buffer<f32>,
    parts: Vec<Part>,
}

/// A repacked [`LowRankPart`].
struct Part {
    /// The outputs that are updated.
    outputs: Range<usize>,
    /// Where the part's ranks begin in `width`.
    first_rank: usize,
    rank: usize,
    /// `[panel][rank][PANEL]`
    b: Buffer<f32>,
}

impl LowRank {
    /// Repacks the updates of one product; `None` when there are none.
    ///
    /// # Errors
    /// When there is no memory for them.
    ///
    /// # Panics
    /// When a part's matrices do not have its sizes, or parts differ in their inputs; loaders check first.
    pub fn pack(arena: &mut Arena, parts: &[LowRankPart]) -> io::Result<Option<Self>> {
        let Some(first) = parts.first() else {
            return Ok(None);
        };
        let inputs = first.inputs;
        let width = width(parts);
        let mut packed = Self {
            inputs,
            width,
            a: arena.zeros(inputs * width)?,
            parts: Vec::with_capacity(parts.len()),
        };
        let mut first_rank = 0;
        for part in parts {
            let rank = part.rank;
            assert!(part.a.len() == rank * inputs && part.b.len() == part.outputs * rank);
            for (r, row) in part.a.chunks_exact(inputs).enumerate() {
                for (k, value) in row.iter().enumerate() {
                    packed.a[k * width + first_rank + r] = *value;
                }
            }
            let mut b = arena.zeros::<f32>(part.outputs.div_ceil(PANEL) * rank * PANEL)?;
            for (output, row) in part.b.chunks_exact(rank).enumerate() {
                for (r, value) in row.iter().enumerate() {
                    b[(output / PANEL * rank + r) * PANEL + output % PANEL] = *value;
                }
            }
            packed.parts.push(Part {
                outputs: part.first_output..part.first_output + part.outputs,
                first_rank,
                rank,
                b,
            });
            first_rank += rank;
        }
        Ok(Some(packed))
    }

    /// What [`LowRank::bytes`] of these parts is. It reads their sizes only.
    pub fn bytes_for(parts: &[LowRankPart]) -> usize {
        let a = parts.first().map_or(0, |first| first.inputs * width(parts));
        let b = parts
            .iter()
            .map(|part| part.outputs.next_multiple_of(PANEL) * part.rank);
        (a + b.sum::<usize>()) * size_of::<f32>()
    }

    /// Bytes that the weights take in memory.
    pub fn bytes(&self) -> usize {
        let values = self.a.len() + self.parts.iter().map(|part| part.b.len()).sum::<usize>();
        values * size_of::<f32>()
    }

    /// The output behind the last that is updated.
    fn outputs_end(&self) -> usize {
        self.parts.iter().map(|part| part.outputs.end).max().unwrap_or(0)
    }
}

/// The sum of the ranks, rounded up to whole vectors.
fn width(parts: &[LowRankPart]) -> usize {
    let ranks: usize = parts.iter().map(|part| part.rank).sum();
    ranks.next_multiple_of(LANES)
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    /// What tasks that the calling thread's pool shares leave for one another.
    static SHARED: RefCell<SharedResults> = RefCell::default();
}

/// A worker's buffers; they grow to the largest update and stay.
#[derive(Default)]
struct Scratch {
    /// A chunk of inputs of rows that do not lie side by side, `[rows][CHUNK_INPUTS]`.
    gathered: Vec<f32>,
    /// `A · x` of each chunk of inputs, `[chunks][rows][width]`.
    chunks: Vec<f32>,
    /// `A · x`, `[rows][width]`.
    low: Vec<f32>,
}

/// Results of tasks that threads share.
#[derive(Default)]
struct SharedResults {
    /// `A · x` of each task and chunk of inputs.
    chunks: Vec<f32>,
    /// The number of chunks that are done, for each task.
    done: Vec<AtomicUsize>,
}

/// Adds to each row of `out` (`[rows, any]`) the row's update of the same row of `x` (`[rows, inputs]`). `update`
/// finds an update by its number; rows whose number it does not know stay as they are.
///
/// # Panics
/// When the slices do not have these sizes, or an update reaches beyond the end of a row.
pub fn add_low_rank<'a>(
    compute: &mut Compute,
    groups: &RowGroups,
    update: &(dyn Fn(usize) -> Option<&'a LowRank> + Sync),
    x: &[f32],
    out: &mut [f32],
) {
    if groups.tasks() == 0 {
        return;
    }
    let (inputs, stride) = (x.len() / groups.batch(), out.len() / groups.batch());
    assert!(x.len() == groups.batch() * inputs && out.len() == groups.batch() * stride);
    let isa = compute.isa;
    let slices = DisjointSlices::new(out);
    let (tasks, wanted) = (groups.tasks(), TASKS_PER_THREAD * compute.pool.threads());
    let find = |task: usize| {
        let rows = groups.rows_of(task);
        let update = rows.first().and_then(|row| update(row.update))?;
        assert!(update.inputs == inputs && update.outputs_end() <= stride);
        Some((update, rows))
    };
    // SAFETY: `RowGroups` puts each row in one task only. Where a task is shared, its sub-tasks add to different
    // panels of outputs. So no other thread has these elements of `out`, and the slice ends with the closure.
    let add = |row: usize, first: usize, delta: &[f32]| unsafe {
        let out = slices.part(row * stride + first, delta.len());
        for (value, delta) in out.iter_mut().zip(delta) {
            *value += delta;
        }
    };
    if tasks >= wanted || compute.pool.threads() == 1 {
        return compute.pool.run(tasks, &|task| {
            let Some((update, rows)) = find(task) else { return };
            SCRATCH.with_borrow_mut(|scratch| {
                let Scratch {
                    gathered,
                    chunks,
                    low,
                } = scratch;
                let chunks = scratch_slice(chunks, update.chunks() * rows.len() * update.width);
                for (chunk, out) in chunks.chunks_exact_mut(rows.len() * update.width).enumerate() {
                    update.multiply_a(isa, InputChunk { x, index: chunk }, rows, gathered, out);
                }
                let low = update.add_chunks(chunks, rows.len(), low);
                update.multiply_b(isa, rows, low, 0..update.panels(), &add);
            });
        });
    }
    // Threads share each task: sub-tasks of inputs come first, then sub-tasks of outputs. Sub-tasks are begun in
    // order, so all that a sub-task of outputs waits for has been begun.
    let (chunks, output_parts) = (inputs.div_ceil(CHUNK_INPUTS), wanted.div_ceil(tasks));
    let widest = (0..tasks)
        .filter_map(find)
        .map(|(update, rows)| update.width * rows.len())
        .max();
    let widest = widest.unwrap_or(0);
    SHARED.with_borrow_mut(|shared| {
        shared.done.clear();
        shared.done.resize_with(tasks, AtomicUsize::default);
        let results = DisjointSlices::new(scratch_slice(&mut shared.chunks, tasks * chunks * widest));
        let done = shared.done.as_slice();
        compute
            .pool
            .run_in(Order::OneQueue, tasks * (chunks + output_parts), &|index| {
                if index < tasks * chunks {
                    let (task, chunk) = (index / chunks, index % chunks);
                    let _done = CountWhenDropped(&done[task]);
                    let Some((update, rows)) = find(task) else { return };
                    let len = rows.len() * update.width;
                    // SAFETY: this sub-task alone has this chunk of this task, at most `widest` elements, and sub-tasks
                    // of outputs read it only once `done` counts it, which is after this slice's last use.
                    let own = unsafe { results.part(task * chunks * widest + chunk * len, len) };
                    SCRATCH.with_borrow_mut(|scratch| {
                        update.multiply_a(
                            isa,
                            InputChunk { x, index: chunk },
                            rows,
                            &mut scratch.gathered,
                            own,
                        );
                    });
                    return;
                }
                let index = index - tasks * chunks;
                let (task, part) = (index / output_parts, index % output_parts);
                let Some((update, rows)) = find(task) else { return };
                let size = update.panels().div_ceil(output_parts);
                let panels = (part * size).min(update.panels())..((part + 1) * size).min(update.panels());
                wait_for(&done[task], chunks);
                // SAFETY: all chunks of this task are done (`wait_for` acquires what they released), so nobody writes
                // these elements any more; sub-tasks of outputs only read them, hence the shared slice.
                let all =
                    unsafe { &*results.part(task * chunks * widest, chunks * rows.len() * update.width) };
                SCRATCH.with_borrow_mut(|scratch| {
                    let low = update.add_chunks(all, rows.len(), &mut scratch.low);
                    update.multiply_b(isa, rows, low, panels, &add);
                });
            });
    });
}

/// Counts a sub-task when it ends, and also when it panics, so that nobody waits for it forever.
struct CountWhenDropped<'a>(&'a AtomicUsize);

impl Drop for CountWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

/// A chunk of the inputs of all rows.
#[derive(Clone, Copy)]
struct InputChunk<'a> {
    /// `[rows, inputs]`
    x: &'a [f32],
    /// Index of the chunk.
    index: usize,
}

impl LowRank {
    /// Number of chunks of inputs.
    fn chunks(&self) -> usize {
        self.inputs.div_ceil(CHUNK_INPUTS)
    }

    /// Number of panels of outputs, over all parts.
    fn panels(&self) -> usize {
        self.parts
            .iter()
            .map(|part| part.outputs.len().div_ceil(PANEL))
            .sum()
    }

    /// Writes `A · x` of some rows and one chunk of inputs to `out` (`[rows][width]`). `gathered` is scratch.
    fn multiply_a(
        &self,
        isa: Isa,
        chunk: InputChunk<'_>,
        rows: &[UpdatedRow],
        gathered: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let k = chunk.index * CHUNK_INPUTS;
        let count = CHUNK_INPUTS.min(self.inputs - k);
        let (first, last) = (rows[0].row, rows[rows.len() - 1].row);
        let (x, a_stride) = if last - first + 1 == rows.len() {
            (
                &chunk.x[first * self.inputs + k..last * self.inputs + k + count],
                self.inputs,
            )
        } else {
            gathered.clear();
            for UpdatedRow { row, .. } in rows {
                gathered.extend_from_slice(&chunk.x[row * self.inputs + k..][..count]);
            }
            (gathered.as_slice(), count)
        };
        assert!(out.len() == rows.len() * self.width);
        for column in (0..self.width).step_by(PANEL) {
            for row in (0..rows.len()).step_by(WIDE_ROWS) {
                let tile = Tile {
                    a: x[row * a_stride..].as_ptr(),
                    a_stride,
                    w: self.a[k * self.width + column..].as_ptr(),
                    w_stride: self.width,
                    c: out[row * self.width + column..].as_mut_ptr(),
                    c_stride: self.width,
                    output: Output::Replace,
                    k: count,
                };
                let size = TileSize {
                    rows: WIDE_ROWS.min(rows.len() - row),
                    vectors: PANEL.min(self.width - column) / LANES,
                };
                // SAFETY: `x` holds `count` inputs of each of the rows, `a_stride` apart, and rows `row..row +
                // size.rows` are among them. `out` is `[rows.len()][width]` as asserted, and `self.a` has `count`
                // rows of `width` from row `k` on. `width` is whole vectors, so `column + size.vectors * LANES` is at
                // most `width`. `out` is borrowed exclusively, so it overlaps neither.
                unsafe { micro::run(isa, size, &tile) };
            }
        }
    }

    /// The sum of all chunks' results (`[chunks][rows][width]`), in ascending order.
    fn add_chunks<'s>(&self, chunks: &[f32], rows: usize, low: &'s mut Vec<f32>) -> &'s [f32] {
        let mut chunks = chunks.chunks_exact(rows * self.width);
        low.clear();
        low.extend_from_slice(chunks.next().unwrap_or_default());
        for chunk in chunks {
            low.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += value);
        }
        low
    }

    /// Computes `B · low` of some panels of outputs, and calls `add` with each row, the first output, and the values
    /// that are to be added from there on. `low` is `[rows][width]`.
    fn multiply_b(
        &self,
        isa: Isa,
        rows: &[UpdatedRow],
        low: &[f32],
        panels: Range<usize>,
        add: &dyn Fn(usize, usize, &[f32]),
    ) {
        let mut delta = [0f32; WIDE_ROWS * PANEL];
        let all = self.parts.iter().flat_map(|part| {
            let b = part.b.chunks_exact(part.rank * PANEL).enumerate();
            b.map(move |(panel, b)| (part, panel, b))
        });
        for (part, panel, b) in all.skip(panels.start).take(panels.len()) {
            let first = part.outputs.start + panel * PANEL;
            let width = PANEL.min(part.outputs.end - first);
            for (block, rows) in rows.chunks(WIDE_ROWS).enumerate() {
                let tile = Tile {
                    a: low[block * WIDE_ROWS * self.width + part.first_rank..].as_ptr(),
                    a_stride: self.width,
                    w: b.as_ptr(),
                    w_stride: PANEL,
                    c: delta.as_mut_ptr(),
                    c_stride: PANEL,
                    output: Output::Replace,
                    k: part.rank,
                };
                let size = TileSize {
                    rows: rows.len(),
                    vectors: PANEL / LANES,
                };
                // SAFETY: `low` has a row of `width` for each of these rows, of which the part's `rank` values begin at
                // `first_rank`; `b` is `[rank][PANEL]`; `delta` is `[WIDE_ROWS][PANEL]`, more rows than `size.rows`,
                // and overlaps neither.
                unsafe { micro::run(isa, size, &tile) };
                for (UpdatedRow { row, .. }, delta) in rows.iter().zip(delta.chunks_exact(PANEL)) {
                    add(*row, first, &delta[..width]);
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "low_rank_tests.rs"]
mod tests;
