//! Ranges of rows and inputs that kernels take as parameters.

/// Neighbouring rows of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowRange {
    /// Index of the first row, counted from the batch's first.
    pub first: usize,
    /// Number of rows.
    pub count: usize,
}

impl RowRange {
    /// The `count` rows that begin `skipped` rows behind this range's first.
    pub(super) fn sub_range(self, skipped: usize, count: usize) -> Self {
        Self {
            first: self.first + skipped,
            count,
        }
    }
}

/// Neighbouring inputs (columns) of a weight matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InputRange {
    /// Index of the first input.
    pub first: usize,
    /// Number of inputs.
    pub count: usize,
}
