//! The joined feed-forward part against its products one after the other.

use proptest::prelude::*;

use super::*;
use crate::backend::cpu::kernels::{
    Arena, COARSER, MatrixSource, PackedMatrix, RawElements, TensorFormat, noise,
};

/// A matrix of noise: Q4_1 and Q8_0 with sensible scales.
fn matrix(
    pool: &mut ThreadPool,
    format: TensorFormat,
    (rows, cols): (usize, usize),
    seed: u64,
) -> PackedMatrix {
    let bytes: Vec<u8> = match format {
        TensorFormat::F32 => noise(rows * cols, seed)
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
        TensorFormat::Bf16 => noise(rows * cols, seed)
            .iter()
            .flat_map(|value| half::bf16::from_f32(*value).to_le_bytes())
            .collect(),
        _ => {
            let len = format.bytes_for(rows * cols).unwrap();
            let mut bytes: Vec<u8> = noise(len, seed).iter().map(|v| (v * 127.0) as i8 as u8).collect();
            for block in bytes.chunks_exact_mut(format.block_bytes()) {
                block[..2].copy_from_slice(&half::f16::from_f32(0.01).to_le_bytes());
                if format == TensorFormat::Q4_1 {
                    block[2..4].copy_from_slice(&half::f16::from_f32(-0.07).to_le_bytes());
                }
            }
            bytes
        }
    };
    let elements = RawElements::Bytes(format, &bytes);
    let source = MatrixSource { rows, cols, elements };
    PackedMatrix::pack(pool, &mut Arena::default(), &source).unwrap()
}

/// The products one after the other.
fn unfused(
    pool: &mut ThreadPool,
    isa: Isa,
    products: &GatedFeedForward<'_>,
    x: &[f32],
    (out, output): (&mut [f32], Output),
) {
    let (m, width) = (x.len() / products.gate_up.cols(), products.down.cols());
    let (mut gate_up, mut gated) = (vec![0.0; m * 2 * width], vec![0.0; m * width]);
    matmul(pool, isa, x, products.gate_up, &mut gate_up, Output::Replace);
    gate(pool, isa, products.activation, &gate_up, width, &mut gated);
    matmul(pool, isa, &gated, products.down, out, output);
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Both ways give the same bits, on every instruction set.
fn check(
    threads: usize,
    (m, cols, width, outputs): (usize, usize, usize, usize),
    format: TensorFormat,
    [whole, add]: [bool; 2],
    (activation, precision): (Activation, Products),
    seed: u64,
) {
    let mut pool = ThreadPool::new(threads).unwrap();
    let gate_up = if whole {
        vec![matrix(&mut pool, format, (2 * width, cols), seed)]
    } else {
        let mut one = |seed| matrix(&mut pool, format, (width, cols), seed);
        vec![one(seed), one(seed ^ 5)]
    };
    let down = matrix(&mut pool, format, (outputs, width), seed ^ 9);
    let (gate_up, down) = (
        Linear::new(gate_up, precision),
        Linear::new(vec![down], precision),
    );
    let products = GatedFeedForward {
        gate_up: &gate_up,
        activation,
        down: &down,
    };
    let (x, before) = (noise(m * cols, seed ^ 2), noise(m * outputs, seed ^ 3));
    let output = if add { Output::Add } else { Output::Replace };
    for isa in Isa::available() {
        let (mut expected, mut found) = (before.clone(), before.clone());
        unfused(&mut pool, isa, &products, &x, (&mut expected, output));
        products.run(
            &mut pool,
            isa,
            &x,
            &mut GatedBuffers::default(),
            (&mut found, output),
        );
        assert_eq!(
            bits(&found),
            bits(&expected),
            "{isa:?} {format:?} {m} {cols} {width}"
        );
    }
}

const FLOATS: [TensorFormat; 2] = [TensorFormat::F32, TensorFormat::Bf16];
const BLOCKS: [TensorFormat; 2] = [TensorFormat::Q4_1, TensorFormat::Q8_0];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32 / COARSER as u32))]
    #[test]
    fn equals_its_products_one_after_the_other(
        m in 1usize..if cfg!(miri) { 3 } else { 100 }, format in 0usize..4, runs in 1usize..4, blocks in 1usize..13,
        threads in 1usize..4,
        odd in 0usize..32, outputs in 1usize..100, choices in any::<[bool; 2]>(), gelu: bool, seed: u64,
        precision in prop::sample::select(vec![Products::Bf16, Products::Bf16, Products::Int8, Products::F32]),
    ) {
        let (format, odd) = match format {
            0 | 1 => (FLOATS[format], odd),
            _ => (BLOCKS[format - 2], 0),
        };
        let activation = if gelu { Activation::GeluTanh } else { Activation::Silu };
        let sizes = (m, 32 * runs - odd, 32 * blocks - odd, outputs);
        check(threads, sizes, format, choices, (activation, precision), seed);
    }
}

#[test]
#[cfg_attr(miri, ignore = "too long, and what it reads is read by the others")]
fn equals_them_where_inputs_and_rows_are_taken_in_parts() {
    let silu_in_tiles = (Activation::Silu, Products::Bf16);
    for (threads, m, cols, width, whole) in [
        (2, 300, 64, 96, false),
        (1, 40, 1312, 128, true),
        (1, 65, 2048, 160, false),
        (2, 17, 576, 1504, false),
    ] {
        check(
            threads,
            (m, cols, width, 70),
            TensorFormat::Q4_1,
            [whole, true],
            silu_in_tiles,
            3,
        );
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn is_in_tiles_where_there_are_tiles() {
    let mut pool = ThreadPool::new(1).unwrap();
    let mut one = |rows, cols| matrix(&mut pool, TensorFormat::F32, (rows, cols), 3);
    let gate_up = Linear::new(vec![one(128, 4), one(128, 4)], Products::Bf16);
    let down = Linear::new(vec![one(8, 128)], Products::Bf16);
    let products = GatedFeedForward {
        gate_up: &gate_up,
        activation: Activation::Silu,
        down: &down,
    };
    for isa in Isa::available() {
        for rows in [FEW_ROWS, FEW_ROWS + 1] {
            let (x, mut out) = (vec![1.0; 4 * rows], vec![0.0; 8 * rows]);
            let done = products.run_in_tiles(&mut pool, isa, &x, &mut out, Output::Replace);
            assert_eq!(done, isa.0 == IsaKind::Amx && rows > FEW_ROWS);
        }
    }
}
