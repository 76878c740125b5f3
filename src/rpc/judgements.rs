//! The verdicts of one Classify: of the last message, of the last exchange, or of each message.
//!
//! The verdict on a message is that of Classify for the conversation up to it. Prompts for one judged side begin alike, so the
//! longest of each side is computed first and the others, as one batch, find what they have in common with it in the prefix cache.

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    error::ServiceError,
    sequence::WorkContext,
    validate::{ClassifyWork, JudgedRange},
    windows::{JudgedMessage, judge_message},
    worst::{OPEN_VERDICTS, TotalUsage, worst},
};
use crate::{
    guard::{JudgeScope, JudgedRole, WindowRules, judged_role},
    proto::{self, message_use::Use},
};

/// The verdicts of a request.
pub(super) struct Judgements {
    /// The one that counts.
    pub(super) verdict: proto::Verdict,
    /// Every other one, of messages and of windows, in which a decision policy may find what is not in the one that counts.
    pub(super) others: Vec<proto::Verdict>,
    /// All of them, where more than the last message could be judged.
    pub(super) message_verdicts: Vec<proto::MessageVerdict>,
    /// What they took together, where it is more than the one verdict took.
    pub(super) total_usage: Option<proto::Usage>,
}

/// A message that is judged.
struct JudgedEnd {
    /// Number of messages up to it.
    end: usize,
    message: JudgedMessage,
}

/// Judges the messages of a conversation that `range` asks for.
pub(super) async fn judge_conversation(
    context: &WorkContext,
    work: ClassifyWork,
    range: JudgedRange,
) -> Result<Judgements, ServiceError> {
    let JudgedRange { scope, ends, windows } = range;
    let open = open_messages(windows);
    let (first, rest) = in_order(&work, &ends);
    let mut judged = Vec::with_capacity(ends.len());
    for batch in [first, rest] {
        let verdicts = batch.into_iter().map(|end| {
            let mut work = work.clone();
            work.messages.truncate(end);
            async move {
                let message = judge_message(context, work, windows).await?;
                Ok::<_, ServiceError>(JudgedEnd { end, message })
            }
        });
        let verdicts = stream::iter(verdicts).buffered(open);
        judged.extend(verdicts.try_collect::<Vec<_>>().await?);
    }
    judged.sort_by_key(|judged| judged.end);
    let total: TotalUsage = judged.iter().map(|judged| judged.message.took).sum();
    // There is always a message.
    let index =
        worst(judged.iter().map(|judged| &judged.message.verdict)).ok_or(ServiceError::DeviceFault)?;
    let verdict = judged.get(index).map(|judged| judged.message.verdict.clone());
    let mut others = Vec::new();
    for (place, judged) in judged.iter_mut().enumerate() {
        others.append(&mut judged.message.others);
        if place != index {
            others.push(judged.message.verdict.clone());
        }
    }
    let message_verdicts = match scope {
        JudgeScope::LastMessage => Vec::new(),
        JudgeScope::Exchange | JudgeScope::EachMessage => {
            let verdicts = judged.into_iter();
            verdicts
                .map(|judged| of_message(judged.message.verdict))
                .collect()
        }
    };
    Ok(Judgements {
        verdict: verdict.ok_or(ServiceError::DeviceFault)?,
        others,
        message_verdicts,
        total_usage: total.told(),
    })
}

/// A verdict with the index of its message, which is the last one that it is about: what follows it is the system's.
fn of_message(verdict: proto::Verdict) -> proto::MessageVerdict {
    let judged = verdict
        .message_uses
        .iter()
        .rfind(|one| one.r#use() == Use::Judged);
    proto::MessageVerdict {
        message: judged.map_or(0, |one| one.message),
        verdict: Some(verdict),
    }
}

/// Most messages that are judged at a time, so that not more than [`OPEN_VERDICTS`] of all their windows are under way.
fn open_messages(windows: Option<WindowRules>) -> usize {
    let each = windows.map_or(1, |rules| rules.most.max(1));
    (OPEN_VERDICTS / each).max(1)
}

/// The longest conversation of each judged side, and the others.
fn in_order(work: &ClassifyWork, ends: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let side = |end: usize| work.messages.get(..end).map(judged_role);
    let longest = |role| ends.iter().rfind(|end| side(**end) == Some(role)).copied();
    let first: Vec<usize> = JudgedRole::ALL.into_iter().filter_map(longest).collect();
    let rest = ends.iter().copied().filter(|end| !first.contains(end)).collect();
    (first, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::MAX_WINDOWS;

    #[test]
    fn the_windows_of_all_messages_share_one_limit() {
        assert_eq!(open_messages(None), OPEN_VERDICTS);
        for most in 1..=MAX_WINDOWS {
            let rules = WindowRules {
                most,
                ..WindowRules::default()
            };
            let verdicts = open_messages(Some(rules)) * most.min(OPEN_VERDICTS);
            assert!((1..=OPEN_VERDICTS).contains(&verdicts), "{most}: {verdicts}");
        }
    }
}
