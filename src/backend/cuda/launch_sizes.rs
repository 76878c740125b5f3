//! Sizes of the launches of kernels that compute rows. As in `kernels/rows.cu`.

use super::driver::LaunchSize;

/// Threads of a block of the kernels that compute rows.
pub(super) const ROW_THREADS: u32 = 256;
/// Values of a row that one block computes, of the kernels that divide rows.
pub(super) const ROW_PIECE: usize = 1024;

/// A launch of one block for each row.
pub(super) fn rows_of(count: usize) -> LaunchSize {
    LaunchSize {
        grid: [count as u32, 1, 1],
        threads: ROW_THREADS,
        shared_bytes: 0,
    }
}

/// A launch of several blocks for each row of `width` values.
pub(super) fn pieces(count: usize, width: usize) -> LaunchSize {
    LaunchSize {
        grid: [count as u32, width.div_ceil(ROW_PIECE) as u32, 1],
        threads: ROW_THREADS,
        shared_bytes: 0,
    }
}
