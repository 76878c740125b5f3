//! Limits on turning text into prompts, and the errors when a text cannot become one.

use std::sync::Arc;

use super::{
    error::{ServiceError, TextOrigin},
    text_work::TextSize,
};
use crate::{
    backend::ModelLimits,
    engine::Stage,
    guard::SentMessage,
    text::{Allowance, Tokenizer, TokenizerError, Watch},
};

/// Most tokens of a prompt that is followed by an answer of `new_tokens`. An answer needs room for at least one token.
pub(crate) fn longest_prompt(limits: &ModelLimits, new_tokens: usize) -> usize {
    limits.context_length.saturating_sub(usize::from(new_tokens > 0))
}

/// Most tokens of a guard's prompt, whose answer has at most `answer_tokens`. There is room for all of them: of an answer that is
/// cut off the label or a category may be missing, which nobody could see.
pub(crate) fn longest_judged_prompt(limits: &ModelLimits, answer_tokens: usize) -> usize {
    limits.context_length.saturating_sub(answer_tokens)
}

/// The size of a text in one piece.
pub(crate) fn text_size(tokenizer: &Tokenizer, text: &str) -> TextSize {
    parts_size(tokenizer, [text.len()].into_iter())
}

/// The size of a conversation with `other_bytes` of other text in the same prompt.
pub(crate) fn conversation_size(
    tokenizer: &Tokenizer,
    messages: &[Arc<SentMessage>],
    other_bytes: usize,
) -> TextSize {
    let texts = messages.iter().map(|message| message.bytes());
    parts_size(tokenizer, texts.chain([other_bytes]))
}

/// The size of texts with these lengths in bytes. No word extends over two of them.
pub(crate) fn parts_size(tokenizer: &Tokenizer, lengths: impl Iterator<Item = usize>) -> TextSize {
    let (bytes, longest) = lengths.fold((0usize, 0), |(sum, longest), length| {
        (sum.saturating_add(length), longest.max(length))
    });
    TextSize {
        bytes,
        working: tokenizer.working_bytes(bytes, longest),
    }
}

/// The size of texts with these lengths in bytes which are joined and not turned into tokens. There are a few copies of them while a
/// prompt is made.
pub(crate) fn joined_size(lengths: impl Iterator<Item = usize>) -> TextSize {
    let bytes = lengths.fold(0usize, usize::saturating_add);
    TextSize {
        bytes,
        working: bytes.saturating_mul(4),
    }
}

/// Allows this many tokens, for as long as a caller waits for them.
pub(crate) fn allowance(tokens: usize, watch: &Watch) -> Allowance<'_> {
    Allowance { tokens, watch }
}

/// The error of a text that could not be turned into tokens. `fields` are the texts of the prompt, in which the character
/// that cannot be encoded is looked for.
pub(crate) fn token_error<'a>(
    error: &TokenizerError,
    limit_tokens: usize,
    tokenizer: &Tokenizer,
    fields: impl IntoIterator<Item = (TextOrigin, &'a str)>,
) -> ServiceError {
    match error {
        TokenizerError::TooLong(input_tokens) => ServiceError::InputTooLong {
            input_tokens: *input_tokens,
            limit_tokens,
        },
        // The caller has been answered already, or is gone.
        TokenizerError::Stopped => ServiceError::Deadline { stage: Stage::Queue },
        TokenizerError::NotEncodable(_) => {
            let mut found = fields.into_iter().filter_map(|(origin, text)| {
                let (character, position) = tokenizer.find_not_encodable(text)?;
                Some(ServiceError::TextNotEncodable {
                    origin,
                    character,
                    position,
                })
            });
            // If none of them has such a character, the model's own template has it.
            found.next().unwrap_or(ServiceError::TextFault)
        }
        TokenizerError::Invalid(_) => ServiceError::TextFault,
    }
}

/// The texts of a conversation's messages, with their fields.
pub(crate) fn message_fields<'a>(
    field: &'a str,
    messages: &'a [Arc<SentMessage>],
) -> impl Iterator<Item = (TextOrigin, &'a str)> + 'a {
    messages.iter().enumerate().flat_map(move |(index, message)| {
        let fields = message.fields().into_iter();
        fields.map(move |(name, text)| {
            let path = format!("{field}.messages[{index}].{name}");
            (TextOrigin::Field(path), text)
        })
    })
}
