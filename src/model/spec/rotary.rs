//! Rotary position embedding.

/// How a model pairs the dimensions of a head for rotary embedding (arXiv 2104.09864).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbours `(0, 1), (2, 3), …`: the paper's, and GGUF's for the llama architecture.
    Interleaved,
    /// Halves `(0, d/2), (1, d/2 + 1), …`: Hugging Face checkpoints.
    Halves,
}
