//! Sizes in which packed weight matrices are cut, and reading a matrix panel by panel.

use std::{io, sync::OnceLock};

use super::pool::ThreadPool;
use crate::model::spec::MatrixSource;

/// Outputs (matrix rows) in a panel: four AVX-512 registers of f32.
pub(super) const PANEL: usize = 64;
/// Outputs in a strip, half a panel: two AVX-512 registers of f32. Integer kernels compute as many outputs at a time.
pub(super) const STRIP: usize = 32;
/// Strips in a panel.
pub(super) const STRIPS_PER_PANEL: usize = PANEL / STRIP;
/// Bytes from one word of quantised weights to the next of the same output: a word of each of a panel's outputs lies
/// between them.
pub(super) const PANEL_WORD_BYTES: usize = 4 * PANEL;

/// Why a matrix could not be repacked.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The system refused the memory for it.
    #[error("there is no memory for it: {0}")]
    Memory(io::Error),
    /// Its file could not be read.
    #[error("it could not be read: {0}")]
    Read(io::Error),
}

/// Calls `pack` with the index of each panel of `source` and the bytes of the panel's rows, on all threads of the pool.
///
/// # Errors
/// When a panel cannot be read. Panels that are not begun by then are skipped.
pub(super) fn for_each_panel(
    pool: &mut ThreadPool,
    source: &MatrixSource<'_>,
    pack: &(dyn Fn(usize, &[u8]) + Sync),
) -> Result<(), PackError> {
    let first_error = OnceLock::new();
    pool.run(source.rows.div_ceil(PANEL), &|panel| {
        if first_error.get().is_some() {
            return;
        }
        let mut scratch = Vec::new();
        let first = panel * PANEL;
        match source.rows(first..source.rows.min(first + PANEL), &mut scratch) {
            Ok(bytes) => pack(panel, bytes),
            // Several panels may fail; the first error is reported.
            Err(error) => drop(first_error.set(error)),
        }
    });
    match first_error.into_inner() {
        Some(error) => Err(PackError::Read(error)),
        None => Ok(()),
    }
}
