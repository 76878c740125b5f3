//! Weights as candle's tensors: dense, or packed as the file has them where candle multiplies with that format.

use std::{io, sync::Arc};

use candle_core::{
    DType, Device, Module as _, Tensor, WithDType,
    quantized::{GgmlDType, QMatMul, QStorage, QTensor},
};
use half::bf16;

use super::faults;
use crate::{
    backend::decoder::ops::{NormParameters, PartError},
    model::{
        TensorProblem,
        spec::{MatrixSource, NormKind, Products, TensorFormat},
    },
};

/// Alignment, in bytes, of the blocks that candle reads packed weights as.
const BLOCK_ALIGNMENT: usize = 8;

/// A weight matrix, or several with the same inputs side by side.
pub(super) struct CandleLinear {
    parts: Vec<Matrix>,
    bytes: u64,
}

/// One matrix, `[outputs, inputs]`.
enum Matrix {
    Dense(Tensor),
    Packed { weights: Arc<QTensor>, product: QMatMul },
}

impl CandleLinear {
    /// Loads matrices for this kind of products.
    ///
    /// # Errors
    /// When one cannot be read, or the device has no memory for it.
    pub(super) fn load(
        parts: &[MatrixSource<'_>],
        products: Products,
        device: &Device,
    ) -> Result<Self, PartError> {
        let mut loaded = Self {
            parts: Vec::with_capacity(parts.len()),
            bytes: 0,
        };
        for (part, source) in parts.iter().enumerate() {
            let matrix = Matrix::load(source, products, device);
            loaded
                .parts
                .push(matrix.map_err(|problem| PartError { part, problem })?);
            loaded.bytes += bytes_for(
                source.format(),
                source.rows * source.cols,
                products,
                device.is_cpu(),
            );
        }
        Ok(loaded)
    }

    /// Bytes that the weights take.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// `x · Wᵀ`, in f32.
    pub(super) fn product(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match &self.parts[..] {
            [matrix] => matrix.product(x),
            parts => {
                let products: Vec<Tensor> = parts
                    .iter()
                    .map(|matrix| matrix.product(x))
                    .collect::<candle_core::Result<_>>()?;
                Tensor::cat(&products, 1)
            }
        }
    }

    /// The weights of these outputs of the first matrix, in f32: an embedding look-up.
    pub(super) fn rows(&self, outputs: &Tensor) -> candle_core::Result<Tensor> {
        match self.parts.first() {
            Some(Matrix::Dense(weights)) => weights.index_select(outputs, 0)?.to_dtype(DType::F32),
            Some(Matrix::Packed { weights, .. }) => weights.embedding(outputs)?.to_dtype(DType::F32),
            None => candle_core::bail!("a table of embeddings has no weights"),
        }
    }
}

impl Matrix {
    fn load(source: &MatrixSource<'_>, products: Products, device: &Device) -> Result<Self, TensorProblem> {
        if let Some(packed) = packed_type(source.format(), products) {
            return Self::load_packed(source, packed, device);
        }
        match products {
            Products::Bf16 => dense(source, bf16::from_f32, device),
            Products::F32 | Products::Int8 => dense(source, |value| value, device),
        }
        .map(Self::Dense)
    }

    fn load_packed(
        source: &MatrixSource<'_>,
        packed: GgmlDType,
        device: &Device,
    ) -> Result<Self, TensorProblem> {
        let mut scratch = Vec::new();
        let bytes = source
            .rows(0..source.rows, &mut scratch)
            .map_err(TensorProblem::Read)?;
        let mut aligned: Vec<u8> = with_capacity(bytes.len() + BLOCK_ALIGNMENT)?;
        let padding = aligned
            .as_ptr()
            .align_offset(BLOCK_ALIGNMENT)
            .min(BLOCK_ALIGNMENT);
        aligned.resize(padding, 0u8);
        aligned.extend_from_slice(bytes);
        let storage = QStorage::from_data((&aligned[padding..]).into(), device, packed).map_err(memory)?;
        let weights = QTensor::new(storage, (source.rows, source.cols)).map_err(memory)?;
        let weights = Arc::new(weights);
        let product = QMatMul::QTensor(Arc::clone(&weights));
        Ok(Self::Packed { weights, product })
    }

    fn product(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Dense(weights) => x
                .to_dtype(weights.dtype())?
                .matmul(&weights.t()?)?
                .to_dtype(DType::F32),
            Self::Packed { product, .. } => product.forward(x),
        }
    }
}

/// Expands a matrix, row by row.
fn dense<T: WithDType>(
    source: &MatrixSource<'_>,
    round: impl Fn(f32) -> T,
    device: &Device,
) -> Result<Tensor, TensorProblem> {
    let mut row = vec![0.0; source.cols];
    let mut values = with_capacity(source.rows * source.cols)?;
    for index in 0..source.rows {
        source.read_row(index, &mut row).map_err(TensorProblem::Read)?;
        values.extend(row.iter().map(|&value| round(value)));
    }
    Tensor::from_vec(values, (source.rows, source.cols), device).map_err(memory)
}

fn with_capacity<T>(capacity: usize) -> Result<Vec<T>, TensorProblem> {
    let mut values = Vec::new();
    let reserved = values.try_reserve_exact(capacity);
    reserved.map_err(|error| TensorProblem::Memory(io::Error::other(error)))?;
    Ok(values)
}

fn memory(error: candle_core::Error) -> TensorProblem {
    TensorProblem::Memory(io::Error::other(faults::text(&error)))
}

/// How candle names a format whose weights stay packed; `None` where they are expanded. Candle's products on GPUs do not know
/// Q8_K.
fn packed_type(format: TensorFormat, products: Products) -> Option<GgmlDType> {
    if products != Products::Int8 {
        return None;
    }
    match format {
        TensorFormat::F32 | TensorFormat::F16 | TensorFormat::Bf16 | TensorFormat::Q8K => None,
        TensorFormat::Q4_0 => Some(GgmlDType::Q4_0),
        TensorFormat::Q4_1 => Some(GgmlDType::Q4_1),
        TensorFormat::Q5_0 => Some(GgmlDType::Q5_0),
        TensorFormat::Q5_1 => Some(GgmlDType::Q5_1),
        TensorFormat::Q8_0 => Some(GgmlDType::Q8_0),
        TensorFormat::Q2K => Some(GgmlDType::Q2K),
        TensorFormat::Q3K => Some(GgmlDType::Q3K),
        TensorFormat::Q4K => Some(GgmlDType::Q4K),
        TensorFormat::Q5K => Some(GgmlDType::Q5K),
        TensorFormat::Q6K => Some(GgmlDType::Q6K),
    }
}

/// Bytes that so many weights will take.
pub(super) fn bytes_for(format: TensorFormat, elements: usize, products: Products, on_cpu: bool) -> u64 {
    let elements = elements as u64;
    if packed_type(format, products).is_none() {
        return elements * if products == Products::Bf16 { 2 } else { 4 };
    }
    let packed = elements / format.block_elements() as u64 * format.block_bytes() as u64;
    // On the host candle keeps copies of some formats in the order of its kernels, beside what the file has: of Q4_K one for
    // few rows (3,072 bytes for 2,304) and one for AMX tiles (5,120), of Q6_K one (5,120 for 3,360), of Q8_0 one.
    match format {
        TensorFormat::Q4K if on_cpu => packed * 5,
        TensorFormat::Q6K if on_cpu => packed * 3,
        TensorFormat::Q8_0 if on_cpu => packed * 2,
        _ => packed,
    }
}

/// A norm's weights on the device.
pub(super) struct CandleNorm {
    kind: NormKind,
    eps: f64,
    weight: Tensor,
    bias: Option<Tensor>,
}

impl CandleNorm {
    pub(super) fn load(parameters: NormParameters, device: &Device) -> candle_core::Result<Self> {
        let tensor = |values: Vec<f32>| {
            let len = values.len();
            Tensor::from_vec(values, len, device)
        };
        Ok(Self {
            kind: parameters.kind,
            eps: f64::from(parameters.eps),
            weight: tensor(parameters.weight)?,
            bias: parameters.bias.map(tensor).transpose()?,
        })
    }

    /// Bytes that the weights take.
    pub(super) fn bytes(&self) -> u64 {
        let bias = self.bias.as_ref().map_or(0, Tensor::elem_count);
        4 * (self.weight.elem_count() + bias) as u64
    }

    /// Norms rows of any width whose last dimensions are those of the weights, each over its last dimension.
    pub(super) fn apply(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let last = x.rank() - 1;
        let x = match self.kind {
            NormKind::Rms => x.clone(),
            NormKind::Layer => x.broadcast_sub(&x.mean_keepdim(last)?)?,
        };
        let divisor = (x.sqr()?.mean_keepdim(last)? + self.eps)?.sqrt()?;
        let shape = &x.dims()[1..];
        let normed = x.broadcast_div(&divisor)?;
        let weighted = normed.broadcast_mul(&self.weight.reshape(shape)?)?;
        match &self.bias {
            Some(bias) => weighted.broadcast_add(&bias.reshape(shape)?),
            None => Ok(weighted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::spec::RawElements;

    /// Bytes of one block whose scales are a small number.
    fn block(format: TensorFormat, seed: u8) -> Vec<u8> {
        let mut block: Vec<u8> = (0..format.block_bytes())
            .map(|i| (i as u8).wrapping_mul(37).wrapping_add(seed))
            .collect();
        // 0x2c00 is 1/16 in f16.
        let scale = 0x2c00u16.to_le_bytes();
        for &at in format.half_offsets() {
            block[at..at + 2].copy_from_slice(&scale);
        }
        block
    }

    #[test]
    fn packed_weights_have_the_values_of_the_format() {
        for format in [
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
        ] {
            let (rows, cols) = (3, format.block_elements());
            let bytes: Vec<u8> = (0..rows).flat_map(|row| block(format, row as u8)).collect();
            let source = MatrixSource {
                rows,
                cols,
                elements: RawElements::Bytes(format, &bytes),
            };
            let linear = CandleLinear::load(&[source], Products::Int8, &Device::Cpu).unwrap();
            assert!(matches!(linear.parts[0], Matrix::Packed { .. }), "{format:?}");
            let ids = Tensor::new(&[2u32, 0], &Device::Cpu).unwrap();
            let found = linear.rows(&ids).unwrap().to_vec2::<f32>().unwrap();
            for (found, row) in found.iter().zip([2, 0]) {
                let mut expected = vec![0.0; cols];
                source.read_row(row, &mut expected).unwrap();
                let near = found
                    .iter()
                    .zip(&expected)
                    .all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs().max(1.0));
                assert!(near, "{format:?}: {found:?} is not {expected:?}");
            }
        }
    }

    #[test]
    fn a_format_that_candle_does_not_multiply_with_is_expanded() {
        let bytes = vec![0; TensorFormat::Q8K.block_bytes()];
        let source = MatrixSource {
            rows: 1,
            cols: 256,
            elements: RawElements::Bytes(TensorFormat::Q8K, &bytes),
        };
        let linear = CandleLinear::load(&[source], Products::Int8, &Device::Cpu).unwrap();
        assert!(matches!(linear.parts[0], Matrix::Dense(_)));
        assert_eq!(linear.bytes(), 4 * 256);
    }
}
