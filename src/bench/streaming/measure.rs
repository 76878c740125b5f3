//! Lets a guard look at labelled answers as if they were being written.

use futures::{StreamExt as _, TryStreamExt as _, future::try_join, stream};

use super::labelled::{LabelledAnswer, Truth};
use crate::{
    client::{Client, ClientError, GuardSender, GuardedText, PolicyChoice},
    proto::{
        Conversation, GuardLook, GuardMode, GuardOptions, GuardStart, Message, Priority, Role,
        guard_ended::Reason, guard_look::Outcome, guard_stream_response::Event,
    },
};

/// Unsafe looks in a row that block a part of a text where nothing is said: the server's default.
const CONFIRMATIONS: u32 = 2;

/// Bytes of a text that are sent at once.
const CHUNK_BYTES: usize = 32 << 10;

/// The guard, and by what it judges.
#[derive(Debug, Clone, Default)]
pub struct StreamingGuard {
    /// Its id; empty for the server's default.
    pub model: String,
    /// What it judges by.
    pub policy: PolicyChoice,
    /// Where it looks, and when a part of an answer is blocked. Their mode and failure mode are not used, because all looks at an
    /// answer are wanted.
    pub options: GuardOptions,
}

/// What a guard that looks at an answer while it is written makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// The label that people gave.
    pub truth: Truth,
    /// Where the answer is blocked, if it is.
    pub block: Option<Block>,
    /// Whether the guard finds the complete answer unsafe; `None` where its verdict is neither safe nor unsafe.
    pub whole_is_unsafe: Option<bool>,
    /// Tokens from the beginning of the harm to the end of the answer, of the guard's tokenizer; `None` for safe answers.
    pub harm_tokens: Option<u32>,
}

/// Where an answer is blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Tokens from the beginning of the harm to the end of what the look that blocks has seen; `None` for safe answers, and where
    /// the answer is blocked before the harm begins.
    pub delay_tokens: Option<u32>,
    /// The look that blocks is the one at the complete answer.
    pub is_final: bool,
}

/// Measures all answers, `concurrency` at a time, in the order of the answers.
///
/// # Errors
/// The first [`ClientError`].
pub async fn measure(
    client: &Client,
    guard: &StreamingGuard,
    answers: &[LabelledAnswer],
    concurrency: usize,
) -> Result<Vec<Measured>, ClientError> {
    let measured = stream::iter(answers.iter().map(|answer| one(client, guard, answer)));
    measured.buffered(concurrency.max(1)).try_collect().await
}

async fn one(
    client: &Client,
    guard: &StreamingGuard,
    answer: &LabelledAnswer,
) -> Result<Measured, ClientError> {
    let looks = looks(client, guard, answer).await?;
    let confirmations = match guard.options.confirmations {
        0 => CONFIRMATIONS,
        confirmations => confirmations,
    };
    let block = first_block(&looks, confirmations);
    let whole = looks.iter().rfind(|look| look.is_final);
    let whole_is_unsafe = whole.and_then(|look| match look.outcome() {
        Outcome::Passed => Some(false),
        Outcome::Unsafe => Some(true),
        Outcome::Unspecified | Outcome::Undetermined | Outcome::Failed => None,
    });
    let harm = match answer.truth {
        Truth::Safe => None,
        Truth::Unsafe { harm_begins } => Some(harm_begins),
    };
    // The id of the guard, where the default one has judged.
    let provenance = looks
        .iter()
        .find_map(|look| look.verdict.as_ref()?.provenance.as_ref());
    let model = provenance.map_or(guard.model.as_str(), |provenance| provenance.model.as_str());
    let tokens_to = async |end: usize| match harm.and_then(|begin| answer.answer.get(begin..end)) {
        Some(text) if !text.is_empty() => client.count_tokens(model, text).await.map(Some),
        _ => Ok(None),
    };
    let block = match block {
        None => None,
        Some(look) => Some(Block {
            delay_tokens: tokens_to(usize::try_from(look.text_bytes).unwrap_or(usize::MAX)).await?,
            is_final: look.is_final,
        }),
    };
    Ok(Measured {
        truth: answer.truth,
        block,
        whole_is_unsafe,
        harm_tokens: tokens_to(answer.answer.len()).await?,
    })
}

/// The look that blocks a text by the rules of docs/growing-text.md.
fn first_block(looks: &[GuardLook], confirmations: u32) -> Option<&GuardLook> {
    let mut in_a_row = 0;
    looks.iter().find(|look| {
        match look.outcome() {
            Outcome::Passed => in_a_row = 0,
            Outcome::Unsafe => in_a_row += 1,
            Outcome::Unspecified | Outcome::Undetermined | Outcome::Failed => {}
        }
        look.outcome() == Outcome::Unsafe && (look.is_final || in_a_row >= confirmations)
    })
}

/// All looks at an answer.
async fn looks(
    client: &Client,
    guard: &StreamingGuard,
    answer: &LabelledAnswer,
) -> Result<Vec<GuardLook>, ClientError> {
    let start = GuardStart {
        model: guard.model.clone(),
        conversation: Some(Conversation {
            messages: vec![Message {
                role: Role::User.into(),
                content: answer.prompt.clone(),
                ..Message::default()
            }],
        }),
        policy_source: guard.policy.for_guard(),
        options: Some(GuardOptions {
            // Nothing ends the text, so that the complete answer is judged too.
            mode: GuardMode::Observe.into(),
            ..guard.options
        }),
        priority: Priority::Batch.into(),
        ..GuardStart::default()
    };
    let GuardedText { sender, mut events } = client.guard_stream(start).await?;
    let listening = async {
        let mut looks = Vec::new();
        loop {
            match events.next().await? {
                Event::Look(look) => {
                    let verdict = look.verdict.as_ref();
                    if verdict.is_some_and(|verdict| !guard.policy.is_followed_by(verdict)) {
                        let message = "the verdict does not follow the policy that was asked for";
                        return Err(ClientError::Protocol(message.to_owned()));
                    }
                    looks.push(look);
                }
                Event::Ended(ended) if matches!(ended.reason(), Reason::Complete | Reason::Policy) => {
                    return Ok(looks);
                }
                // Any other end is that of a text which was not judged to its end. The call's error follows it.
                Event::Ended(_) | Event::Released(_) | Event::Retracted(_) | Event::Heartbeat(_) => {}
            }
        }
    };
    let (looks, ()) = try_join(listening, send(sender, &answer.answer)).await?;
    Ok(looks)
}

/// Sends a text to its end. The server's events say why it wants no more of it.
async fn send(sender: GuardSender, text: &str) -> Result<(), ClientError> {
    for chunk in text.as_bytes().chunks(CHUNK_BYTES) {
        if !sender.chunk(chunk.to_vec()).await {
            return Ok(());
        }
    }
    sender.end().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_block_once_they_are_confirmed_and_the_final_one_at_once() {
        let (passed, bad, odd) = (Outcome::Passed, Outcome::Unsafe, Outcome::Undetermined);
        for (outcomes, confirmations, at) in [
            (vec![passed, bad, bad, passed], 2, Some(2)),
            (vec![bad, passed, bad, passed], 2, None),
            (vec![bad, odd, bad, passed], 2, Some(2)),
            (vec![bad, passed, passed], 1, Some(0)),
            (vec![passed, passed, bad], 3, Some(2)),
            (vec![passed, odd], 1, None),
        ] {
            let last = outcomes.len() - 1;
            let looks: Vec<_> = outcomes
                .iter()
                .enumerate()
                .map(|(index, outcome)| GuardLook {
                    outcome: (*outcome).into(),
                    text_bytes: index as u64,
                    is_final: index == last,
                    ..GuardLook::default()
                })
                .collect();
            let found = first_block(&looks, confirmations).map(|look| look.text_bytes);
            assert_eq!(found, at, "{outcomes:?} {confirmations}");
        }
    }
}
