//! Verdicts on messages that are longer than the guard's context window: each window is judged as an ordinary Classify, all of them
//! together, and the worst counts. How a message is cut is decided in [`crate::guard`].

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    clock::now,
    encode,
    error::ServiceError,
    judge::{self, judged_prompt, prompt_error, prompt_size},
    judged::{GuardPrompt, JudgedPrompt, guard_of},
    sequence::WorkContext,
    text_work::TextSize,
    validate::ClassifyWork,
    worst::{OPEN_VERDICTS, TotalUsage, worst},
};
use crate::{
    guard::{TextWindow, WindowError, WindowRules, Windowed},
    proto,
    text::TokenCount,
};

/// A verdict on one message, and what it took.
pub(super) struct JudgedMessage {
    pub(super) verdict: proto::Verdict,
    /// Those of the other windows, where there are windows.
    pub(super) others: Vec<proto::Verdict>,
    pub(super) took: TotalUsage,
}

/// Judges the last message of a conversation: whole where it fits, in windows where it does not and `rules` allow them.
pub(super) async fn judge_message(
    context: &WorkContext,
    work: ClassifyWork,
    rules: Option<WindowRules>,
) -> Result<JudgedMessage, ServiceError> {
    match (judged_prompt(context, &work).await, rules) {
        (Ok(prompt), _) => {
            let verdict = judge::verdict(context, &work, prompt).await?;
            Ok(JudgedMessage {
                took: TotalUsage::of(&verdict),
                verdict,
                others: Vec::new(),
            })
        }
        (
            Err(ServiceError::InputTooLong {
                input_tokens,
                limit_tokens,
            }),
            Some(rules),
        ) => {
            let whole = TooLong {
                input_tokens,
                limit_tokens,
            };
            judge_windows(context, &work, rules, whole).await
        }
        (Err(error), _) => Err(error),
    }
}

/// By how much the whole message is too long.
#[derive(Clone, Copy)]
struct TooLong {
    input_tokens: TokenCount,
    limit_tokens: usize,
}

async fn judge_windows(
    context: &WorkContext,
    work: &ClassifyWork,
    rules: WindowRules,
    whole: TooLong,
) -> Result<JudgedMessage, ServiceError> {
    let Windowed { windows, uses } = cut(context, work, rules, whole).await?;
    // Of windows that the tenant cannot pay for together, none is judged.
    let needed = windows.iter().map(|window| window.prompt.len()).sum();
    let quotas = &context.shared.quotas;
    let paid = quotas.check_tokens(&context.tenant, needed, now());
    paid.map_err(ServiceError::quota)?;
    let uses = &uses;
    let judged = windows
        .into_iter()
        .map(|TextWindow { bytes, prompt }| async move {
            let prompt = JudgedPrompt {
                prompt: GuardPrompt::Tokens(prompt),
                uses: uses.clone(),
            };
            let verdict = judge::verdict(context, work, prompt).await?;
            let window = proto::WindowVerdict {
                start_byte: bytes.start as u64,
                end_byte: bytes.end as u64,
                label: verdict.label,
                unsafe_score: verdict.unsafe_score,
            };
            Ok::<_, ServiceError>((window, verdict))
        });
    let judged: Vec<_> = stream::iter(judged).buffered(OPEN_VERDICTS).try_collect().await?;
    let (windows, mut verdicts): (Vec<_>, Vec<_>) = judged.into_iter().unzip();
    let took = verdicts.iter().map(TotalUsage::of).sum();
    // There is always a window.
    let index = worst(&verdicts).ok_or(ServiceError::DeviceFault)?;
    let verdict = verdicts.remove(index);
    Ok(JudgedMessage {
        verdict: proto::Verdict { windows, ..verdict },
        others: verdicts,
        took,
    })
}

/// Waits for a turn to work on text, and cuts the message.
async fn cut(
    context: &WorkContext,
    work: &ClassifyWork,
    rules: WindowRules,
    whole: TooLong,
) -> Result<Windowed, ServiceError> {
    let guard = guard_of(work)?;
    let plan = judge::plan(guard, work)?;
    let TooLong {
        input_tokens,
        limit_tokens,
    } = whole;
    let size = prompt_size(guard, work);
    let prompts = rules
        .most
        .saturating_mul(limit_tokens)
        .saturating_mul(size_of::<u32>());
    let size = TextSize {
        working: size.working.saturating_add(prompts),
        ..size
    };
    let (cutter, work) = (Arc::clone(guard), work.clone());
    let windows = context.with_text(size, move |watch| {
        let allowance = encode::allowance(limit_tokens, watch);
        let policy = work.policy.as_deref();
        let windows = cutter.windows(&work.messages, &plan, policy, rules, allowance);
        windows.map_err(|error| match error {
            WindowError::NoRoom => ServiceError::InputTooLong {
                input_tokens,
                limit_tokens,
            },
            WindowError::TooMany { needed } => ServiceError::TooManyWindows {
                needed,
                limit: rules.most,
            },
            WindowError::Prompt(error) => prompt_error(error, &work, &cutter, limit_tokens),
        })
    });
    windows.await
}
