//! Reads [`ModelConfig`] from a Hugging Face `config.json`.

use serde_json::Value as Json;

use super::{
    check::{MAX_LAYERS, checked_sizes},
    granite::Multipliers,
    hf_fields::Fields,
    hf_gpt,
};
use crate::model::{
    error::{ConfigError, KeyError, KeyProblem},
    spec::{
        Activation, Family, HeadNorms, Llama3Scaling, LongScaling, ModelConfig, NormKind, NormWeights, Rope,
        RopeStyle, Scaling, Sizes, VerdictHeads, check_factors, sliding_layers,
    },
};

/// Values of `model_type` that are supported, each with its family.
const MODEL_TYPES: [(&str, Family); 11] = [
    ("llama", Family::Llama),
    ("mistral", Family::Mistral),
    ("ministral", Family::Mistral),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("gemma2", Family::Gemma2),
    ("gemma3_text", Family::Gemma3),
    ("phi3", Family::Phi3),
    ("cohere", Family::Cohere),
    ("cohere2", Family::Cohere2),
    ("granite", Family::Granite),
];

/// Values of `model_type` of models that also see pictures, each with that of the part for text, the only one that is
/// computed.
const WITH_PICTURES: [(&str, &str); 2] = [("gemma3", "gemma3_text"), ("mistral3", "mistral")];

pub(super) fn read(json: &Json) -> Result<ModelConfig, ConfigError> {
    let mut fields = Fields(json);
    let model_type = fields.text("model_type")?;
    let mut model_type = model_type.ok_or_else(|| KeyProblem::Missing.of("model_type"))?;
    if let Some((_, inner)) = WITH_PICTURES.iter().find(|(name, _)| *name == model_type) {
        fields = Fields(&json["text_config"]);
        model_type = fields.text("model_type")?.unwrap_or(inner);
    }
    if model_type == hf_gpt::MODEL_TYPE {
        return hf_gpt::read(&fields);
    }
    let family = MODEL_TYPES.iter().find(|(name, _)| *name == model_type);
    let &(_, family) = family.ok_or_else(|| {
        let known = MODEL_TYPES.iter().map(|(name, _)| *name);
        let known = known
            .chain(WITH_PICTURES.iter().map(|(name, _)| *name))
            .chain([hf_gpt::MODEL_TYPE]);
        KeyProblem::unsupported_text(model_type, known).of("model_type")
    })?;
    let sizes = sizes(&fields, family)?;
    let layers = fields.required("num_hidden_layers")?.min(MAX_LAYERS + 1);
    let context_length = context_length(&fields, family)?;
    let (rope, local_rope) = ropes(&fields, family, sizes, context_length)?;
    let mut config = ModelConfig::new(family, sizes, layers, rope);
    model_type.clone_into(&mut config.architecture);
    config.context_length = context_length;
    config.local_rope = local_rope;
    refuse_unsupported(&fields, config.activation)?;
    let eps = match config.norm {
        NormKind::Rms => fields.number("rms_norm_eps")?.unwrap_or(1e-6),
        NormKind::Layer => fields.number("layer_norm_eps")?.unwrap_or(1e-5),
    };
    config.norm_eps = eps as f32;
    for object in [fields, Fields(json)] {
        if let Some(tied) = object.optional_flag("tie_word_embeddings")? {
            config.tied_embeddings = tied;
        }
    }
    config.verdict_heads = VerdictHeads::from_json(json)?;
    let window = window(&fields, family)?;
    let sliding = sliding(&fields, family, model_type, layers)?;
    config.set_windows(family, window, &sliding);
    match family {
        Family::Gemma2 | Family::Gemma3 => {
            config.norm_weights = NormWeights::LessOne;
            let divisor = fields.number("query_pre_attn_scalar")?.unwrap_or(256.0);
            config.attention_scale = (1.0 / divisor.sqrt()) as f32;
            // Gemma 2 has caps unless its file takes them away, Gemma 3 has none unless its file gives them.
            let cap = |name: &str, default: f64| -> Result<Option<f32>, KeyError> {
                let cap = match fields.0.get(name) {
                    None => Some(default).filter(|_| family == Family::Gemma2),
                    Some(_) => fields.number(name)?,
                };
                Ok(cap.map(|cap| cap as f32))
            };
            config.logit_soft_cap = cap("final_logit_softcapping", 30.0)?;
            config.attention_soft_cap = cap("attn_logit_softcapping", 50.0)?;
            if let (Family::Gemma3, Some(cap)) = (family, config.attention_soft_cap) {
                let found = cap.to_string();
                let problem = KeyProblem::NotSupported { found };
                return Err(problem.of("attn_logit_softcapping").into());
            }
        }
        Family::Cohere | Family::Cohere2 => {
            config.logit_scale = fields.number("logit_scale")?.unwrap_or(0.0625) as f32;
            if fields.flag("use_qk_norm")? {
                config.head_norms = HeadNorms::Own;
            }
        }
        Family::Granite => {
            let multiplier = |name: &str| Ok::<_, KeyError>(fields.number(name)?.unwrap_or(1.0));
            let multipliers = Multipliers {
                embedding: multiplier("embedding_multiplier")?,
                residual: multiplier("residual_multiplier")?,
                attention: multiplier("attention_multiplier")?,
                logits_divisor: multiplier("logits_scaling")?,
            };
            multipliers.set(&mut config)?;
        }
        Family::Llama
        | Family::Mistral
        | Family::Qwen2
        | Family::Qwen3
        | Family::Phi3
        | Family::GptBigCode => {}
    }
    Ok(config)
}

fn context_length(fields: &Fields<'_>, family: Family) -> Result<usize, KeyError> {
    const KEY: &str = "max_position_embeddings";
    // Command-R was trained with more than its file allows by the usual key.
    let longer = match family {
        Family::Cohere => fields.count("model_max_length")?,
        _ => None,
    };
    match (longer.or(fields.count(KEY)?), family) {
        (Some(length), _) => Ok(length),
        (None, Family::Gemma3) => Ok(131_072),
        (None, _) => Err(KeyProblem::Missing.of(KEY)),
    }
}

fn sizes(fields: &Fields<'_>, family: Family) -> Result<Sizes, ConfigError> {
    // Published Gemma 3 files leave out some keys, for which transformers has these defaults.
    let default = |name: &str| match (family, name) {
        (Family::Gemma3, "vocab_size") => Some(262_208),
        (Family::Gemma3, "num_attention_heads") => Some(8),
        (Family::Gemma3, "num_key_value_heads") => Some(4),
        (Family::Gemma2 | Family::Gemma3, "head_dim") => Some(256),
        (Family::Qwen3, "head_dim") => Some(128),
        _ => None,
    };
    let count = |name: &str| Ok::<_, KeyError>(fields.count(name)?.or(default(name)));
    let required = |name: &str| count(name)?.ok_or_else(|| KeyProblem::Missing.of(name));
    let (hidden, heads) = (required("hidden_size")?, required("num_attention_heads")?);
    let sizes = Sizes {
        vocab: required("vocab_size")?,
        hidden,
        ffn: required("intermediate_size")?,
        heads,
        kv_heads: count("num_key_value_heads")?.unwrap_or(heads),
        head_dim: match count("head_dim")? {
            Some(head_dim) => head_dim,
            None => hidden.checked_div(heads).unwrap_or(0),
        },
    };
    checked_sizes(sizes)
}

/// Refuses what nothing here computes.
fn refuse_unsupported(fields: &Fields<'_>, activation: Activation) -> Result<(), KeyError> {
    let supported = match activation {
        Activation::Silu => "silu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    // Where both are there, as in Gemma's files, the first is the one that counts.
    for key in ["hidden_activation", "hidden_act"] {
        match fields.text(key)? {
            None => {}
            Some(found) if found == supported => break,
            Some(found) => return Err(KeyProblem::unsupported_text(found, [supported]).of(key)),
        }
    }
    let refuse = |key: &str, found: String| Err(KeyProblem::NotSupported { found }.of(key));
    for key in ["attention_bias", "mlp_bias", "use_bidirectional_attention"] {
        if fields.flag(key)? {
            return refuse(key, "true".to_owned());
        }
    }
    for key in ["num_local_experts", "num_experts"] {
        if let Some(count) = fields.count(key)?.filter(|count| *count > 0) {
            return refuse(key, count.to_string());
        }
    }
    Ok(())
}

/// Width of the sliding window, in tokens, in families that can have one. Where the file does not say, it is what
/// transformers assumes.
fn window(fields: &Fields<'_>, family: Family) -> Result<Option<usize>, KeyError> {
    match (fields.0.get("sliding_window"), family) {
        (_, Family::Llama | Family::Cohere | Family::GptBigCode | Family::Granite) | (None, Family::Phi3) => {
            Ok(None)
        }
        (None, _) => Ok(Some(4096)),
        (Some(_), _) => fields.count("sliding_window"),
    }
}

/// Whether each layer in turn attends within the sliding window only.
fn sliding(
    fields: &Fields<'_>,
    family: Family,
    model_type: &str,
    layers: usize,
) -> Result<Vec<bool>, KeyError> {
    let named = || layer_types(fields, layers);
    match family {
        Family::Llama | Family::Cohere | Family::GptBigCode | Family::Granite => Ok(vec![false; layers]),
        Family::Mistral | Family::Phi3 => match named()? {
            Some(named) if model_type == "ministral" => Ok(named),
            _ => Ok(vec![true; layers]),
        },
        Family::Qwen2 | Family::Qwen3 => {
            if !fields.flag("use_sliding_window")? {
                return Ok(vec![false; layers]);
            }
            let first = fields.count("max_window_layers")?.unwrap_or(28);
            let by_count = || (0..layers).map(|layer| layer >= first).collect();
            Ok(named()?.unwrap_or_else(by_count))
        }
        Family::Gemma2 | Family::Gemma3 | Family::Cohere2 => {
            let pattern = fields
                .count("sliding_window_pattern")?
                .filter(|_| family != Family::Gemma2);
            let pattern = pattern.or(family.sliding_pattern()).unwrap_or(1);
            Ok(named()?.unwrap_or_else(|| sliding_layers(layers, pattern)))
        }
    }
}

/// Whether each layer in turn attends within the sliding window only, where the file names the type of each.
fn layer_types(fields: &Fields<'_>, layers: usize) -> Result<Option<Vec<bool>>, KeyError> {
    const KEY: &str = "layer_types";
    let Some(types) = fields.0[KEY].as_array() else {
        return Ok(None);
    };
    if types.len() != layers {
        let found = types.len();
        return Err(KeyProblem::Entries { found, layers }.of(KEY));
    }
    let types = types.iter().enumerate().map(|(layer, kind)| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        other => {
            let found = other.map_or_else(|| kind.to_string(), str::to_owned);
            let supported = ["sliding_attention", "full_attention"];
            Err(KeyProblem::unsupported_text(&found, supported).of(format!("{KEY}[{layer}]")))
        }
    });
    types.collect::<Result<_, _>>().map(Some)
}

/// The rotary embedding of most layers, and that of layers with [`crate::model::spec::Rotation::Local`]. Newer files have
/// its parameters in `rope_parameters`, for some families one set for each type of layer; older files have them in
/// `rope_theta` and `rope_scaling`.
fn ropes(
    fields: &Fields<'_>,
    family: Family,
    sizes: Sizes,
    context_length: usize,
) -> Result<(Rope, Option<Rope>), ConfigError> {
    let style = match family {
        Family::Cohere | Family::Cohere2 => RopeStyle::Interleaved,
        _ => RopeStyle::Halves,
    };
    let parameters = Fields(&fields.0["rope_parameters"]);
    let make = |scaling: Fields<'_>, theta_key: &str, default: f64| -> Result<Rope, ConfigError> {
        let theta = match scaling.number("rope_theta")? {
            Some(theta) => theta,
            None => fields.number(theta_key)?.unwrap_or(default),
        };
        let partial = match scaling.number("partial_rotary_factor")? {
            Some(factor) => factor,
            None => fields.number("partial_rotary_factor")?.unwrap_or(1.0),
        };
        if !(partial > 0.0 && partial <= 1.0) {
            let problem = KeyProblem::breaks(partial, "be above 0 and at most 1");
            return Err(problem.of("partial_rotary_factor").into());
        }
        let dims = (sizes.head_dim as f64 * partial) as usize / 2 * 2;
        let scaling = read_scaling(&scaling, fields, dims / 2, context_length)?;
        Ok(Rope::new(style, theta, dims, &scaling))
    };
    let (full, sliding) = (
        Fields(&parameters.0["full_attention"]),
        Fields(&parameters.0["sliding_attention"]),
    );
    let scaling = match (full.0, parameters.0) {
        (Json::Object(_), _) => full,
        (_, Json::Object(_)) => parameters,
        _ => Fields(&fields.0["rope_scaling"]),
    };
    if family == Family::Gemma3 {
        return Ok((
            make(scaling, "rope_theta", 1_000_000.0)?,
            Some(make(sliding, "rope_local_base_freq", 10_000.0)?),
        ));
    }
    if full.0.is_object() && full.0 != sliding.0 && sliding.0.is_object() {
        return Err(KeyProblem::DiffersByLayer.of("rope_parameters").into());
    }
    Ok((make(scaling, "rope_theta", 10_000.0)?, None))
}

/// The scaling of the frequencies of `pairs` rotated pairs of dimensions that `rope` describes.
fn read_scaling(
    rope: &Fields<'_>,
    fields: &Fields<'_>,
    pairs: usize,
    context_length: usize,
) -> Result<Scaling, KeyError> {
    let kind = match rope.text("rope_type")? {
        Some(kind) => kind,
        None => rope.text("type")?.unwrap_or("default"),
    };
    let missing = |name: &str| {
        let reason = format!("the rope scaling `{kind}` needs it");
        KeyProblem::MissingFor { reason }.of(name)
    };
    let number = |name: &str| rope.number(name)?.ok_or_else(|| missing(name));
    match kind {
        "default" => Ok(Scaling::None),
        "linear" => Ok(Scaling::Linear(number("factor")?)),
        "llama3" => Ok(Scaling::Llama3(Llama3Scaling {
            factor: number("factor")?,
            low: number("low_freq_factor")?,
            high: number("high_freq_factor")?,
            original_context: number("original_max_position_embeddings")?,
        })),
        "longrope" | "su" => {
            let factors = |name: &str| -> Result<Vec<f64>, KeyError> {
                let list = rope.0[name].as_array().ok_or_else(|| missing(name))?;
                let factors: Vec<f64> = list.iter().filter_map(Json::as_f64).collect();
                check_factors(&factors, pairs).map_err(|problem| KeyProblem::Factors(problem).of(name))?;
                Ok(factors)
            };
            let key = "original_max_position_embeddings";
            let original_context = match fields.count(key)? {
                Some(count) => count,
                None => rope.count(key)?.unwrap_or(context_length),
            };
            let grown = match rope.number("factor")? {
                Some(factor) => factor,
                None => context_length as f64 / original_context.max(1) as f64,
            };
            let default = LongScaling::default_magnitude(grown, original_context);
            Ok(Scaling::Long(LongScaling {
                short: factors("short_factor")?,
                long: factors("long_factor")?,
                original_context,
                magnitude: rope.number("attention_factor")?.unwrap_or(default),
            }))
        }
        other => {
            let supported = ["default", "linear", "llama3", "longrope"];
            Err(KeyProblem::unsupported_text(other, supported).of("rope_type"))
        }
    }
}

#[cfg(test)]
#[path = "hf_tests.rs"]
mod tests;
