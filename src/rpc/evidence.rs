//! FindEvidence: which parts of a message its verdict is for.

use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};

use super::{
    call::Call,
    error::ServiceError,
    judge::{judge, prompt_size, retry_when_full},
    judged::guard_of,
    sequence::{Shared, WorkContext},
    usage,
    validate::{self, CheckedEvidence, ClassifyWork, ValidationContext},
    worst::OPEN_VERDICTS,
};
use crate::{
    engine::Priority,
    guard::{EvidenceSearch, MessageBody, Remainder, SearchStep, SentMessage, Span, without},
    proto::{self, EvidenceOutcome, Label},
};

/// Checks and answers a FindEvidence.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    call: &Call,
    request: proto::FindEvidenceRequest,
) -> Result<proto::FindEvidenceResponse, ServiceError> {
    shared.admit()?;
    validate::message_size(prost::Message::encoded_len(&request), &shared.limits)?;
    let validation = ValidationContext::of(shared, call.deadline);
    let CheckedEvidence {
        work,
        judged,
        text,
        most_passes,
    } = validate::find_evidence(request, &validation).await?;
    let context = WorkContext::of(shared, call, Priority::Batch).prioritised(work.priority, Priority::Urgent);
    let verdict = judge(&context, work.clone()).await?;
    let outcome = match verdict.label() {
        Label::Unsafe | Label::Controversial => None,
        Label::Safe | Label::Undetermined | Label::Unspecified => Some(EvidenceOutcome::NotUnsafe),
    };
    if let Some(outcome) = outcome {
        return Ok(proto::FindEvidenceResponse {
            outcome: outcome.into(),
            verdict: Some(verdict),
            ..Default::default()
        });
    }
    // A pass asks for nothing but the label and the score.
    let pass = ClassifyWork {
        category_probabilities: false,
        ..work.clone()
    };
    let mut passes_usage = proto::Usage::default();
    let size = prompt_size(guard_of(&work)?, &work);
    let mut search = EvidenceSearch::new(&text, most_passes);
    let found = loop {
        let followed = context.with_text(size, move |_| Ok((search.step(), search)));
        let (step, next) = followed.await?;
        search = next;
        let removals = match step {
            SearchStep::Judge(removals) => removals,
            SearchStep::Done(found) => break found,
        };
        let verdicts = removals.into_iter().map(|spans| {
            let work = with_text(&pass, judged, without(&text, &spans));
            let context = context.clone();
            async move { retry_when_full(&context, || judge(&context, work.clone())).await }.boxed()
        });
        let verdicts: Vec<_> = stream::iter(verdicts)
            .buffered(OPEN_VERDICTS)
            .try_collect()
            .await?;
        let took = verdicts.iter().filter_map(|verdict| verdict.usage);
        passes_usage = usage::sum(took.chain([passes_usage]));
        search.tell(verdicts.iter().map(remainder).collect());
    };
    let verdict_without = match found.spans.is_empty() {
        true => None,
        false => {
            let rest = with_text(&work, judged, without(&text, &found.spans));
            Some(retry_when_full(&context, || judge(&context, rest.clone())).await?)
        }
    };
    // A device whose results depend on the batch may say another thing the second time, and what is not safe is no evidence.
    let is_found = verdict_without
        .as_ref()
        .is_some_and(|verdict| verdict.label() == Label::Safe);
    Ok(proto::FindEvidenceResponse {
        outcome: match is_found {
            true => EvidenceOutcome::Found,
            false => EvidenceOutcome::NotFound,
        }
        .into(),
        verdict: Some(verdict),
        spans: found.spans.iter().filter(|_| is_found).map(span).collect(),
        verdict_without: verdict_without.filter(|_| is_found),
        each_is_needed: found.each_is_needed && is_found,
        passes: u32::try_from(found.passes).unwrap_or(u32::MAX),
        out_of_budget: found.out_of_budget,
        passes_usage: Some(passes_usage),
    })
}

/// The work with another text as the content of its judged message.
fn with_text(work: &ClassifyWork, judged: usize, text: String) -> ClassifyWork {
    let mut work = work.clone();
    if let Some(message) = work.messages.get_mut(judged) {
        *message = Arc::new(SentMessage {
            body: MessageBody::Whole(text),
            ..SentMessage::clone(message)
        });
    }
    work
}

fn remainder(verdict: &proto::Verdict) -> Remainder {
    Remainder {
        is_safe: verdict.label() == Label::Safe,
        unsafe_score: verdict.unsafe_score,
    }
}

fn span(span: &Span) -> proto::EvidenceSpan {
    proto::EvidenceSpan {
        start_bytes: span.start as u64,
        end_bytes: span.end as u64,
    }
}
