//! Kinds of normalisation.

/// Which normalisation a layer applies to its input rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Divides by the root mean square (arXiv 1910.07467).
    Rms,
    /// Subtracts the mean and divides by the standard deviation (arXiv 1607.06450).
    Layer,
}
