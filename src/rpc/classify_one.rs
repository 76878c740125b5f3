//! One Classify, whichever call it is of.

use std::sync::Arc;

use futures::future;

use super::{
    classifier,
    decision::Decided,
    error::ServiceError,
    judgements::{Judgements, judge_conversation},
    sequence::WorkContext,
    validate::{self, CheckedClassify, ValidationContext},
};
use crate::{engine::Priority, proto};

/// Checks and answers one Classify; `path` is its path in the message that the caller sent.
pub(super) async fn classify(
    context: WorkContext,
    request: proto::ClassifyRequest,
    path: String,
) -> Result<proto::ClassifyResponse, ServiceError> {
    let shared = Arc::clone(&context.shared);
    context
        .record
        .note_requested_model(&shared.registry, &request.model);
    shared.admit()?;
    validate::message_size(prost::Message::encoded_len(&request), &shared.limits)?;
    let validation = ValidationContext::of(&shared, context.deadline);
    let CheckedClassify {
        work,
        judged,
        decider,
        classifiers,
    } = validate::classify(request, &path, &validation).await?;
    let context = context.prioritised(work.priority, Priority::Urgent);
    let classifications = classifier::classify_last(&context, classifiers, &work);
    let judged = judge_conversation(&context, work, judged);
    let (judged, classifications) = future::try_join(judged, classifications).await?;
    let Judgements {
        verdict,
        message_verdicts,
        total_usage,
    } = judged;
    let Decided { decision, shadows } = decider.decide(&verdict);
    Ok(proto::ClassifyResponse {
        verdict: Some(verdict),
        decision,
        shadow_decisions: shadows,
        message_verdicts,
        total_usage,
        classifications,
    })
}
