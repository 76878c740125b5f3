//! What a checkpoint says about its model: from GGUF metadata or a Hugging Face `config.json`.
//!
//! [`ModelConfig`] is all that the decoder knows. What families have in common is said once, in [`family`];
//! what a file says is read by [`gguf`] and [`hf`].

mod family;
mod gguf;
mod hf;
mod hf_gpt;
mod rope;

use std::{fmt, ops::RangeInclusive};

use serde_json::Value as Json;

pub(super) use self::{
    family::{Biases, Family, FeedForward, HeadNorms, NormPlacement, NormWeights},
    gguf::reorders_heads,
    rope::Rope,
};
use super::ModelLimits;
use crate::{
    backend::cpu::kernels::BLOCK_TOKENS,
    gguf::Gguf,
    model::spec::{Activation, AttentionLayer, AttentionShape, NormKind},
};

/// A decoder, described so that no code asks for a family.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ModelConfig {
    /// As the file names it, for example `llama`.
    pub architecture: String,
    pub sizes: Sizes,
    /// Longest sequence it was made for.
    pub context_length: usize,
    pub norm: NormKind,
    pub norm_eps: f32,
    pub norm_weights: NormWeights,
    pub norm_placement: NormPlacement,
    pub head_norms: HeadNorms,
    pub activation: Activation,
    pub biases: Biases,
    pub feed_forward: FeedForward,
    /// Whether each position has an embedding of its own, which is added to the token's.
    pub learned_positions: bool,
    /// What products of queries and keys are multiplied with.
    pub attention_scale: f32,
    /// Bounds scores: `cap * tanh(score / cap)`.
    pub attention_soft_cap: Option<f32>,
    /// One entry for each layer.
    pub layers: Vec<LayerAttention>,
    /// For layers with [`Rotation::Global`].
    pub rope: Rope,
    /// For layers with [`Rotation::Local`].
    pub local_rope: Option<Rope>,
    /// What embeddings are multiplied with.
    pub embedding_scale: f32,
    /// What logits are multiplied with.
    pub logit_scale: f32,
    /// Bounds logits, after their scale.
    pub logit_soft_cap: Option<f32>,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
}

/// Sizes of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
}

/// How one layer attends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LayerAttention {
    /// How many tokens a token sees, itself included; all before it when absent.
    pub window: Option<usize>,
    pub rotation: Rotation,
}

/// Which rotary frequencies a layer uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    /// None: positions reach it through the causal order only (arXiv 2305.19466).
    None,
    Global,
    Local,
}

/// Limits on shapes: beyond them a file is damaged or hostile, not large.
const MAX_DIMENSION: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 12;

impl ModelConfig {
    /// A model of a family as it is when its file says nothing else: full attention in `layers` layers.
    pub(super) fn new(family: Family, sizes: Sizes, layers: usize, rope: Rope) -> Self {
        let traits = family.traits();
        let full = LayerAttention {
            window: None,
            rotation: Rotation::Global,
        };
        Self {
            architecture: String::new(),
            sizes,
            context_length: 0,
            norm: traits.norm,
            norm_eps: 1e-6,
            norm_weights: NormWeights::Whole,
            norm_placement: traits.norm_placement,
            head_norms: traits.head_norms,
            activation: traits.activation,
            biases: traits.biases,
            feed_forward: traits.feed_forward,
            learned_positions: traits.learned_positions,
            attention_scale: 1.0 / (sizes.head_dim as f32).sqrt(),
            attention_soft_cap: None,
            layers: vec![full; layers],
            rope,
            local_rope: None,
            embedding_scale: if traits.scaled_embedding {
                (sizes.hidden as f32).sqrt()
            } else {
                1.0
            },
            logit_scale: 1.0,
            logit_soft_cap: None,
            tied_embeddings: traits.tied_embeddings,
        }
    }

    /// From a GGUF file's metadata.
    pub(super) fn from_gguf(file: &Gguf) -> Result<Self, String> {
        gguf::read(file)?.validated()
    }

    /// From a Hugging Face `config.json`.
    pub(super) fn from_json(json: &Json) -> Result<Self, String> {
        hf::read(json)?.validated()
    }

    /// Limits the context window, and chooses the rotary frequencies for it.
    pub(super) fn limit_context(&mut self, limit: Option<usize>) {
        if let Some(limit) = limit {
            self.context_length = self.context_length.min(limit.max(1));
        }
        self.rope.choose(self.context_length);
    }

    /// Sizes of the attention.
    pub(super) fn attention_shape(&self) -> AttentionShape {
        AttentionShape {
            heads: self.sizes.heads,
            kv_heads: self.sizes.kv_heads,
            head_dim: self.sizes.head_dim,
        }
    }

    /// How a layer attends.
    pub(super) fn attention_layer(&self, layer: LayerAttention) -> AttentionLayer {
        AttentionLayer {
            shape: self.attention_shape(),
            scale: self.attention_scale,
            soft_cap: self.attention_soft_cap,
            window: layer.window,
        }
    }

    /// What a scheduler needs to know, with a pool of so many blocks.
    pub(super) fn limits(&self, num_blocks: usize) -> ModelLimits {
        let mut limits = ModelLimits {
            vocab_size: self.sizes.vocab,
            context_length: self.context_length,
            block_size: BLOCK_TOKENS,
            num_blocks,
            window: self.window(),
        };
        if limits.most_blocks() > num_blocks {
            limits.context_length = limits.context_length.min(num_blocks * BLOCK_TOKENS);
        }
        limits
    }

    /// How many tokens a token sees in any layer, where that is less than all of the context.
    fn window(&self) -> Option<usize> {
        let windows = self.layers.iter().map(|layer| layer.window);
        let widest = windows.reduce(|a, b| Some(a?.max(b?))).flatten();
        widest.filter(|&window| window < self.context_length)
    }

    /// Which layers see the window only, and so how the family rotates them.
    fn set_windows(&mut self, family: Family, window: Option<usize>, sliding: &[bool]) {
        for (layer, &sliding) in self.layers.iter_mut().zip(sliding) {
            layer.window = window.filter(|_| sliding);
            layer.rotation = family.rotation(sliding);
        }
    }

    fn validated(self) -> Result<Self, String> {
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
    fn checked(self) -> Result<Self, String> {
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

fn within(name: &str, size: usize, allowed: RangeInclusive<usize>) -> Result<(), String> {
    if allowed.contains(&size) {
        Ok(())
    } else {
        Err(format!("the {name} is {size}"))
    }
}

/// `a, b and c`, for messages.
fn listed<T: fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}
