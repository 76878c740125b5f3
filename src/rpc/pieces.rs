//! An answer of a target, piece by piece, whoever computes it.

use crate::proto;

/// One piece of an answer, in the order in which it is written.
pub(crate) enum Piece {
    Started(Box<proto::GenerateStarted>),
    Delta(Delta),
    Finished(Box<Finished>),
}

/// Text that is certain, with the tokens that have come since the text before it.
pub(crate) struct Delta {
    pub(crate) event: proto::GenerateDelta,
    /// Bytes of the answer up to the end of the last token, with those that are no certain text yet.
    pub(crate) reach: usize,
}

/// The end of an answer that was cut.
pub(crate) struct CutEnd {
    /// Without the text's digest. Without usage and times too if there was no time to wait for them.
    pub(crate) event: proto::GenerateFinished,
    /// Tokens that were computed after the cut, if that is known.
    pub(crate) computed_after: Option<usize>,
}

/// The end of an answer.
pub(crate) struct Finished {
    pub(crate) event: proto::GenerateFinished,
    pub(crate) text: String,
    pub(crate) seed: u64,
    pub(crate) provenance: proto::Provenance,
}
