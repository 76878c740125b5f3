//! Products against scalar twins, on every instruction set that this processor has.

use proptest::prelude::*;

use super::*;
use crate::backend::cpu::kernels::{Arena, COARSER, MatrixSource, RawElements, TensorFormat};

fn noise(seed: u32, len: usize) -> Vec<f32> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state as i32 as f32) / (1u32 << 31) as f32
        })
        .collect()
}

fn pack(pool: &mut ThreadPool, source: &MatrixSource<'_>) -> PackedMatrix {
    PackedMatrix::pack(pool, &mut Arena::default(), source).unwrap()
}

fn noise_blocks(seed: u32, format: TensorFormat, elements: usize) -> Vec<u8> {
    let bytes = format.bytes_for(elements).unwrap();
    let mut out: Vec<u8> = noise(seed, bytes)
        .iter()
        .map(|v| (v * 127.0) as i8 as u8)
        .collect();
    for block in out.chunks_exact_mut(format.block_bytes()) {
        // Sensible scales: small, finite halves wherever this format keeps them.
        let mut set = |at: usize| block[at..at + 2].copy_from_slice(&half::f16::from_f32(0.01).to_le_bytes());
        match format {
            TensorFormat::Q4_0 | TensorFormat::Q5_0 | TensorFormat::Q8_0 => set(0),
            TensorFormat::Q4_1 | TensorFormat::Q5_1 | TensorFormat::Q4K | TensorFormat::Q5K => {
                set(0);
                set(2);
            }
            TensorFormat::Q2K => {
                set(80);
                set(82);
            }
            TensorFormat::Q3K => set(108),
            TensorFormat::Q6K => set(208),
            TensorFormat::Q8K => block[..4].copy_from_slice(&0.01f32.to_le_bytes()),
            TensorFormat::F16 => {
                block.copy_from_slice(&half::f16::from_f32(f32::from(block[0])).to_le_bytes())
            }
            TensorFormat::Bf16 => {
                block.copy_from_slice(&half::bf16::from_f32(f32::from(block[0])).to_le_bytes())
            }
            TensorFormat::F32 => block.copy_from_slice(&f32::from(block[0]).to_le_bytes()),
        }
    }
    out
}

const FORMATS: [TensorFormat; 14] = [
    TensorFormat::F32,
    TensorFormat::F16,
    TensorFormat::Bf16,
    TensorFormat::Q4_0,
    TensorFormat::Q4_1,
    TensorFormat::Q5_0,
    TensorFormat::Q5_1,
    TensorFormat::Q8_0,
    TensorFormat::Q2K,
    TensorFormat::Q3K,
    TensorFormat::Q4K,
    TensorFormat::Q5K,
    TensorFormat::Q6K,
    TensorFormat::Q8K,
];

/// One chain of fused multiply-adds per element: what every path in f32 must equal to the bit.
fn twin(x: &[f32], source: &MatrixSource<'_>, out: &mut [f32], offset: usize, stride: usize) {
    let mut row = vec![0.0; source.cols];
    for n in 0..source.rows {
        source.read_row(n, &mut row).unwrap();
        for (i, x) in x.chunks_exact(source.cols).enumerate() {
            let sum = &mut out[i * stride + offset + n];
            for (x, w) in x.iter().zip(&row) {
                *sum = x.mul_add(*w, *sum);
            }
        }
    }
}

/// The same in integers: exact sums per group of weights, then one chain over the groups.
fn int8_twin(x: &[f32], source: &MatrixSource<'_>, out: &mut [f32], offset: usize, stride: usize) {
    let RawElements::Bytes(format, bytes) = source.elements else {
        panic!("not quantised");
    };
    let row_bytes = format.bytes_for(source.cols).unwrap();
    for (i, x) in x.chunks_exact(source.cols).enumerate() {
        let spans: Vec<(f32, Vec<i32>)> = x
            .chunks_exact(32)
            .map(|span| {
                let largest = span.iter().fold(0f32, |a, v| a.max(v.abs()));
                let quants = span
                    .iter()
                    .map(|v| (v * (127.0 / largest)).round_ties_even() as i32);
                (largest / 127.0, quants.collect())
            })
            .collect();
        for n in 0..source.rows {
            let out = &mut out[i * stride + offset + n];
            let mut k = 0;
            for block in bytes[n * row_bytes..][..row_bytes].chunks_exact(format.block_bytes()) {
                format.unpack(block, |group| {
                    let (scale, quants) = &spans[k / 32];
                    let quants = &quants[k % 32..][..format.group_size()];
                    let dot: i32 = quants
                        .iter()
                        .zip(group.quants)
                        .map(|(x, w)| x * i32::from(w))
                        .sum();
                    let mut t = group.scale.value() * dot as f32;
                    if format.has_min() {
                        t = group.min.value().mul_add(quants.iter().sum::<i32>() as f32, t);
                    }
                    *out = t.mul_add(*scale, *out);
                    k += format.group_size();
                });
            }
        }
    }
}

/// The same of values rounded to bf16: for each 32 inputs a chain of the even and one of the odd ones.
fn bf16_twin(x: &[f32], source: &MatrixSource<'_>, out: &mut [f32], offset: usize, stride: usize) {
    let round = |value: f32| half::bf16::from_f32(value).to_f32();
    let mut row = vec![0.0; source.cols];
    for n in 0..source.rows {
        source.read_row(n, &mut row).unwrap();
        for (i, x) in x.chunks_exact(source.cols).enumerate() {
            let sum = &mut out[i * stride + offset + n];
            for (x, w) in x.chunks(32).zip(row.chunks(32)) {
                let mut chains = [0f32; 2];
                for (k, (x, w)) in x.iter().zip(w).enumerate() {
                    chains[k % 2] = round(*x).mul_add(round(*w), chains[k % 2]);
                }
                *sum += chains[0] + chains[1];
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64 / COARSER as u32))]
    #[test]
    fn equals_the_scalar_twin_on_every_instruction_set(
        m in 1usize..if cfg!(miri) { 4 } else { 60 }, rows in 1usize..if cfg!(miri) { 70 } else { 150 },
        more in 0usize..if cfg!(miri) { 3 } else { 70 }, format in 0usize..14, seed: u32, add: bool,
        precision in prop::sample::select(vec![Products::F32, Products::Bf16, Products::Int8]),
    ) {
        let format = FORMATS[format];
        let cols = 256;
        let bytes = noise_blocks(seed, format, rows * cols);
        let floats = noise(seed ^ 1, more * cols);
        let sources = [
            MatrixSource { rows, cols, elements: RawElements::Bytes(format, &bytes) },
            MatrixSource { rows: more, cols, elements: RawElements::F32(&floats) },
        ];
        let x = noise(seed ^ 2, m * cols);
        let start = if add { noise(seed ^ 3, m * (rows + more)) } else { vec![0.0; m * (rows + more)] };
        let mut expected = start.clone();
        for (source, offset) in sources.iter().zip([0, rows]) {
            let twin = match precision {
                Products::Bf16 => bf16_twin,
                Products::Int8 if source.format().block_elements() > 1 => int8_twin,
                Products::Int8 | Products::F32 => twin,
            };
            twin(&x, source, &mut expected, offset, rows + more);
        }
        for threads in [1, 2] {
            let mut pool = ThreadPool::new(threads).unwrap();
            let parts = sources.iter().map(|s| pack(&mut pool, s)).collect();
            let weights = Linear::new(parts, precision);
            for isa in Isa::available() {
                let mut out = start.clone();
                let output = if add { Output::Add } else { Output::Replace };
                matmul(&mut pool, isa, &x, &weights, &mut out, output);
                prop_assert_eq!(bits(&out), bits(&expected), "{:?} {:?}", isa, format);
            }
        }
    }
}

#[test]
fn bf16_takes_rows_of_any_length() {
    let mut pool = ThreadPool::new(2).unwrap();
    for (cols, m, rows) in [
        (1, 1, 1),
        (31, 18, 33),
        (72, 5, 64),
        (544, 33, 65),
        (1100, 17, 20),
    ] {
        let (floats, x) = (noise(13, rows * cols), noise(17, m * cols));
        let source = MatrixSource {
            rows,
            cols,
            elements: RawElements::F32(&floats),
        };
        let weights = Linear::new(vec![pack(&mut pool, &source)], Products::Bf16);
        let mut expected = vec![0.0; m * rows];
        bf16_twin(&x, &source, &mut expected, 0, rows);
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; m * rows];
            matmul(&mut pool, isa, &x, &weights, &mut out, Output::Replace);
            assert_eq!(bits(&out), bits(&expected), "{cols} {isa:?}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too long, and what it reads is read by the others")]
fn rounded_products_stay_close_to_f32() {
    let (m, rows, cols) = (7, 64, 512);
    let mut pool = ThreadPool::new(1).unwrap();
    for format in FORMATS {
        let bytes = noise_blocks(3, format, rows * cols);
        let source = MatrixSource {
            rows,
            cols,
            elements: RawElements::Bytes(format, &bytes),
        };
        let x = noise(5, m * cols);
        let mut found = Vec::new();
        for precision in [Products::F32, Products::Int8, Products::Bf16] {
            let weights = Linear::new(vec![pack(&mut pool, &source)], precision);
            let mut out = vec![0.0; m * rows];
            matmul(&mut pool, Isa::detect(), &x, &weights, &mut out, Output::Replace);
            found.push(out);
        }
        let norm = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        for rounded in &found[1..] {
            let difference: Vec<f32> = found[0].iter().zip(rounded).map(|(a, b)| a - b).collect();
            // Rounding to 8 bits leaves an error of about 1 / (127 * sqrt(12)) of the largest of 32 values, rounding
            // to bf16 one of about 1 / (256 * sqrt(12)) of each.
            assert!(norm(&difference) < 0.01 * norm(&found[0]), "{format:?}");
        }
    }
}

#[test]
fn a_fault_in_an_activation_reaches_every_output() {
    let (rows, cols) = (70, 256);
    let mut pool = ThreadPool::new(1).unwrap();
    let bytes = noise_blocks(3, TensorFormat::Q4_1, rows * cols);
    let source = MatrixSource {
        rows,
        cols,
        elements: RawElements::Bytes(TensorFormat::Q4_1, &bytes),
    };
    for precision in [Products::Int8, Products::Bf16] {
        let weights = Linear::new(vec![pack(&mut pool, &source)], precision);
        for fault in [f32::NAN, f32::INFINITY] {
            let mut x = noise(5, cols);
            x[77] = fault;
            for isa in Isa::available() {
                let mut out = vec![0.0; rows];
                matmul(&mut pool, isa, &x, &weights, &mut out, Output::Replace);
                let reached = |v: &f32| v.is_nan() || precision == Products::Bf16 && v.is_infinite();
                assert!(out.iter().all(reached));
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too long, and what it reads is read by the others")]
fn long_batches_equal_their_rows_alone() {
    let (m, rows, cols) = (401, 96, 160);
    let mut pool = ThreadPool::new(2).unwrap();
    let x = noise(9, m * cols);
    for (format, precision) in [
        (TensorFormat::Q4_1, Products::F32),
        (TensorFormat::Q4_1, Products::Int8),
        (TensorFormat::Q8_0, Products::Int8),
        (TensorFormat::Q4_1, Products::Bf16),
    ] {
        let bytes = noise_blocks(7, format, rows * cols);
        let source = MatrixSource {
            rows,
            cols,
            elements: RawElements::Bytes(format, &bytes),
        };
        let weights = Linear::new(vec![pack(&mut pool, &source)], precision);
        let mut product = |x: &[f32]| {
            let mut out = vec![0.0; x.len() / cols * rows];
            matmul(&mut pool, Isa::detect(), x, &weights, &mut out, Output::Replace);
            out
        };
        let together = product(&x);
        for i in [0, 1, 191, 192, 200, 400] {
            assert_eq!(product(&x[i * cols..][..cols]), together[i * rows..][..rows]);
        }
    }
}

#[test]
fn embedding_rows_equal_the_source() {
    let (rows, cols) = (70, 256);
    let mut pool = ThreadPool::new(1).unwrap();
    for format in FORMATS.into_iter().step_by(COARSER / 4 + 1) {
        let bytes = noise_blocks(11, format, rows * cols);
        let source = MatrixSource {
            rows,
            cols,
            elements: RawElements::Bytes(format, &bytes),
        };
        let packed = pack(&mut pool, &source);
        let (mut expected, mut found) = (vec![0.0; cols], vec![0.0; cols]);
        for row in [0, 1, 63, 64, 69] {
            source.read_row(row, &mut expected).unwrap();
            packed.read_row(row, &mut found);
            assert_eq!(expected, found, "{format:?}");
        }
    }
}
