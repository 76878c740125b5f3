//! What is known of an encoder before its weights are read.

/// Sizes of an encoder, from its configuration.
pub(super) struct EncoderInfo {
    /// Name of the architecture in provenance.
    pub architecture: String,
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence, in tokens.
    pub window: usize,
    /// Number of layers.
    pub layers: usize,
    /// Bytes of all buffers that each token of a batch takes between the operations of the layers.
    pub row_bytes: usize,
    /// Bytes of what is computed of weights when they are read, and kept.
    pub derived_bytes: u64,
}
