//! The matrices of a layer that an adapter can change, under the names that files have for them.

use crate::model::spec::Sizes;

/// A matrix of a layer, or several that share an input and lie side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Module {
    Query,
    Key,
    Value,
    /// Queries, keys and values in one.
    Qkv,
    AttentionOutput,
    Gate,
    Up,
    /// Gate and up in one.
    GateUp,
    Down,
}

/// A product of a layer: what modules with the same input are computed by.
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

/// Which outputs of a product are a module's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outputs {
    pub site: Site,
    pub inputs: usize,
    /// Among the product's outputs.
    pub first_output: usize,
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

    /// Below `model.layers.N.` of a Hugging Face model.
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

    /// Below `blk.N.` of a GGUF file of this architecture.
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
