//! Messages of conversations in files of JSON lines: those of chat APIs, with text or parts, calls of tools and their results.

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use crate::proto::{ContentKind, ContentPart, Message, Role, ToolCall, content_part::Part};

/// Who says a message.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LineRole {
    System,
    /// What some chat APIs call system.
    Developer,
    User,
    Assistant,
    Tool,
}

/// One message of a line. Ids of calls are taken and not needed: a result stands behind its call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LineMessage {
    role: LineRole,
    #[serde(default, deserialize_with = "content")]
    content: Content,
    /// Some APIs write null where there are none.
    #[serde(default)]
    tool_calls: Option<Vec<LineCall>>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default, rename = "tool_call_id")]
    _tool_call_id: Option<String>,
}

#[derive(Debug)]
enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

impl Default for Content {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

#[derive(Debug, Deserialize)]
struct LineCall {
    function: LineFunction,
}

#[derive(Debug, Deserialize)]
struct LineFunction {
    name: String,
    #[serde(default)]
    arguments: Option<Value>,
}

/// Reads what a message says: a text, a list of parts, or nothing.
fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Content, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(Content::default()),
        Value::String(text) => Ok(Content::Text(text)),
        Value::Array(parts) => {
            let parts: Result<_, _> = parts.iter().map(part).collect();
            parts.map(Content::Parts).map_err(D::Error::custom)
        }
        _ => Err(D::Error::custom("`content` is a text or a list of parts")),
    }
}

/// Reads a part. Of what is not text only the kind is kept.
fn part(part: &Value) -> Result<ContentPart, String> {
    let text = part.get("text").and_then(Value::as_str);
    let kind = match part.get("type").and_then(Value::as_str) {
        Some("text" | "input_text" | "output_text") => {
            let text = text.ok_or("a part of the type `text` has a `text`")?;
            return Ok(ContentPart {
                part: Some(Part::Text(text.to_owned())),
            });
        }
        Some("image" | "image_url" | "input_image") => ContentKind::Image,
        Some("audio" | "audio_url" | "input_audio") => ContentKind::Audio,
        Some("video" | "video_url" | "input_video") => ContentKind::Video,
        Some("file" | "input_file" | "document") => ContentKind::File,
        Some(other) => return Err(format!("`{other}` is no known type of a part")),
        None => return Err("a part has a `type`, such as `text` or `image`".to_owned()),
    };
    Ok(ContentPart {
        part: Some(Part::Other(kind.into())),
    })
}

impl LineMessage {
    /// The message as it is sent.
    pub(super) fn message(self) -> Message {
        let role = match self.role {
            LineRole::System | LineRole::Developer => Role::System,
            LineRole::User => Role::User,
            LineRole::Assistant => Role::Assistant,
            LineRole::Tool => Role::Tool,
        };
        let (content, parts) = match self.content {
            Content::Text(text) => (text, Vec::new()),
            Content::Parts(parts) => (String::new(), parts),
        };
        let calls = self.tool_calls.into_iter().flatten().map(|call| ToolCall {
            name: call.function.name,
            arguments: match call.function.arguments {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(written)) => written,
                Some(other) => other.to_string(),
            },
        });
        Message {
            role: role.into(),
            content,
            parts,
            tool_calls: calls.collect(),
            // Names of users and assistants are nothing that guards know.
            tool_name: self.name.filter(|_| role == Role::Tool).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Message, String> {
        let read: Result<LineMessage, _> = serde_json::from_str(line);
        read.map(LineMessage::message).map_err(|error| error.to_string())
    }

    #[test]
    fn messages_of_chat_apis_are_read() {
        let plain = read(r#"{"role": "developer", "content": "Be kind."}"#).unwrap();
        assert_eq!((plain.role(), plain.content.as_str()), (Role::System, "Be kind."));
        let answer = read(r#"{"role": "assistant", "content": "Yes.", "tool_calls": null}"#).unwrap();
        assert_eq!((answer.content.as_str(), answer.tool_calls.len()), ("Yes.", 0));
        let shown = read(
            r#"{"role": "user", "name": "Eva", "content": [{"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}"#,
        );
        let shown = shown.unwrap();
        assert_eq!(shown.tool_name, "");
        let parts: Vec<_> = shown.parts.into_iter().filter_map(|part| part.part).collect();
        assert_eq!(
            parts,
            [
                Part::Text("What is this?".to_owned()),
                Part::Other(ContentKind::Image.into())
            ]
        );
        let call = read(
            r#"{"role": "assistant", "content": null, "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "search", "arguments": "{\"q\": 1}"}},
                {"function": {"name": "now", "arguments": {"zone": "utc"}}}]}"#,
        );
        let calls = call.unwrap().tool_calls;
        let calls: Vec<_> = calls
            .iter()
            .map(|call| (call.name.as_str(), call.arguments.as_str()))
            .collect();
        assert_eq!(calls, [("search", "{\"q\": 1}"), ("now", "{\"zone\":\"utc\"}")]);
        let result =
            read(r#"{"role": "tool", "tool_call_id": "1", "name": "search", "content": "42"}"#).unwrap();
        assert_eq!((result.role(), result.tool_name.as_str()), (Role::Tool, "search"));
    }

    #[test]
    fn what_is_not_known_is_told() {
        for (line, told) in [
            (r#"{"role": "nobody", "content": "a"}"#, "nobody"),
            (r#"{"role": "user", "content": 5}"#, "`content` is"),
            (r#"{"role": "user", "content": [{"type": "smell"}]}"#, "smell"),
            (r#"{"role": "user", "content": [{"text": "a"}]}"#, "`type`"),
            (r#"{"role": "user", "content": [{"type": "text"}]}"#, "`text`"),
            (r#"{"role": "user", "words": "a"}"#, "words"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(told), "{line}: {error}");
        }
    }
}
