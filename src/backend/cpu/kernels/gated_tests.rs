//! The joined feed-forward part against its products one after the other.

use proptest::prelude::*;

use super::*;
use crate::{
    backend::cpu::kernels::{
        arena::Arena,
        isa::Isa,
        matmul::matmul,
        packed::PackedMatrix,
        pool::ThreadPool,
        test_support::{COARSER, bits, compute, noise},
    },
    model::spec::{MatrixSource, Products, RawElements, TensorFormat, TokenKind},
};

/// A pseudo-random matrix. Scales and minimums of Q4_1 and Q8_0 are small and finite.
fn matrix(pool: &mut ThreadPool, format: TensorFormat, rows: usize, cols: usize, seed: u64) -> PackedMatrix {
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

/// Computes the products one after the other.
fn run_in_turn(
    compute: &mut Compute,
    products: &GatedFeedForward<'_>,
    x: &[f32],
    out: &mut [f32],
    output: Output,
) {
    let (m, width) = (x.len() / products.gate_up.cols(), products.down.cols());
    let (mut gate_up, mut gated) = (vec![0.0; m * 2 * width], vec![0.0; m * width]);
    matmul(compute, x, products.gate_up, &mut gate_up, Output::Replace);
    gate(compute, products.activation, &gate_up, width, &mut gated);
    matmul(compute, &gated, products.down, out, output);
}

/// A feed-forward part and a batch.
#[derive(Debug, Clone, Copy)]
struct Case {
    threads: usize,
    /// Rows of the batch.
    m: usize,
    /// Inputs of gate and up.
    cols: usize,
    /// Outputs of gate, and of up.
    width: usize,
    /// Outputs of down.
    outputs: usize,
    format: TensorFormat,
    /// Whether gate and up are one matrix.
    whole: bool,
    output: Output,
    activation: Activation,
    precision: Products,
    seed: u64,
}

/// Both ways give the same bits, on every instruction set.
fn check(case: Case) {
    let Case {
        threads,
        m,
        cols,
        width,
        outputs,
        format,
        whole,
        output,
        activation,
        precision,
        seed,
    } = case;
    let mut compute = compute(threads, Isa::detect());
    let gate_up = if whole {
        vec![matrix(&mut compute.pool, format, 2 * width, cols, seed)]
    } else {
        let mut one = |seed| matrix(&mut compute.pool, format, width, cols, seed);
        vec![one(seed), one(seed ^ 5)]
    };
    let down = matrix(&mut compute.pool, format, outputs, width, seed ^ 9);
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
    for isa in Isa::available() {
        compute.isa = isa;
        let (mut expected, mut found) = (before.clone(), before.clone());
        run_in_turn(&mut compute, &products, &x, &mut expected, output);
        let buffers = &mut GatedBuffers::default();
        products.run(
            &mut compute,
            TokenRows::of_prompts(&x),
            buffers,
            &mut found,
            output,
        );
        assert_eq!(bits(&found), bits(&expected), "{isa:?} {case:?}");
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
        odd in 0usize..32, outputs in 1usize..100, whole: bool, add: bool, gelu: bool, seed: u64,
        precision in prop::sample::select(vec![Products::Bf16, Products::Bf16, Products::Int8, Products::F32]),
    ) {
        let (format, odd) = match format {
            0 | 1 => (FLOATS[format], odd),
            _ => (BLOCKS[format - 2], 0),
        };
        let activation = if gelu { Activation::GeluTanh } else { Activation::Silu };
        let (cols, width) = (32 * runs - odd, 32 * blocks - odd);
        let output = if add { Output::Add } else { Output::Replace };
        check(Case {
            threads, m, cols, width, outputs, format, whole, output, activation, precision, seed,
        });
    }
}

#[test]
#[cfg_attr(miri, ignore = "too long, and what it reads is read by the others")]
fn equals_them_where_inputs_and_rows_are_taken_in_parts() {
    for (threads, m, cols, width, whole) in [
        (2, 300, 64, 96, false),
        (1, 40, 1312, 128, true),
        (1, 65, 2048, 160, false),
        (2, 17, 576, 1504, false),
    ] {
        check(Case {
            threads,
            m,
            cols,
            width,
            outputs: 70,
            format: TensorFormat::Q4_1,
            whole,
            output: Output::Add,
            activation: Activation::Silu,
            precision: Products::Bf16,
            seed: 3,
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16 / COARSER as u32))]
    /// Rows of prompts and of generated tokens beside each other have the bits that they have apart, joined or not.
    #[test]
    fn rows_of_each_kind_equal_those_of_their_precision(
        prompt in 0usize..if cfg!(miri) { 2 } else { 60 }, generated in 0usize..if cfg!(miri) { 2 } else { 20 },
        blocks in 1usize..13, threads in 1usize..3, outputs in 1usize..100, down_in_floats: bool, add: bool, seed: u64,
    ) {
        let (cols, width, m) = (64, 32 * blocks, prompt + generated);
        let mut compute = compute(threads, Isa::detect());
        let down_format = if down_in_floats { TensorFormat::Bf16 } else { TensorFormat::Q8_0 };
        let mut linear = |precision: &dyn Fn(TokenKind) -> Products| {
            let gate = matrix(&mut compute.pool, TensorFormat::Q4_1, width, cols, seed);
            let up = matrix(&mut compute.pool, TensorFormat::Q4_1, width, cols, seed ^ 5);
            let down = matrix(&mut compute.pool, down_format, outputs, width, seed ^ 9);
            [Linear::by_kind(vec![gate, up], precision), Linear::by_kind(vec![down], precision)]
        };
        let mixed = linear(&|kind| match kind {
            TokenKind::Prompt => Products::Bf16,
            TokenKind::Generated => Products::Int8,
        });
        let of_prompts = linear(&|_| Products::Bf16);
        // What products in turn compute of generated tokens: down has no integers where it is of floats.
        let [gate_up, _] = linear(&|_| Products::Int8);
        let [_, down] = linear(&|_| if down_in_floats { Products::Bf16 } else { Products::Int8 });
        let of_generated = [gate_up, down];
        let part = |[gate_up, down]: &'_ [Linear; 2], compute: &mut Compute, x: TokenRows<'_>, out: &mut [f32]| {
            let products = GatedFeedForward { gate_up, activation: Activation::Silu, down };
            let output = if add { Output::Add } else { Output::Replace };
            products.run(compute, x, &mut GatedBuffers::default(), out, output);
        };
        let (x, before) = (noise(m * cols, seed ^ 2), noise(m * outputs, seed ^ 3));
        for isa in Isa::available() {
            compute.isa = isa;
            let (mut expected, mut found) = (before.clone(), before.clone());
            let (first, last) = x.split_at(prompt * cols);
            let (first_out, last_out) = expected.split_at_mut(prompt * outputs);
            part(&of_prompts, &mut compute, TokenRows::of_prompts(first), first_out);
            part(&of_generated, &mut compute, TokenRows::of_prompts(last), last_out);
            part(&mixed, &mut compute, TokenRows { values: &x, prompt }, &mut found);
            prop_assert_eq!(bits(&found), bits(&expected), "{:?}", isa);
        }
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn is_joined_where_there_are_tiles() {
    let mut compute = compute(1, Isa::detect());
    let mut one = |rows, cols| matrix(&mut compute.pool, TensorFormat::F32, rows, cols, 3);
    let gate_up = Linear::new(vec![one(128, 4), one(128, 4)], Products::Bf16);
    let down = Linear::new(vec![one(8, 128)], Products::Bf16);
    let products = GatedFeedForward {
        gate_up: &gate_up,
        activation: Activation::Silu,
        down: &down,
    };
    for isa in Isa::available() {
        compute.isa = isa;
        for rows in [FEW_ROWS, FEW_ROWS + 1] {
            let (x, mut out) = (vec![1.0; 4 * rows], vec![0.0; 8 * rows]);
            let done = products.run_joined(&mut compute, &x, &mut out, Output::Replace);
            assert_eq!(done, isa.0 == IsaKind::Amx && rows > FEW_ROWS);
        }
    }
}
