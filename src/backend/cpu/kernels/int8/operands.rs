//! Pointers to the rows that a kernel multiplies.

use super::{
    rows::Int8Rows,
    sizes::{ACTIVATION_GROUP, SMALL_GROUP},
};
use crate::backend::cpu::kernels::{panel::PANEL_WORD_BYTES, ranges::RowRange, strip::Strip};

/// Rows of activations, as pointers to the first row's elements. [`RowPointers::new`] has checked that the rows exist
/// and that a strip has weights for all of their inputs; kernels rely on it.
#[derive(Clone, Copy)]
pub(super) struct RowPointers {
    /// Inputs of a row.
    pub cols: usize,
    /// Elements of [`Self::values`] from one row to the next.
    pub stride: usize,
    /// `[rows, stride]`, of which a row's first `cols` are its own.
    pub values: *const i8,
    /// `[rows, cols / ACTIVATION_GROUP]`
    pub scales: *const f32,
    /// Sums of the integers of each group of the weights, `[rows, groups]`.
    pub sums: *const f32,
    /// Groups of the weights.
    pub groups: usize,
}

impl RowPointers {
    /// Pointers to `rows` of `x`, which are valid while `x` is borrowed.
    ///
    /// # Panics
    /// When the rows do not exist, or the strip does not hold `x.cols` inputs for `strip.width` outputs.
    pub(super) fn new(x: &Int8Rows, rows: RowRange, strip: &Strip<'_>) -> Self {
        let (cols, group, width) = (x.cols, strip.group, strip.width);
        assert!(group == SMALL_GROUP || group == ACTIVATION_GROUP);
        assert!(cols.is_multiple_of(ACTIVATION_GROUP) && cols > 0);
        assert!(rows.first + rows.count <= x.rows);
        let groups = cols / group;
        let last_word = (strip.bits.words(cols) - 1) * PANEL_WORD_BYTES;
        assert!(strip.bits.bytes().len() >= last_word + 4 * width);
        assert!(
            strip.scales.covers(groups, width) && strip.mins.is_none_or(|mins| mins.covers(groups, width))
        );
        let sums = if group == SMALL_GROUP {
            &x.small_group_sums
        } else {
            &x.sums
        };
        Self {
            cols,
            stride: x.stride * ACTIVATION_GROUP,
            values: x.values[rows.first * x.stride..].as_ptr().cast(),
            scales: x.scales[rows.first * (cols / ACTIVATION_GROUP)..].as_ptr(),
            sums: sums[rows.first * groups..].as_ptr(),
            groups,
        }
    }
}
