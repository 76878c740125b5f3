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

/// A message of a conversation in which tools may have been called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTurn {
    /// Its author and its text. What a tool gave back is the user's message here.
    pub message: ChatMessage,
    /// What it has to do with tools.
    pub tools: ToolUse,
}

/// What a message has to do with tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolUse {
    /// Nothing.
    None,
    /// The assistant calls these, of which there is at least one.
    Calls(Vec<CalledTool>),
    /// It is what a tool gave back.
    Result {
        /// The tool's name; empty where it is not known.
        tool: String,
    },
}

/// A tool that the assistant calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalledTool {
    /// Its name.
    pub name: String,
    /// Its arguments as the model wrote them, mostly a JSON object.
    pub arguments: String,
}

impl ToolUse {
    /// Its texts.
    pub(super) fn texts(&self) -> Vec<&str> {
        match self {
            Self::None => Vec::new(),
            Self::Calls(calls) => calls
                .iter()
                .flat_map(|call| [call.name.as_str(), call.arguments.as_str()])
                .collect(),
            Self::Result { tool } => vec![tool],
        }
    }

    /// Arguments of its calls without escapes, so that each character stands for itself. Those that are no JSON have none.
    pub(super) fn unescaped(&self) -> Vec<String> {
        match self {
            Self::Calls(calls) => calls
                .iter()
                .filter_map(|call| serde_json::from_str::<serde_json::Value>(&call.arguments).ok())
                .map(|arguments| arguments.to_string())
                .collect(),
            Self::None | Self::Result { .. } => Vec::new(),
        }
    }
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
    /// A call of a tool, or a part of its arguments, is not in the rendered prompt.
    #[error("the chat template dropped calls of tools of message {0}")]
    CallsDropped(usize),
}
