//! The matrices of a layer that an adapter can change, under the names that files have for them.

use super::error::AdapterError;
use crate::model::spec::Sizes;

/// A matrix of a layer, or several that share an input and lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Module {
    Query,
    Key,
    Value,
    /// Queries, keys and values in one matrix.
    Qkv,
    AttentionOutput,
    Gate,
    Up,
    /// Gate and up in one matrix.
    GateUp,
    Down,
}

/// A product of a layer that adapters may change. Matrices with the same input are multiplied in one product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    Qkv,
    AttentionOutput,
    GateUp,
    Down,
}

impl Site {
    pub(crate) const ALL: [Self; 4] = [Self::Qkv, Self::AttentionOutput, Self::GateUp, Self::Down];
}

/// The product that computes a matrix, and which of the product's outputs are that matrix's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outputs {
    pub site: Site,
    pub inputs: usize,
    /// Index of the matrix's first output among those of the product.
    pub first_output: usize,
    /// Number of the matrix's outputs.
    pub outputs: usize,
}

impl Module {
    pub(super) const ALL: [Self; 9] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Qkv,
        Self::AttentionOutput,
        Self::Gate,
        Self::Up,
        Self::GateUp,
        Self::Down,
    ];

    /// The module's name below `model.layers.N.` of a Hugging Face model.
    pub(super) fn hf_name(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Qkv => "self_attn.qkv_proj",
            Self::AttentionOutput => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::GateUp => "mlp.gate_up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// The module with this name below `blk.N.` of a GGUF file of this architecture.
    pub(super) fn from_gguf_name(name: &str, architecture: &str) -> Option<Self> {
        Some(match name {
            "attn_q" => Self::Query,
            "attn_k" => Self::Key,
            "attn_v" => Self::Value,
            "attn_qkv" => Self::Qkv,
            "attn_output" => Self::AttentionOutput,
            "ffn_gate" => Self::Gate,
            "ffn_up" if architecture == "phi3" => Self::GateUp,
            "ffn_up" => Self::Up,
            "ffn_down" => Self::Down,
            _ => return None,
        })
    }

    /// Where the module's outputs are, in a model of these sizes.
    pub(super) fn outputs(self, sizes: Sizes) -> Outputs {
        let (queries, keys) = (sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim);
        let (site, inputs, first_output, outputs) = match self {
            Self::Query => (Site::Qkv, sizes.hidden, 0, queries),
            Self::Key => (Site::Qkv, sizes.hidden, queries, keys),
            Self::Value => (Site::Qkv, sizes.hidden, queries + keys, keys),
            Self::Qkv => (Site::Qkv, sizes.hidden, 0, queries + 2 * keys),
            Self::AttentionOutput => (Site::AttentionOutput, queries, 0, sizes.hidden),
            Self::Gate => (Site::GateUp, sizes.hidden, 0, sizes.ffn),
            Self::Up => (Site::GateUp, sizes.hidden, sizes.ffn, sizes.ffn),
            Self::GateUp => (Site::GateUp, sizes.hidden, 0, 2 * sizes.ffn),
            Self::Down => (Site::Down, sizes.ffn, 0, sizes.hidden),
        };
        Outputs {
            site,
            inputs,
            first_output,
            outputs,
        }
    }
}

/// The error for a module that is no matrix of a layer.
pub(super) fn unknown_module(module: &str) -> AdapterError {
    let last = module.rsplit('.').next().unwrap_or(module);
    if ["embed_tokens", "lm_head", "token_embd", "output"].contains(&last) {
        return AdapterError::Unsupported(format!(
            "`{module}`: an adapter of embeddings or of the output layer"
        ));
    }
    let known = Module::ALL.map(|known| known.hf_name().rsplit('.').next().unwrap_or_default());
    AdapterError::UnknownModule {
        module: module.to_owned(),
        known: known.join(", "),
    }
}
