//! Normalisation.

/// Which normalisation a layer applies to its input rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// The root mean square (arXiv 1910.07467).
    Rms,
    /// The standard deviation, after the mean is taken away (arXiv 1607.06450).
    Layer,
}
