//! Checks FindEvidence.

use std::ops::RangeInclusive;

use super::{
    checker::{Checker, ValidationContext},
    safety::{self, CheckedClassify, ClassifyWork, Judging, classify_fields},
};
use crate::{
    guard::{DecisionSet, JudgeScope, MessageBody, Speaker},
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
    /// The index of the judged message, and its text.
    pub(crate) judged: usize,
    pub(crate) text: String,
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
    let classify = proto::ClassifyRequest {
        decision_policy: String::new(),
        ..request.request.unwrap_or_default()
    };
    if !classify.classifiers.is_empty() {
        let reason = "must be empty: evidence is looked for in the guard's verdict";
        return Err(ServiceError::field("request.classifiers", reason));
    }
    const GUARD_USE: &str = "request.guard_use";
    const REQUIRED: &str = "must be REQUIRED: evidence is looked for in the guard's verdict";
    if classify.guard_use() == proto::GuardUse::None {
        return Err(ServiceError::field(GUARD_USE, REQUIRED));
    }
    // Nothing is decided here, so a policy whose calibrator is another guard's is no reason to refuse the search.
    let undecided = DecisionSet::default();
    let context = ValidationContext {
        registry: context.registry,
        limits: context.limits,
        decisions: &undecided,
        shadow_log: context.shadow_log,
        deadline: context.deadline,
    };
    let CheckedClassify { judging, .. } = safety::classify(classify, "request", &context).await?;
    let Some(Judging { work, judged }) = judging else {
        return Err(ServiceError::field(GUARD_USE, REQUIRED));
    };
    if work.guard.is_remote() {
        let reason = "names a guard that is an endpoint: it would be asked for each part of the text, so name a guard of this server";
        return Err(ServiceError::field("request.model", reason));
    }
    if judged.scope != JudgeScope::LastMessage {
        let reason = "must be the last message: evidence is looked for in one message";
        return Err(ServiceError::field("request.judge", reason));
    }
    if judged.windows.is_some() {
        let reason = "must be absent: evidence is looked for in a message that the guard sees as a whole";
        return Err(ServiceError::field("request.windows", reason));
    }
    // A conversation that can be judged has a message that is not the system's.
    let judged = work
        .messages
        .iter()
        .rposition(|message| message.speaker != Speaker::System)
        .unwrap_or_default();
    let text = match work.messages.get(judged).map(|message| &message.body) {
        Some(MessageBody::Whole(text)) => text.clone(),
        Some(MessageBody::Parts(_)) | None => {
            let field = format!("request.conversation.messages[{judged}].parts");
            return Err(ServiceError::field(
                field,
                "must be empty: evidence is looked for in content",
            ));
        }
    };
    let most_passes = match usize::try_from(request.max_passes).unwrap_or(usize::MAX) {
        0 => DEFAULT_PASSES,
        passes => passes,
    };
    Ok(CheckedEvidence {
        work,
        judged,
        text,
        most_passes,
    })
}
