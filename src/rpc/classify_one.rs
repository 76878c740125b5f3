//! One Classify, whichever call it is of.

use std::sync::Arc;

use futures::future;
use tonic::Code;

use super::{
    call::Call,
    classifier,
    decision::{Decided, DecidedAbout},
    error::ServiceError,
    judgements::judge_conversation,
    record::Record,
    sequence::WorkContext,
    validate::{self, CheckedClassify, Judging, ValidationContext},
};
use crate::{engine::Priority, proto};

/// Checks and answers one Classify; `path` is its path in the message that the caller sent.
pub(super) async fn classify(
    context: WorkContext,
    request: proto::ClassifyRequest,
    path: String,
) -> Result<proto::ClassifyResponse, ServiceError> {
    let shared = Arc::clone(&context.shared);
    if request.guard_use() != proto::GuardUse::None {
        context
            .record
            .note_requested_model(&shared.registry, &request.model);
    }
    shared.admit()?;
    validate::message_size(prost::Message::encoded_len(&request), &shared.limits)?;
    let validation = ValidationContext::of(&shared, context.deadline);
    let CheckedClassify {
        judging,
        priority,
        decider,
        classifiers,
        classified_text,
    } = validate::classify(request, &path, &validation).await?;
    let context = context.prioritised(priority, Priority::Urgent);
    let classifications = classifier::classify_all(&context, classifiers, &classified_text);
    let judged = async {
        match judging {
            Some(Judging { work, judged }) => judge_conversation(&context, work, judged).await.map(Some),
            None => Ok(None),
        }
    };
    let (judged, classifications) = future::try_join(judged, classifications).await?;
    let Decided { decision, shadows } = decider.decide(DecidedAbout {
        verdict: judged.as_ref().map(|judged| &judged.verdict),
        others: judged.as_ref().map_or(&[], |judged| &judged.others),
        classified: &classifications.classified,
    });
    let (verdict, message_verdicts, total_usage) = match judged {
        Some(judged) => (Some(judged.verdict), judged.message_verdicts, judged.total_usage),
        None => (None, Vec::new(), None),
    };
    Ok(proto::ClassifyResponse {
        verdict,
        decision,
        shadow_decisions: shadows,
        message_verdicts,
        total_usage,
        classifications: classifications.told,
    })
}

/// Answers one of several Classifies that a call has at once, and ends its record. The call has been counted as a request, which
/// its first item is no further one of.
pub(super) fn classify_item(
    call: &Call,
    context: &WorkContext,
    number: u64,
    request: proto::ClassifyRequest,
    path: String,
) -> impl Future<Output = Result<proto::ClassifyResponse, proto::ItemStatus>> + use<> {
    let context = begin_item(call, context, number);
    async move {
        let record = Arc::clone(&context.record);
        let answer = match count_item(&context, number) {
            Ok(()) => classify(context, request, path).await,
            Err(error) => Err(error),
        };
        end_item(&record, answer)
    }
}

/// The context for one of several items that a call has at once, with a record of its own.
pub(super) fn begin_item(call: &Call, context: &WorkContext, number: u64) -> WorkContext {
    let record = Record::item(&call.record, number, call.deadline);
    context.item(&record)
}

/// Counts an item as a request of its tenant. The call has been counted as one, which its first item is no further one of.
pub(super) fn count_item(context: &WorkContext, number: u64) -> Result<(), ServiceError> {
    match number {
        0 => Ok(()),
        _ => context.shared.count_request(&context.tenant),
    }
}

/// Ends the record of an item with its answer.
pub(super) fn end_item<T>(record: &Record, answer: Result<T, ServiceError>) -> Result<T, proto::ItemStatus> {
    match answer {
        Ok(response) => {
            record.finish(Code::Ok);
            Ok(response)
        }
        Err(error) => {
            record.fail(&error);
            Err(error.to_item())
        }
    }
}
