//! What each kind of guard is asked, and how its answer is read. Each family of prompts has a file; the enum's methods here
//! are all that the rest of the guard knows of them.

mod chat_demo;
mod fields;
mod llama_guard;
mod polyguard;
mod qwen3guard;
mod wildguard;

use super::{
    error::PromptError,
    kind::GuardKind,
    policy::Policy,
    verdict::{Label, Refusal},
};
use crate::text::{ChatMessage, ChatRole, ChatTemplate, Segment, Tokenizer};

/// The author of the last message of a conversation, which is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JudgedRole {
    /// A user's message: a request.
    User,
    /// An assistant's message: an answer.
    Agent,
}

impl JudgedRole {
    /// Both roles.
    pub const ALL: [Self; 2] = [Self::User, Self::Agent];

    /// The author of the last message, whatever the others are.
    pub fn last(conversation: &[ChatMessage]) -> Self {
        match conversation.last() {
            Some(message) if message.role == ChatRole::Assistant => Self::Agent,
            Some(_) | None => Self::User,
        }
    }

    /// Checks that the roles alternate beginning with the user, and returns the author of the last message.
    pub(super) fn of(conversation: &[ChatMessage]) -> Result<Self, PromptError> {
        if conversation.is_empty() {
            let reason = "a conversation needs at least one message".to_owned();
            return Err(PromptError::Roles { index: 0, reason });
        }
        for (index, message) in conversation.iter().enumerate() {
            let (expected, name) = if index.is_multiple_of(2) {
                (ChatRole::User, "user")
            } else {
                (ChatRole::Assistant, "assistant")
            };
            if message.role != expected {
                let reason = if message.role == ChatRole::System {
                    "a guard judges user and assistant messages only, not system messages".to_owned()
                } else {
                    format!("roles must alternate, beginning with user: expected {name}")
                };
                return Err(PromptError::Roles { index, reason });
            }
        }
        Ok(if conversation.len().is_multiple_of(2) {
            Self::Agent
        } else {
            Self::User
        })
    }
}

/// One judgement that a guard is asked for.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) policy: &'a Policy,
    pub(super) judged: JudgedRole,
    /// Roles alternate, beginning with the user.
    pub(super) messages: &'a [ChatMessage],
    /// The model's own chat template, for kinds whose prompt is a conversation.
    pub(super) chat: Option<&'a ChatTemplate>,
}

/// A text by which a guard writes a label, as it stands at the label's position.
#[derive(Debug, Clone, Copy)]
pub(super) struct LabelWord {
    pub(super) text: &'static str,
    pub(super) label: Label,
}

impl LabelWord {
    const fn new(text: &'static str, label: Label) -> Self {
        Self { text, label }
    }
}

/// Where the label stands in the rest of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LabelPosition {
    /// It is the first token.
    First,
    /// It is the first token that is not white space alone.
    FirstWord,
    /// It follows lines like these, of which the last one is the name of the label's line.
    After(&'static str),
}

/// The answer that a guard writes about one of the judged roles.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerForm {
    /// The beginning of every answer, which is put into the prompt, so that one prefill comes nearer to the label.
    pub(super) begun: &'static str,
    pub(super) position: LabelPosition,
    /// The words of the labels. Those of different labels begin with different tokens.
    pub(super) words: &'static [LabelWord],
    /// Whether nothing more is read of an answer whose label is safe.
    pub(super) safe_is_all: bool,
}

/// What the text of an answer says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reading {
    pub(super) label: Label,
    /// Codes of the categories as the guard wrote them, with their names.
    pub(super) categories: Vec<(String, String)>,
    pub(super) refusal: Option<Refusal>,
}

impl Reading {
    fn undetermined() -> Self {
        Self {
            label: Label::Undetermined,
            categories: Vec::new(),
            refusal: None,
        }
    }
}

/// How callers' policies are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policies {
    /// The categories of the prompt can be replaced.
    Any,
    /// The guard judges by those that it was trained on.
    NativeOnly,
}

impl GuardKind {
    /// The policy that it was trained on.
    pub(super) fn native_policy(self) -> Policy {
        match self {
            Self::LlamaGuard3_8B | Self::ChatDemo => Policy::llama_guard_3(14),
            Self::LlamaGuard3_1B => Policy::llama_guard_3(13),
            Self::LlamaGuard2 => Policy::numbered(&llama_guard::CATEGORIES_2),
            Self::Qwen3GuardGen => Policy::of_names(&qwen3guard::CATEGORIES),
            Self::WildGuard => Policy::of_names(&[]),
            Self::PolyGuard => Policy::llama_guard_3(14),
        }
    }

    pub(super) fn policies(self) -> Policies {
        match self {
            Self::LlamaGuard3_8B | Self::LlamaGuard3_1B | Self::LlamaGuard2 | Self::ChatDemo => Policies::Any,
            Self::Qwen3GuardGen | Self::WildGuard | Self::PolyGuard => Policies::NativeOnly,
        }
    }

    /// What a vocabulary and a chat template lack for this kind's prompt, if they lack anything.
    pub(super) fn missing(self, tokenizer: &Tokenizer, chat: Option<&ChatTemplate>) -> Option<String> {
        let tokens: &[&str] = match self {
            Self::LlamaGuard3_8B | Self::LlamaGuard3_1B => &llama_guard::SPECIAL_TOKENS,
            Self::LlamaGuard2 => &llama_guard::SPECIAL_TOKENS_2,
            Self::Qwen3GuardGen => &qwen3guard::SPECIAL_TOKENS,
            Self::WildGuard => &wildguard::SPECIAL_TOKENS,
            Self::PolyGuard | Self::ChatDemo => {
                return chat
                    .is_none()
                    .then(|| "the model has no chat template".to_owned());
            }
        };
        let lacking = tokens.iter().find(|token| tokenizer.special_id(token).is_none());
        lacking.map(|token| format!("the vocabulary has no {token}, which the prompt of {self} needs"))
    }

    /// The prompt, up to where the guard begins to write.
    pub(super) fn prompt(self, question: &Question<'_>) -> Result<Vec<Segment>, PromptError> {
        match self {
            Self::LlamaGuard3_8B => Ok(llama_guard::prompt(llama_guard::Form::EightB, question)),
            Self::LlamaGuard3_1B => Ok(llama_guard::prompt(llama_guard::Form::OneB, question)),
            Self::LlamaGuard2 => Ok(llama_guard::prompt_2(question)),
            Self::Qwen3GuardGen => Ok(qwen3guard::prompt(question)),
            Self::WildGuard => wildguard::prompt(question),
            Self::PolyGuard => polyguard::prompt(question),
            Self::ChatDemo => chat_demo::prompt(question),
        }
    }

    pub(super) fn answer_form(self, judged: JudgedRole) -> AnswerForm {
        match self {
            Self::LlamaGuard3_8B | Self::LlamaGuard3_1B | Self::ChatDemo => llama_guard::ANSWER,
            Self::LlamaGuard2 => llama_guard::ANSWER_2,
            Self::Qwen3GuardGen => qwen3guard::answer_form(judged),
            Self::WildGuard => wildguard::answer_form(judged),
            Self::PolyGuard => polyguard::answer_form(judged),
        }
    }

    /// What stands in the answer between the prompt and the first category of an unsafe message. `None` where that is not certain
    /// or where other lines come first, so that one pass cannot reach the categories.
    pub(super) fn before_categories(self) -> Option<&'static str> {
        match self {
            Self::LlamaGuard3_8B | Self::LlamaGuard3_1B | Self::ChatDemo => Some("unsafe\n"),
            Self::Qwen3GuardGen => Some(" Unsafe\nCategories: "),
            Self::LlamaGuard2 | Self::WildGuard | Self::PolyGuard => None,
        }
    }

    /// What an answer says. `text` is all of it, with the beginning that was put into the prompt.
    pub(super) fn read(self, judged: JudgedRole, text: &str, policy: &Policy) -> Reading {
        match self {
            Self::LlamaGuard3_8B | Self::LlamaGuard3_1B | Self::LlamaGuard2 | Self::ChatDemo => {
                llama_guard::read(text, policy)
            }
            Self::Qwen3GuardGen => qwen3guard::read(judged, text),
            Self::WildGuard => wildguard::read(judged, text),
            Self::PolyGuard => polyguard::read(judged, text, policy),
        }
    }

    /// Whether more text cannot change what an answer says, or the text is too long for an answer.
    pub(super) fn is_settled(self, judged: JudgedRole, text: &str) -> bool {
        match self {
            Self::LlamaGuard3_8B | Self::LlamaGuard3_1B | Self::LlamaGuard2 | Self::ChatDemo => {
                llama_guard::is_settled(text)
            }
            Self::Qwen3GuardGen => qwen3guard::is_settled(judged, text),
            Self::WildGuard => wildguard::is_settled(judged, text),
            Self::PolyGuard => polyguard::is_settled(judged, text),
        }
    }

    /// Most tokens of an answer, without those of further categories of a policy.
    pub(super) fn answer_tokens(self) -> usize {
        match self {
            // The fourteen codes of the native policy fit.
            Self::LlamaGuard3_8B | Self::LlamaGuard3_1B | Self::LlamaGuard2 | Self::ChatDemo => 64,
            // The makers generate at most so many tokens (README of QwenLM/Qwen3Guard, 128; of kpriyanshu256/polyguard, 100).
            Self::Qwen3GuardGen | Self::WildGuard | Self::PolyGuard => 128,
        }
    }
}

/// A text of the prompt itself.
fn template(text: impl Into<String>) -> Segment {
    Segment::Template(text.into())
}

/// A text of the conversation as it is.
fn content(text: &str) -> Segment {
    Segment::Content(text.to_owned())
}

/// The request and its answer, for a guard whose prompt has room for no more; the answer is empty where the request is judged.
///
/// # Errors
/// The conversation is longer. Nothing of it is left out silently.
fn one_exchange<'a>(question: &Question<'a>, guard: GuardKind) -> Result<[&'a str; 2], PromptError> {
    match question.messages {
        [request] => Ok([&request.content, ""]),
        [request, answer] => Ok([&request.content, &answer.content]),
        _ => Err(PromptError::Roles {
            index: 2,
            reason: format!(
                "{guard} judges one user message, or one with its answer: send the last ones without those before"
            ),
        }),
    }
}
