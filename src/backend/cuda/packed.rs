//! Quantised weights that stay packed in a card's memory, in 8 or 4 bits with the scales of their file.
//!
//! `kernels/packed.cu` says how integers and factors lie. Packing is exact: `scale * integer + minimum` is the same number
//! as in the file.

use std::{io, sync::Arc, thread};

use half::f16;

use super::{
    arguments::PackedMatrix,
    buffer::{Buffer, address_of},
    driver::{DriverError, LaunchSize, PRODUCT_ROWS, Queue},
    kernels::Kernel,
    launch_sizes::ROW_THREADS,
    parallel::{join_all, threads},
    weights::tensor_problem,
};
use crate::model::{
    TensorProblem,
    spec::{Group, MatrixSource, TensorFormat},
};

/// Outputs of a tile.
const TILE_OUTPUTS: usize = 16;
/// Inputs of a tile.
const TILE_INPUTS: usize = 32;
/// Inputs that share a base, in formats whose scales have steps.
const BASE_INPUTS: usize = 256;
/// Inputs that one block of threads expands.
const EXPANDED_INPUTS: usize = 256;
/// Lanes of a warp.
const LANES: usize = 32;

/// Bits of a packed integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bits {
    Four,
    Eight,
}

impl Bits {
    pub(super) fn of(format: TensorFormat) -> Self {
        match format {
            TensorFormat::Q4_0 | TensorFormat::Q4_1 | TensorFormat::Q4K => Self::Four,
            _ => Self::Eight,
        }
    }

    /// The bits that stand for 0 in the integers of a format: what is added to these so that none is negative.
    fn zero(format: TensorFormat) -> u8 {
        match (Self::of(format), format.has_min()) {
            (Self::Four, true) => 0,
            (Self::Four, false) => 8,
            (Self::Eight, _) => 128,
        }
    }

    /// Words that a lane has of a tile.
    fn words(self) -> usize {
        match self {
            Self::Four => 2,
            Self::Eight => 4,
        }
    }
}

/// Whether the matrices of a format can stay packed. Floats have nothing to pack, and the scales of Q8_K are f32.
pub(super) fn can_be_packed(format: TensorFormat, inputs: usize) -> bool {
    let quantised = !matches!(format, TensorFormat::F32 | TensorFormat::F16 | TensorFormat::Bf16);
    quantised && format != TensorFormat::Q8K && inputs.is_multiple_of(TILE_INPUTS)
}

/// How a matrix is divided.
#[derive(Debug, Clone, Copy)]
struct Shape {
    outputs: usize,
    inputs: usize,
    format: TensorFormat,
}

impl Shape {
    fn output_tiles(self) -> usize {
        self.outputs.div_ceil(TILE_OUTPUTS)
    }

    fn input_tiles(self) -> usize {
        self.inputs / TILE_INPUTS
    }

    /// Groups of weights with one scale, in a tile.
    fn groups(self) -> usize {
        TILE_INPUTS / self.format.group_size()
    }

    /// Whether scales are a base times a step.
    fn has_steps(self) -> bool {
        self.format.block_elements() == BASE_INPUTS
    }

    /// Words of integers of a row of tiles.
    fn integer_words(self) -> usize {
        self.input_tiles() * LANES * Bits::of(self.format).words()
    }

    /// Bytes of factors of a row of tiles.
    fn factor_bytes(self) -> usize {
        let bytes = if self.has_steps() {
            size_of::<u16>()
        } else {
            size_of::<u32>()
        };
        self.input_tiles() * self.groups() * TILE_OUTPUTS * bytes
    }

    /// Words of bases of a row of tiles.
    fn base_words(self) -> usize {
        match self.has_steps() {
            true => self.inputs / BASE_INPUTS * TILE_OUTPUTS,
            false => 0,
        }
    }

    fn bytes(self) -> usize {
        let words = self.integer_words() + self.base_words();
        self.output_tiles() * (words * size_of::<u32>() + self.factor_bytes())
    }
}

/// A packed matrix in the card's memory.
#[derive(Debug)]
pub(super) struct PackedWeights {
    shape: Shape,
    integers: Buffer,
    factors: Buffer,
    bases: Option<Buffer>,
}

impl PackedWeights {
    /// Bytes that a matrix takes.
    pub(super) fn bytes_for(format: TensorFormat, outputs: usize, inputs: usize) -> usize {
        let shape = Shape {
            outputs,
            inputs,
            format,
        };
        shape.bytes()
    }

    /// Packs a matrix and copies it to the card.
    ///
    /// # Errors
    /// When its file cannot be read, or the card has no memory.
    pub(super) fn load(queue: &Arc<dyn Queue>, source: &MatrixSource<'_>) -> Result<Self, TensorProblem> {
        let shape = Shape {
            outputs: source.rows,
            inputs: source.cols,
            format: source.format(),
        };
        let packed = pack(source, shape).map_err(TensorProblem::Read)?;
        let copied = |result: Result<Buffer, DriverError>| result.map_err(tensor_problem);
        Ok(Self {
            shape,
            integers: copied(Buffer::holding(queue, &packed.integers))?,
            factors: copied(Buffer::holding(queue, &packed.factors))?,
            bases: match packed.bases.is_empty() {
                true => None,
                false => Some(copied(Buffer::holding(queue, &packed.bases))?),
            },
        })
    }

    /// The launch that multiplies so many rows with them.
    pub(super) fn product_launch(&self, rows: usize) -> (Kernel, LaunchSize) {
        let kernel = match self.bits() {
            Bits::Eight => Kernel::PackedProduct8,
            Bits::Four => Kernel::PackedProduct4,
        };
        (kernel, self.launch_size(rows.div_ceil(PRODUCT_ROWS)))
    }

    /// The launch that writes them in bf16.
    pub(super) fn expand_launch(&self) -> (Kernel, LaunchSize) {
        let kernel = match self.bits() {
            Bits::Eight => Kernel::PackedExpand8,
            Bits::Four => Kernel::PackedExpand4,
        };
        (
            kernel,
            self.launch_size(self.shape.inputs.div_ceil(EXPANDED_INPUTS)),
        )
    }

    /// A launch of so many blocks for each row of tiles.
    fn launch_size(&self, blocks: usize) -> LaunchSize {
        LaunchSize {
            grid: [self.shape.output_tiles() as u32, blocks as u32, 1],
            threads: ROW_THREADS,
            shared_bytes: 0,
        }
    }

    fn bits(&self) -> Bits {
        Bits::of(self.shape.format)
    }

    pub(super) fn outputs(&self) -> usize {
        self.shape.outputs
    }

    pub(super) fn bytes(&self) -> usize {
        self.shape.bytes()
    }

    pub(super) fn argument(&self) -> PackedMatrix {
        let shape = self.shape;
        PackedMatrix {
            integers: self.integers.address(),
            factors: self.factors.address(),
            bases: address_of(self.bases.as_ref()),
            outputs: shape.outputs as u32,
            inputs: shape.inputs as u32,
            zero: u32::from(Bits::zero(shape.format)),
            groups: shape.groups() as u32,
            has_minimum: u32::from(shape.format.has_min()),
            padding: 0,
        }
    }
}

/// A packed matrix in the host's memory.
struct Packed {
    integers: Vec<u32>,
    /// Factors as the kernels read them, little endian.
    factors: Vec<u8>,
    bases: Vec<u32>,
}

fn pack(source: &MatrixSource<'_>, shape: Shape) -> io::Result<Packed> {
    let mut packed = Packed {
        integers: vec![0; shape.output_tiles() * shape.integer_words()],
        factors: vec![0; shape.output_tiles() * shape.factor_bytes()],
        bases: vec![0; shape.output_tiles() * shape.base_words()],
    };
    let tiles = shape.output_tiles().div_ceil(threads()).max(1);
    thread::scope(|scope| {
        let integers = packed.integers.chunks_mut(tiles * shape.integer_words());
        let factors = packed.factors.chunks_mut(tiles * shape.factor_bytes());
        // Where there are no bases, each part of the work has none.
        let mut bases = packed.bases.chunks_mut((tiles * shape.base_words()).max(1));
        let mut workers = Vec::new();
        for (index, (integers, factors)) in integers.zip(factors).enumerate() {
            let mut part = PackedTiles {
                shape,
                first_output: index * tiles * TILE_OUTPUTS,
                integers,
                factors,
                bases: bases.next().unwrap_or_default(),
            };
            workers.push(scope.spawn(move || part.fill(source)));
        }
        join_all(workers)
    })?;
    Ok(packed)
}

/// Some rows of tiles.
struct PackedTiles<'a> {
    shape: Shape,
    first_output: usize,
    integers: &'a mut [u32],
    factors: &'a mut [u8],
    bases: &'a mut [u32],
}

impl PackedTiles<'_> {
    fn fill(&mut self, source: &MatrixSource<'_>) -> io::Result<()> {
        let outputs = self.integers.len() / self.shape.integer_words() * TILE_OUTPUTS;
        let end = (self.first_output + outputs).min(self.shape.outputs);
        let format = self.shape.format;
        let mut scratch = Vec::new();
        for output in self.first_output..end {
            let bytes = source.rows(output..output + 1, &mut scratch)?;
            let mut input = 0;
            for block in bytes.chunks_exact(format.block_bytes()) {
                format.unpack(block, |group| {
                    self.put(output - self.first_output, input, &group);
                    input += format.group_size();
                });
            }
        }
        Ok(())
    }

    /// Puts a group's integers and factors where lanes expect them; `output` is counted from the first one here.
    fn put(&mut self, output: usize, input: usize, group: &Group) {
        let shape = self.shape;
        let bits = Bits::of(shape.format);
        let (tile, row) = (output / TILE_OUTPUTS, output % TILE_OUTPUTS);
        let input_tile = input / TILE_INPUTS;
        let integers = &mut self.integers[tile * shape.integer_words() + input_tile * LANES * bits.words()..];
        for (index, quant) in group.quants.iter().take(shape.format.group_size()).enumerate() {
            let stored = u32::from((i16::from(*quant) + i16::from(Bits::zero(shape.format))) as u8);
            let at = (input + index) % TILE_INPUTS;
            let (step, place) = (at / 16, at % 16 / 4);
            let (pair, half) = (row / 8 + at % 4 / 2 * 2, at % 2);
            let (word, shift) = match bits {
                Bits::Eight => (2 * step + pair / 2, 8 * (pair % 2 + 2 * half)),
                Bits::Four => (step, 4 * (pair + 4 * half)),
            };
            integers[(row % 8 * 4 + place) * bits.words() + word] |= stored << shift;
        }
        let in_tile = input % TILE_INPUTS / shape.format.group_size();
        let factor = (input_tile * shape.groups() + in_tile) * TILE_OUTPUTS + row;
        let factors = &mut self.factors[tile * shape.factor_bytes()..];
        let half = |value: f32| f16::from_f32(value).to_bits();
        if shape.has_steps() {
            factors[2 * factor] = group.scale.step as u8;
            factors[2 * factor + 1] = group.min.step as u8;
            let base = tile * shape.base_words() + input / BASE_INPUTS * TILE_OUTPUTS + row;
            self.bases[base] = u32::from(half(group.scale.base)) | u32::from(half(group.min.base)) << 16;
        } else {
            let both = u32::from(half(group.scale.base)) | u32::from(half(group.min.base)) << 16;
            factors[4 * factor..4 * factor + 4].copy_from_slice(&both.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::RawElements;

    /// Blocks with any integers, and factors that are numbers.
    fn blocks(format: TensorFormat, count: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9u32;
        let mut bytes = vec![0; count * format.block_bytes()];
        for byte in &mut bytes {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        // The exponent of an f16 must not be that of infinities.
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            for at in format.half_offsets() {
                block[at + 1] = block[at + 1] & 0x83 | 0x20;
            }
        }
        bytes
    }

    /// A weight, by the description in `packed.cu`.
    fn weight(packed: &Packed, shape: Shape, output: usize, input: usize) -> f32 {
        let (tile, row, input_tile) = (output / 16, output % 16, input / 32);
        let at = input % 32;
        let (step, in_step) = (at / 16, at % 16);
        let lane = 4 * (row % 8) + in_step / 4;
        // Pairs 0 and 1 are the first two inputs of outputs g and g + 8, pairs 2 and 3 the last two.
        let pair = 2 * (in_step % 4 / 2) + row / 8;
        let second = in_step % 2;
        let tile_index = tile * shape.inputs / 32 + input_tile;
        let integer = match Bits::of(shape.format) {
            Bits::Eight => {
                let word = packed.integers[(tile_index * 32 + lane) * 4 + 2 * step + pair / 2];
                let byte = [[0, 2], [1, 3]][pair % 2][second];
                (word >> (8 * byte) & 0xff) as i32 - 128
            }
            Bits::Four => {
                let word = packed.integers[(tile_index * 32 + lane) * 2 + step];
                let nibble = pair + 4 * second;
                (word >> (4 * nibble) & 15) as i32 - i32::from(Bits::zero(shape.format))
            }
        };
        let group = at / shape.format.group_size();
        let factor = (tile_index * shape.groups() + group) * 16 + row;
        let half = |bits: u32| f16::from_bits(bits as u16).to_f32();
        let (scale, min) = if shape.has_steps() {
            let base = packed.bases[(tile * shape.inputs / 256 + input / 256) * 16 + row];
            let steps = &packed.factors[2 * factor..];
            (
                half(base & 0xffff) * f32::from(steps[0] as i8),
                half(base >> 16) * f32::from(steps[1]),
            )
        } else {
            let bytes: [u8; 4] = packed.factors[4 * factor..4 * factor + 4].try_into().unwrap();
            let both = u32::from_le_bytes(bytes);
            (half(both & 0xffff), half(both >> 16))
        };
        (integer as f32).mul_add(scale, if shape.format.has_min() { min } else { 0.0 })
    }

    #[test]
    fn packed_weights_are_those_of_the_file() {
        let (outputs, inputs) = (37, 512);
        let packed = |format: &TensorFormat| can_be_packed(*format, inputs);
        let formats: Vec<_> = TensorFormat::ALL.into_iter().filter(packed).collect();
        assert_eq!(formats.len(), 10);
        for format in formats {
            let bytes = blocks(format, outputs * inputs / format.block_elements());
            let source = MatrixSource {
                rows: outputs,
                cols: inputs,
                elements: RawElements::Bytes(format, &bytes),
            };
            let shape = Shape {
                outputs,
                inputs,
                format,
            };
            let packed = pack(&source, shape).unwrap();
            let taken = 4 * (packed.integers.len() + packed.bases.len()) + packed.factors.len();
            assert_eq!(taken, shape.bytes(), "{format:?}");
            let mut row = vec![0.0; inputs];
            for output in 0..outputs {
                source.read_row(output, &mut row).unwrap();
                for (input, expected) in row.iter().enumerate() {
                    let found = weight(&packed, shape, output, input);
                    assert_eq!(found.to_bits(), expected.to_bits(), "{format:?} {output} {input}");
                }
            }
        }
    }

    #[test]
    fn floats_and_scales_in_f32_are_not_packed() {
        for format in [
            TensorFormat::F32,
            TensorFormat::F16,
            TensorFormat::Bf16,
            TensorFormat::Q8K,
        ] {
            assert!(!can_be_packed(format, 512), "{format:?}");
        }
        assert!(!can_be_packed(TensorFormat::Q8_0, 48));
    }
}
