//! What a decoder's memory follows from on every device: its tensors, and the tokens that its sequences hold.

use std::collections::HashSet;

use crate::{
    backend::ModelLimits,
    model::{
        HeadTensor, LayerTensor, ResourceProblem, Tensor, TensorError, WeightSource,
        spec::{HeadNorms, HeadSide, ModelConfig, TensorFormat},
    },
};

/// Most tokens whose keys and values a sequence holds at a time.
pub(in crate::backend) fn held_tokens(config: &ModelConfig, block_tokens: usize) -> usize {
    let most = ModelLimits::of_decoder(config, block_tokens, usize::MAX).most_blocks();
    config.context_length.min(most.saturating_mul(block_tokens))
}

/// Tensors of a layer that no file joins with others.
const SINGLE: [LayerTensor; 13] = [
    LayerTensor::AttentionNorm,
    LayerTensor::AttentionNormBias,
    LayerTensor::QueryNorm,
    LayerTensor::KeyNorm,
    LayerTensor::AttentionOutput,
    LayerTensor::AttentionOutputBias,
    LayerTensor::AttentionPostNorm,
    LayerTensor::FfnNorm,
    LayerTensor::FfnNormBias,
    LayerTensor::UpBias,
    LayerTensor::Down,
    LayerTensor::DownBias,
    LayerTensor::FfnPostNorm,
];

/// Tensors of a layer that files have either as one tensor or as several.
const JOINED: [(LayerTensor, &[LayerTensor]); 3] = [
    (
        LayerTensor::Qkv,
        &[LayerTensor::Query, LayerTensor::Key, LayerTensor::Value],
    ),
    (LayerTensor::GateUp, &[LayerTensor::Gate, LayerTensor::Up]),
    (
        LayerTensor::QkvBias,
        &[
            LayerTensor::QueryBias,
            LayerTensor::KeyBias,
            LayerTensor::ValueBias,
        ],
    ),
];

/// How many blocks of `block_bytes` bytes a KV pool of `kv_bytes` bytes has.
///
/// # Errors
/// When it does not hold the shortest sequence: two blocks.
pub(in crate::backend) fn pool_blocks(kv_bytes: usize, block_bytes: usize) -> Result<usize, ResourceProblem> {
    match kv_bytes / block_bytes {
        0 | 1 => Err(ResourceProblem::KvPool {
            bytes: kv_bytes,
            needed: 2 * block_bytes as u64,
        }),
        blocks => Ok(blocks),
    }
}

/// A matrix of a file.
#[derive(Debug, Clone, Copy)]
pub(in crate::backend) struct MatrixShape {
    pub format: TensorFormat,
    pub rows: usize,
    pub cols: usize,
    /// Whether its rows are read one by one.
    #[cfg(feature = "cuda")]
    pub is_table: bool,
}

/// Bytes that the weights take on a device, of which a matrix takes `matrix_bytes`, and everything else 4 bytes a value.
///
/// # Errors
/// When a tensor cannot be used; names it.
pub(in crate::backend) fn weight_bytes(
    config: &ModelConfig,
    source: &dyn WeightSource,
    matrix_bytes: impl Fn(MatrixShape) -> usize,
) -> Result<u64, TensorError> {
    let mut bytes = 0;
    let mut seen = HashSet::new();
    // Whether the source has the tensor.
    let mut add = |tensor: Tensor| -> Result<bool, TensorError> {
        let info = source.info(tensor);
        let info = info.map_err(|problem| problem.of(source.name(tensor)))?;
        let Some((shape, format)) = info else {
            return Ok(false);
        };
        // Some families have one name for norms that others have in different places; such a tensor counts once.
        if !seen.insert(source.name(tensor)) {
            return Ok(true);
        }
        bytes += match shape[..] {
            [rows, cols] if is_packed(tensor) => matrix_bytes(MatrixShape {
                format,
                rows,
                cols,
                #[cfg(feature = "cuda")]
                is_table: matches!(tensor, Tensor::Embedding | Tensor::Positions),
            }) as u64,
            _ => 4 * (shape.iter().product::<usize>() * copies(config, tensor)) as u64,
        };
        Ok(true)
    };
    add(Tensor::Embedding)?;
    add(Tensor::OutputNorm)?;
    add(Tensor::OutputNormBias)?;
    if config.learned_positions {
        add(Tensor::Positions)?;
    }
    match &config.verdict_heads {
        None if config.tied_embeddings => {}
        None => {
            add(Tensor::Output)?;
        }
        Some(_) => {
            for side in HeadSide::ALL {
                for part in HeadTensor::ALL {
                    add(Tensor::Verdict(side, part))?;
                }
            }
        }
    }
    for layer in 0..config.layers.len() {
        for part in SINGLE {
            add(Tensor::Layer(layer, part))?;
        }
        for (whole, parts) in JOINED {
            if !add(Tensor::Layer(layer, whole))? {
                for &part in parts {
                    add(Tensor::Layer(layer, part))?;
                }
            }
        }
    }
    Ok(bytes)
}

/// Whether a tensor of two dimensions is a matrix that the device multiplies with.
fn is_packed(tensor: Tensor) -> bool {
    !matches!(
        tensor,
        Tensor::Layer(_, LayerTensor::QueryNorm | LayerTensor::KeyNorm)
            | Tensor::Verdict(_, HeadTensor::Risk | HeadTensor::Category)
    )
}

/// How many times a tensor's values are kept: those of a norm that all heads share are kept once for each head.
fn copies(config: &ModelConfig, tensor: Tensor) -> usize {
    match (config.head_norms, tensor) {
        (HeadNorms::Shared, Tensor::Layer(_, LayerTensor::QueryNorm)) => config.sizes.heads,
        (HeadNorms::Shared, Tensor::Layer(_, LayerTensor::KeyNorm)) => config.sizes.kv_heads,
        _ => 1,
    }
}
