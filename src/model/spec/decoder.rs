//! The description of a decoder that all code which computes it follows, instead of asking for its family.

use super::{
    Activation, AttentionLayer, AttentionShape, Biases, Family, FeedForward, HeadNorms, NormKind,
    NormPlacement, NormWeights, Rope, Rotation, VerdictHeads,
};

/// What a decoder computes, described so that no code that computes it asks for its family.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelConfig {
    /// As the file names it, for example `llama`.
    pub architecture: String,
    pub sizes: Sizes,
    /// Longest sequence that it was made for, in tokens.
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
    /// Factor on the products of queries and keys.
    pub attention_scale: f32,
    /// Bound on the scaled products of queries and keys: `cap * tanh(score / cap)`.
    pub attention_soft_cap: Option<f32>,
    /// One entry for each layer.
    pub layers: Vec<LayerAttention>,
    /// Rotary embedding of layers with [`Rotation::Global`].
    pub rope: Rope,
    /// Rotary embedding of layers with [`Rotation::Local`].
    pub local_rope: Option<Rope>,
    /// Factor on the embeddings of tokens.
    pub embedding_scale: f32,
    /// Factor on logits.
    pub logit_scale: f32,
    /// Bound on logits, applied as [`ModelConfig::attention_soft_cap`] after their scale.
    pub logit_soft_cap: Option<f32>,
    /// Whether the output projection is the embedding.
    pub tied_embeddings: bool,
    /// The heads that judge, in models that have them in place of an output projection.
    pub verdict_heads: Option<VerdictHeads>,
}

/// Sizes of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes {
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
pub(crate) struct LayerAttention {
    /// Sliding window: how many tokens a token attends to, itself included. `None` where it attends to all before it.
    pub window: Option<usize>,
    pub rotation: Rotation,
}

impl ModelConfig {
    /// A model of this family before its file has said more: full attention in all of its `layers` layers.
    pub(crate) fn new(family: Family, sizes: Sizes, layers: usize, rope: Rope) -> Self {
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
            verdict_heads: None,
        }
    }

    /// Limits the context window to so many tokens, and chooses the rotary frequencies for it.
    pub(crate) fn limit_context(&mut self, limit: Option<usize>) {
        if let Some(limit) = limit {
            self.context_length = self.context_length.min(limit.max(1));
        }
        self.rope.choose(self.context_length);
    }

    /// Numbers of heads and their width, which are those of every layer.
    pub(crate) fn attention_shape(&self) -> AttentionShape {
        AttentionShape {
            heads: self.sizes.heads,
            kv_heads: self.sizes.kv_heads,
            head_dim: self.sizes.head_dim,
        }
    }

    /// What the attention of a layer computes.
    pub(crate) fn attention_layer(&self, layer: LayerAttention) -> AttentionLayer {
        AttentionLayer {
            shape: self.attention_shape(),
            scale: self.attention_scale,
            soft_cap: self.attention_soft_cap,
            window: layer.window,
        }
    }

    /// The widest sliding window of any layer, in tokens; `None` where a layer attends to the whole context.
    pub(crate) fn window(&self) -> Option<usize> {
        let windows = self.layers.iter().map(|layer| layer.window);
        let widest = windows.reduce(|a, b| Some(a?.max(b?))).flatten();
        widest.filter(|&window| window < self.context_length)
    }

    /// Gives a sliding window to the layers for which `sliding` is true, and to all layers the rotation that the family has
    /// for them.
    pub(crate) fn set_windows(&mut self, family: Family, window: Option<usize>, sliding: &[bool]) {
        for (layer, &sliding) in self.layers.iter_mut().zip(sliding) {
            layer.window = window.filter(|_| sliding);
            layer.rotation = family.rotation(sliding);
        }
    }
}
