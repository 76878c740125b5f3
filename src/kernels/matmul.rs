//! `out = x · Wᵀ` over packed weights.

use std::cell::RefCell;

use super::{
    Isa, PackedMatrix, ThreadPool, gemv,
    isa::IsaKind,
    micro::{self, LANES, Tile, WIDE_ROWS},
    packed::PANEL,
    pool::Shards,
};

/// Inputs expanded at a time: a tile of 128 x 64 f32 fits the first-level cache.
const TILE_INPUTS: usize = 128;
/// Rows of `x` that share one expansion of a tile. More would not pay, fewer let workers share long prompts.
const ROWS_PER_TASK: usize = 192;

/// Up to this many rows, weights are expanded in registers once per row.
const FEW_ROWS: usize = 2;

/// Several matrices over the same input, their outputs side by side.
#[derive(Default)]
pub struct Fused {
    parts: Vec<PackedMatrix>,
}

impl Fused {
    /// Puts matrices with equal `cols` side by side.
    ///
    /// # Panics
    /// When they differ in `cols`; loaders check shapes first.
    pub fn new(parts: Vec<PackedMatrix>) -> Self {
        assert!(parts.windows(2).all(|pair| pair[0].cols() == pair[1].cols()));
        Self { parts }
    }

    /// Outputs in all.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(PackedMatrix::rows).sum()
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.parts.first().map_or(0, PackedMatrix::cols)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(PackedMatrix::bytes).sum()
    }

    /// Row `row` of the only matrix, as f32.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        if let Some(matrix) = self.parts.first() {
            matrix.read_row(row, out);
        }
    }
}

/// Whether the product replaces what is in `out` or is added to it (a residual connection).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// `out = x · Wᵀ`
    Replace,
    /// `out += x · Wᵀ`, each chain starting from the old value.
    Add,
}

thread_local! {
    /// Expanded weights `[TILE_INPUTS][PANEL]`, then an output tile `[ROWS_PER_TASK][PANEL]`.
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Multiplies `x` (`[m, cols]`, row-major) with `weights`, into `out` (`[m, rows]`).
///
/// # Panics
/// When the slices do not have these sizes.
pub fn matmul(pool: &mut ThreadPool, isa: Isa, x: &[f32], weights: &Fused, out: &mut [f32], output: Output) {
    let (rows, cols) = (weights.rows(), weights.cols());
    if rows == 0 || cols == 0 {
        return;
    }
    let m = x.len() / cols;
    assert!(x.len() == m * cols && out.len() == m * rows);
    let panels: usize = weights.parts.iter().map(PackedMatrix::panels).sum();
    let chunks = m.div_ceil(ROWS_PER_TASK);
    let chunk_rows = m.div_ceil(chunks.max(1));
    let shards = Shards::new(out);
    pool.run(panels * chunks, &|task| {
        let (mut panel, chunk) = (task / chunks, task % chunks);
        let mut first_output = 0;
        for part in &weights.parts {
            if panel < part.panels() {
                let first_row = chunk * chunk_rows;
                let block = Block {
                    matrix: part,
                    panel,
                    x: &x[first_row * cols..],
                    m: chunk_rows.min(m - first_row),
                    out: shards.pointer(first_row * rows + first_output + panel * PANEL),
                    out_stride: rows,
                    output,
                };
                // SAFETY: tasks cover disjoint (rows, panel) blocks of `out`, and `out` lives until `run` returns.
                SCRATCH.with_borrow_mut(|scratch| unsafe { block.run(isa, scratch) });
                return;
            }
            panel -= part.panels();
            first_output += part.rows();
        }
    });
}

/// One panel's outputs for some rows of `x`.
struct Block<'a> {
    matrix: &'a PackedMatrix,
    panel: usize,
    x: &'a [f32],
    m: usize,
    out: *mut f32,
    out_stride: usize,
    output: Output,
}

impl Block<'_> {
    /// # Safety
    /// `out` is valid for `m` rows of this panel's width, `out_stride` apart, and nobody else uses them.
    unsafe fn run(&self, isa: Isa, scratch: &mut Vec<f32>) {
        let cols = self.matrix.cols();
        let width = PANEL.min(self.matrix.rows() - self.panel * PANEL);
        scratch.resize(TILE_INPUTS * PANEL + ROWS_PER_TASK * PANEL, 0.0);
        let (tile, spare) = scratch.split_at_mut(TILE_INPUTS * PANEL);
        // A narrow last panel goes through a spare tile: kernels always write whole vectors.
        let partial = width < PANEL;
        let (c, c_stride) = if partial {
            (spare.as_mut_ptr(), PANEL)
        } else {
            (self.out, self.out_stride)
        };
        for i in 0..self.m {
            // SAFETY: row `i` of the output, or of the spare tile, which has `ROWS_PER_TASK` rows.
            unsafe {
                let row = std::slice::from_raw_parts_mut(c.add(i * c_stride), PANEL);
                match self.output {
                    Output::Replace => row.fill(0.0),
                    Output::Add if partial => {
                        let out = std::slice::from_raw_parts(self.out.add(i * self.out_stride), width);
                        row[..width].copy_from_slice(out);
                    }
                    Output::Add => {}
                }
            }
        }
        #[cfg(target_arch = "x86_64")]
        if self.m <= FEW_ROWS
            && isa.0 == IsaKind::Avx512
            && let Some(weights) = self.matrix.quantised_panel(self.panel)
        {
            for i in 0..self.m {
                // SAFETY: row `i` of `c` is this block's own; an `Isa` is only made for a processor that has it.
                unsafe {
                    let c = &mut *c.add(i * c_stride).cast::<[f32; PANEL]>();
                    gemv::avx512(&weights, &self.x[i * cols..][..cols], c);
                }
            }
            if partial {
                self.copy_out(spare, width);
            }
            return;
        }
        let step = TILE_INPUTS / self.matrix.tile_step() * self.matrix.tile_step();
        let mut k = 0;
        while k < cols {
            let count = step.min(cols - k);
            let weights = match self.matrix.tile_in_place(self.panel, k, count) {
                Some(weights) => weights,
                None => {
                    let tile = &mut tile[..count * PANEL];
                    self.matrix.expand_tile(isa, self.panel, k, tile);
                    tile
                }
            };
            for first in (0..self.m).step_by(WIDE_ROWS) {
                let rows = WIDE_ROWS.min(self.m - first);
                // SAFETY: `x` holds `m` rows of `cols`, the weights `count` rows of PANEL, and `c` is this
                // block's own tile.
                unsafe {
                    let operands = Tile {
                        a: self.x[first * cols + k..].as_ptr(),
                        a_stride: cols,
                        w: weights.as_ptr(),
                        w_stride: PANEL,
                        c: c.add(first * c_stride),
                        c_stride,
                        k: count,
                    };
                    micro::run(isa, rows, PANEL / LANES, &operands);
                }
            }
            k += count;
        }
        if partial {
            self.copy_out(spare, width);
        }
    }

    /// Copies a narrow panel's columns from the spare tile.
    fn copy_out(&self, spare: &[f32], width: usize) {
        for i in 0..self.m {
            // SAFETY: this block's own output, `width` wide; see `run`.
            let out = unsafe { std::slice::from_raw_parts_mut(self.out.add(i * self.out_stride), width) };
            out.copy_from_slice(&spare[i * PANEL..][..width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kernels::{BlockFormat, MatrixSource, RawElements};

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

    fn noise_blocks(seed: u32, format: BlockFormat, elements: usize) -> Vec<u8> {
        let bytes = format.bytes_for(elements).unwrap();
        let mut out: Vec<u8> = noise(seed, bytes)
            .iter()
            .map(|v| (v * 127.0) as i8 as u8)
            .collect();
        for block in out.chunks_exact_mut(format.block_bytes()) {
            // Sensible scales: small, finite halves wherever this format keeps them.
            let mut set =
                |at: usize| block[at..at + 2].copy_from_slice(&half::f16::from_f32(0.01).to_le_bytes());
            match format {
                BlockFormat::Q4_0 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => set(0),
                BlockFormat::Q4_1 | BlockFormat::Q5_1 | BlockFormat::Q4K | BlockFormat::Q5K => {
                    set(0);
                    set(2);
                }
                BlockFormat::Q2K => {
                    set(80);
                    set(82);
                }
                BlockFormat::Q3K => set(108),
                BlockFormat::Q6K => set(208),
                BlockFormat::Q8K => block[..4].copy_from_slice(&0.01f32.to_le_bytes()),
                BlockFormat::F16 => {
                    block.copy_from_slice(&half::f16::from_f32(f32::from(block[0])).to_le_bytes())
                }
                BlockFormat::Bf16 => {
                    block.copy_from_slice(&half::bf16::from_f32(f32::from(block[0])).to_le_bytes())
                }
                BlockFormat::F32 => block.copy_from_slice(&f32::from(block[0]).to_le_bytes()),
            }
        }
        out
    }

    const FORMATS: [BlockFormat; 14] = [
        BlockFormat::F32,
        BlockFormat::F16,
        BlockFormat::Bf16,
        BlockFormat::Q4_0,
        BlockFormat::Q4_1,
        BlockFormat::Q5_0,
        BlockFormat::Q5_1,
        BlockFormat::Q8_0,
        BlockFormat::Q2K,
        BlockFormat::Q3K,
        BlockFormat::Q4K,
        BlockFormat::Q5K,
        BlockFormat::Q6K,
        BlockFormat::Q8K,
    ];

    /// One chain of fused multiply-adds per element: what every path must equal to the bit.
    fn twin(x: &[f32], source: &MatrixSource<'_>, out: &mut [f32], offset: usize, stride: usize) {
        let mut row = vec![0.0; source.cols];
        for n in 0..source.rows {
            source.read_row(n, &mut row);
            for (i, x) in x.chunks_exact(source.cols).enumerate() {
                let sum = &mut out[i * stride + offset + n];
                for (x, w) in x.iter().zip(&row) {
                    *sum = x.mul_add(*w, *sum);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn equals_the_scalar_twin_on_every_instruction_set(
            m in 1usize..20, rows in 1usize..150, more in 0usize..70, format in 0usize..14, seed: u32, add: bool,
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
            twin(&x, &sources[0], &mut expected, 0, rows + more);
            twin(&x, &sources[1], &mut expected, rows, rows + more);
            for threads in [1, 2] {
                let mut pool = ThreadPool::new(threads).unwrap();
                let weights = Fused::new(sources.iter().map(|s| PackedMatrix::pack(&mut pool, s)).collect());
                for isa in Isa::available() {
                    let mut out = start.clone();
                    let output = if add { Output::Add } else { Output::Replace };
                    matmul(&mut pool, isa, &x, &weights, &mut out, output);
                    let (out, expected): (Vec<u32>, Vec<u32>) =
                        (out.iter().map(|v| v.to_bits()).collect(), expected.iter().map(|v| v.to_bits()).collect());
                    prop_assert_eq!(out, expected, "{:?} {:?}", isa, format);
                }
            }
        }
    }

    #[test]
    fn long_batches_equal_their_rows_alone() {
        let (m, rows, cols) = (401, 96, 160);
        let bytes = noise_blocks(7, BlockFormat::Q4_1, rows * cols);
        let source = MatrixSource {
            rows,
            cols,
            elements: RawElements::Bytes(BlockFormat::Q4_1, &bytes),
        };
        let mut pool = ThreadPool::new(2).unwrap();
        let weights = Fused::new(vec![PackedMatrix::pack(&mut pool, &source)]);
        let x = noise(9, m * cols);
        let mut together = vec![0.0; m * rows];
        matmul(
            &mut pool,
            Isa::detect(),
            &x,
            &weights,
            &mut together,
            Output::Replace,
        );
        for i in [0, 1, 191, 192, 200, 400] {
            let mut alone = vec![0.0; rows];
            matmul(
                &mut pool,
                Isa::detect(),
                &x[i * cols..][..cols],
                &weights,
                &mut alone,
                Output::Replace,
            );
            assert_eq!(alone, together[i * rows..][..rows]);
        }
    }

    #[test]
    fn embedding_rows_equal_the_source() {
        let (rows, cols) = (70, 256);
        let mut pool = ThreadPool::new(1).unwrap();
        for format in FORMATS {
            let bytes = noise_blocks(11, format, rows * cols);
            let source = MatrixSource {
                rows,
                cols,
                elements: RawElements::Bytes(format, &bytes),
            };
            let packed = PackedMatrix::pack(&mut pool, &source);
            let (mut expected, mut found) = (vec![0.0; cols], vec![0.0; cols]);
            for row in [0, 1, 63, 64, 69] {
                source.read_row(row, &mut expected);
                packed.read_row(row, &mut found);
                assert_eq!(expected, found, "{format:?}");
            }
        }
    }
}
