//! What all models of a family have in common, whatever file they come in.

use super::{Activation, NormKind, Rotation};

/// Families of decoders. Only the readers of configurations know them; what computes a decoder follows its
/// [`ModelConfig`](super::ModelConfig).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Llama 2 and 3, and what shares their shape: EuroLLM, Teuken, SmolLM2 (arXiv 2302.13971, 2407.21783).
    Llama,
    /// Mistral and Ministral (arXiv 2310.06825).
    Mistral,
    /// Qwen2, Qwen2.5 and QwQ (arXiv 2407.10671).
    Qwen2,
    /// Qwen3 (arXiv 2505.09388).
    Qwen3,
    /// Gemma 2 (arXiv 2408.00118).
    Gemma2,
    /// Gemma 3 (arXiv 2503.19786).
    Gemma3,
    /// Phi-3, Phi-3.5 and Phi-4 (arXiv 2404.14219).
    Phi3,
    /// Command-R and Aya 23 (arXiv 2405.15032).
    Cohere,
    /// Command-R7B and later (arXiv 2504.00698).
    Cohere2,
    /// GPT-BigCode: StarCoder and Aurora-M (arXiv 2305.06161, 2404.00399).
    GptBigCode,
    /// Granite 3 without experts, and Granite Guardian 3 (ibm-granite/granite-3.0-language-models).
    Granite,
}

/// Which products of a model have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Biases {
    None,
    /// The products that make queries, keys and values.
    Qkv,
    /// All products of every layer. All norms have biases, too.
    All,
}

/// What a feed-forward part computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FeedForward {
    /// `down(activation(gate(x)) * up(x))` (arXiv 2002.05202).
    Gated,
    /// `down(activation(up(x)))`.
    Plain,
}

/// Where a layer's norms stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NormPlacement {
    /// Before attention and before the feed-forward part.
    Pre,
    /// Before and after both.
    PreAndPost,
    /// One norm before both, which read it side by side (arXiv 2204.02311).
    Parallel,
}

/// Whether heads of queries and keys are normed before they are rotated (arXiv 2010.04245).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadNorms {
    /// Heads are not normed.
    None,
    /// All heads have the same weights, `[head_dim]`.
    Shared,
    /// Each head has its own, `[heads, head_dim]`.
    Own,
}

/// How a file stores the weights of norms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NormWeights {
    /// As the norm multiplies with them.
    Whole,
    /// The norm multiplies with 1 more than the file has.
    LessOne,
}

/// What a family's models share.
pub(crate) struct Traits {
    pub norm: NormKind,
    pub norm_placement: NormPlacement,
    pub head_norms: HeadNorms,
    pub activation: Activation,
    pub biases: Biases,
    pub feed_forward: FeedForward,
    /// Whether each position has an embedding of its own, and nothing is rotated.
    pub learned_positions: bool,
    /// Whether embeddings are multiplied with the square root of their width.
    pub scaled_embedding: bool,
    /// Whether the output projection is the embedding unless the file says otherwise.
    pub tied_embeddings: bool,
}

impl Family {
    pub(crate) fn traits(self) -> Traits {
        let llama = Traits {
            norm: NormKind::Rms,
            norm_placement: NormPlacement::Pre,
            head_norms: HeadNorms::None,
            activation: Activation::Silu,
            biases: Biases::None,
            feed_forward: FeedForward::Gated,
            learned_positions: false,
            scaled_embedding: false,
            tied_embeddings: false,
        };
        match self {
            Self::Llama | Self::Mistral | Self::Phi3 | Self::Granite => llama,
            Self::Qwen2 => Traits {
                biases: Biases::Qkv,
                ..llama
            },
            Self::Qwen3 => Traits {
                head_norms: HeadNorms::Shared,
                ..llama
            },
            Self::Gemma2 | Self::Gemma3 => Traits {
                norm_placement: NormPlacement::PreAndPost,
                head_norms: if self == Self::Gemma3 {
                    HeadNorms::Shared
                } else {
                    HeadNorms::None
                },
                activation: Activation::GeluTanh,
                scaled_embedding: true,
                tied_embeddings: true,
                ..llama
            },
            Self::Cohere | Self::Cohere2 => Traits {
                norm: NormKind::Layer,
                norm_placement: NormPlacement::Parallel,
                tied_embeddings: true,
                ..llama
            },
            Self::GptBigCode => Traits {
                norm: NormKind::Layer,
                activation: Activation::GeluTanh,
                biases: Biases::All,
                feed_forward: FeedForward::Plain,
                learned_positions: true,
                tied_embeddings: true,
                ..llama
            },
        }
    }

    /// How a layer is rotated that has a sliding window or has none.
    pub(crate) fn rotation(self, sliding: bool) -> Rotation {
        match (self, sliding) {
            (Self::Gemma3, true) => Rotation::Local,
            (Self::Cohere2, false) | (Self::GptBigCode, _) => Rotation::None,
            _ => Rotation::Global,
        }
    }

    /// One layer in so many attends to the whole context, in families where the others have a sliding window.
    pub(crate) fn sliding_pattern(self) -> Option<usize> {
        match self {
            Self::Gemma2 => Some(2),
            Self::Gemma3 => Some(6),
            Self::Cohere2 => Some(4),
            _ => None,
        }
    }
}

/// Which of so many layers have a sliding window: `pattern - 1` layers have, the next has none, and so on.
pub(crate) fn sliding_layers(layers: usize, pattern: usize) -> Vec<bool> {
    let pattern = pattern.max(1);
    (1..=layers).map(|layer| !layer.is_multiple_of(pattern)).collect()
}
