//! Checks FindEvidence.

use std::ops::RangeInclusive;

use super::{
    checker::{Checker, ValidationContext},
    safety::{self, CheckedClassify, ClassifyWork, classify_fields},
};
use crate::{
    proto,
    rpc::{error::ServiceError, limits::Limits},
};

/// Most texts that a search may judge.
const PASSES: RangeInclusive<usize> = 1..=256;

/// That of a request that does not say.
const DEFAULT_PASSES: usize = 64;

/// A checked FindEvidence.
pub(crate) struct CheckedEvidence {
    pub(crate) work: ClassifyWork,
    /// Most texts that are judged in the search.
    pub(crate) most_passes: usize,
}

/// Checks the fields of a FindEvidence that are valid without knowing the guard.
pub(super) fn evidence_fields(checker: &mut Checker, request: proto::FindEvidenceRequest, limits: &Limits) {
    let passes = usize::try_from(request.max_passes).unwrap_or(usize::MAX);
    if passes != 0 && !PASSES.contains(&passes) {
        let (least, most) = (PASSES.start(), PASSES.end());
        let reason = format!("must be {least}..={most}, or 0 for {DEFAULT_PASSES}, is {passes}");
        checker.wrong("max_passes", reason);
    }
    match request.request {
        Some(classify) => checker.within("request", |checker| {
            classify_fields(checker, classify, limits);
        }),
        None => checker.wrong("request", "is required"),
    }
}

/// Checks a FindEvidence. Waits while the guard is being loaded.
pub(crate) async fn find_evidence(
    request: proto::FindEvidenceRequest,
    context: &ValidationContext<'_>,
) -> Result<CheckedEvidence, ServiceError> {
    let mut checker = Checker::at("");
    evidence_fields(&mut checker, request.clone(), context.limits);
    checker.finish()?;
    let classify = request.request.unwrap_or_default();
    let CheckedClassify { work, decider: _ } = safety::classify(classify, "request", context).await?;
    let most_passes = match usize::try_from(request.max_passes).unwrap_or(usize::MAX) {
        0 => DEFAULT_PASSES,
        passes => passes,
    };
    Ok(CheckedEvidence { work, most_passes })
}
