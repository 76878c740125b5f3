//! Reads [`ModelConfig`] from a `config.json` with GPT-2's keys.

use super::{check::MAX_LAYERS, hf_fields::Fields};
use crate::model::spec::{Activation, Family, ModelConfig, Rope, Sizes};

/// The one of these that is supported.
pub(super) const MODEL_TYPE: &str = "gpt_bigcode";

pub(super) fn read(fields: &Fields<'_>) -> Result<ModelConfig, String> {
    let (hidden, heads) = (fields.required("n_embd")?, fields.required("n_head")?);
    if fields.optional_flag("multi_query")? == Some(false) {
        // Its heads have queries, keys and values side by side.
        return Err("multi_query is false, which is not supported".into());
    }
    for (key, wanted) in [("scale_attn_weights", true), ("add_cross_attention", false)] {
        if fields.optional_flag(key)?.is_some_and(|found| found != wanted) {
            return Err(format!("{key} is {}, which is not supported", !wanted));
        }
    }
    let activation = match fields.text("activation_function")? {
        None | Some("gelu_pytorch_tanh") => Activation::GeluTanh,
        Some("gelu") => Activation::Gelu,
        Some(found) => {
            return Err(format!(
                "activation_function is `{found}`; `gelu` and `gelu_pytorch_tanh` are supported"
            ));
        }
    };
    let sizes = Sizes {
        vocab: fields.required("vocab_size")?,
        hidden,
        ffn: fields.count("n_inner")?.unwrap_or(hidden.saturating_mul(4)),
        heads,
        kv_heads: 1,
        head_dim: hidden.checked_div(heads).unwrap_or(0),
    };
    let sizes = sizes.checked()?;
    let layers = fields.required("n_layer")?.min(MAX_LAYERS + 1);
    // Nothing is rotated.
    let rope = Rope::plain(10_000.0, sizes.head_dim);
    let mut config = ModelConfig::new(Family::GptBigCode, sizes, layers, rope);
    MODEL_TYPE.clone_into(&mut config.architecture);
    config.activation = activation;
    config.context_length = fields.required("n_positions")?;
    config.norm_eps = fields.number("layer_norm_epsilon")?.unwrap_or(1e-5) as f32;
    if let Some(tied) = fields.optional_flag("tie_word_embeddings")? {
        config.tied_embeddings = tied;
    }
    config.set_windows(Family::GptBigCode, None, &vec![false; layers]);
    Ok(config)
}
