//! Made-up weights for a shape: for measuring speed and memory of models whose files are not at hand.

use super::source::{LayerTensor, Tensor, TensorBytes, TensorData, WeightSource};
use crate::model::{
    error::{InvalidModel, TensorProblem},
    spec::{Family, ModelConfig, Noise, Rope, Sizes, TensorFormat},
};

const FORMATS: &str = "f32, bf16, q4_1, q8_0";
/// Longest sequence in tokens, where nothing else is said.
const WINDOW: usize = 8192;
/// The longest window that can be asked for: devices keep a table of rotations for each of its positions.
const LONGEST_WINDOW: usize = 1 << 20;
const SHAPES: &str =
    "tiny, smollm2-135m, llama-3.2-1b, llama-3.2-3b, llama-3.1-8b, llama-guard-3-1b, llama-guard-3-8b";

/// Noise of a plausible size in one storage format. A tensor's noise follows from its name, so it is always the same, and it is
/// made where it is read: nothing of it is kept.
pub(crate) struct DummyWeights {
    config: ModelConfig,
    format: TensorFormat,
}

impl DummyWeights {
    /// From `SHAPE[:FORMAT[:WINDOW]]`, for example `llama-3.2-1b:q8_0:32768`: in bf16 and with a window of 8192 tokens, where
    /// nothing else is said. Nothing of the weights depends on the window.
    ///
    /// # Errors
    /// When there is no such shape or format, or the window is no number of tokens from 1 to 1048576.
    pub(crate) fn parse(spec: &str) -> Result<Self, InvalidModel> {
        let mut parts = spec.splitn(3, ':');
        let shape = parts.next().unwrap_or_default();
        let format = match parts.next().unwrap_or("bf16") {
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
        let window = match parts.next() {
            None => WINDOW,
            Some(text) => match text.parse() {
                Ok(window @ 1..=LONGEST_WINDOW) => window,
                _ => {
                    return Err(InvalidModel::DummyWindow {
                        found: text.to_owned(),
                        longest: LONGEST_WINDOW,
                    });
                }
            },
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
        config.context_length = window;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn window(spec: &str) -> usize {
        DummyWeights::parse(spec).unwrap().config().context_length
    }

    fn refused(spec: &str) -> String {
        DummyWeights::parse(spec).err().unwrap().to_string()
    }

    #[test]
    fn a_window_is_8192_tokens_unless_it_is_said() {
        assert_eq!(window("tiny"), 8192);
        assert_eq!(window("tiny:f32"), 8192);
        assert_eq!(window("tiny:q8_0:32768"), 32_768);
        assert_eq!(window("tiny:f32:1"), 1);
    }

    #[test]
    fn a_window_that_is_no_number_of_tokens_is_refused_with_the_range() {
        for found in ["0", "1048577", "-1", "many", "", "64:64"] {
            assert_eq!(
                refused(&format!("tiny:f32:{found}")),
                format!("dummy window `{found}` is no number of tokens from 1 to 1048576")
            );
        }
        assert!(refused("tiny:f64:64").contains("dummy format `f64` is unknown"));
        assert!(refused("huge:f32:64").contains("dummy shape `huge` is unknown"));
    }
}
