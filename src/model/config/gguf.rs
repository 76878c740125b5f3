//! Reads [`ModelConfig`] from GGUF metadata, under llama.cpp's keys.

use super::{
    check::{MAX_LAYERS, checked_sizes},
    granite::Multipliers,
};
use crate::{
    gguf::{Gguf, Value},
    model::{
        error::{ConfigError, KeyError, KeyProblem, TensorError, TensorProblem},
        spec::{
            Biases, Family, HeadNorms, LongScaling, ModelConfig, NormKind, Rope, RopeStyle, Scaling, Sizes,
            check_factors, sliding_layers,
        },
        weights::{GgufWeights, WeightSource},
    },
};

/// The architectures that are supported, each with its family.
const ARCHITECTURES: [(&str, Family); 11] = [
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
    ("granite", Family::Granite),
];

/// Whether llama.cpp's converter reorders the rows of this architecture's queries and keys, so that two rows that are
/// rotated together are neighbours.
pub(crate) fn reorders_heads(architecture: &str) -> bool {
    matches!(architecture, "llama" | "mistral3" | "granite")
}

pub(super) fn read(file: &Gguf) -> Result<ModelConfig, ConfigError> {
    const KEY: &str = "general.architecture";
    let architecture = file.get_str(KEY).ok_or_else(|| KeyProblem::Missing.of(KEY))?;
    let family = ARCHITECTURES.iter().find(|(name, _)| *name == architecture);
    let &(_, family) = family.ok_or_else(|| {
        let known = ARCHITECTURES.map(|(name, _)| name);
        KeyProblem::unsupported_text(architecture, known).of(KEY)
    })?;
    let keys = Keys { file, architecture };
    keys.refuse_unsupported()?;
    let sizes = sizes(&keys)?;
    let layers = keys.required("block_count")?.min(MAX_LAYERS + 1);
    let mut config = ModelConfig::new(family, sizes, layers, rope(&keys, family, sizes)?);
    architecture.clone_into(&mut config.architecture);
    config.context_length = keys.required("context_length")?;
    let eps = match config.norm {
        NormKind::Rms => "attention.layer_norm_rms_epsilon",
        NormKind::Layer => "attention.layer_norm_epsilon",
    };
    let norm_eps = keys.float(eps)?;
    config.norm_eps = norm_eps.ok_or_else(|| keys.error(eps, KeyProblem::Missing))? as f32;
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
            // The file does not say what queries are divided by. It is the square root of the head size, except in the
            // 27B model, which is known by its number of layers.
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
            // The 27B model is an exception, as of Gemma 2.
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
        Family::Granite => {
            // llama.cpp takes 0 for a key that is not there.
            let given = |key: &str| Ok::<_, KeyError>(keys.float(key)?.filter(|value| *value != 0.0));
            let own_scale = f64::from(config.attention_scale);
            let multipliers = Multipliers {
                embedding: given("embedding_scale")?.unwrap_or(1.0),
                residual: given("residual_scale")?.unwrap_or(1.0),
                attention: given("attention.scale")?.unwrap_or(own_scale),
                logits_divisor: keys
                    .float("logit_scale")?
                    .ok_or_else(|| keys.error("logit_scale", KeyProblem::Missing))?,
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

/// The attention scale of Gemma's 27B models, which divide queries by the square root of hidden size over head count, not
/// of the head size.
fn wide_query_scale(sizes: Sizes) -> f32 {
    1.0 / ((sizes.hidden / sizes.heads) as f32).sqrt()
}

fn sizes(keys: &Keys<'_>) -> Result<Sizes, ConfigError> {
    let hidden = keys.required("embedding_length")?;
    let heads = keys.required("attention.head_count")?;
    let head_dim = match keys.count("attention.key_length")? {
        Some(length) => length,
        None => hidden.checked_div(heads).unwrap_or(0),
    };
    let key = "attention.value_length";
    if let Some(length) = keys.count(key)?
        && length != head_dim
    {
        let differs = KeyProblem::Differs {
            found: length.to_string(),
            expected: format!("{head_dim} as for the keys"),
        };
        return Err(keys.error(key, differs).into());
    }
    let name = "token_embd.weight";
    let embedding = keys.file.tensor(name);
    let embedding = embedding.ok_or_else(|| TensorProblem::Missing.of(name))?;
    let sizes = Sizes {
        vocab: embedding.dimensions.get(1).copied().unwrap_or(0),
        hidden,
        ffn: keys.required("feed_forward_length")?,
        heads,
        kv_heads: keys.count("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
    };
    checked_sizes(sizes)
}

/// The frequencies of all layers, but for those that the family rotates in another way. llama.cpp's converter reorders the
/// rows of queries and keys of the llama architecture to pair neighbours.
fn rope(keys: &Keys<'_>, family: Family, sizes: Sizes) -> Result<Rope, ConfigError> {
    let style = match family {
        Family::Llama | Family::Mistral | Family::Cohere | Family::Cohere2 | Family::Granite => {
            RopeStyle::Interleaved
        }
        Family::Qwen2
        | Family::Qwen3
        | Family::Gemma2
        | Family::Gemma3
        | Family::Phi3
        | Family::GptBigCode => RopeStyle::Halves,
    };
    let key = "rope.dimension_count";
    let dims = match keys.count(key)? {
        Some(dims) if dims > sizes.head_dim || !dims.is_multiple_of(2) => {
            let rule = format!("be even and at most the head size, {}", sizes.head_dim);
            return Err(keys.error(key, KeyProblem::breaks(dims, rule)).into());
        }
        Some(dims) => dims,
        None => sizes.head_dim,
    };
    let theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
    let key = "rope.scaling.type";
    let kind = keys.file.get_str(&keys.name(key));
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
            let found = kind.unwrap_or("none").to_owned();
            return Err(keys.error(key, KeyProblem::RotaryTensors { found }).into());
        }
    };
    Ok(Rope::new(style, theta, dims, &scaling))
}

/// Sets which layers have a sliding window, and how wide it is.
fn windows(keys: &Keys<'_>, family: Family, config: &mut ModelConfig) -> Result<(), ConfigError> {
    const WINDOW: &str = "attention.sliding_window";
    const PATTERN: &str = "attention.sliding_window_pattern";
    let layers = config.layers.len();
    let window = match (keys.count(WINDOW)?, family) {
        (None, Family::Gemma2) => Some(4096),
        (None, Family::Cohere2) => return Err(keys.error(WINDOW, KeyProblem::Missing).into()),
        (window, _) => window.filter(|window| *window > 0),
    };
    let not_a = |expected: String| keys.error(PATTERN, KeyProblem::NotA { expected });
    let pattern = family.sliding_pattern().filter(|_| window.is_some());
    let sliding = match (keys.file.get(&keys.name(PATTERN)), pattern) {
        (Some(Value::Array(flags)), Some(_)) if flags.len() == layers => {
            let flags = flags.iter().map(Value::as_bool).collect::<Option<Vec<bool>>>();
            flags.ok_or_else(|| not_a(format!("a list of {layers} booleans")))?
        }
        (Some(value), Some(_)) => {
            let pattern = value.as_u64().and_then(|v| usize::try_from(v).ok());
            let pattern =
                pattern.ok_or_else(|| not_a(format!("one number or a list of {layers} booleans")))?;
            sliding_layers(layers, pattern)
        }
        (None, Some(pattern)) => sliding_layers(layers, pattern),
        (_, None) => vec![window.is_some(); layers],
    };
    config.set_windows(family, window, &sliding);
    Ok(())
}

/// The metadata below an architecture's name. A value of another type is an error and not replaced by a default.
struct Keys<'a> {
    file: &'a Gguf,
    architecture: &'a str,
}

impl Keys<'_> {
    /// A key's whole name in the file.
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn error(&self, key: &str, problem: KeyProblem) -> KeyError {
        problem.of(self.name(key))
    }

    fn value<T>(&self, key: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, KeyError> {
        let Some(value) = self.file.get(&self.name(key)) else {
            return Ok(None);
        };
        let expected = || "one number".to_owned();
        let wrong = || self.error(key, KeyProblem::NotA { expected: expected() });
        read(value).map(Some).ok_or_else(wrong)
    }

    /// A whole number that is not negative.
    fn count(&self, key: &str) -> Result<Option<usize>, KeyError> {
        self.value(key, |value| usize::try_from(value.as_u64()?).ok())
    }

    /// [`Keys::count`], where the file has to have the key.
    fn required(&self, key: &str) -> Result<usize, KeyError> {
        self.count(key)?
            .ok_or_else(|| self.error(key, KeyProblem::Missing))
    }

    fn float(&self, key: &str) -> Result<Option<f64>, KeyError> {
        self.value(key, Value::as_f64)
    }

    /// Divisors of the rotary frequencies of so many pairs, from a tensor that the file may have.
    fn factors(&self, tensor: &str, pairs: usize) -> Result<Option<Vec<f64>>, TensorError> {
        let weights = GgufWeights::new(self.file)?;
        let Some(data) = weights.named(tensor).map_err(|problem| problem.of(tensor))? else {
            return Ok(None);
        };
        let factors = data.values(&[pairs]).map_err(|problem| problem.of(tensor))?;
        let factors: Vec<f64> = factors.into_iter().map(f64::from).collect();
        check_factors(&factors, pairs).map_err(|problem| TensorProblem::Factors(problem).of(tensor))?;
        Ok(Some(factors))
    }

    /// Refuses mixtures of experts and other things that some models of these architectures have, and that nothing here
    /// computes.
    fn refuse_unsupported(&self) -> Result<(), KeyError> {
        let refuse = |key: &str, found: String| Err(self.error(key, KeyProblem::NotSupported { found }));
        for key in ["expert_count", "attention.temperature_scale"] {
            if let Some(value) = self.float(key)?.filter(|value| *value != 0.0) {
                return refuse(key, value.to_string());
            }
        }
        // The second one says that nothing is rotated, in llama.cpp's files of Granite.
        for key in ["attention.causal", "rope.scaling.finetuned"] {
            let is_false = self.file.get_bool(&self.name(key)) == Some(false);
            if is_false && (key == "attention.causal" || self.architecture == "granite") {
                return refuse(key, "false".to_owned());
            }
        }
        Ok(())
    }
}
