//! Why a model cannot serve as a guard, and why a conversation cannot be judged.

use super::kind::GuardKind;
use crate::text::{TemplateError, TokenizerError};

/// Why a model cannot serve as a guard.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// `safe` and `unsafe` begin with the same token, or the vocabulary lacks what the prompt needs.
    #[error("cannot serve as a guard: {0}")]
    Unsuitable(String),
    /// Neither its chat template nor its names are those of a guard that is known.
    #[error(
        "this is no guard we know: neither its chat template nor its name is that of one. If it is one of {}, say which as its \
         guard_kind; chat-demo lets a chat model stand in, whose verdicts are no safety judgement",
        GuardKind::known()
    )]
    Unknown,
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template failed.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// Why a conversation cannot be judged, which the caller can mend.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// Roles must alternate user, assistant, user, ... and system is not allowed.
    #[error("message {index}: {reason}")]
    Roles {
        /// Index of the message, from 0.
        index: usize,
        /// The rule that it violates.
        reason: String,
    },
    /// The chat template refused or dropped something.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The text could not be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Only texts are known of this guard, and tokens are wanted.
    #[error("the guard has no tokenizer, so that its prompts are texts alone")]
    NoTokenizer,
    /// A message or a policy spells a special token, which whoever turns the prompt's text into tokens would take for one.
    #[error("a text spells `{token}`, which would be a special token of the prompt")]
    SpecialToken {
        /// What is spelled, at most 64 bytes.
        token: String,
    },
}

impl GuardError {
    /// The error of a prompt that the guard has made itself, without a caller.
    pub(super) fn from_prompt(error: PromptError) -> Self {
        match error {
            PromptError::Roles { reason, .. } => Self::Unsuitable(reason),
            PromptError::Template(error) => Self::Template(error),
            PromptError::Tokenizer(error) => Self::Tokenizer(error),
            PromptError::NoTokenizer | PromptError::SpecialToken { .. } => {
                Self::Unsuitable(error.to_string())
            }
        }
    }
}
