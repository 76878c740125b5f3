//! Made-up weights for a shape: for measuring speed and memory of models whose files are not at hand.

use super::source::{LayerTensor, Tensor, TensorBytes, TensorData, WeightSource};
use crate::model::{
    error::{InvalidModel, TensorProblem},
    spec::{Family, ModelConfig, Noise, Rope, Sizes, TensorFormat},
};

const FORMATS: &str = "f32, bf16, q4_1, q8_0";
const SHAPES: &str =
    "tiny, smollm2-135m, llama-3.2-1b, llama-3.2-3b, llama-3.1-8b, llama-guard-3-1b, llama-guard-3-8b";

/// Noise of a plausible size in one storage format. A tensor's noise follows from its name, so it is always the same, and it is
/// made where it is read: nothing of it is kept.
pub(crate) struct DummyWeights {
    config: ModelConfig,
    format: TensorFormat,
}

impl DummyWeights {
    /// From `SHAPE` or `SHAPE:FORMAT`, for example `llama-3.2-1b:q8_0`.
    pub(crate) fn parse(spec: &str) -> Result<Self, InvalidModel> {
        let (shape, format) = spec.split_once(':').unwrap_or((spec, "bf16"));
        let format = match format {
            "f32" => TensorFormat::F32,
            "bf16" => TensorFormat::Bf16,
            "q4_1" => TensorFormat::Q4_1,
            "q8_0" => TensorFormat::Q8_0,
            other => {
                return Err(InvalidModel::DummyFormat {
                    found: other.to_owned(),
                    known: FORMATS,
                });
            }
        };
        // Layers, hidden, ffn, heads, kv heads, head size, vocabulary, tied.
        let (sizes, tied) = match shape {
            "tiny" => ([2, 64, 128, 4, 2, 16, 256], true),
            "smollm2-135m" => ([30, 576, 1536, 9, 3, 64, 49_152], true),
            "llama-3.2-1b" | "llama-guard-3-1b" => ([16, 2048, 8192, 32, 8, 64, 128_256], true),
            "llama-3.2-3b" => ([28, 3072, 8192, 24, 8, 128, 128_256], true),
            "llama-3.1-8b" | "llama-guard-3-8b" => ([32, 4096, 14_336, 32, 8, 128, 128_256], false),
            other => {
                return Err(InvalidModel::DummyShape {
                    found: other.to_owned(),
                    known: SHAPES,
                });
            }
        };
        let [layers, hidden, ffn, heads, kv_heads, head_dim, vocab] = sizes;
        let sizes = Sizes {
            vocab,
            hidden,
            ffn,
            heads,
            kv_heads,
            head_dim,
        };
        let mut config = ModelConfig::new(Family::Llama, sizes, layers, Rope::plain(500_000.0, head_dim));
        config.architecture = "llama".into();
        config.context_length = 8192;
        config.norm_eps = 1e-5;
        config.tied_embeddings = tied;
        Ok(Self { config, format })
    }

    pub(crate) fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn shape(&self, tensor: Tensor) -> Option<Vec<usize>> {
        let c = &self.config.sizes;
        let (queries, keys) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        Some(match tensor {
            Tensor::Output if self.config.tied_embeddings => return None,
            Tensor::Embedding | Tensor::Output => vec![c.vocab, c.hidden],
            Tensor::OutputNorm => vec![c.hidden],
            Tensor::Positions | Tensor::OutputNormBias | Tensor::Verdict(..) => return None,
            Tensor::Layer(_, part) => match part {
                LayerTensor::AttentionNorm | LayerTensor::FfnNorm => vec![c.hidden],
                LayerTensor::Query => vec![queries, c.hidden],
                LayerTensor::Key | LayerTensor::Value => vec![keys, c.hidden],
                LayerTensor::AttentionOutput => vec![c.hidden, queries],
                LayerTensor::Gate | LayerTensor::Up => vec![c.ffn, c.hidden],
                LayerTensor::Down => vec![c.hidden, c.ffn],
                _ => return None,
            },
        })
    }
}

impl WeightSource for DummyWeights {
    fn tensor(&self, tensor: Tensor) -> Result<Option<TensorData<'_>>, TensorProblem> {
        let Some(shape) = self.shape(tensor) else {
            return Ok(None);
        };
        if let [len] = shape[..] {
            let ones = 1f32.to_le_bytes().repeat(len);
            return Ok(Some(TensorData {
                shape,
                format: TensorFormat::F32,
                bytes: TensorBytes::Made(ones),
            }));
        }
        let name = self.name(tensor);
        let noise = Noise::new(&name, self.format, shape[0], shape[1..].iter().product());
        let noise = noise.ok_or_else(|| TensorProblem::Blocks {
            shape: shape.clone(),
            format: self.format,
        })?;
        Ok(Some(TensorData {
            shape,
            format: self.format,
            bytes: TensorBytes::Noise(noise),
        }))
    }

    fn info(&self, tensor: Tensor) -> Result<Option<(Vec<usize>, TensorFormat)>, TensorProblem> {
        Ok(self.shape(tensor).map(|shape| {
            let format = if shape.len() == 1 {
                TensorFormat::F32
            } else {
                self.format
            };
            (shape, format)
        }))
    }

    fn name(&self, tensor: Tensor) -> String {
        format!("{tensor:?}")
    }

    fn layer_tensors(&self) -> Vec<String> {
        Vec::new()
    }

    fn named(&self, _: &str) -> Result<Option<TensorData<'_>>, TensorProblem> {
        Ok(None)
    }
}
