//! One judgement that a guard is asked for, and what is known of its answer: the words that all kinds of guards share.

use super::{error::PromptError, kind::GuardKind, policy::Policy};
use crate::text::{ChatMessage, ChatRole, ChatTemplate, Segment};

/// The label that the guard's text gives the judged message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Label {
    /// The guard calls it safe.
    Safe,
    /// The guard calls it unsafe.
    Unsafe,
    /// The guard calls it neither safe nor unsafe, but something between them that it has a word for.
    Controversial,
    /// The text has none of the guard's labels. It is never counted as safe.
    Undetermined,
}

/// Whether an answer refuses what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// It refuses.
    Refused,
    /// It answers or complies.
    Answered,
}

impl Refusal {
    /// `true` is a refusal.
    pub(super) fn of(refused: bool) -> Self {
        match refused {
            true => Self::Refused,
            false => Self::Answered,
        }
    }
}

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
    pub(super) const fn new(text: &'static str, label: Label) -> Self {
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

impl AnswerForm {
    /// The labels of the words, in their order.
    pub(super) fn labels(&self) -> Vec<Label> {
        self.words.iter().map(|word| word.label).collect()
    }
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
    pub(super) fn undetermined() -> Self {
        Self {
            label: Label::Undetermined,
            categories: Vec::new(),
            refusal: None,
        }
    }
}

/// A text of the prompt itself.
pub(super) fn template(text: impl Into<String>) -> Segment {
    Segment::Template(text.into())
}

/// A text of the conversation as it is.
pub(super) fn content(text: &str) -> Segment {
    Segment::Content(text.to_owned())
}

/// The request and its answer, for a guard whose prompt has room for no more; the answer is empty where the request is judged.
///
/// # Errors
/// The conversation is longer. Nothing of it is left out silently.
pub(super) fn one_exchange<'a>(
    question: &Question<'a>,
    guard: GuardKind,
) -> Result<[&'a str; 2], PromptError> {
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

/// A message of a conversation.
pub(super) fn message(role: ChatRole, content: &str) -> ChatMessage {
    ChatMessage {
        role,
        content: content.to_owned(),
    }
}
