//! Pieces of a prompt, by who wrote them.

/// A piece of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Trusted text of a template. Special tokens that are spelled in it become special tokens.
    Template(String),
    /// Text of a user or model. It is always plain text, whatever it spells.
    Content(String),
}

impl Segment {
    /// The text of the piece.
    pub fn text(&self) -> &str {
        match self {
            Self::Template(text) | Self::Content(text) => text,
        }
    }
}
