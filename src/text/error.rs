//! Errors of tokenizers.

/// The number of tokens of a text that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenCount {
    /// All tokens were counted.
    Exactly(usize),
    /// Counting stopped before the end of the text.
    AtLeast(usize),
}

/// Why a tokenizer could not be loaded or could not encode.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Part of the tokenizer is missing, unknown or wrong; the text says what and where.
    #[error("tokenizer: {0}")]
    Invalid(String),
    /// The vocabulary has no token for a character, and none that stands for unknown characters.
    #[error("tokenizer: the vocabulary has no token for U+{:04X}, which the text contains", u32::from(*.0))]
    NotEncodable(char),
    /// The text has more tokens than are allowed.
    #[error("tokenizer: the text has more tokens than are allowed")]
    TooLong(TokenCount),
    /// The caller waits for the tokens no longer.
    #[error("tokenizer: stopped, because the caller waits for the tokens no longer")]
    Stopped,
}

/// The error of a tokenizer that is not valid, for this reason.
pub(super) fn invalid(reason: impl Into<String>) -> TokenizerError {
    TokenizerError::Invalid(reason.into())
}
