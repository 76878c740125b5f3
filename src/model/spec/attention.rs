//! The shape of attention, and what it computes.

/// Numbers of heads and their width, in every layer of a model.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Number of dimensions of a head; a multiple of 16.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Values in one row of queries, keys and values side by side.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
}

/// What the attention of one layer computes.
#[derive(Debug, Clone, Copy)]
pub struct AttentionLayer {
    /// Numbers of heads and their width.
    pub shape: AttentionShape,
    /// Factor on the products of queries and keys, before softmax.
    pub scale: f32,
    /// Bound on the scaled products: scores become `cap * tanh(score / cap)` (arXiv 2408.00118).
    pub soft_cap: Option<f32>,
    /// Sliding window, in tokens: how many a token attends to, itself included. `None` is full causal attention.
    pub window: Option<usize>,
}
