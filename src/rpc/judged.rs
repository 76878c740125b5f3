//! What verdicts of guards in this server and of those at endpoints have in common: the guard, its prompt, and what callers are told.

use std::sync::Arc;

use super::{error::ServiceError, label, provenance, sequence::WorkContext, validate::ClassifyWork};
use crate::{
    guard::{ContentKind, Guard, LeftOut, MessagePlace, MessageUse, Refusal, Verdict},
    proto::{self, message_use},
    registry::ModelRole,
};

/// The prompt of a conversation, whose last message is judged.
pub(crate) struct JudgedPrompt {
    pub(crate) prompt: GuardPrompt,
    /// What became of each message of the conversation.
    pub(crate) uses: Vec<MessageUse>,
}

/// What a guard is asked.
pub(crate) enum GuardPrompt {
    Tokens(Vec<u32>),
    /// For an endpoint, where the guard's tokenizer is not known here.
    Text(String),
}

/// The guard of a Classify.
pub(crate) fn guard_of(work: &ClassifyWork) -> Result<&Arc<Guard>, ServiceError> {
    work.guard.guard().ok_or_else(|| ServiceError::CapabilityMissing {
        has: work.guard.roles().to_vec(),
        needs: ModelRole::Guard,
    })
}

/// A verdict as callers are told it, without what it took. `provenance` is the guard's, without a policy. The verdict is counted.
pub(crate) fn told(
    context: &WorkContext,
    work: &ClassifyWork,
    verdict: Verdict,
    uses: &[MessageUse],
    provenance: proto::Provenance,
) -> proto::Verdict {
    let policy = &work.policy;
    let label = label::told(verdict.label);
    let refusal = match verdict.refusal {
        Some(Refusal::Refused) => proto::Refusal::Refused,
        Some(Refusal::Answered) => proto::Refusal::Answered,
        None => proto::Refusal::Unspecified,
    };
    metrics::counter!("babelward_verdicts_total", "model" => work.guard.id().to_owned(), "label" => label::label_name(label))
        .increment(1);
    context.shared.verdicts.add(work.guard.id(), label);
    let categories = verdict.categories.into_iter();
    proto::Verdict {
        label: label.into(),
        unsafe_score: verdict.unsafe_score,
        controversial_score: verdict.controversial_score,
        refusal: refusal.into(),
        label_mass: verdict.label_mass,
        categories: categories
            .map(|(category, display_name)| proto::CategoryResult {
                category,
                display_name,
            })
            .collect(),
        raw_output: verdict.raw_output,
        provenance: Some(proto::Provenance {
            policy: policy
                .as_ref()
                .map_or_else(String::new, |policy| policy.name().to_owned()),
            policy_digest: policy
                .as_ref()
                .map_or_else(String::new, |policy| policy.digest().to_owned()),
            ..provenance
        }),
        message_uses: message_uses(uses),
        ..proto::Verdict::default()
    }
}

/// What became of each message, for the answer.
fn message_uses(uses: &[MessageUse]) -> Vec<proto::MessageUse> {
    let number = provenance::count;
    let uses = uses.iter().enumerate();
    uses.map(|(index, one)| {
        let (place, turn, reason) = match one.place {
            MessagePlace::Judged { turn } => (message_use::Use::Judged, Some(turn), None),
            MessagePlace::Context { turn } => (message_use::Use::Context, Some(turn), None),
            MessagePlace::LeftOut(reason) => (message_use::Use::LeftOut, None, Some(reason)),
        };
        let reason = match reason {
            None => message_use::Reason::Unspecified,
            Some(LeftOut::System) => message_use::Reason::System,
            Some(LeftOut::EarlierExchange) => message_use::Reason::EarlierExchange,
            Some(LeftOut::NoRoom) => message_use::Reason::NoRoom,
        };
        let omitted = one.omitted.iter().map(|kind| match kind {
            ContentKind::Image => proto::ContentKind::Image,
            ContentKind::Audio => proto::ContentKind::Audio,
            ContentKind::Video => proto::ContentKind::Video,
            ContentKind::File => proto::ContentKind::File,
        });
        proto::MessageUse {
            message: number(index),
            r#use: place.into(),
            turn: turn.map(number),
            reason: reason.into(),
            omitted_parts: omitted.map(i32::from).collect(),
            cut_bytes: one.cut_bytes as u64,
        }
    })
    .collect()
}
