//! What several sequences took together.

use crate::proto;

/// The sum of each number, which stops at the largest one that the field holds.
pub(super) fn sum(parts: impl IntoIterator<Item = proto::Usage>) -> proto::Usage {
    parts
        .into_iter()
        .fold(proto::Usage::default(), |sum, part| proto::Usage {
            prompt_tokens: sum.prompt_tokens.saturating_add(part.prompt_tokens),
            completion_tokens: sum.completion_tokens.saturating_add(part.completion_tokens),
            cached_prompt_tokens: sum.cached_prompt_tokens.saturating_add(part.cached_prompt_tokens),
            forward_passes: sum.forward_passes.saturating_add(part.forward_passes),
        })
}
