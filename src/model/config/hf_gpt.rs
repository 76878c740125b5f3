//! Reads [`ModelConfig`] from a `config.json` with GPT-2's keys.

use super::{
    check::{MAX_LAYERS, checked_sizes},
    hf_fields::Fields,
};
use crate::model::{
    error::{ConfigError, KeyProblem},
    spec::{Activation, Family, ModelConfig, Rope, Sizes},
};

/// The only `model_type` with these keys that is supported.
pub(super) const MODEL_TYPE: &str = "gpt_bigcode";

pub(super) fn read(fields: &Fields<'_>) -> Result<ModelConfig, ConfigError> {
    let (hidden, heads) = (fields.required("n_embd")?, fields.required("n_head")?);
    for (key, supported) in [
        // Without it, each head has its queries, keys and values side by side, which is another order of weights.
        ("multi_query", true),
        ("scale_attn_weights", true),
        ("add_cross_attention", false),
    ] {
        if let Some(found) = fields.optional_flag(key)?.filter(|found| *found != supported) {
            let found = found.to_string();
            return Err(KeyProblem::NotSupported { found }.of(key).into());
        }
    }
    let key = "activation_function";
    let activation = match fields.text(key)? {
        None | Some("gelu_pytorch_tanh") => Activation::GeluTanh,
        Some("gelu") => Activation::Gelu,
        Some(found) => {
            let supported = ["gelu", "gelu_pytorch_tanh"];
            return Err(KeyProblem::unsupported_text(found, supported).of(key).into());
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
    let sizes = checked_sizes(sizes)?;
    let layers = fields.required("n_layer")?.min(MAX_LAYERS + 1);
    // Positions have embeddings of their own, and nothing is rotated: these frequencies are not used.
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
