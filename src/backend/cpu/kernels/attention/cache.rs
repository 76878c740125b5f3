//! One layer's keys and values, in blocks of tokens, and writing rows to them.
//!
//! Keys lie as `[block][kv_head][head_dim][BLOCK_TOKENS]` and values as `[block][kv_head][BLOCK_TOKENS][head_dim]`,
//! so that both products of attention read contiguous vectors. In bf16, keys lie in pairs of dimensions,
//! `[block][kv_head][pairs][BLOCK_TOKENS][2]`, as AMX tiles load them, filled up with zeros to whole runs of
//! dimensions.

use std::{cell::RefCell, io};

use super::sizes::BLOCK_TOKENS;
use crate::{
    backend::cpu::kernels::{
        arena::Buffer,
        bf16::{RUN, round},
        buffers::scratch_slice,
        compute::Compute,
        disjoint::DisjointSlices,
        elementwise::rope_heads,
        floats::{expand_f16, round_to_f16},
        isa::{Isa, per_isa},
        prefetch::prefetch,
    },
    model::spec::{AttentionShape, KvFormat, RopeStyle},
};

/// Rows in one task that rotates and stores them.
const ROWS_PER_TASK: usize = 8;

impl KvFormat {
    /// Bytes that a block of one layer takes, keys and values together.
    pub fn block_bytes(self, shape: AttentionShape) -> usize {
        match self {
            Self::F32 => 2 * 4 * block_len(shape),
            Self::F16 => 2 * 2 * block_len(shape),
            Self::Bf16 => 4 * block_pairs(shape) + 2 * block_len(shape),
        }
    }
}

/// Pairs of a head's dimensions, filled up to whole runs.
fn head_pairs(shape: AttentionShape) -> usize {
    shape.head_dim.next_multiple_of(RUN) / 2
}

/// Elements of keys, or of values, in one block of one layer.
fn block_len(shape: AttentionShape) -> usize {
    shape.kv_heads * shape.head_dim * BLOCK_TOKENS
}

/// Pairs of keys' dimensions in one block of one layer.
fn block_pairs(shape: AttentionShape) -> usize {
    shape.kv_heads * head_pairs(shape) * BLOCK_TOKENS
}

/// One layer's keys and values. The system backs the memory of a block when it is first written.
pub struct LayerCache {
    shape: AttentionShape,
    store: Store,
}

/// Keys and values, `[blocks, block_len]` each but for keys in bf16.
enum Store {
    F32 {
        keys: Buffer<f32>,
        values: Buffer<f32>,
    },
    /// Bits of f16.
    F16 {
        keys: Buffer<u16>,
        values: Buffer<u16>,
    },
    /// Bits of bf16. Keys are pairs, `[blocks, block_pairs]`, with the even dimension in the low half.
    Bf16 {
        keys: Buffer<u32>,
        values: Buffer<u16>,
    },
}

/// Stored keys or values of the formats that are computed in f32.
enum StoredFloats<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
}

/// Keys or values.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Keys,
    Values,
}

/// A key head's part of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlockHead {
    /// Index of the block in the cache.
    pub block: usize,
    /// The key head.
    pub head: usize,
}

/// A key head's part of a block in bf16.
#[derive(Clone, Copy)]
pub(super) struct Bf16BlockHead<'a> {
    /// Keys in pairs of dimensions, `[pairs][BLOCK_TOKENS]`.
    pub keys: &'a [u32],
    /// Values, `[BLOCK_TOKENS][head_dim]`.
    pub values: &'a [u16],
}

impl LayerCache {
    /// A cache of `blocks` blocks.
    ///
    /// # Errors
    /// When the system does not promise so much memory.
    pub fn new(shape: AttentionShape, format: KvFormat, blocks: usize) -> io::Result<Self> {
        let len = blocks * block_len(shape);
        let store = match format {
            KvFormat::F32 => Store::F32 {
                keys: Buffer::sparse(len)?,
                values: Buffer::sparse(len)?,
            },
            KvFormat::F16 => Store::F16 {
                keys: Buffer::sparse(len)?,
                values: Buffer::sparse(len)?,
            },
            KvFormat::Bf16 => Store::Bf16 {
                keys: Buffer::sparse(blocks * block_pairs(shape))?,
                values: Buffer::sparse(len)?,
            },
        };
        Ok(Self { shape, store })
    }

    /// How keys and values are stored.
    pub(super) fn format(&self) -> KvFormat {
        match &self.store {
            Store::F32 { .. } => KvFormat::F32,
            Store::F16 { .. } => KvFormat::F16,
            Store::Bf16 { .. } => KvFormat::Bf16,
        }
    }

    /// A head's part of a block of a [`KvFormat::Bf16`] cache.
    ///
    /// # Panics
    /// When the block lies outside of the cache.
    pub(super) fn bf16_block_head(&self, at: BlockHead) -> Bf16BlockHead<'_> {
        let Store::Bf16 { keys, values } = &self.store else {
            unreachable!("the cache's format decides how attention is computed");
        };
        let BlockHead { block, head } = at;
        let (head_pairs, head_len) = (
            head_pairs(self.shape) * BLOCK_TOKENS,
            self.shape.head_dim * BLOCK_TOKENS,
        );
        Bf16BlockHead {
            keys: &keys[block * block_pairs(self.shape) + head * head_pairs..][..head_pairs],
            values: &values[block * block_len(self.shape) + head * head_len..][..head_len],
        }
    }

    /// The first `count` elements of a head's part of a block, in a cache of another format.
    ///
    /// # Panics
    /// When the block lies outside of the cache.
    fn stored(&self, side: Side, at: BlockHead, count: usize) -> StoredFloats<'_> {
        let first = at.block * block_len(self.shape) + at.head * self.shape.head_dim * BLOCK_TOKENS;
        match (&self.store, side) {
            (Store::F32 { keys: from, .. }, Side::Keys) | (Store::F32 { values: from, .. }, Side::Values) => {
                StoredFloats::F32(&from[first..][..count])
            }
            (Store::F16 { keys: from, .. }, Side::Keys) | (Store::F16 { values: from, .. }, Side::Values) => {
                StoredFloats::F16(&from[first..][..count])
            }
            (Store::Bf16 { .. }, _) => unreachable!("the cache's format decides how attention is computed"),
        }
    }

    /// The first `count` elements of a head's part of a block as f32: as they lie in memory, or expanded into
    /// `scratch`.
    ///
    /// # Panics
    /// When the block lies outside of the cache.
    pub(super) fn expanded<'a>(
        &'a self,
        isa: Isa,
        side: Side,
        at: BlockHead,
        count: usize,
        scratch: &'a mut [f32],
    ) -> &'a [f32] {
        match self.stored(side, at, count) {
            StoredFloats::F32(values) => values,
            StoredFloats::F16(bits) => {
                let out = &mut scratch[..count];
                expand_f16(isa, bits, out);
                out
            }
        }
    }

    /// Prefetches a head's part of a block, all that [`Self::expanded`] may read.
    pub(super) fn prefetch(&self, side: Side, at: BlockHead) {
        match self.stored(side, at, self.shape.head_dim * BLOCK_TOKENS) {
            StoredFloats::F32(values) => prefetch(values),
            StoredFloats::F16(bits) => prefetch(bits),
        }
    }

    /// Overwrites a whole block with NaN, which reaches the results of whoever reads it.
    #[cfg(test)]
    pub(super) fn fill_with_nan(&mut self, block: usize) {
        let (at, len) = (block * block_len(self.shape), block_len(self.shape));
        match &mut self.store {
            Store::F32 { keys, values } => {
                keys[at..][..len].fill(f32::NAN);
                values[at..][..len].fill(f32::NAN);
            }
            Store::F16 { keys, values } => {
                keys[at..][..len].fill(0x7e00);
                values[at..][..len].fill(0x7e00);
            }
            Store::Bf16 { keys, values } => {
                let pairs = block_pairs(self.shape);
                keys[block * pairs..][..pairs].fill(0x7fc0_7fc0);
                values[at..][..len].fill(0x7fc0);
            }
        }
    }
}

/// Rotary angles of each row of a batch.
#[derive(Debug, Clone, Copy)]
pub struct RopeAngles<'a> {
    /// Number of pairs of each head's dimensions that are rotated, from the first on.
    pub pairs: usize,
    /// Cosines of the angles, `[rows, pairs]`.
    pub cos: &'a [f32],
    /// Sines of the angles, `[rows, pairs]`.
    pub sin: &'a [f32],
    /// Which dimensions make a pair.
    pub style: RopeStyle,
}

/// Writes rows to a cache: `key_elements` elements of a head's keys [`BLOCK_TOKENS`] apart, and `head_dim` of its
/// values side by side.
struct CacheWriter<'a, K, V> {
    kv_heads: usize,
    head_dim: usize,
    key_elements: usize,
    keys: DisjointSlices<'a, K>,
    values: DisjointSlices<'a, V>,
}

impl<'a, K: Copy, V: Copy> CacheWriter<'a, K, V> {
    fn new(shape: AttentionShape, key_elements: usize, keys: &'a mut [K], values: &'a mut [V]) -> Self {
        Self {
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            key_elements,
            keys: DisjointSlices::new(keys),
            values: DisjointSlices::new(values),
        }
    }

    /// Writes a row's keys and values to a slot. `key_of` gives a head's keys, and `value` is `[kv_heads, head_dim]`.
    ///
    /// # Safety
    /// While this runs nobody else accesses this slot of the cache.
    ///
    /// # Panics
    /// When the slot lies outside of the cache, or a head has more keys than `key_elements`.
    unsafe fn write<'k>(&self, slot: usize, mut key_of: impl FnMut(usize) -> &'k [K], value: &[V])
    where
        K: 'k,
    {
        let (block, offset) = (slot / BLOCK_TOKENS, slot % BLOCK_TOKENS);
        for head in 0..self.kv_heads {
            let at = (block * self.kv_heads + head) * self.key_elements * BLOCK_TOKENS + offset;
            let key = key_of(head);
            assert!(key.len() <= self.key_elements);
            // SAFETY: `strided` has checked that all `key_elements` elements from `at` on, `BLOCK_TOKENS` apart, are
            // inside of the keys, and there are no more in `key`. They are column `offset` of the block's head, which
            // belongs to the slot only, and the caller keeps the slot to this call.
            unsafe {
                let out = self.keys.strided(at, self.key_elements, BLOCK_TOKENS);
                for (index, key) in key.iter().enumerate() {
                    out.add(index * BLOCK_TOKENS).write(*key);
                }
            }
            let at = ((block * self.kv_heads + head) * BLOCK_TOKENS + offset) * self.head_dim;
            // SAFETY: these are the slot's values of this head, which the caller keeps to this call.
            let out = unsafe { self.values.part(at, self.head_dim) };
            out.copy_from_slice(&value[head * self.head_dim..][..self.head_dim]);
        }
    }
}

thread_local! {
    static ROUNDED: RefCell<RoundedRow> = RefCell::default();
}

/// A worker's copy of a row in 16 bits.
#[derive(Default)]
struct RoundedRow {
    /// Keys and values, or values only.
    bits: Vec<u16>,
    /// Keys in pairs, `[kv_heads, head_pairs]`.
    key_pairs: Vec<u32>,
}

/// Where the keys and values of each row of a step are stored. No two rows have the same slot.
#[derive(Debug, Default)]
pub struct SlotMapping {
    /// For each row the block times [`BLOCK_TOKENS`], plus the token's offset in the block.
    slots: Vec<usize>,
    /// Scratch for finding equal slots.
    sorted: Vec<usize>,
}

impl SlotMapping {
    /// Sets the rows' slots: for each row its block times [`BLOCK_TOKENS`], plus the token's offset in the block.
    ///
    /// # Panics
    /// When two rows have the same slot: threads would write it at the same time.
    pub fn set(&mut self, slots: impl Iterator<Item = usize>) {
        self.slots.clear();
        self.slots.extend(slots);
        self.sorted.clone_from(&self.slots);
        self.sorted.sort_unstable();
        let distinct = self.sorted.windows(2).all(|pair| pair[0] != pair[1]);
        if !distinct {
            // So that nobody can use the mapping after the panic.
            self.slots.clear();
        }
        assert!(distinct, "two rows of a step have the same slot of the KV cache");
    }
}

/// Rotates queries and keys of `qkv` (`[rows, q | k | v]`) in place, and writes keys and values to the cache, each row to its
/// slot.
///
/// # Panics
/// When a slot lies outside of the cache, or there are fewer rows than slots.
pub fn rope_and_store(
    compute: &mut Compute,
    qkv: &mut [f32],
    slots: &SlotMapping,
    angles: RopeAngles<'_>,
    cache: &mut LayerCache,
) {
    let (shape, isa) = (cache.shape, compute.isa);
    let head_dim = shape.head_dim;
    let slots = slots.slots.as_slice();
    let batch = RotatedBatch { shape, slots, angles };
    match &mut cache.store {
        Store::F32 { keys, values } => {
            let writer = CacheWriter::new(shape, head_dim, keys, values);
            batch.run(compute, qkv, &|slot, key, value| {
                let key_of = |head: usize| &key[head * head_dim..][..head_dim];
                // SAFETY: a `SlotMapping` has another slot for each row, and the cache is borrowed exclusively.
                unsafe { writer.write(slot, key_of, value) };
            });
        }
        Store::F16 { keys, values } => {
            let writer = CacheWriter::new(shape, head_dim, keys, values);
            batch.run(compute, qkv, &|slot, key, value| {
                ROUNDED.with_borrow_mut(|rounded| {
                    let bits = scratch_slice(&mut rounded.bits, key.len() + value.len());
                    let (key_bits, value_bits) = bits.split_at_mut(key.len());
                    round_to_f16(isa, key, key_bits);
                    round_to_f16(isa, value, value_bits);
                    let key_of = |head: usize| &key_bits[head * head_dim..][..head_dim];
                    // SAFETY: as for F32.
                    unsafe { writer.write(slot, key_of, value_bits) };
                });
            });
        }
        Store::Bf16 { keys, values } => {
            let head_pairs = head_pairs(shape);
            let writer = CacheWriter::new(shape, head_pairs, keys, values);
            batch.run(compute, qkv, &|slot, key, value| {
                ROUNDED.with_borrow_mut(|rounded| {
                    let value_bits = scratch_slice(&mut rounded.bits, value.len());
                    round_to_bf16(isa, value, value_bits);
                    let pairs = scratch_slice(&mut rounded.key_pairs, shape.kv_heads * head_pairs);
                    for (key, pairs) in key.chunks_exact(head_dim).zip(pairs.chunks_exact_mut(head_pairs)) {
                        round_to_pairs(isa, key, pairs);
                    }
                    let key_of = |head: usize| &pairs[head * head_pairs..][..head_pairs];
                    // SAFETY: as for F32.
                    unsafe { writer.write(slot, key_of, value_bits) };
                });
            });
        }
    }
}

/// Takes a row's slot, its keys and its values.
type StoreRow<'a> = dyn Fn(usize, &[f32], &[f32]) + Sync + 'a;

/// A batch whose rows are rotated.
struct RotatedBatch<'a> {
    shape: AttentionShape,
    /// A slot for each row.
    slots: &'a [usize],
    angles: RopeAngles<'a>,
}

impl RotatedBatch<'_> {
    /// Rotates the rows of `qkv`, and calls `store` with each.
    fn run(&self, compute: &mut Compute, qkv: &mut [f32], store: &StoreRow<'_>) {
        let Self { shape, slots, angles } = self;
        let (width, pairs, head_dim) = (shape.qkv_width(), angles.pairs, shape.head_dim);
        let isa = compute.isa;
        let rows = DisjointSlices::new(qkv);
        compute.pool.run_parts(slots.len(), ROWS_PER_TASK, &|part| {
            for row in part {
                // SAFETY: `run_parts` gives each task other rows, and these elements are the row's only.
                let qkv = unsafe { rows.part(row * width, width) };
                let (cos, sin) = (
                    &angles.cos[row * pairs..][..pairs],
                    &angles.sin[row * pairs..][..pairs],
                );
                let (rotated, value) = qkv.split_at_mut((shape.heads + shape.kv_heads) * head_dim);
                rope_heads(isa, rotated, head_dim, cos, sin, angles.style);
                store(slots[row], &rotated[shape.heads * head_dim..], value);
            }
        });
    }
}

per_isa! {
    /// Rounds values to the bits of bf16.
    fn round_to_bf16(isa; values: &[f32], out: &mut [u16]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = round(*value) as u16;
        }
    }
}

per_isa! {
    /// Rounds values to pairs of bf16, and fills `out` up with zeros.
    fn round_to_pairs(isa; values: &[f32], out: &mut [u32]) {
        let (pairs, rest) = out.split_at_mut(values.len() / 2);
        for (out, two) in pairs.iter_mut().zip(values.as_chunks::<2>().0) {
            *out = round(two[0]) | round(two[1]) << 16;
        }
        rest.fill(0);
    }
}
