//! Keys and values in blocks of tokens, and how rows enter them.
//!
//! Per layer, keys lie as `[block][kv_head][head_dim][BLOCK_TOKENS]` and values as
//! `[block][kv_head][BLOCK_TOKENS][head_dim]`, so that both products of attention have contiguous vectors.

use std::{cell::RefCell, io};

use super::{AttentionShape, BLOCK_TOKENS};
use crate::kernels::{
    Isa, RopeStyle, ThreadPool,
    arena::Buffer,
    buffers::sized,
    elementwise::rope_heads,
    floats::{expand_f16, round_to_f16},
    pool::Shards,
};

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvKind {
    /// As computed.
    F32,
    /// Rounded to f16 when stored; computed with in f32.
    F16,
}

impl KvKind {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// One layer's keys and values. Memory is taken from the system when a block is first written.
pub struct LayerCache {
    shape: AttentionShape,
    store: Store,
}

/// `[blocks, block_len]` of keys and of values.
enum Store {
    F32 { keys: Buffer<f32>, values: Buffer<f32> },
    F16 { keys: Buffer<u16>, values: Buffer<u16> },
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
    pub fn new(shape: AttentionShape, kind: KvKind, blocks: usize) -> io::Result<Self> {
        let len = blocks * shape.block_len();
        let store = match kind {
            KvKind::F32 => Store::F32 {
                keys: Buffer::sparse(len)?,
                values: Buffer::sparse(len)?,
            },
            KvKind::F16 => Store::F16 {
                keys: Buffer::sparse(len)?,
                values: Buffer::sparse(len)?,
            },
        };
        Ok(Self { shape, store })
    }

    /// The first `count` elements of one head's part of a block, as f32: in place, or expanded into `scratch`.
    ///
    /// # Panics
    /// When the block lies outside the cache.
    pub(super) fn head<'a>(
        &'a self,
        isa: Isa,
        side: Side,
        (block, head): (usize, usize),
        count: usize,
        scratch: &'a mut [f32],
    ) -> &'a [f32] {
        let at = block * self.shape.block_len() + head * self.shape.head_dim * BLOCK_TOKENS;
        match &self.store {
            Store::F32 { keys, values } => match side {
                Side::Keys => &keys[at..][..count],
                Side::Values => &values[at..][..count],
            },
            Store::F16 { keys, values } => {
                let bits = match side {
                    Side::Keys => &keys[at..][..count],
                    Side::Values => &values[at..][..count],
                };
                let out = &mut scratch[..count];
                expand_f16(isa, bits, out);
                out
            }
        }
    }

    /// Overwrites a whole block with NaN.
    #[cfg(test)]
    pub(super) fn spoil(&mut self, block: usize) {
        let (at, len) = (block * self.shape.block_len(), self.shape.block_len());
        match &mut self.store {
            Store::F32 { keys, values } => {
                keys[at..][..len].fill(f32::NAN);
                values[at..][..len].fill(f32::NAN);
            }
            Store::F16 { keys, values } => {
                keys[at..][..len].fill(0x7e00);
                values[at..][..len].fill(0x7e00);
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

/// Where rows enter a cache.
struct Entry<'a, T> {
    shape: AttentionShape,
    keys: Shards<'a, T>,
    values: Shards<'a, T>,
}

impl<T: Copy> Entry<'_, T> {
    /// Writes a row's keys and values, `[kv_heads, head_dim]` each.
    ///
    /// # Safety
    /// No other thread writes this slot.
    unsafe fn write(&self, slot: usize, key: &[T], value: &[T]) {
        let AttentionShape {
            kv_heads, head_dim, ..
        } = self.shape;
        let (block, offset) = (slot / BLOCK_TOKENS, slot % BLOCK_TOKENS);
        for h in 0..kv_heads {
            let base = block * self.shape.block_len() + h * head_dim * BLOCK_TOKENS;
            for (d, &key) in key[h * head_dim..][..head_dim].iter().enumerate() {
                // SAFETY: by the caller's promise.
                unsafe { self.keys.part(base + d * BLOCK_TOKENS + offset, 1)[0] = key };
            }
            // SAFETY: as above.
            let out = unsafe { self.values.part(base + offset * head_dim, head_dim) };
            out.copy_from_slice(&value[h * head_dim..][..head_dim]);
        }
    }
}

thread_local! {
    /// A row's keys and values in f16.
    static NARROWED: RefCell<Vec<u16>> = const { RefCell::new(Vec::new()) };
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
    match &mut cache.store {
        Store::F32 { keys, values } => {
            let entry = Entry {
                shape,
                keys: Shards::new(keys),
                values: Shards::new(values),
            };
            // SAFETY: slots are distinct.
            rotate_rows(
                pool,
                isa,
                qkv,
                (shape, slots, angles),
                &|slot, key, value| unsafe {
                    entry.write(slot, key, value);
                },
            );
        }
        Store::F16 { keys, values } => {
            let entry = Entry {
                shape,
                keys: Shards::new(keys),
                values: Shards::new(values),
            };
            rotate_rows(pool, isa, qkv, (shape, slots, angles), &|slot, key, value| {
                NARROWED.with_borrow_mut(|narrowed| {
                    let narrowed = sized(narrowed, key.len() + value.len());
                    let (narrow_key, narrow_value) = narrowed.split_at_mut(key.len());
                    round_to_f16(isa, key, narrow_key);
                    round_to_f16(isa, value, narrow_value);
                    // SAFETY: slots are distinct.
                    unsafe { entry.write(slot, narrow_key, narrow_value) };
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
    let rows = Shards::new(qkv);
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
