use proptest::prelude::*;

use super::*;
use crate::backend::cpu::kernels::{COARSER, RopeStyle, noise};

struct Case {
    layer: AttentionLayer,
    qkv: Vec<f32>,
    tokens: usize,
}

/// Runs the tokens through the cache in chunks, with the given blocks, and returns all outputs.
fn run(
    case: &Case,
    isa: Isa,
    chunks: &[usize],
    table: &[u32],
    (kind, threads): (KvFormat, usize),
) -> Vec<f32> {
    let mut pool = ThreadPool::new(threads).unwrap();
    let (layer, shape) = (case.layer, case.layer.shape);
    let blocks = *table.iter().max().unwrap() as usize + 1;
    let mut cache = LayerCache::new(shape, kind, blocks).unwrap();
    // Stale contents must not matter.
    (0..blocks).for_each(|block| cache.spoil(block));
    let (width, pairs) = (shape.qkv_width(), shape.head_dim / 2);
    let mut outputs = Vec::new();
    let mut done = 0;
    for &chunk in chunks.iter().cycle() {
        let chunk = chunk.min(case.tokens - done);
        if chunk == 0 {
            break;
        }
        let mut qkv = case.qkv[done * width..][..chunk * width].to_vec();
        let slots: Vec<usize> = (done..done + chunk)
            .map(|p| table[p / BLOCK_TOKENS] as usize * BLOCK_TOKENS + p % BLOCK_TOKENS)
            .collect();
        let (cos, sin) = (vec![0.8; chunk * pairs], vec![0.6; chunk * pairs]);
        let angles = RopeAngles {
            pairs,
            cos: &cos,
            sin: &sin,
            style: RopeStyle::Halves,
        };
        rope_and_store(&mut pool, isa, &mut qkv, &slots, angles, &mut cache);
        // Blocks that have left the first row's window, and so all windows, are not read.
        let gone = layer.window.map_or(0, |window| (done + 1).saturating_sub(window)) / BLOCK_TOKENS;
        for &block in &table[..gone] {
            cache.spoil(block as usize);
        }
        let span = AttentionSpan {
            first_row: 0,
            rows: chunk,
            context: done,
            block_table: table,
        };
        let mut out = vec![0.0; chunk * shape.heads * shape.head_dim];
        attention(&mut pool, isa, layer, &qkv, &[span], &cache, &mut out);
        outputs.extend(out);
        done += chunk;
    }
    outputs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32 / COARSER as u32))]
    #[test]
    fn chunked_scattered_and_threaded_equal_whole_to_the_bit(
        tokens in 1usize..if cfg!(miri) { 160 } else { 400 }, first in 1usize..200, second in 1usize..40, seed: u64, kv_heads in 1usize..if cfg!(miri) { 2 } else { 3 },
        group in 1usize..5, dims in 1usize..if cfg!(miri) { 2 } else { 6 }, window in prop::option::of(1usize..300),
        soft_cap in prop::option::of(0.1f32..2.0), kind in prop::sample::select(vec![KvFormat::F32, KvFormat::F16, KvFormat::Bf16]),
    ) {
        let shape = AttentionShape { heads: kv_heads * group, kv_heads, head_dim: dims * 16 };
        let layer = AttentionLayer { shape, scale: 0.3, soft_cap, window };
        let case = Case { layer, qkv: noise(tokens * shape.qkv_width(), seed), tokens };
        let straight: Vec<u32> = (0..25).collect();
        let scattered: Vec<u32> = (0..25).map(|i| i * 7 % 27).collect();
        let whole = run(&case, Isa::detect(), &[tokens], &straight, (kind, 1));
        for isa in Isa::available() {
            let chunked = run(&case, isa, &[first, second, 1, 1], &scattered, (kind, 2));
            let bits = |outputs: &[f32]| outputs.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&whole), bits(&chunked));
        }
    }
}

/// Crosses segments.
const TOKENS: usize = 150;

#[test]
#[cfg_attr(miri, ignore = "the other test reads as many places")]
fn equals_textbook_attention() {
    for (soft_cap, window) in [
        (None, None),
        (Some(0.7), None),
        (None, Some(5)),
        (Some(0.3), Some(17)),
        (None, Some(140)),
    ] {
        let shape = AttentionShape {
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
        };
        let layer = AttentionLayer {
            shape,
            scale: 0.2,
            soft_cap,
            window,
        };
        let case = Case {
            layer,
            qkv: noise(TOKENS * shape.qkv_width(), 5),
            tokens: TOKENS,
        };
        // Values are below 1; f16 has eleven binary digits, bf16 eight.
        for (kind, tolerance) in [
            (KvFormat::F32, 1e-5),
            (KvFormat::F16, 1e-3),
            (KvFormat::Bf16, 1e-2),
        ] {
            check_against_textbook(&case, kind, tolerance);
        }
    }
}

fn check_against_textbook(case: &Case, kind: KvFormat, tolerance: f64) {
    let table: Vec<u32> = (0..TOKENS.div_ceil(BLOCK_TOKENS) as u32).collect();
    let found = run(case, Isa::detect(), &[TOKENS], &table, (kind, 2));
    let (layer, width) = (case.layer, case.layer.shape.qkv_width());
    let rotate = |v: &[f32]| -> Vec<f64> {
        let h = v.len() / 2;
        let (a, b) = (|i: usize| f64::from(v[i]), |i: usize| f64::from(v[i + h]));
        (0..h)
            .map(|i| a(i) * 0.8 - b(i) * 0.6)
            .chain((0..h).map(|i| b(i) * 0.8 + a(i) * 0.6))
            .collect()
    };
    let capped = |score: f64| match layer.soft_cap {
        Some(cap) => f64::from(cap) * (score / f64::from(cap)).tanh(),
        None => score,
    };
    for t in 0..TOKENS {
        for head in 0..4 {
            let part = |token: usize, slot: usize| &case.qkv[token * width + slot * 32..][..32];
            let q = rotate(part(t, head));
            let seen = |s: &usize| layer.window.is_none_or(|window| t - s < window);
            let weights: Vec<(usize, f64)> = (0..=t)
                .filter(seen)
                .map(|s| {
                    let k = rotate(part(s, 4 + head / 2));
                    let product: f64 = q.iter().zip(&k).map(|(a, b)| a * b).sum();
                    (s, capped(product * f64::from(layer.scale)).exp())
                })
                .collect();
            let total: f64 = weights.iter().map(|(_, w)| w).sum();
            for d in 0..32 {
                let values = weights
                    .iter()
                    .map(|(s, w)| w / total * f64::from(part(*s, 6 + head / 2)[d]));
                let expected: f64 = values.sum();
                let found = f64::from(found[(t * 4 + head) * 32 + d]);
                assert!(
                    (found - expected).abs() < tolerance,
                    "{kind:?} {layer:?}: token {t} head {head} dim {d}: {found} {expected}"
                );
            }
        }
    }
}
