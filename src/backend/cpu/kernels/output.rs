//! What kernels do with what they compute, and where they write it.

/// Whether a product replaces what is in `out` or is added to it (a residual connection).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// `out = x · Wᵀ`
    Replace,
    /// `out += x · Wᵀ`, where each element's chain of additions starts from the old value.
    Add,
}

/// A rectangle of outputs that a kernel writes: some rows, each with some neighbouring outputs.
#[derive(Clone, Copy)]
pub(super) struct OutputTile {
    /// The first row's first output.
    pub start: *mut f32,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Whether sums start from 0 or from what the tile holds.
    pub output: Output,
}

impl OutputTile {
    /// The same outputs, from the tile's row `row` on.
    ///
    /// # Safety
    /// The tile has more than `row` rows, all in one allocation.
    #[inline(always)]
    pub(super) unsafe fn rows_from(self, row: usize) -> Self {
        Self {
            // SAFETY: the caller says that row `row` exists, so its first output is inside of the tile's allocation.
            start: unsafe { self.start.add(row * self.stride) },
            ..self
        }
    }
}
