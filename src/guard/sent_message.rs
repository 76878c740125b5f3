//! A message as callers send it, and its text as a guard sees it.

use std::sync::Arc;

use super::question::JudgedRole;
use crate::text::ChatRole;

/// Most parts of a message.
pub const MAX_PARTS: usize = 64;

/// Most calls of tools in a message.
pub const MAX_TOOL_CALLS: usize = 64;

/// Stands between two pieces of one message.
const BETWEEN_PIECES: &str = "\n";

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Speaker {
    /// Instructions to the model.
    System,
    /// A user.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

impl Speaker {
    /// The side of a guard's prompt that its messages stand on. What a tool gives back comes from outside, like a user's words:
    /// harm and injected instructions come in by it. The system's messages have no side of their own.
    pub fn side(self) -> ChatRole {
        match self {
            Self::Assistant => ChatRole::Assistant,
            Self::System | Self::User | Self::Tool => ChatRole::User,
        }
    }
}

impl From<ChatRole> for Speaker {
    fn from(role: ChatRole) -> Self {
        match role {
            ChatRole::System => Self::System,
            ChatRole::User => Self::User,
            ChatRole::Assistant => Self::Assistant,
        }
    }
}

/// What a part that is not text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentKind {
    /// An image.
    Image,
    /// A sound.
    Audio,
    /// A video.
    Video,
    /// A file of another kind.
    File,
}

impl ContentKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Audio => "audio",
            Self::Video => "video",
            Self::File => "file",
        }
    }
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessagePart {
    /// Text.
    Text(String),
    /// Something else, of which only the kind is known.
    Other(ContentKind),
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageBody {
    /// One text.
    Whole(String),
    /// Several parts.
    Parts(Vec<MessagePart>),
}

/// A tool that the model called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Its name.
    pub name: String,
    /// Its arguments, as the model wrote them.
    pub arguments: String,
}

/// A message as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentMessage {
    /// Who says it.
    pub speaker: Speaker,
    /// What it says.
    pub body: MessageBody,
    /// The tools that it calls.
    pub tool_calls: Vec<ToolCall>,
    /// The tool whose result it is; empty where that is not known.
    pub tool_name: String,
}

impl SentMessage {
    /// A message that is one text.
    pub fn plain(speaker: impl Into<Speaker>, text: String) -> Self {
        Self {
            speaker: speaker.into(),
            body: MessageBody::Whole(text),
            tool_calls: Vec::new(),
            tool_name: String::new(),
        }
    }

    /// Its text in a guard's prompt: what it says, a line for each call, and for a tool's result a first line that says so. A part
    /// that is not text is named where it was.
    pub fn text(&self) -> String {
        let said = self.said();
        let head = match (self.speaker, self.tool_name.as_str()) {
            (Speaker::Tool, "") => Some("Tool result:".to_owned()),
            (Speaker::Tool, name) => Some(format!("Tool result ({name}):")),
            (Speaker::System | Speaker::User | Speaker::Assistant, _) => None,
        };
        if head.is_none() && self.tool_calls.is_empty() {
            return said;
        }
        let calls = self
            .tool_calls
            .iter()
            .map(|ToolCall { name, arguments }| format!("Tool call: {name}({arguments})"));
        let pieces = head.into_iter().chain(Some(said)).chain(calls);
        pieces
            .filter(|piece| !piece.is_empty())
            .collect::<Vec<_>>()
            .join(BETWEEN_PIECES)
    }

    /// What it says, without its calls and without a word on who says it. A part that is not text is named where it was.
    pub fn said(&self) -> String {
        match &self.body {
            MessageBody::Whole(text) => text.clone(),
            MessageBody::Parts(parts) => {
                let texts = parts.iter().map(|part| match part {
                    MessagePart::Text(text) => text.clone(),
                    MessagePart::Other(kind) => format!("[{}]", kind.name()),
                });
                texts.collect::<Vec<_>>().join(BETWEEN_PIECES)
            }
        }
    }

    /// Whether it calls tools, or is what a tool gave back.
    pub fn uses_tools(&self) -> bool {
        self.speaker == Speaker::Tool || !self.tool_calls.is_empty()
    }

    /// The texts that it has from its caller, each with its field in the message.
    pub fn fields(&self) -> Vec<(String, &str)> {
        let mut fields = Vec::new();
        match &self.body {
            MessageBody::Whole(text) => fields.push(("content".to_owned(), text.as_str())),
            MessageBody::Parts(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    if let MessagePart::Text(text) = part {
                        fields.push((format!("parts[{index}].text"), text.as_str()));
                    }
                }
            }
        }
        for (index, call) in self.tool_calls.iter().enumerate() {
            fields.push((format!("tool_calls[{index}].name"), call.name.as_str()));
            fields.push((format!("tool_calls[{index}].arguments"), call.arguments.as_str()));
        }
        if !self.tool_name.is_empty() {
            fields.push(("tool_name".to_owned(), self.tool_name.as_str()));
        }
        fields
    }

    /// Bytes of these texts.
    pub fn bytes(&self) -> usize {
        let fields = self.fields();
        fields.iter().map(|(_, text)| text.len()).sum()
    }

    /// The kinds of its parts that are not text, in their order.
    pub fn other_parts(&self) -> impl Iterator<Item = ContentKind> + '_ {
        let parts = match &self.body {
            MessageBody::Whole(_) => &[][..],
            MessageBody::Parts(parts) => parts,
        };
        parts.iter().filter_map(|part| match part {
            MessagePart::Text(_) => None,
            MessagePart::Other(kind) => Some(*kind),
        })
    }

    /// Whether there is something that a guard can judge: some text, or nothing at all, as of a model that said nothing.
    pub fn says_text(&self) -> bool {
        let has_text = match &self.body {
            MessageBody::Whole(text) => !text.trim().is_empty(),
            MessageBody::Parts(parts) => parts
                .iter()
                .any(|part| matches!(part, MessagePart::Text(text) if !text.trim().is_empty())),
        };
        has_text || !self.tool_calls.is_empty() || self.other_parts().next().is_none()
    }
}

impl AsRef<SentMessage> for SentMessage {
    fn as_ref(&self) -> &SentMessage {
        self
    }
}

/// Whose message a guard judges of a conversation: the last one that is not the system's.
pub fn judged_role(messages: &[Arc<SentMessage>]) -> JudgedRole {
    let mut speakers = messages.iter().map(|message| message.speaker);
    match speakers.rfind(|speaker| *speaker != Speaker::System) {
        Some(Speaker::Assistant) => JudgedRole::Agent,
        Some(Speaker::User | Speaker::Tool | Speaker::System) | None => JudgedRole::User,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(speaker: Speaker, parts: Vec<MessagePart>) -> SentMessage {
        SentMessage {
            body: MessageBody::Parts(parts),
            ..SentMessage::plain(speaker, String::new())
        }
    }

    fn call(name: &str, arguments: &str) -> ToolCall {
        ToolCall {
            name: name.to_owned(),
            arguments: arguments.to_owned(),
        }
    }

    #[test]
    fn a_plain_message_keeps_its_text() {
        for text in ["", " a\n\n", "Tool result:", "[image]"] {
            assert_eq!(SentMessage::plain(Speaker::User, text.to_owned()).text(), text);
            assert_eq!(
                SentMessage::plain(Speaker::Assistant, text.to_owned()).text(),
                text
            );
        }
    }

    #[test]
    fn pieces_are_lines_of_their_own() {
        let image = MessagePart::Other(ContentKind::Image);
        let asked = parts(
            Speaker::User,
            vec![
                MessagePart::Text("What is".to_owned()),
                image,
                MessagePart::Text("this?".to_owned()),
            ],
        );
        assert_eq!(asked.text(), "What is\n[image]\nthis?");
        let mut calls = SentMessage::plain(Speaker::Assistant, "Let me see.".to_owned());
        calls.tool_calls = vec![call("search", "{\"q\": \"x\"}"), call("now", "")];
        assert_eq!(
            calls.text(),
            "Let me see.\nTool call: search({\"q\": \"x\"})\nTool call: now()"
        );
        calls.body = MessageBody::Whole(String::new());
        assert!(calls.text().starts_with("Tool call: search("));
        let mut result = SentMessage::plain(Speaker::Tool, "42".to_owned());
        assert_eq!(result.text(), "Tool result:\n42");
        result.tool_name = "search".to_owned();
        assert_eq!(result.text(), "Tool result (search):\n42");
        result.body = MessageBody::Whole(String::new());
        assert_eq!(result.text(), "Tool result (search):");
    }

    #[test]
    fn every_text_of_the_caller_has_its_field() {
        let mut message = parts(
            Speaker::Assistant,
            vec![
                MessagePart::Other(ContentKind::File),
                MessagePart::Text("words".to_owned()),
            ],
        );
        message.tool_calls = vec![call("search", "{}")];
        let fields = message.fields();
        let names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["parts[1].text", "tool_calls[0].name", "tool_calls[0].arguments"]
        );
        for (name, text) in fields {
            assert!(message.text().contains(text), "{name}");
        }
        assert_eq!(message.bytes(), 13);
    }

    #[test]
    fn what_is_only_an_image_has_nothing_to_judge_and_silence_has() {
        let image = || MessagePart::Other(ContentKind::Image);
        assert!(!parts(Speaker::User, vec![image()]).says_text());
        assert!(!parts(Speaker::User, vec![image(), MessagePart::Text(" \n".to_owned())]).says_text());
        assert!(parts(Speaker::User, vec![image(), MessagePart::Text("x".to_owned())]).says_text());
        assert!(SentMessage::plain(Speaker::Assistant, String::new()).says_text());
    }
}
