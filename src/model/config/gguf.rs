//! Reads [`ModelConfig`] from GGUF metadata, under llama.cpp's keys.

use super::check::{MAX_LAYERS, listed};
use crate::{
    gguf::{Gguf, Value},
    model::spec::{
        Biases, Family, HeadNorms, LongScaling, ModelConfig, NormKind, Rope, RopeStyle, Scaling, Sizes,
        check_factors, sliding_layers,
    },
    model::weights::{GgufWeights, WeightSource},
};

/// `general.architecture`, and the family it stands for.
const ARCHITECTURES: [(&str, Family); 10] = [
    ("llama", Family::Llama),
    ("mistral3", Family::Mistral),
    ("qwen2", Family::Qwen2),
    ("qwen3", Family::Qwen3),
    ("gemma2", Family::Gemma2),
    ("gemma3", Family::Gemma3),
    ("phi3", Family::Phi3),
    ("command-r", Family::Cohere),
    ("cohere2", Family::Cohere2),
    ("starcoder", Family::GptBigCode),
];

/// Whether llama.cpp's converter reorders the rows of this architecture's queries and keys, so that what is
/// rotated together are neighbours.
pub(crate) fn reorders_heads(architecture: &str) -> bool {
    matches!(architecture, "llama" | "mistral3")
}

pub(super) fn read(file: &Gguf) -> Result<ModelConfig, String> {
    let architecture = file
        .get_str("general.architecture")
        .ok_or("general.architecture is missing")?;
    let family = ARCHITECTURES.iter().find(|(name, _)| *name == architecture);
    let &(_, family) = family.ok_or_else(|| {
        let known = listed(ARCHITECTURES.map(|(name, _)| format!("`{name}`")));
        format!("general.architecture is `{architecture}`; {known} are supported")
    })?;
    let keys = Keys { file, architecture };
    keys.refuse_what_is_not_there()?;
    let sizes = sizes(&keys)?;
    let layers = keys.required("block_count")?.min(MAX_LAYERS + 1);
    let mut config = ModelConfig::new(family, sizes, layers, rope(&keys, family, sizes)?);
    architecture.clone_into(&mut config.architecture);
    config.context_length = keys.required("context_length")?;
    let eps = match config.norm {
        NormKind::Rms => "attention.layer_norm_rms_epsilon",
        NormKind::Layer => "attention.layer_norm_epsilon",
    };
    config.norm_eps = keys
        .float(eps)?
        .ok_or_else(|| format!("{} is missing", keys.name(eps)))? as f32;
    config.tied_embeddings = file.tensor("output.weight").is_none();
    if config.biases != Biases::All {
        let names = ["blk.0.attn_q.bias", "blk.0.attn_qkv.bias"];
        let biased = names.iter().any(|name| file.tensor(name).is_some());
        config.biases = if biased { Biases::Qkv } else { Biases::None };
    }
    windows(&keys, family, &mut config)?;
    match family {
        Family::Gemma2 => {
            let cap = keys.float("attn_logit_softcapping")?.unwrap_or(50.0);
            config.attention_soft_cap = Some(cap as f32);
            let cap = keys.float("final_logit_softcapping")?.unwrap_or(30.0);
            config.logit_soft_cap = Some(cap as f32);
            // The file does not say by what queries are divided. It is the head's size, but for the 27B model.
            if config.layers.len() == 46 {
                config.attention_scale = wide_query_scale(sizes);
            }
        }
        Family::Gemma3 => {
            let cap = keys.float("final_logit_softcapping")?;
            config.logit_soft_cap = cap.filter(|cap| *cap != 0.0).map(|cap| cap as f32);
            let theta = keys.float("rope.freq_base_swa")?.unwrap_or(10_000.0);
            let local = Rope::plain(theta, sizes.head_dim);
            config.local_rope = Some(local);
            // As above.
            if config.layers.len() == 62 {
                config.attention_scale = wide_query_scale(sizes);
            }
        }
        Family::Cohere | Family::Cohere2 => {
            let scale = keys.float("logit_scale")?.filter(|scale| *scale != 0.0);
            config.logit_scale = scale.unwrap_or(1.0) as f32;
            if file.tensor("blk.0.attn_q_norm.weight").is_some() {
                config.head_norms = HeadNorms::Own;
            }
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

/// Gemma's 27B models divide queries by the square root of the stream's share of each head.
fn wide_query_scale(sizes: Sizes) -> f32 {
    1.0 / ((sizes.hidden / sizes.heads) as f32).sqrt()
}

fn sizes(keys: &Keys<'_>) -> Result<Sizes, String> {
    let hidden = keys.required("embedding_length")?;
    let heads = keys.required("attention.head_count")?;
    let head_dim = match keys.count("attention.key_length")? {
        Some(length) => length,
        None => hidden.checked_div(heads).unwrap_or(0),
    };
    if let Some(length) = keys.count("attention.value_length")?
        && length != head_dim
    {
        return Err(format!(
            "{} is {length}, not the keys' {head_dim}",
            keys.name("attention.value_length")
        ));
    }
    let embedding = keys
        .file
        .tensor("token_embd.weight")
        .ok_or("tensor `token_embd.weight` is missing")?;
    let sizes = Sizes {
        vocab: embedding.dimensions.get(1).copied().unwrap_or(0),
        hidden,
        ffn: keys.required("feed_forward_length")?,
        heads,
        kv_heads: keys.count("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
    };
    sizes.checked()
}

/// llama.cpp's converter reorders the rows of queries and keys of the llama architecture to pair neighbours.
fn rope(keys: &Keys<'_>, family: Family, sizes: Sizes) -> Result<Rope, String> {
    let style = match family {
        Family::Llama | Family::Mistral | Family::Cohere | Family::Cohere2 => RopeStyle::Interleaved,
        Family::Qwen2
        | Family::Qwen3
        | Family::Gemma2
        | Family::Gemma3
        | Family::Phi3
        | Family::GptBigCode => RopeStyle::Halves,
    };
    let dims = match keys.count("rope.dimension_count")? {
        Some(dims) if dims > sizes.head_dim || !dims.is_multiple_of(2) => {
            return Err(format!(
                "{} is {dims}, which does not fit a head size of {}",
                keys.name("rope.dimension_count"),
                sizes.head_dim
            ));
        }
        Some(dims) => dims,
        None => sizes.head_dim,
    };
    let theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
    let kind = keys.file.get_str(&keys.name("rope.scaling.type"));
    let divisors = keys.factors("rope_freqs.weight", dims / 2)?;
    let short = keys.factors("rope_factors_short.weight", dims / 2)?;
    let long = keys.factors("rope_factors_long.weight", dims / 2)?;
    let scaling = match (kind, divisors, short, long) {
        (None | Some("none" | "linear"), Some(divisors), None, None) => Scaling::Divisors(divisors),
        (None | Some("none" | "longrope"), None, Some(short), Some(long)) => Scaling::Long(LongScaling {
            short,
            long,
            original_context: keys.required("rope.scaling.original_context_length")?,
            magnitude: keys.float("rope.scaling.attn_factor")?.unwrap_or(1.0),
        }),
        (Some("none"), None, None, None) => Scaling::None,
        (None | Some("linear"), None, None, None) => match keys.float("rope.scaling.factor")? {
            None | Some(0.0) => Scaling::None,
            Some(factor) => Scaling::Linear(factor),
        },
        (kind, ..) => {
            return Err(format!(
                "{} is `{}` with tensors that do not belong to it or are missing; none, linear and longrope are \
                 supported",
                keys.name("rope.scaling.type"),
                kind.unwrap_or("none")
            ));
        }
    };
    Ok(Rope::new(style, theta, dims, &scaling))
}

fn windows(keys: &Keys<'_>, family: Family, config: &mut ModelConfig) -> Result<(), String> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    let layers = config.layers.len();
    let window = match (keys.count("attention.sliding_window")?, family) {
        (None, Family::Gemma2) => Some(4096),
        (None, Family::Cohere2) => {
            return Err(format!("{} is missing", keys.name("attention.sliding_window")));
        }
        (window, _) => window.filter(|window| *window > 0),
    };
    let pattern = family.sliding_pattern().filter(|_| window.is_some());
    let sliding = match (keys.file.get(&keys.name(PATTERN)), pattern) {
        (Some(Value::Array(flags)), Some(_)) if flags.len() == layers => {
            let flags = flags.iter().map(Value::as_bool).collect::<Option<Vec<bool>>>();
            flags.ok_or_else(|| format!("{} has entries that are not booleans", keys.name(PATTERN)))?
        }
        (Some(value), Some(_)) => {
            let pattern = value.as_u64().and_then(|v| usize::try_from(v).ok());
            let pattern = pattern
                .ok_or_else(|| format!("{} is neither a number nor {layers} booleans", keys.name(PATTERN)))?;
            sliding_layers(layers, pattern)
        }
        (None, Some(pattern)) => sliding_layers(layers, pattern),
        (_, None) => vec![window.is_some(); layers],
    };
    config.set_windows(family, window, &sliding);
    Ok(())
}

/// The metadata below an architecture's name. What is there but of another type is an error, not a default.
struct Keys<'a> {
    file: &'a Gguf,
    architecture: &'a str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn count(&self, key: &str) -> Result<Option<usize>, String> {
        let Some(value) = self.file.get(&self.name(key)) else {
            return Ok(None);
        };
        let count = value.as_u64().and_then(|v| usize::try_from(v).ok());
        let wrong = || format!("{} is not one number, which is not supported", self.name(key));
        count.map(Some).ok_or_else(wrong)
    }

    fn required(&self, key: &str) -> Result<usize, String> {
        let missing = || format!("{} is missing", self.name(key));
        self.count(key)?.ok_or_else(missing)
    }

    fn float(&self, key: &str) -> Result<Option<f64>, String> {
        let Some(value) = self.file.get(&self.name(key)) else {
            return Ok(None);
        };
        let wrong = || format!("{} is not one number, which is not supported", self.name(key));
        value.as_f64().map(Some).ok_or_else(wrong)
    }

    /// Divisors of rotary frequencies.
    fn factors(&self, tensor: &str, pairs: usize) -> Result<Option<Vec<f64>>, String> {
        let named = |reason: String| format!("tensor `{tensor}`: {reason}");
        let weights = GgufWeights::new(self.file)?;
        let Some(data) = weights.named(tensor).map_err(named)? else {
            return Ok(None);
        };
        let factors: Vec<f64> = data
            .values(&[pairs])
            .map_err(named)?
            .into_iter()
            .map(f64::from)
            .collect();
        check_factors(&factors, pairs).map_err(named)?;
        Ok(Some(factors))
    }

    /// Mixtures of experts and the like, which some of these architectures have too.
    fn refuse_what_is_not_there(&self) -> Result<(), String> {
        for key in ["expert_count", "attention.temperature_scale"] {
            if let Some(value) = self.float(key)?.filter(|value| *value != 0.0) {
                return Err(format!("{} is {value}, which is not supported", self.name(key)));
            }
        }
        match self.file.get_bool(&self.name("attention.causal")) {
            Some(false) => Err(format!(
                "{} is false, which is not supported",
                self.name("attention.causal")
            )),
            _ => Ok(()),
        }
    }
}
