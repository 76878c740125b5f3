//! What a worker does for one tile of query rows.

use std::cell::RefCell;

use super::{
    KvFormat, LayerCache,
    bf16::{self, Bf16Operands},
    floats::{self, FloatOperands},
    query_tile::QueryTile,
    softmax::{Power, Softmax, SoftmaxLayout},
};
use crate::backend::cpu::kernels::{Isa, buffers::sized, pool::DisjointSlices};

/// A worker's buffers; they grow to the largest tile and stay.
#[derive(Default)]
struct Scratch {
    operands: Operands,
    /// Softmax over the segments so far.
    state: Vec<f32>,
    /// Softmax over one segment.
    part: Vec<f32>,
}

/// What is multiplied.
#[derive(Default)]
struct Operands {
    floats: FloatOperands,
    bf16: Bf16Operands,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// How a tile's results lie in memory.
pub(super) fn layout(tile: &QueryTile<'_>, kind: KvFormat) -> SoftmaxLayout {
    match kind {
        KvFormat::F32 | KvFormat::F16 => floats::layout(tile),
        KvFormat::Bf16 => bf16::layout(tile),
    }
}

/// What scores are exponents of.
fn power(kind: KvFormat) -> Power {
    match kind {
        KvFormat::F32 | KvFormat::F16 => Power::Natural,
        KvFormat::Bf16 => Power::Two,
    }
}

impl Operands {
    /// Attends to these segments, one after the other, and shows each one's results.
    fn attend(
        &mut self,
        (isa, tile): (Isa, &QueryTile<'_>),
        (qkv, cache): (&[f32], &LayerCache),
        segments: impl Iterator<Item = usize>,
        part: &mut Softmax<'_>,
        mut each: impl FnMut(usize, &Softmax<'_>),
    ) {
        match cache.kind() {
            KvFormat::F32 | KvFormat::F16 => {
                self.floats.load_queries(isa, tile, qkv);
                for segment in segments {
                    self.floats.attend(isa, tile, cache, segment, part);
                    each(segment, part);
                }
            }
            KvFormat::Bf16 => {
                let mut ready = self.bf16.load(isa, tile, qkv);
                for segment in segments {
                    ready.attend(tile, cache, segment, part);
                    each(segment, part);
                }
            }
        }
    }
}

/// All of a tile's segments in turn, into `out`.
pub(super) fn run(
    isa: Isa,
    tile: &QueryTile<'_>,
    qkv: &[f32],
    cache: &LayerCache,
    out: &DisjointSlices<'_, f32>,
) {
    let layout = layout(tile, cache.kind());
    let power = power(cache.kind());
    SCRATCH.with_borrow_mut(|scratch| {
        let mut state = Softmax::new(sized(&mut scratch.state, layout.len()), layout);
        let mut part = Softmax::new(sized(&mut scratch.part, layout.len()), layout);
        let fold = |segment: usize, part: &Softmax<'_>| state.fold(isa, tile, segment, part, power);
        scratch
            .operands
            .attend((isa, tile), (qkv, cache), tile.segments(), &mut part, fold);
        state.finish(isa, tile, out);
    });
}

/// One segment, into `part`.
pub(super) fn run_segment(
    isa: Isa,
    tile: &QueryTile<'_>,
    (qkv, cache): (&[f32], &LayerCache),
    segment: usize,
    part: &mut [f32],
) {
    let mut part = Softmax::new(part, layout(tile, cache.kind()));
    SCRATCH.with_borrow_mut(|scratch| {
        let operands = &mut scratch.operands;
        operands.attend(
            (isa, tile),
            (qkv, cache),
            [segment].into_iter(),
            &mut part,
            |_, _| (),
        );
    });
}

/// Folds what [`run_segment`] has left for each segment, counted from the tile's first.
pub(super) fn combine<'p>(
    isa: Isa,
    tile: &QueryTile<'_>,
    kind: KvFormat,
    out: &DisjointSlices<'_, f32>,
    part: impl Fn(usize) -> &'p [f32],
) {
    let layout = layout(tile, kind);
    SCRATCH.with_borrow_mut(|scratch| {
        let mut state = Softmax::new(sized(&mut scratch.state, layout.len()), layout);
        let own = sized(&mut scratch.part, layout.len());
        for (index, segment) in tile.segments().enumerate() {
            own.copy_from_slice(&part(index)[..layout.len()]);
            state.fold(isa, tile, segment, &Softmax::new(own, layout), power(kind));
        }
        state.finish(isa, tile, out);
    });
}
