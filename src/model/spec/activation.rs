//! Functions that a model applies to each value by itself.

/// The activation function of a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)` (arXiv 1702.03118).
    Silu,
    /// The Gaussian error linear unit (arXiv 1606.08415), `x * Φ(x)` with the exact normal distribution.
    Gelu,
    /// The approximation of [`Activation::Gelu`] through tanh that the same paper gives.
    GeluTanh,
}

/// A function that the head of an encoder applies to each of its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointwise {
    /// The Gaussian error linear unit (arXiv 1606.08415), `x * Φ(x)` with the exact normal distribution.
    Gelu,
    /// The hyperbolic tangent.
    Tanh,
    /// The logistic function, `1 / (1 + e^-x)`.
    Sigmoid,
}
