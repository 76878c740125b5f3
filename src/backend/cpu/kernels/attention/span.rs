//! The sequences of a batch.

/// One sequence's rows of a packed batch.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSpan<'a> {
    /// Index of its first row in the batch.
    pub first_row: usize,
    /// Number of its rows, which are its new tokens.
    pub rows: usize,
    /// Number of its tokens before the first row's.
    pub context: usize,
    /// Its block table: the cache's block of each [`super::BLOCK_TOKENS`] tokens, in order.
    pub block_table: &'a [u32],
}
