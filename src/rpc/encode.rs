//! How much text may become a prompt, and what its sender is told when it cannot.

use super::{
    error::{ServiceError, TextPlace},
    text_work::TextSize,
};
use crate::{
    backend::ModelLimits,
    engine::Stage,
    text::{Allowance, ChatMessage, Tokenizer, TokenizerError, Watch},
};

/// Most tokens of a prompt, when so many are to follow it: an answer has at least one.
pub(crate) fn longest_prompt(limits: &ModelLimits, new_tokens: usize) -> usize {
    limits.context_length.saturating_sub(usize::from(new_tokens > 0))
}

/// A text in one piece.
pub(crate) fn text_size(tokenizer: &Tokenizer, text: &str) -> TextSize {
    parts_size(tokenizer, [text.len()].into_iter())
}

/// A conversation, and what else goes into the same prompt.
pub(crate) fn conversation_size(tokenizer: &Tokenizer, messages: &[ChatMessage], more: usize) -> TextSize {
    let contents = messages.iter().map(|message| message.content.len());
    parts_size(tokenizer, contents.chain([more]))
}

/// Texts of these lengths, none of which shares a word with the next.
pub(crate) fn parts_size(tokenizer: &Tokenizer, lengths: impl Iterator<Item = usize>) -> TextSize {
    let (bytes, longest) = lengths.fold((0usize, 0), |(sum, longest), length| {
        (sum.saturating_add(length), longest.max(length))
    });
    TextSize {
        bytes,
        working: tokenizer.working_bytes(bytes, longest),
    }
}

/// So many tokens, while somebody waits for them.
pub(crate) fn allowance(tokens: usize, watch: &Watch) -> Allowance<'_> {
    Allowance { tokens, watch }
}

/// Why a text has no tokens. `fields` are the texts that the caller sent, to look for what cannot be encoded.
pub(crate) fn token_error<'a>(
    error: &TokenizerError,
    limit_tokens: usize,
    tokenizer: &Tokenizer,
    fields: impl IntoIterator<Item = (TextPlace, &'a str)>,
) -> ServiceError {
    match error {
        TokenizerError::TooLong(input_tokens) => ServiceError::InputTooLong {
            input_tokens: *input_tokens,
            limit_tokens,
        },
        // Whoever waited was told already, or is gone.
        TokenizerError::Stopped => ServiceError::Deadline { stage: Stage::Queue },
        TokenizerError::NotEncodable(_) => {
            let mut found = fields.into_iter().filter_map(|(place, text)| {
                let (character, position) = tokenizer.find_not_encodable(text)?;
                Some(ServiceError::TextNotEncodable {
                    place,
                    character,
                    position,
                })
            });
            // Where none of them is to blame, the model's own template is.
            found.next().unwrap_or(ServiceError::TextFault)
        }
        TokenizerError::Invalid(_) => ServiceError::TextFault,
    }
}

/// The fields of a conversation's messages with their texts.
pub(crate) fn message_fields<'a>(
    field: &'a str,
    messages: &'a [ChatMessage],
) -> impl Iterator<Item = (TextPlace, &'a str)> + 'a {
    messages.iter().enumerate().map(move |(index, message)| {
        let path = format!("{field}.messages[{index}].content");
        (TextPlace::Field(path), message.content.as_str())
    })
}
