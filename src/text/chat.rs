//! Messages of conversations, and the errors of chat templates.

/// The author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChatRole {
    /// `system`
    System,
    /// `user`
    User,
    /// `assistant`
    Assistant,
}

impl ChatRole {
    /// The role's name as templates spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Its author.
    pub role: ChatRole,
    /// Its text.
    pub content: String,
}

/// Why a template could not be compiled or rendered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TemplateError {
    /// The template's source is invalid.
    #[error("chat template: {0}")]
    Invalid(String),
    /// The template itself refused this conversation (`raise_exception`), which the caller can mend.
    #[error("the model's chat template refuses this conversation: {0}")]
    Refused(String),
    /// It takes too many steps, or makes too much text, for the conversation.
    #[error(
        "chat template: it was stopped, because it takes too many steps or makes too much text for this conversation"
    )]
    TooLong,
    /// The text of a message is not in the rendered prompt, so the model would not judge or answer it.
    #[error("the chat template dropped the text of message {0}")]
    MessageDropped(usize),
}
