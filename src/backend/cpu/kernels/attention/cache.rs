//! Keys and values in blocks of tokens, and how rows enter them.
//!
//! Per layer, keys lie as `[block][kv_head][head_dim][BLOCK_TOKENS]` and values as
//! `[block][kv_head][BLOCK_TOKENS][head_dim]`, so that both products of attention have contiguous vectors. In bf16,
//! keys lie in pairs of dimensions, `[block][kv_head][pairs][BLOCK_TOKENS][2]`, filled up with zeros to whole runs,
//! as the processor's tiles take them.

use std::{cell::RefCell, io};

use super::{AttentionShape, BLOCK_TOKENS};
use crate::backend::cpu::kernels::{
    Isa, KvFormat, RopeStyle, ThreadPool,
    arena::Buffer,
    bf16::{RUN, round},
    buffers::sized,
    elementwise::rope_heads,
    floats::{expand_f16, round_to_f16},
    isa::per_isa,
    pool::DisjointSlices,
    prefetch::prefetch,
};

impl KvFormat {
    /// Bytes of a block of one layer, keys and values.
    pub fn block_bytes(self, shape: AttentionShape) -> usize {
        match self {
            Self::F32 => 2 * 4 * block_len(shape),
            Self::F16 => 2 * 2 * block_len(shape),
            Self::Bf16 => 4 * block_pairs(shape) + 2 * block_len(shape),
        }
    }
}

/// Pairs of a head's dimensions, in whole runs.
fn head_pairs(shape: AttentionShape) -> usize {
    shape.head_dim.next_multiple_of(RUN) / 2
}

/// Elements of keys (or of values) in one block of one layer.
fn block_len(shape: AttentionShape) -> usize {
    shape.kv_heads * shape.head_dim * BLOCK_TOKENS
}

/// Pairs of keys' dimensions in one block of one layer.
fn block_pairs(shape: AttentionShape) -> usize {
    shape.kv_heads * head_pairs(shape) * BLOCK_TOKENS
}

/// One layer's keys and values. Memory is taken from the system when a block is first written.
pub struct LayerCache {
    shape: AttentionShape,
    store: Store,
}

/// `[blocks, block_len]` of keys and of values.
enum Store {
    F32 {
        keys: Buffer<f32>,
        values: Buffer<f32>,
    },
    F16 {
        keys: Buffer<u16>,
        values: Buffer<u16>,
    },
    /// Keys are `[blocks, block_pairs]`, even dimensions in the low halves.
    Bf16 {
        keys: Buffer<u32>,
        values: Buffer<u16>,
    },
}

/// Some keys or values that are computed with in f32.
enum Stored<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
}

/// Which of the two.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Keys,
    Values,
}

impl LayerCache {
    /// Room for so many blocks.
    ///
    /// # Errors
    /// When the system does not promise so much memory.
    pub fn new(shape: AttentionShape, kind: KvFormat, blocks: usize) -> io::Result<Self> {
        let len = blocks * block_len(shape);
        let store = match kind {
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

    pub(super) fn kind(&self) -> KvFormat {
        match &self.store {
            Store::F32 { .. } => KvFormat::F32,
            Store::F16 { .. } => KvFormat::F16,
            Store::Bf16 { .. } => KvFormat::Bf16,
        }
    }

    /// One head's part of a block of a [`KvFormat::Bf16`] cache: keys in pairs of dimensions, `[pairs][BLOCK_TOKENS]`, and
    /// values, `[BLOCK_TOKENS][head_dim]`.
    ///
    /// # Panics
    /// When the block lies outside the cache.
    pub(super) fn rounded(&self, (block, head): (usize, usize)) -> (&[u32], &[u16]) {
        let Store::Bf16 { keys, values } = &self.store else {
            unreachable!("operands are chosen by the cache's kind");
        };
        let (head_pairs, head_len) = (
            head_pairs(self.shape) * BLOCK_TOKENS,
            self.shape.head_dim * BLOCK_TOKENS,
        );
        let keys = &keys[block * block_pairs(self.shape) + head * head_pairs..][..head_pairs];
        let values = &values[block * block_len(self.shape) + head * head_len..][..head_len];
        (keys, values)
    }

    /// The first `count` elements of one head's part of a block, as they are stored in other caches.
    ///
    /// # Panics
    /// When the block lies outside the cache.
    fn stored(&self, side: Side, (block, head): (usize, usize), count: usize) -> Stored<'_> {
        let at = block * block_len(self.shape) + head * self.shape.head_dim * BLOCK_TOKENS;
        match (&self.store, side) {
            (Store::F32 { keys: from, .. }, Side::Keys) | (Store::F32 { values: from, .. }, Side::Values) => {
                Stored::F32(&from[at..][..count])
            }
            (Store::F16 { keys: from, .. }, Side::Keys) | (Store::F16 { values: from, .. }, Side::Values) => {
                Stored::F16(&from[at..][..count])
            }
            (Store::Bf16 { .. }, _) => unreachable!("operands are chosen by the cache's kind"),
        }
    }

    /// The first `count` elements of one head's part of a block, as f32: in place, or expanded into `scratch`.
    ///
    /// # Panics
    /// When the block lies outside the cache.
    pub(super) fn head<'a>(
        &'a self,
        isa: Isa,
        side: Side,
        place: (usize, usize),
        count: usize,
        scratch: &'a mut [f32],
    ) -> &'a [f32] {
        match self.stored(side, place, count) {
            Stored::F32(values) => values,
            Stored::F16(bits) => {
                let out = &mut scratch[..count];
                expand_f16(isa, bits, out);
                out
            }
        }
    }

    /// Has all of [`Self::head`]'s elements fetched, for later.
    pub(super) fn fetch(&self, side: Side, place: (usize, usize)) {
        match self.stored(side, place, self.shape.head_dim * BLOCK_TOKENS) {
            Stored::F32(values) => prefetch(values),
            Stored::F16(bits) => prefetch(bits),
        }
    }

    /// Overwrites a whole block with NaN.
    #[cfg(test)]
    pub(super) fn spoil(&mut self, block: usize) {
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
    /// How many pairs of each head's dimensions are rotated, from the first on.
    pub pairs: usize,
    /// `[rows, pairs]`
    pub cos: &'a [f32],
    /// `[rows, pairs]`
    pub sin: &'a [f32],
    /// How dimensions are paired.
    pub style: RopeStyle,
}

/// Where rows enter a cache: of each head, `lines` elements of its keys [`BLOCK_TOKENS`] apart and `head_dim` of its
/// values side by side.
struct Entry<'a, K, V> {
    kv_heads: usize,
    head_dim: usize,
    lines: usize,
    keys: DisjointSlices<'a, K>,
    values: DisjointSlices<'a, V>,
}

impl<'a, K: Copy, V: Copy> Entry<'a, K, V> {
    fn new(shape: AttentionShape, lines: usize, keys: &'a mut [K], values: &'a mut [V]) -> Self {
        Self {
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            lines,
            keys: DisjointSlices::new(keys),
            values: DisjointSlices::new(values),
        }
    }

    /// Writes a row's keys, as many lines of each head as `key` gives, and values, `[kv_heads, head_dim]`.
    ///
    /// # Safety
    /// No other thread uses this slot.
    unsafe fn write<'k>(&self, slot: usize, mut key: impl FnMut(usize) -> &'k [K], value: &[V])
    where
        K: 'k,
    {
        let (block, offset) = (slot / BLOCK_TOKENS, slot % BLOCK_TOKENS);
        for head in 0..self.kv_heads {
            let at = (block * self.kv_heads + head) * self.lines * BLOCK_TOKENS + offset;
            let key = key(head);
            assert!(key.len() <= self.lines);
            // SAFETY: `strided` has checked that the last line is inside; the rest is the caller's promise.
            unsafe {
                let out = self.keys.strided(at, self.lines, BLOCK_TOKENS);
                for (line, key) in key.iter().enumerate() {
                    out.add(line * BLOCK_TOKENS).write(*key);
                }
            }
            let at = ((block * self.kv_heads + head) * BLOCK_TOKENS + offset) * self.head_dim;
            // SAFETY: by the caller's promise.
            let out = unsafe { self.values.part(at, self.head_dim) };
            out.copy_from_slice(&value[head * self.head_dim..][..self.head_dim]);
        }
    }
}

thread_local! {
    /// A row's keys and values in 16 bits, and a head's keys in pairs.
    static NARROWED: RefCell<(Vec<u16>, Vec<u32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Rotates queries and keys of `qkv` (`[rows, q | k | v]`) in place and writes keys and values to the cache.
/// `slots[row]` is `block * BLOCK_TOKENS + offset`; no two rows share a slot.
///
/// # Panics
/// When a slot lies outside the cache.
pub fn rope_and_store(
    pool: &mut ThreadPool,
    isa: Isa,
    qkv: &mut [f32],
    slots: &[usize],
    angles: RopeAngles<'_>,
    cache: &mut LayerCache,
) {
    let shape = cache.shape;
    let head_dim = shape.head_dim;
    let batch = (shape, slots, angles);
    match &mut cache.store {
        Store::F32 { keys, values } => {
            let entry = Entry::new(shape, head_dim, keys, values);
            rotate_rows(pool, isa, qkv, batch, &|slot, key, value| {
                // SAFETY: slots are distinct.
                unsafe { entry.write(slot, |head| &key[head * head_dim..][..head_dim], value) };
            });
        }
        Store::F16 { keys, values } => {
            let entry = Entry::new(shape, head_dim, keys, values);
            rotate_rows(pool, isa, qkv, batch, &|slot, key, value| {
                NARROWED.with_borrow_mut(|(narrowed, _)| {
                    let (narrow_key, narrow_value) =
                        sized(narrowed, key.len() + value.len()).split_at_mut(key.len());
                    round_to_f16(isa, key, narrow_key);
                    round_to_f16(isa, value, narrow_value);
                    let key = |head: usize| &narrow_key[head * head_dim..][..head_dim];
                    // SAFETY: slots are distinct.
                    unsafe { entry.write(slot, key, narrow_value) };
                });
            });
        }
        Store::Bf16 { keys, values } => {
            let lines = head_pairs(shape);
            let entry = Entry::new(shape, lines, keys, values);
            rotate_rows(pool, isa, qkv, batch, &|slot, key, value| {
                NARROWED.with_borrow_mut(|(narrowed, pairs)| {
                    let narrow_value = sized(narrowed, value.len());
                    round_to_bf16(isa, value, narrow_value);
                    let pairs = sized(pairs, shape.kv_heads * lines);
                    for (key, pairs) in key.chunks_exact(head_dim).zip(pairs.chunks_exact_mut(lines)) {
                        round_to_pairs(isa, key, pairs);
                    }
                    // SAFETY: slots are distinct.
                    unsafe { entry.write(slot, |head| &pairs[head * lines..][..lines], narrow_value) };
                });
            });
        }
    }
}

/// Takes a row's slot, keys and values.
type StoreRow<'a> = dyn Fn(usize, &[f32], &[f32]) + Sync + 'a;

/// Rotates rows and hands each to `store`.
fn rotate_rows(
    pool: &mut ThreadPool,
    isa: Isa,
    qkv: &mut [f32],
    (shape, slots, angles): (AttentionShape, &[usize], RopeAngles<'_>),
    store: &StoreRow<'_>,
) {
    const ROWS_PER_TASK: usize = 8;
    let (width, pairs, head_dim) = (shape.qkv_width(), angles.pairs, shape.head_dim);
    let rows = DisjointSlices::new(qkv);
    pool.run_parts(slots.len(), ROWS_PER_TASK, &|part| {
        for row in part {
            // SAFETY: tasks take disjoint rows.
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

per_isa! {
    /// f32 to bf16.
    fn round_to_bf16(isa; values: &[f32], out: &mut [u16]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = round(*value) as u16;
        }
    }
}

per_isa! {
    /// f32 to pairs of bf16, filled up with zeros.
    fn round_to_pairs(isa; values: &[f32], out: &mut [u32]) {
        let (pairs, rest) = out.split_at_mut(values.len() / 2);
        for (out, two) in pairs.iter_mut().zip(values.as_chunks::<2>().0) {
            *out = round(two[0]) | round(two[1]) << 16;
        }
        rest.fill(0);
    }
}
