//! What a worker does for one tile of query rows.

use std::cell::RefCell;

use super::{
    bf16::{self, Bf16Operands},
    cache::LayerCache,
    floats::{self, FloatOperands},
    query_tile::QueryTile,
    softmax::{Base, SoftmaxState, StateLayout},
};
use crate::{
    backend::cpu::kernels::{buffers::scratch_slice, disjoint::DisjointSlices, isa::Isa},
    model::spec::KvFormat,
};

/// A worker's buffers; they grow to the largest tile and stay.
#[derive(Default)]
struct Scratch {
    operands: Operands,
    /// Softmax over the segments so far.
    state: Vec<f32>,
    /// Softmax over one segment.
    segment: Vec<f32>,
}

/// What is multiplied, in the type of the cache.
#[derive(Default)]
struct Operands {
    floats: FloatOperands,
    bf16: Bf16Operands,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A tile, and where its queries, keys and values are.
#[derive(Clone, Copy)]
pub(super) struct TileWork<'a> {
    pub isa: Isa,
    pub tile: &'a QueryTile<'a>,
    /// `[rows, q | k | v]`, queries rotated.
    pub qkv: &'a [f32],
    pub cache: &'a LayerCache,
}

/// Sizes of a tile's softmax state.
pub(super) fn layout(tile: &QueryTile<'_>, format: KvFormat) -> StateLayout {
    match format {
        KvFormat::F32 | KvFormat::F16 => floats::layout(tile),
        KvFormat::Bf16 => bf16::layout(tile),
    }
}

/// The base of the powers that scores are exponents of.
fn base(format: KvFormat) -> Base {
    match format {
        KvFormat::F32 | KvFormat::F16 => Base::E,
        KvFormat::Bf16 => Base::Two,
    }
}

impl Operands {
    /// Computes softmax over each of these segments into `state`, and calls `each` with the segment and its state.
    fn attend(
        &mut self,
        work: TileWork<'_>,
        segments: impl Iterator<Item = usize>,
        state: &mut SoftmaxState<'_>,
        mut each: impl FnMut(usize, &SoftmaxState<'_>),
    ) {
        let TileWork {
            isa,
            tile,
            qkv,
            cache,
        } = work;
        match cache.format() {
            KvFormat::F32 | KvFormat::F16 => {
                self.floats.load_queries(isa, tile, qkv);
                for segment in segments {
                    self.floats.attend(isa, tile, cache, segment, state);
                    each(segment, state);
                }
            }
            KvFormat::Bf16 => {
                let mut loaded = self.bf16.load_queries(isa, tile, qkv);
                for segment in segments {
                    loaded.attend(tile, cache, segment, state);
                    each(segment, state);
                }
            }
        }
    }
}

/// Computes all of a tile's segments in turn, and writes the tile's attention to `out`.
pub(super) fn run(work: TileWork<'_>, out: &DisjointSlices<'_, f32>) {
    let TileWork { isa, tile, cache, .. } = work;
    let layout = layout(tile, cache.format());
    let base = base(cache.format());
    SCRATCH.with_borrow_mut(|scratch| {
        let mut state = SoftmaxState::new(scratch_slice(&mut scratch.state, layout.len()), layout);
        let mut segment_state = SoftmaxState::new(scratch_slice(&mut scratch.segment, layout.len()), layout);
        let merge = |segment: usize, added: &SoftmaxState<'_>| state.merge(isa, tile, segment, added, base);
        scratch
            .operands
            .attend(work, tile.segments(), &mut segment_state, merge);
        state.finish(isa, tile, out);
    });
}

/// Computes one segment, whose softmax state it leaves in `state`.
pub(super) fn run_segment(work: TileWork<'_>, segment: usize, state: &mut [f32]) {
    let mut state = SoftmaxState::new(state, layout(work.tile, work.cache.format()));
    SCRATCH.with_borrow_mut(|scratch| {
        let operands = &mut scratch.operands;
        operands.attend(work, std::iter::once(segment), &mut state, |_, _| ());
    });
}

/// Merges the states that [`run_segment`] has left of all of a tile's segments, and writes the tile's attention to
/// `out`. `state_of` gives the state of a segment, counted from the tile's first.
pub(super) fn combine<'s>(
    work: TileWork<'_>,
    out: &DisjointSlices<'_, f32>,
    state_of: impl Fn(usize) -> &'s [f32],
) {
    let TileWork { isa, tile, cache, .. } = work;
    let layout = layout(tile, cache.format());
    let base = base(cache.format());
    SCRATCH.with_borrow_mut(|scratch| {
        let mut state = SoftmaxState::new(scratch_slice(&mut scratch.state, layout.len()), layout);
        let copy = scratch_slice(&mut scratch.segment, layout.len());
        for (index, segment) in tile.segments().enumerate() {
            copy.copy_from_slice(&state_of(index)[..layout.len()]);
            state.merge(isa, tile, segment, &SoftmaxState::new(copy, layout), base);
        }
        state.finish(isa, tile, out);
    });
}
