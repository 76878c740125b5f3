//! Weights of a GGUF file, under llama.cpp's tensor names.

use super::source::{FileRange, LayerTensor, Tensor, TensorBytes, TensorData, WeightSource};
use crate::{
    gguf::Gguf,
    model::{
        error::{TensorError, TensorProblem},
        spec::TensorFormat,
    },
};

pub(crate) struct GgufWeights<'a>(&'a Gguf);

/// The bytes that a tensor takes in its file.
struct ByteSpan<'a> {
    start: u64,
    end: u64,
    tensor: &'a str,
}

impl<'a> GgufWeights<'a> {
    /// Checks that no tensor lies outside of the file or over another one.
    pub(crate) fn new(gguf: &'a Gguf) -> Result<Self, TensorError> {
        let mut spans = Vec::new();
        for (tensor, info) in gguf.tensors() {
            // A tensor of a format that cannot be read is an error only where it is wanted, so its length is not known
            // here; that its first byte is in the file is checked all the same.
            let len = TensorFormat::try_from(info.ggml_type)
                .ok()
                .and_then(|format| format.bytes_for(info.elements()));
            let end = info.offset.checked_add(len.unwrap_or(1) as u64);
            let end = end.filter(|end| *end <= gguf.pieces().len());
            spans.push(ByteSpan {
                start: info.offset,
                end: end.ok_or_else(|| TensorProblem::OutsideFile.of(tensor))?,
                tensor,
            });
        }
        spans.sort_unstable_by_key(|span| (span.start, span.end, span.tensor));
        for pair in spans.windows(2) {
            let (first, second) = (&pair[0], &pair[1]);
            if second.start < first.end {
                let overlap = TensorProblem::Overlap {
                    start: second.start,
                    other: first.tensor.to_owned(),
                    end: first.end,
                };
                return Err(overlap.of(second.tensor));
            }
        }
        Ok(Self(gguf))
    }
}

impl WeightSource for GgufWeights<'_> {
    fn tensor(&self, tensor: Tensor) -> Result<Option<TensorData<'_>>, TensorProblem> {
        self.named(&self.name(tensor))
    }

    fn name(&self, tensor: Tensor) -> String {
        use LayerTensor as Part;
        let (layer, part) = match tensor {
            Tensor::Embedding => return "token_embd.weight".into(),
            Tensor::Positions => return "position_embd.weight".into(),
            Tensor::OutputNorm => return "output_norm.weight".into(),
            Tensor::OutputNormBias => return "output_norm.bias".into(),
            Tensor::Output => return "output.weight".into(),
            // There is no format of GGUF for such heads, so no file has the name.
            Tensor::Verdict(..) => return "verdict heads".into(),
            Tensor::Layer(layer, part) => (layer, part),
        };
        let part = match part {
            Part::AttentionNorm => "attn_norm.weight",
            Part::AttentionNormBias => "attn_norm.bias",
            Part::Qkv => "attn_qkv.weight",
            Part::Query => "attn_q.weight",
            Part::Key => "attn_k.weight",
            Part::Value => "attn_v.weight",
            Part::QkvBias => "attn_qkv.bias",
            Part::QueryBias => "attn_q.bias",
            Part::KeyBias => "attn_k.bias",
            Part::ValueBias => "attn_v.bias",
            Part::QueryNorm => "attn_q_norm.weight",
            Part::KeyNorm => "attn_k_norm.weight",
            Part::AttentionOutput => "attn_output.weight",
            Part::AttentionOutputBias => "attn_output.bias",
            Part::AttentionPostNorm => "post_attention_norm.weight",
            Part::FfnNorm => "ffn_norm.weight",
            Part::FfnNormBias => "ffn_norm.bias",
            Part::GateUp => match self.0.tensor(&format!("blk.{layer}.ffn_gate.weight")) {
                // Without a gate beside it, `ffn_up` holds both.
                None => "ffn_up.weight",
                Some(_) => "ffn_gate_up.weight",
            },
            Part::Gate => "ffn_gate.weight",
            Part::Up => "ffn_up.weight",
            Part::UpBias => "ffn_up.bias",
            Part::Down => "ffn_down.weight",
            Part::DownBias => "ffn_down.bias",
            Part::FfnPostNorm => "post_ffw_norm.weight",
        };
        format!("blk.{layer}.{part}")
    }

    fn gguf_architecture(&self) -> Option<&str> {
        self.0.get_str("general.architecture")
    }

    fn layer_tensors(&self) -> Vec<String> {
        let names = self.0.tensors().map(|(name, _)| name);
        let names = names.filter(|name| name.starts_with("blk."));
        names.map(str::to_owned).collect()
    }

    fn named(&self, name: &str) -> Result<Option<TensorData<'_>>, TensorProblem> {
        let Some(info) = self.0.tensor(name) else {
            return Ok(None);
        };
        let format = TensorFormat::try_from(info.ggml_type).map_err(TensorProblem::Format)?;
        // GGUF counts the contiguous dimension first.
        let shape: Vec<usize> = info.dimensions.iter().rev().copied().collect();
        let Some(len) = format.bytes_for(info.elements()) else {
            return Err(TensorProblem::Blocks { shape, format });
        };
        let (file, offset) = (self.0.pieces(), info.offset);
        let end = offset.checked_add(len as u64);
        if end.is_none_or(|end| end > file.len()) {
            return Err(TensorProblem::OutsideFile);
        }
        Ok(Some(TensorData {
            shape,
            format,
            bytes: TensorBytes::Stored(FileRange { file, offset, len }),
        }))
    }
}
