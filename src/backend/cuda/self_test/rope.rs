//! Tests of the rotation of queries and keys and of writing to the cache, which are exact.

use super::{
    cases::Cases,
    inputs::{Inputs, to_bf16},
    runner::{Runner, UNTOUCHED_BF16},
};
use crate::backend::cuda::{
    arguments::RopeStoreArgs, driver::DriverError, kernels::Kernel, kv_cache::BLOCK_TOKENS,
    launch_sizes::rows_of,
};

/// The slot of rows that fill up a batch.
const NO_SLOT: u32 = u32::MAX;
const BLOCKS: usize = 4;
const POSITIONS: usize = 50;

#[derive(Clone, Copy)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    pairs: usize,
    interleaved: bool,
}

const SHAPES: [Shape; 7] = [
    Shape {
        heads: 1,
        kv_heads: 1,
        head_dim: 16,
        pairs: 8,
        interleaved: false,
    },
    Shape {
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        pairs: 32,
        interleaved: true,
    },
    Shape {
        heads: 6,
        kv_heads: 2,
        head_dim: 80,
        pairs: 40,
        interleaved: false,
    },
    // Parts of heads are rotated, or nothing is.
    Shape {
        heads: 4,
        kv_heads: 4,
        head_dim: 96,
        pairs: 36,
        interleaved: false,
    },
    Shape {
        heads: 2,
        kv_heads: 1,
        head_dim: 48,
        pairs: 10,
        interleaved: true,
    },
    Shape {
        heads: 8,
        kv_heads: 1,
        head_dim: 128,
        pairs: 0,
        interleaved: false,
    },
    Shape {
        heads: 2,
        kv_heads: 1,
        head_dim: 256,
        pairs: 128,
        interleaved: false,
    },
];

pub(super) fn rope_store(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(7);
    for shape in SHAPES {
        for rows in [1, 19] {
            let Shape {
                heads,
                kv_heads,
                head_dim,
                pairs,
                ..
            } = shape;
            let style = if shape.interleaved {
                "interleaved"
            } else {
                "in halves"
            };
            cases.begin(format!(
                "{rows} rows, {heads} heads and {kv_heads} key heads of {head_dim}, {pairs} pairs {style}"
            ));
            let width = (heads + 2 * kv_heads) * head_dim;
            let (cos, sin) = angles(pairs);
            let mut batch = Batch {
                positions: (0..rows).map(|_| inputs.below(POSITIONS) as u32).collect(),
                // Every slot at most once; the last of many rows only fills up the batch.
                slots: inputs.shuffled(BLOCKS * BLOCK_TOKENS)[..rows]
                    .iter()
                    .map(|slot| *slot as u32)
                    .collect(),
                qkv: inputs.normals(rows * width),
            };
            if rows > 1 {
                (batch.positions[rows - 1], batch.slots[rows - 1]) = (0, NO_SLOT);
            }
            let untouched = vec![UNTOUCHED_BF16; BLOCKS * BLOCK_TOKENS * kv_heads * head_dim];
            let qkv = runner.holding(&batch.qkv)?;
            let (keys, values) = (runner.holding(&untouched)?, runner.holding(&untouched)?);
            let (cos_there, sin_there) = (runner.holding(&cos)?, runner.holding(&sin)?);
            let (positions, slots) = (runner.holding(&batch.positions)?, runner.holding(&batch.slots)?);
            let argument = RopeStoreArgs {
                qkv: qkv.address(),
                cos: cos_there.address(),
                sin: sin_there.address(),
                positions: positions.address(),
                slots: slots.address(),
                keys: keys.address(),
                values: values.address(),
                heads: heads as u32,
                kv_heads: kv_heads as u32,
                head_dim: head_dim as u32,
                pairs: pairs as u32,
                interleaved: u32::from(shape.interleaved),
                padding: 0,
            };
            runner.launch(Kernel::RopeStore, rows_of(rows), &argument)?;
            let expected = batch.stored(shape, &cos, &sin, &untouched);
            cases.exact("rows", width, &runner.read(&qkv, rows * width)?, &expected.qkv);
            // Keys and values are told apart by slots of one head each.
            let found = runner.read::<u16>(&keys, untouched.len())?;
            cases.exact("cached keys", head_dim, &found, &expected.keys);
            let found = runner.read::<u16>(&values, untouched.len())?;
            cases.exact("cached values", head_dim, &found, &expected.values);
        }
    }
    Ok(())
}

/// Cosines and sines of all positions, `[position, pair]`.
fn angles(pairs: usize) -> (Vec<f32>, Vec<f32>) {
    let angle = |position: usize, pair: usize| {
        let frequency = 10_000f64.powf(-(pair as f64) / pairs.max(1) as f64);
        let angle = position as f64 * frequency;
        (angle.cos() as f32, angle.sin() as f32)
    };
    (0..POSITIONS)
        .flat_map(|position| (0..pairs).map(move |pair| angle(position, pair)))
        .unzip()
}

struct Batch {
    positions: Vec<u32>,
    slots: Vec<u32>,
    qkv: Vec<f32>,
}

/// What the kernel leaves behind.
struct Stored {
    qkv: Vec<f32>,
    keys: Vec<u16>,
    values: Vec<u16>,
}

impl Batch {
    fn stored(&self, shape: Shape, cos: &[f32], sin: &[f32], untouched: &[u16]) -> Stored {
        let Shape {
            heads,
            kv_heads,
            head_dim,
            pairs,
            interleaved,
        } = shape;
        let mut stored = Stored {
            qkv: self.qkv.clone(),
            keys: untouched.to_vec(),
            values: untouched.to_vec(),
        };
        let width = (heads + 2 * kv_heads) * head_dim;
        for (row, qkv) in self.qkv.chunks(width).enumerate() {
            let angles = self.positions[row] as usize * pairs;
            let rotated = |head: usize| {
                let mut head = qkv[head * head_dim..][..head_dim].to_vec();
                for pair in 0..pairs {
                    let (first, second) = match interleaved {
                        true => (2 * pair, 2 * pair + 1),
                        false => (pair, pair + pairs),
                    };
                    let (x, y) = (head[first], head[second]);
                    let (cos, sin) = (cos[angles + pair], sin[angles + pair]);
                    head[first] = x.mul_add(cos, -(y * sin));
                    head[second] = y.mul_add(cos, x * sin);
                }
                head
            };
            for head in 0..heads {
                stored.qkv[row * width + head * head_dim..][..head_dim].copy_from_slice(&rotated(head));
            }
            let slot = self.slots[row];
            if slot == NO_SLOT {
                continue;
            }
            let (block, offset) = (slot as usize / BLOCK_TOKENS, slot as usize % BLOCK_TOKENS);
            for head in 0..kv_heads {
                let at = ((block * kv_heads + head) * BLOCK_TOKENS + offset) * head_dim;
                let value = &qkv[(heads + kv_heads + head) * head_dim..][..head_dim];
                for (i, (key, value)) in rotated(heads + head).iter().zip(value).enumerate() {
                    stored.keys[at + i] = to_bf16(*key);
                    stored.values[at + i] = to_bf16(*value);
                }
            }
        }
        stored
    }
}
