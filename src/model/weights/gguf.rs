//! Weights of a GGUF file, under llama.cpp's tensor names.

use std::borrow::Cow;

use super::{LayerTensor, Tensor, TensorData, WeightSource};
use crate::{gguf::Gguf, kernels::BlockFormat};

pub(in crate::model) struct GgufWeights<'a>(pub &'a Gguf);

impl WeightSource for GgufWeights<'_> {
    fn tensor(&self, tensor: Tensor) -> Result<Option<TensorData<'_>>, String> {
        let Some(info) = self.0.tensor(&self.name(tensor)) else {
            return Ok(None);
        };
        let format = BlockFormat::try_from(info.ggml_type).map_err(|e| e.to_string())?;
        // GGUF counts the contiguous dimension first.
        let shape: Vec<usize> = info.dimensions.iter().rev().copied().collect();
        let len = format
            .bytes_for(info.elements())
            .ok_or_else(|| format!("{:?} does not fill whole blocks of {}", shape, format.name()))?;
        let bytes = info
            .offset
            .checked_add(len)
            .and_then(|end| self.0.bytes(info.offset..end));
        let bytes = bytes.ok_or("its data lies outside the file (is the download complete?)")?;
        Ok(Some(TensorData {
            shape,
            format,
            bytes: Cow::Borrowed(bytes),
        }))
    }

    fn name(&self, tensor: Tensor) -> String {
        match tensor {
            Tensor::Embedding => "token_embd.weight".into(),
            Tensor::OutputNorm => "output_norm.weight".into(),
            Tensor::Output => "output.weight".into(),
            Tensor::RopeFactors => "rope_freqs.weight".into(),
            Tensor::Layer(layer, part) => {
                let part = match part {
                    LayerTensor::AttentionNorm => "attn_norm",
                    LayerTensor::Query => "attn_q",
                    LayerTensor::Key => "attn_k",
                    LayerTensor::Value => "attn_v",
                    LayerTensor::AttentionOutput => "attn_output",
                    LayerTensor::FfnNorm => "ffn_norm",
                    LayerTensor::Gate => "ffn_gate",
                    LayerTensor::Up => "ffn_up",
                    LayerTensor::Down => "ffn_down",
                };
                format!("blk.{layer}.{part}.weight")
            }
        }
    }
}
