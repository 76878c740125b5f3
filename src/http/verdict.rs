//! What doors read of verdicts.

use crate::proto::{Label, Verdict};

/// Whether a label is none that a guard gives: neither safe nor unsafe, nor what lies between them.
pub(super) fn is_undetermined(label: Label) -> bool {
    matches!(label, Label::Undetermined | Label::Unspecified)
}

/// Whether the guard said none of its labels of a window. A window with a worse label stands for the others only where that label
/// blocks.
pub(super) fn has_undetermined_window(verdict: &Verdict) -> bool {
    verdict
        .windows
        .iter()
        .any(|window| is_undetermined(window.label()))
}

/// The highest score of a verdict. Its own is that of the window with the worst label; another window with a milder label may have
/// a higher one.
pub(super) fn highest_score(verdict: &Verdict) -> Option<f64> {
    let windows = verdict.windows.iter().filter_map(|window| window.unsafe_score);
    verdict.unsafe_score.into_iter().chain(windows).reduce(f64::max)
}
