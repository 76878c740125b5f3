//! Checks of what files say, before anything is made as large as they say.

use crate::model::{
    error::ConfigError,
    spec::{ModelConfig, Rope, Sizes},
};

/// The largest size that is believed: beyond it a file is damaged or hostile, not large.
const MAX_DIMENSION: usize = 1 << 24;
/// The largest number of layers that is believed.
pub(super) const MAX_LAYERS: usize = 1 << 12;

/// The same configuration, when a model can be made of it.
pub(super) fn checked(config: ModelConfig) -> Result<ModelConfig, ConfigError> {
    within("context length", config.context_length, MAX_DIMENSION)?;
    within("layer count", config.layers.len(), MAX_LAYERS)?;
    if config.layers.iter().any(|layer| layer.window == Some(0)) {
        return Err(ConfigError::Size {
            name: "sliding window",
            found: 0,
            min: 1,
            max: None,
        });
    }
    if !config.norm_eps.is_finite() || config.norm_eps < 0.0 {
        return Err(ConfigError::Number {
            name: "epsilon of the norms",
            found: config.norm_eps,
            expected: "finite and not negative",
        });
    }
    for (name, factor) in [
        ("embedding scale", Some(config.embedding_scale)),
        ("attention scale", Some(config.attention_scale)),
        ("logit scale", Some(config.logit_scale)),
        ("attention soft cap", config.attention_soft_cap),
        ("logit soft cap", config.logit_soft_cap),
    ] {
        if let Some(found) = factor.filter(|factor| !factor.is_finite() || *factor <= 0.0) {
            let expected = "finite and above 0";
            return Err(ConfigError::Number {
                name,
                found,
                expected,
            });
        }
    }
    for rope in [Some(&config.rope), config.local_rope.as_ref()]
        .into_iter()
        .flatten()
    {
        check_rope(rope, config.sizes.head_dim)?;
    }
    Ok(config)
}

fn check_rope(rope: &Rope, head_dim: usize) -> Result<(), ConfigError> {
    let long = rope.long.as_ref().map(|long| &long.frequencies);
    for frequencies in [Some(&rope.frequencies), long].into_iter().flatten() {
        let rotated = 2 * frequencies.len();
        if rotated > head_dim {
            return Err(ConfigError::RotatedDimensions { rotated, head_dim });
        }
        if !frequencies.iter().all(|frequency| frequency.is_finite()) {
            return Err(ConfigError::RotaryFrequencies);
        }
    }
    if !rope.magnitude.is_finite() {
        return Err(ConfigError::Number {
            name: "attention factor of the rotary embedding",
            found: rope.magnitude,
            expected: "finite",
        });
    }
    Ok(())
}

/// The same sizes, when weights can have them.
pub(super) fn checked_sizes(sizes: Sizes) -> Result<Sizes, ConfigError> {
    let Sizes { heads, kv_heads, .. } = sizes;
    for (name, size) in [
        ("vocabulary", sizes.vocab),
        ("hidden size", sizes.hidden),
        ("feed-forward size", sizes.ffn),
        ("head count", heads),
        ("kv head count", kv_heads),
        ("head size", sizes.head_dim),
        ("width of all heads", heads.saturating_mul(sizes.head_dim)),
    ] {
        within(name, size, MAX_DIMENSION)?;
    }
    if !heads.is_multiple_of(kv_heads) {
        return Err(ConfigError::HeadGroups { heads, kv_heads });
    }
    if !sizes.head_dim.is_multiple_of(16) {
        return Err(ConfigError::HeadSize {
            found: sizes.head_dim,
        });
    }
    Ok(sizes)
}

fn within(name: &'static str, found: usize, max: usize) -> Result<(), ConfigError> {
    match (1..=max).contains(&found) {
        true => Ok(()),
        false => Err(ConfigError::Size {
            name,
            found,
            min: 1,
            max: Some(max),
        }),
    }
}
