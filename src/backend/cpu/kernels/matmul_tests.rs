//! Products against scalar definitions, on every instruction set that this processor has.

use proptest::prelude::*;

use super::*;
use crate::{
    backend::cpu::kernels::{
        arena::Arena,
        pool::ThreadPool,
        test_support::{COARSER, bits, compute},
    },
    model::spec::{MatrixSource, RawElements, TensorFormat},
};

/// Pseudo-random values from -1 to 1.
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

/// Pseudo-random blocks of a format.
fn noise_blocks(seed: u32, format: TensorFormat, elements: usize) -> Vec<u8> {
    let bytes = format.bytes_for(elements).unwrap();
    let mut out: Vec<u8> = noise(seed, bytes)
        .iter()
        .map(|v| (v * 127.0) as i8 as u8)
        .collect();
    for block in out.chunks_exact_mut(format.block_bytes()) {
        // Scales and minimums are small and finite, wherever the format keeps them.
        for &at in format.half_offsets() {
            block[at..at + 2].copy_from_slice(&half::f16::from_f32(0.01).to_le_bytes());
        }
        match format {
            TensorFormat::Q8K => block[..4].copy_from_slice(&0.01f32.to_le_bytes()),
            TensorFormat::F16 => {
                block.copy_from_slice(&half::f16::from_f32(f32::from(block[0])).to_le_bytes())
            }
            TensorFormat::Bf16 => {
                block.copy_from_slice(&half::bf16::from_f32(f32::from(block[0])).to_le_bytes())
            }
            TensorFormat::F32 => block.copy_from_slice(&f32::from(block[0]).to_le_bytes()),
            _ => {}
        }
    }
    out
}

/// Where a definition adds a product, in rows that are `stride` elements apart.
struct Sums<'a> {
    out: &'a mut [f32],
    /// The product's first output in a row.
    offset: usize,
    stride: usize,
}

impl Sums<'_> {
    fn at(&mut self, row: usize, output: usize) -> &mut f32 {
        &mut self.out[row * self.stride + self.offset + output]
    }
}

/// A definition of a product.
type Definition = fn(&[f32], &MatrixSource<'_>, Sums<'_>);

/// The product in f32: one chain of fused multiply-adds for each element.
fn f32_product(x: &[f32], source: &MatrixSource<'_>, mut sums: Sums<'_>) {
    let mut row = vec![0.0; source.cols];
    for n in 0..source.rows {
        source.read_row(n, &mut row).unwrap();
        for (i, x) in x.chunks_exact(source.cols).enumerate() {
            let sum = sums.at(i, n);
            for (x, w) in x.iter().zip(&row) {
                *sum = x.mul_add(*w, *sum);
            }
        }
    }
}

/// The product in integers: an exact sum for each group of weights, then one chain over the groups.
fn int8_product(x: &[f32], source: &MatrixSource<'_>, mut sums: Sums<'_>) {
    let RawElements::Bytes(format, bytes) = source.elements else {
        panic!("not quantised");
    };
    let row_bytes = format.bytes_for(source.cols).unwrap();
    for (i, x) in x.chunks_exact(source.cols).enumerate() {
        let groups: Vec<(f32, Vec<i32>)> = x
            .chunks_exact(32)
            .map(|group| {
                let largest = group.iter().fold(0f32, |a, v| a.max(v.abs()));
                let quants = group
                    .iter()
                    .map(|v| (v * (127.0 / largest)).round_ties_even() as i32);
                (largest / 127.0, quants.collect())
            })
            .collect();
        for n in 0..source.rows {
            let out = sums.at(i, n);
            let mut k = 0;
            for block in bytes[n * row_bytes..][..row_bytes].chunks_exact(format.block_bytes()) {
                format.unpack(block, |group| {
                    let (scale, quants) = &groups[k / 32];
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

/// The product of values rounded to bf16: for each 32 inputs a chain of the even ones and one of the odd ones.
fn bf16_product(x: &[f32], source: &MatrixSource<'_>, mut sums: Sums<'_>) {
    let round = |value: f32| half::bf16::from_f32(value).to_f32();
    let mut row = vec![0.0; source.cols];
    for n in 0..source.rows {
        source.read_row(n, &mut row).unwrap();
        for (i, x) in x.chunks_exact(source.cols).enumerate() {
            let sum = sums.at(i, n);
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64 / COARSER as u32))]
    #[test]
    fn equals_the_definition_on_every_instruction_set(
        m in 1usize..if cfg!(miri) { 4 } else { 60 }, rows in 1usize..if cfg!(miri) { 70 } else { 150 },
        more in 0usize..if cfg!(miri) { 3 } else { 70 }, format in 0usize..14, seed: u32, add: bool,
        precision in prop::sample::select(vec![Products::F32, Products::Bf16, Products::Int8]),
    ) {
        let format = TensorFormat::ALL[format];
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
            let definition: Definition = match precision {
                Products::Bf16 => bf16_product,
                Products::Int8 if source.format().block_elements() > 1 => int8_product,
                Products::Int8 | Products::F32 => f32_product,
            };
            definition(&x, source, Sums { out: &mut expected, offset, stride: rows + more });
        }
        for threads in [1, 2] {
            let mut compute = compute(threads, Isa::detect());
            let parts = sources.iter().map(|s| pack(&mut compute.pool, s)).collect();
            let weights = Linear::new(parts, precision);
            for isa in Isa::available() {
            compute.isa = isa;
                let mut out = start.clone();
                let output = if add { Output::Add } else { Output::Replace };
                matmul(&mut compute, &x, &weights, &mut out, output);
                prop_assert_eq!(bits(&out), bits(&expected), "{:?} {:?}", isa, format);
            }
        }
    }
}

#[test]
fn bf16_takes_rows_of_any_length() {
    let mut compute = compute(2, Isa::detect());
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
        let weights = Linear::new(vec![pack(&mut compute.pool, &source)], Products::Bf16);
        let mut expected = vec![0.0; m * rows];
        let sums = Sums {
            out: &mut expected,
            offset: 0,
            stride: rows,
        };
        bf16_product(&x, &source, sums);
        for isa in Isa::available() {
            compute.isa = isa;
            let mut out = vec![f32::NAN; m * rows];
            matmul(&mut compute, &x, &weights, &mut out, Output::Replace);
            assert_eq!(bits(&out), bits(&expected), "{cols} {isa:?}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too long, and what it reads is read by the others")]
fn rounded_products_stay_close_to_f32() {
    let (m, rows, cols) = (7, 64, 512);
    let mut compute = compute(1, Isa::detect());
    for format in TensorFormat::ALL {
        let bytes = noise_blocks(3, format, rows * cols);
        let source = MatrixSource {
            rows,
            cols,
            elements: RawElements::Bytes(format, &bytes),
        };
        let x = noise(5, m * cols);
        let mut found = Vec::new();
        for precision in [Products::F32, Products::Int8, Products::Bf16] {
            let weights = Linear::new(vec![pack(&mut compute.pool, &source)], precision);
            let mut out = vec![0.0; m * rows];
            matmul(&mut compute, &x, &weights, &mut out, Output::Replace);
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
    let mut compute = compute(1, Isa::detect());
    let bytes = noise_blocks(3, TensorFormat::Q4_1, rows * cols);
    let source = MatrixSource {
        rows,
        cols,
        elements: RawElements::Bytes(TensorFormat::Q4_1, &bytes),
    };
    for precision in [Products::Int8, Products::Bf16] {
        let weights = Linear::new(vec![pack(&mut compute.pool, &source)], precision);
        for fault in [f32::NAN, f32::INFINITY] {
            let mut x = noise(5, cols);
            x[77] = fault;
            for isa in Isa::available() {
                compute.isa = isa;
                let mut out = vec![0.0; rows];
                matmul(&mut compute, &x, &weights, &mut out, Output::Replace);
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
    let mut compute = compute(2, Isa::detect());
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
        let weights = Linear::new(vec![pack(&mut compute.pool, &source)], precision);
        let mut product = |x: &[f32]| {
            let mut out = vec![0.0; x.len() / cols * rows];
            matmul(&mut compute, x, &weights, &mut out, Output::Replace);
            out
        };
        let together = product(&x);
        for i in [0, 1, 191, 192, 200, 400] {
            assert_eq!(product(&x[i * cols..][..cols]), together[i * rows..][..rows]);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "too long, and what it reads is read by the others")]
fn long_rows_in_integers_equal_the_definition() {
    // Tiles take so many inputs in several parts, and the last tile of rows is not whole.
    let (m, rows, cols) = (39, 70, 13 * 256);
    let mut compute = compute(2, Isa::detect());
    let x = noise(19, m * cols);
    for format in [
        TensorFormat::Q4_1,
        TensorFormat::Q4K,
        TensorFormat::Q6K,
        TensorFormat::Q8_0,
    ] {
        let bytes = noise_blocks(23, format, rows * cols);
        let source = MatrixSource {
            rows,
            cols,
            elements: RawElements::Bytes(format, &bytes),
        };
        let weights = Linear::new(vec![pack(&mut compute.pool, &source)], Products::Int8);
        for (output, start) in [
            (Output::Replace, vec![0.0; m * rows]),
            (Output::Add, noise(29, m * rows)),
        ] {
            let mut expected = start.clone();
            let sums = Sums {
                out: &mut expected,
                offset: 0,
                stride: rows,
            };
            int8_product(&x, &source, sums);
            for isa in Isa::available() {
                compute.isa = isa;
                let mut out = start.clone();
                matmul(&mut compute, &x, &weights, &mut out, output);
                assert_eq!(bits(&out), bits(&expected), "{format:?} {output:?} {isa:?}");
            }
        }
    }
}

#[test]
fn embedding_rows_equal_the_source() {
    let (rows, cols) = (70, 256);
    let mut compute = compute(1, Isa::detect());
    for format in TensorFormat::ALL.into_iter().step_by(COARSER / 4 + 1) {
        let bytes = noise_blocks(11, format, rows * cols);
        let source = MatrixSource {
            rows,
            cols,
            elements: RawElements::Bytes(format, &bytes),
        };
        let packed = pack(&mut compute.pool, &source);
        let (mut expected, mut found) = (vec![0.0; cols], vec![0.0; cols]);
        for row in [0, 1, 63, 64, 69] {
            source.read_row(row, &mut expected).unwrap();
            packed.read_row(row, &mut found);
            assert_eq!(expected, found, "{format:?}");
        }
    }
}

fn mixed(kind: TokenKind) -> Products {
    match kind {
        TokenKind::Prompt => Products::Bf16,
        TokenKind::Generated => Products::Int8,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32 / COARSER as u32))]
    /// Rows of both kinds beside each other have the bits that they have in a product of their kind alone.
    #[test]
    fn rows_of_each_kind_are_computed_in_its_precision(
        prompt in 0usize..if cfg!(miri) { 3 } else { 70 }, generated in 0usize..if cfg!(miri) { 3 } else { 70 },
        rows in 1usize..if cfg!(miri) { 70 } else { 150 }, more in 0usize..if cfg!(miri) { 3 } else { 70 },
        format in prop::sample::select(vec![TensorFormat::Q4_1, TensorFormat::Q8_0, TensorFormat::Q6K]),
        has_floats: bool, seed: u32, add: bool, threads in 1usize..3,
    ) {
        let (cols, m, outputs) = (256, prompt + generated, rows + more);
        let bytes = [(seed, rows), (seed ^ 1, more)].map(|(seed, rows)| noise_blocks(seed, format, rows * cols));
        let floats = noise(seed ^ 4, more * cols);
        let blocks = |bytes, rows| MatrixSource { rows, cols, elements: RawElements::Bytes(format, bytes) };
        let second = match has_floats {
            true => MatrixSource { rows: more, cols, elements: RawElements::F32(&floats) },
            false => blocks(&bytes[1], more),
        };
        let sources = [blocks(&bytes[0], rows), second];
        let x = noise(seed ^ 2, m * cols);
        let start = if add { noise(seed ^ 3, m * outputs) } else { vec![0.0; m * outputs] };
        let output = if add { Output::Add } else { Output::Replace };
        let mut compute = compute(threads, Isa::detect());
        let mut packed = || sources.iter().map(|s| pack(&mut compute.pool, s)).collect::<Vec<_>>();
        let both = Linear::by_kind(packed(), mixed);
        // A matrix of floats cannot be multiplied in integers, and then neither is the other one.
        let of_generated = if has_floats { Products::Bf16 } else { Products::Int8 };
        let [first, last] = [Products::Bf16, of_generated].map(|precision| Linear::new(packed(), precision));
        prop_assert_eq!(both.is_uniform(), has_floats);
        for isa in Isa::available() {
            compute.isa = isa;
            let (mut expected, mut found) = (start.clone(), start.clone());
            let (prompt_out, generated_out) = expected.split_at_mut(prompt * outputs);
            matmul(&mut compute, &x[..prompt * cols], &first, prompt_out, output);
            matmul(&mut compute, &x[prompt * cols..], &last, generated_out, output);
            let rows = TokenRows { values: &x, prompt };
            matmul_by_kind(&mut compute, rows, &both, &mut found, output);
            prop_assert_eq!(bits(&found), bits(&expected), "{:?} {:?}", isa, format);
        }
    }
}
