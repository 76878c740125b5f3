//! Checks of what files say, before anything is made as large as they say.

use std::{fmt, ops::RangeInclusive};

use crate::model::spec::{ModelConfig, Sizes};

/// Limits on shapes: beyond them a file is damaged or hostile, not large.
const MAX_DIMENSION: usize = 1 << 24;
pub(super) const MAX_LAYERS: usize = 1 << 12;

impl ModelConfig {
    /// The same configuration, when a model can be made of it.
    pub(super) fn validated(self) -> Result<Self, String> {
        within("context length", self.context_length, 1..=MAX_DIMENSION)?;
        within("layer count", self.layers.len(), 1..=MAX_LAYERS)?;
        for window in self.layers.iter().filter_map(|layer| layer.window) {
            within("sliding window", window, 1..=usize::MAX)?;
        }
        if !self.norm_eps.is_finite() || self.norm_eps < 0.0 {
            return Err(format!("the norm's epsilon is {}", self.norm_eps));
        }
        let caps = self.attention_soft_cap.iter().chain(&self.logit_soft_cap);
        for factor in [self.attention_scale, self.logit_scale].iter().chain(caps) {
            if !factor.is_finite() || *factor <= 0.0 {
                return Err(format!("a scale or soft cap is {factor}"));
            }
        }
        for rope in [Some(&self.rope), self.local_rope.as_ref()].into_iter().flatten() {
            rope.check(self.sizes.head_dim)?;
        }
        Ok(self)
    }
}

impl Sizes {
    /// Checked before anything is made as large as they say.
    pub(super) fn checked(self) -> Result<Self, String> {
        let Self { heads, kv_heads, .. } = self;
        for (name, size) in [
            ("vocabulary", self.vocab),
            ("hidden size", self.hidden),
            ("feed-forward size", self.ffn),
            ("head count", heads),
            ("kv head count", kv_heads),
            ("head size", self.head_dim),
            ("width of all heads", heads.saturating_mul(self.head_dim)),
        ] {
            within(name, size, 1..=MAX_DIMENSION)?;
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(format!("{heads} heads cannot share {kv_heads} kv heads"));
        }
        if !self.head_dim.is_multiple_of(16) {
            return Err(format!(
                "a head size of {} is not supported (multiples of 16 are)",
                self.head_dim
            ));
        }
        Ok(self)
    }
}

pub(super) fn within(name: &str, size: usize, allowed: RangeInclusive<usize>) -> Result<(), String> {
    if allowed.contains(&size) {
        Ok(())
    } else {
        Err(format!("the {name} is {size}"))
    }
}

/// `a, b and c`, for messages.
pub(super) fn listed<T: fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}
