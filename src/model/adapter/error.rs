//! Why an adapter cannot be used.

/// Why an adapter cannot be used with its base; names the file's setting or tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdapterError {
    /// A file is missing, damaged, or says something that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A kind of adapter that would be computed wrongly.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// It changes what is no matrix of the model's layers.
    #[error("`{module}` is none of the matrices that an adapter can change here: {known}")]
    UnknownModule {
        /// As the adapter names it.
        module: String,
        /// What there is.
        known: String,
    },
    /// It was made for a model of other sizes.
    #[error("tensor `{tensor}`: the shape is {found:?}, expected {expected:?}")]
    Shape {
        /// Its name.
        tensor: String,
        /// As the file has it, outputs first.
        found: Vec<usize>,
        /// As the base needs it.
        expected: Vec<usize>,
    },
    /// One of the two matrices of a change is not there.
    #[error("tensor `{tensor}`: `{missing}`, which belongs to it, is missing")]
    MissingHalf {
        /// What is there.
        tensor: String,
        /// What is not.
        missing: String,
    },
    /// A weight is infinite or not a number.
    #[error("tensor `{0}`: it has values that are not finite")]
    NotFinite(String),
}
