//! What everything here is fitted to.

/// A score, with what people say of the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LabelledScore {
    /// The guard's unsafe score, from 0 to 1.
    pub score: f64,
    /// Whether people call the text unsafe.
    pub is_unsafe: bool,
    /// How many texts it stands for, itself included; more than 0.
    pub weight: f64,
}
