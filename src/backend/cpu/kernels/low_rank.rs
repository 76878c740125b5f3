//! Low-rank changes of products (LoRA, arXiv 2106.09685): `out += B · (A · x)` for some rows, in f32.
//!
//! `A · x` is a chain of fused multiply-adds in ascending order for each run of [`RUN_INPUTS`] inputs, each from 0,
//! and the runs are added in ascending order; `B` times that is one chain, which is added to what the row has. A row's
//! bits depend on nothing but the row.

use std::{
    cell::RefCell,
    io,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    Arena, Isa, LowRankPart, Output, ThreadPool,
    arena::Buffer,
    buffers::sized,
    micro::{self, LANES, Tile, WIDE_ROWS},
    packed::PANEL,
    pool::{DisjointSlices, Order, wait_for},
};

/// Rows that share one pass over a change's weights.
const ROWS_PER_TASK: usize = 24;
/// Inputs taken at a time, so that their weights are still near when the next rows want them, and so that workers can
/// share one row's.
const RUN_INPUTS: usize = 256;
/// With fewer tasks than this for each thread, tasks are shared.
const TASKS_PER_THREAD: usize = 4;

/// All changes of the product of one input, repacked.
pub struct LowRank {
    inputs: usize,
    /// The parts' ranks, rounded up to whole vectors.
    width: usize,
    /// `[inputs][width]`, the parts side by side.
    a: Buffer<f32>,
    parts: Vec<Part>,
}

struct Part {
    outputs: Range<usize>,
    first_rank: usize,
    rank: usize,
    /// `[panel][rank][PANEL]`
    b: Buffer<f32>,
}

impl LowRank {
    /// Repacks the changes of one product; `None` when there are none.
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

    /// What [`LowRank::bytes`] will be; looks at no values.
    pub fn bytes_for(parts: &[LowRankPart]) -> usize {
        let a = parts.first().map_or(0, |first| first.inputs * width(parts));
        let b = parts
            .iter()
            .map(|part| part.outputs.next_multiple_of(PANEL) * part.rank);
        (a + b.sum::<usize>()) * size_of::<f32>()
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let values = self.a.len() + self.parts.iter().map(|part| part.b.len()).sum::<usize>();
        values * size_of::<f32>()
    }

    /// The output after the last that it changes.
    fn end(&self) -> usize {
        self.parts.iter().map(|part| part.outputs.end).max().unwrap_or(0)
    }
}

/// All ranks side by side, in whole vectors.
fn width(parts: &[LowRankPart]) -> usize {
    let ranks: usize = parts.iter().map(|part| part.rank).sum();
    ranks.next_multiple_of(LANES)
}

/// Which rows of a batch get which change; a row gets one at most.
#[derive(Debug, Default)]
pub struct RowGroups {
    /// Number of the change, and the row; in order, each row once.
    rows: Vec<(usize, usize)>,
    /// Parts of `rows` with the same change.
    tasks: Vec<Range<usize>>,
    /// Rows of the batch.
    batch: usize,
}

impl RowGroups {
    /// Whether no row gets a change.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes neighbouring runs of rows: the number of their change, if they get one, and how many they are.
    pub fn set(&mut self, runs: impl Iterator<Item = (Option<usize>, usize)>) {
        self.rows.clear();
        self.tasks.clear();
        self.batch = 0;
        for (change, count) in runs {
            if let Some(change) = change {
                self.rows
                    .extend((self.batch..self.batch + count).map(|row| (change, row)));
            }
            self.batch += count;
        }
        self.rows.sort_unstable();
        let mut start = 0;
        for group in self.rows.chunk_by(|a, b| a.0 == b.0) {
            let end = start + group.len();
            while start < end {
                let next = end.min(start + ROWS_PER_TASK);
                self.tasks.push(start..next);
                start = next;
            }
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    /// The calling thread's parts of `A · x`, and for each task how many of them are there.
    static PARTIALS: RefCell<(Vec<f32>, Vec<AtomicUsize>)> = RefCell::default();
}

/// A worker's buffers; they grow to the largest change and stay.
#[derive(Default)]
struct Scratch {
    /// A run of inputs of rows that do not lie side by side, `[rows][RUN_INPUTS]`.
    gathered: Vec<f32>,
    /// `A · x` of each run of inputs, `[runs][rows][width]`.
    partials: Vec<f32>,
    /// `A · x`, `[rows][width]`.
    low: Vec<f32>,
}

/// Adds to each row of `out` (`[rows, any]`) what its change makes of the same row of `x` (`[rows, inputs]`).
/// Where `change` knows nothing of a number, its rows stay as they are.
///
/// # Panics
/// When the slices do not have these sizes, or a change reaches beyond the end of a row.
pub fn add_low_rank<'a>(
    pool: &mut ThreadPool,
    isa: Isa,
    groups: &RowGroups,
    change: &(dyn Fn(usize) -> Option<&'a LowRank> + Sync),
    x: &[f32],
    out: &mut [f32],
) {
    if groups.tasks.is_empty() {
        return;
    }
    let (inputs, stride) = (x.len() / groups.batch, out.len() / groups.batch);
    assert!(x.len() == groups.batch * inputs && out.len() == groups.batch * stride);
    let slices = DisjointSlices::new(out);
    let (tasks, wanted) = (groups.tasks.len(), TASKS_PER_THREAD * pool.threads());
    let find = |task: usize| {
        let rows = &groups.rows[groups.tasks[task].clone()];
        let change = rows.first().and_then(|(number, _)| change(*number))?;
        assert!(change.inputs == inputs && change.end() <= stride);
        Some((change, rows))
    };
    // SAFETY: each row is in one task only, and where a task is shared, its outputs are.
    let add = |row: usize, first: usize, delta: &[f32]| unsafe {
        let out = slices.part(row * stride + first, delta.len());
        for (value, delta) in out.iter_mut().zip(delta) {
            *value += delta;
        }
    };
    if tasks >= wanted || pool.threads() == 1 {
        return pool.run(tasks, &|task| {
            let Some((change, rows)) = find(task) else { return };
            SCRATCH.with_borrow_mut(|scratch| {
                let Scratch {
                    gathered,
                    partials,
                    low,
                } = scratch;
                let partials = sized(partials, change.runs() * rows.len() * change.width);
                for (run, out) in partials.chunks_exact_mut(rows.len() * change.width).enumerate() {
                    change.multiply_a(isa, (x, run), rows, gathered, out);
                }
                let low = change.fold(partials, rows.len(), low);
                change.add_b(isa, rows, (low, 0..change.panels()), &add);
            });
        });
    }
    // Few tasks: each is shared by inputs, then by outputs. Pieces are begun in order, so what a piece of outputs
    // waits for is being computed already.
    let (runs, pieces) = (inputs.div_ceil(RUN_INPUTS), wanted.div_ceil(tasks));
    let widest = (0..tasks)
        .filter_map(find)
        .map(|(change, rows)| change.width * rows.len())
        .max();
    let widest = widest.unwrap_or(0);
    PARTIALS.with_borrow_mut(|(partials, arrived)| {
        arrived.clear();
        arrived.resize_with(tasks, AtomicUsize::default);
        let (partials, arrived) = (
            DisjointSlices::new(sized(partials, tasks * runs * widest)),
            &*arrived,
        );
        pool.run_in(Order::Together, tasks * (runs + pieces), &|index| {
            if index < tasks * runs {
                let (task, run) = (index / runs, index % runs);
                let _arrival = Arrival(&arrived[task]);
                let Some((change, rows)) = find(task) else { return };
                let len = rows.len() * change.width;
                // SAFETY: no other piece has this run of this task, and nobody reads it before it has arrived.
                let own = unsafe { partials.part(task * runs * widest + run * len, len) };
                SCRATCH.with_borrow_mut(|s| change.multiply_a(isa, (x, run), rows, &mut s.gathered, own));
                return;
            }
            let index = index - tasks * runs;
            let (task, piece) = (index / pieces, index % pieces);
            let Some((change, rows)) = find(task) else { return };
            let size = change.panels().div_ceil(pieces);
            let panels = (piece * size).min(change.panels())..((piece + 1) * size).min(change.panels());
            wait_for(&arrived[task], runs);
            // SAFETY: all runs of this task have arrived: nobody writes them any more.
            let all = unsafe { &*partials.part(task * runs * widest, runs * rows.len() * change.width) };
            SCRATCH.with_borrow_mut(|scratch| {
                let low = change.fold(all, rows.len(), &mut scratch.low);
                change.add_b(isa, rows, (low, panels), &add);
            });
        });
    });
}

/// Counts a piece when it is done, and also when it panics: nobody must wait for it for ever.
struct Arrival<'a>(&'a AtomicUsize);

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Release);
    }
}

impl LowRank {
    /// Runs of [`RUN_INPUTS`] inputs.
    fn runs(&self) -> usize {
        self.inputs.div_ceil(RUN_INPUTS)
    }

    /// Panels of outputs, over all parts.
    fn panels(&self) -> usize {
        self.parts
            .iter()
            .map(|part| part.outputs.len().div_ceil(PANEL))
            .sum()
    }

    /// `A · x` of some rows and one run of inputs, into `out` (`[rows][width]`); `gathered` is scratch.
    fn multiply_a(
        &self,
        isa: Isa,
        (x, run): (&[f32], usize),
        rows: &[(usize, usize)],
        gathered: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let k = run * RUN_INPUTS;
        let count = RUN_INPUTS.min(self.inputs - k);
        let (first, last) = (rows[0].1, rows[rows.len() - 1].1);
        let (x, a_stride) = if last - first + 1 == rows.len() {
            (
                &x[first * self.inputs + k..last * self.inputs + k + count],
                self.inputs,
            )
        } else {
            gathered.clear();
            for (_, row) in rows {
                gathered.extend_from_slice(&x[row * self.inputs + k..][..count]);
            }
            (gathered.as_slice(), count)
        };
        assert!(out.len() == rows.len() * self.width);
        for block in (0..self.width).step_by(PANEL) {
            for row in (0..rows.len()).step_by(WIDE_ROWS) {
                let tile = Tile {
                    a: x[row * a_stride..].as_ptr(),
                    a_stride,
                    w: self.a[k * self.width + block..].as_ptr(),
                    w_stride: self.width,
                    c: out[row * self.width + block..].as_mut_ptr(),
                    c_stride: self.width,
                    output: Output::Replace,
                    k: count,
                };
                let vectors = PANEL.min(self.width - block) / LANES;
                // SAFETY: `x` holds `count` inputs of these rows, `out` `width` of each, `a` `count` rows of
                // `width` from `k` on, which is whole vectors; the tile stays inside of all three.
                unsafe { micro::run(isa, WIDE_ROWS.min(rows.len() - row), vectors, &tile) };
            }
        }
    }

    /// The sum of all runs (`[runs][rows][width]`), in ascending order.
    fn fold<'s>(&self, partials: &[f32], rows: usize, low: &'s mut Vec<f32>) -> &'s [f32] {
        let mut runs = partials.chunks_exact(rows * self.width);
        low.clear();
        low.extend_from_slice(runs.next().unwrap_or_default());
        for run in runs {
            low.iter_mut().zip(run).for_each(|(sum, value)| *sum += value);
        }
        low
    }

    /// Hands out `B · low` of some panels: row, first output, and what is to be added from there on.
    fn add_b(
        &self,
        isa: Isa,
        rows: &[(usize, usize)],
        (low, panels): (&[f32], Range<usize>),
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
                // SAFETY: `low` holds these rows, `width` apart and `rank` long from `first_rank` on, `b`
                // `rank` rows of PANEL, and `delta` WIDE_ROWS of them.
                unsafe { micro::run(isa, rows.len(), PANEL / LANES, &tile) };
                for ((_, row), delta) in rows.iter().zip(delta.chunks_exact(PANEL)) {
                    add(*row, first, &delta[..width]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(seed: usize, len: usize) -> Vec<f32> {
        (0..len)
            .map(|i| ((i + 1) * (seed + 7) * 2_654_435_761 % 2003) as f32 / 1001.5 - 1.0)
            .collect()
    }

    fn part(seed: usize, inputs: usize, first_output: usize, outputs: usize, rank: usize) -> LowRankPart {
        LowRankPart {
            first_output,
            outputs,
            inputs,
            rank,
            a: noise(seed, rank * inputs),
            b: noise(seed + 1, outputs * rank),
        }
    }

    /// The same in the order that is promised.
    fn reference(inputs: usize, parts: &[LowRankPart], x: &[f32], out: &mut [f32]) {
        for part in parts {
            let chain = |w: &[f32], x: &[f32]| w.iter().zip(x).fold(0f32, |sum, (w, x)| x.mul_add(*w, sum));
            let runs = |a: &[f32]| {
                let runs = a.chunks(RUN_INPUTS).zip(x.chunks(RUN_INPUTS));
                runs.map(|(a, x)| chain(a, x))
                    .reduce(|sum, run| sum + run)
                    .unwrap()
            };
            let low: Vec<f32> = part.a.chunks_exact(inputs).map(runs).collect();
            for (b, out) in part.b.chunks_exact(low.len()).zip(&mut out[part.first_output..]) {
                *out += chain(b, &low);
            }
        }
    }

    proptest! {
        #[test]
        fn equals_its_scalar_twin_to_the_bit_and_leaves_other_rows_alone(
            inputs in 1usize..700,
            ranks in prop::collection::vec(1usize..40, 1..4),
            runs in prop::collection::vec((0usize..4, 1usize..40), 1..8),
            threads in 1usize..4,
        ) {
            let mut pool = ThreadPool::new(threads).unwrap();
            let stride = 300;
            let changes: Vec<Vec<LowRankPart>> = (0..2)
                .map(|c| {
                    let sizes = ranks.iter().enumerate();
                    sizes.map(|(i, &rank)| part(c * 10 + i, inputs, i * 90, 70 + 10 * i + c, rank)).collect()
                })
                .collect();
            let packed: Vec<LowRank> = changes
                .iter()
                .map(|parts| LowRank::pack(&mut Arena::default(), parts).unwrap().unwrap())
                .collect();
            for (parts, packed) in changes.iter().zip(&packed) {
                prop_assert_eq!(LowRank::bytes_for(parts), packed.bytes());
            }
            // 2: a number that nothing is known of; 3: no change.
            let of = |number: usize| (number < 3).then_some(number);
            let total: usize = runs.iter().map(|(_, count)| count).sum();
            let (x, before) = (noise(3, total * inputs), noise(4, total * stride));
            let mut expected = before.clone();
            let mut row = 0;
            for &(number, count) in &runs {
                for _ in 0..count {
                    if let Some(parts) = changes.get(number) {
                        let x = &x[row * inputs..(row + 1) * inputs];
                        reference(inputs, parts, x, &mut expected[row * stride..(row + 1) * stride]);
                    }
                    row += 1;
                }
            }
            let mut groups = RowGroups::default();
            groups.set(runs.iter().map(|&(number, count)| (of(number), count)));
            for isa in Isa::available() {
                let mut out = before.clone();
                add_low_rank(&mut pool, isa, &groups, &|number| packed.get(number), &x, &mut out);
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&out), bits(&expected));
            }
        }
    }
}
