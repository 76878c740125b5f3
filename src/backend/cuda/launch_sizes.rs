//! Sizes of the launches of kernels that compute rows. As in `kernels/rows.cu`.

use super::driver::LaunchSize;

/// Threads of a block of the kernels that compute rows.
pub(super) const ROW_THREADS: u32 = 256;
/// Threads of a block that reads a row of logits.
const LOGIT_THREADS: u32 = 512;
/// Values of a row that one block computes, of the kernels that divide rows.
const ROW_PIECE: usize = 1024;

/// A launch of one block for each row.
pub(super) fn rows_of(count: usize) -> LaunchSize {
    LaunchSize {
        grid: [count as u32, 1, 1],
        threads: ROW_THREADS,
        shared_bytes: 0,
    }
}

/// A launch of one block for each row of logits. As in `kernels/logits.cu`.
pub(super) fn logit_rows(count: usize) -> LaunchSize {
    LaunchSize {
        threads: LOGIT_THREADS,
        ..rows_of(count)
    }
}

/// A launch of one thread for each word of a row.
pub(super) fn words_of(width: usize) -> LaunchSize {
    rows_of(width.div_ceil(ROW_THREADS as usize))
}

/// A launch of one block for every [`ROW_PIECE`] values, wherever rows end.
pub(super) fn values_of(count: usize) -> LaunchSize {
    rows_of(count.div_ceil(ROW_PIECE))
}

/// A launch of several blocks for each row of `width` values.
pub(super) fn pieces(count: usize, width: usize) -> LaunchSize {
    LaunchSize {
        grid: [count as u32, width.div_ceil(ROW_PIECE) as u32, 1],
        threads: ROW_THREADS,
        shared_bytes: 0,
    }
}
