//! Chat messages as OpenAI's API writes them, which most guardrail callers send on: their translation into a [`Dialogue`].

use serde::Deserialize;

use super::dialogue::{Dialogue, Place};
use crate::{
    proto::{self, ContentKind, Role, content_part},
    rpc::ServiceError,
};

/// A message of a chat. Fields that no guard looks at, such as `tool_call_id`, are passed over.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct CallerMessage {
    /// One of the names in [`role`].
    role: String,
    content: Option<Content>,
    /// The tools that an assistant's message calls.
    tool_calls: Option<Vec<ToolCall>>,
    /// The call of OpenAI's older interface.
    function_call: Option<FunctionCall>,
    /// What an assistant's message says in place of `content` where the model refused.
    refusal: Option<String>,
    /// The tool, in messages with a tool's result.
    name: Option<String>,
}

/// What a message says.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of parts, each with a type")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// A part of a message's content.
#[derive(Debug, Clone, Deserialize)]
struct Part {
    /// For example `text` or `image_url`.
    #[serde(rename = "type")]
    kind: String,
    /// Of parts that are text.
    text: Option<String>,
    refusal: Option<String>,
}

/// A call of a tool.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ToolCall {
    function: Option<FunctionCall>,
    /// Of a tool whose input is free text.
    custom: Option<CustomCall>,
}

/// The function that is called, and its arguments as the model wrote them.
#[derive(Debug, Clone, Deserialize)]
struct FunctionCall {
    name: Option<String>,
    arguments: Option<String>,
}

/// The tool that is called, and what it is given.
#[derive(Debug, Clone, Deserialize)]
struct CustomCall {
    name: Option<String>,
    input: Option<String>,
}

/// Translates the messages of `field`. SYSTEM and USER messages without any text are passed over: there is nothing in them
/// to judge.
///
/// # Errors
/// A role or a part that is not known, with its field.
pub(super) fn dialogue(messages: Vec<CallerMessage>, field: &str) -> Result<Dialogue, ServiceError> {
    let mut dialogue = Dialogue::default();
    for (index, message) in messages.into_iter().enumerate() {
        let path = format!("{field}[{index}]");
        let message = translated(message, &path)?;
        let says_nothing =
            message.content.is_empty() && message.parts.is_empty() && message.tool_calls.is_empty();
        if !(says_nothing && matches!(message.role(), Role::System | Role::User)) {
            dialogue.push(message, Place::Message(path));
        }
    }
    Ok(dialogue)
}

/// The error of a request whose messages in `field` have no text.
pub(super) fn nothing_to_judge(field: &str) -> ServiceError {
    ServiceError::field(field, "there is nothing to judge: send a message with a text")
}

/// A tool's call as guards read it.
pub(super) fn tool_call(call: ToolCall) -> proto::ToolCall {
    let (name, arguments) = match (call.function, call.custom) {
        (Some(function), _) => (function.name, function.arguments),
        (None, Some(custom)) => (custom.name, custom.input),
        (None, None) => (None, None),
    };
    proto::ToolCall {
        // A guard needs a name; calls of built-in tools have none.
        name: name
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "tool".to_owned()),
        arguments: arguments.unwrap_or_default(),
    }
}

fn translated(message: CallerMessage, path: &str) -> Result<proto::Message, ServiceError> {
    let role = role(&message.role).ok_or_else(|| {
        let says = "must be system, developer, user, assistant, tool or function";
        ServiceError::field(format!("{path}.role"), says)
    })?;
    let mut translated = proto::Message {
        role: role.into(),
        ..proto::Message::default()
    };
    match message.content {
        Some(Content::Text(text)) => translated.content = text,
        Some(Content::Parts(parts)) => {
            let parts = parts.into_iter().enumerate();
            let parts = parts.map(|(index, one)| part(one, format!("{path}.content[{index}]")));
            translated.parts = parts.collect::<Result<_, _>>()?;
        }
        None => {}
    }
    if translated.content.is_empty() && translated.parts.is_empty() {
        translated.content = message.refusal.unwrap_or_default();
    }
    let older = message.function_call.map(|function| ToolCall {
        function: Some(function),
        custom: None,
    });
    let calls = message.tool_calls.unwrap_or_default().into_iter().chain(older);
    translated.tool_calls = calls.map(tool_call).collect();
    if role == Role::Tool {
        translated.tool_name = message.name.unwrap_or_default();
    }
    Ok(translated)
}

/// The role that a name stands for.
fn role(name: &str) -> Option<Role> {
    match name.to_ascii_lowercase().as_str() {
        "system" | "developer" => Some(Role::System),
        "user" => Some(Role::User),
        // Gemini's name of it.
        "assistant" | "model" => Some(Role::Assistant),
        "tool" | "function" => Some(Role::Tool),
        _ => None,
    }
}

/// Words in the types of parts that are no text, such as `image_url` and `input_audio`.
const OTHER_KINDS: [(&str, ContentKind); 5] = [
    ("image", ContentKind::Image),
    ("audio", ContentKind::Audio),
    ("video", ContentKind::Video),
    ("file", ContentKind::File),
    ("document", ContentKind::File),
];

fn part(part: Part, path: String) -> Result<proto::ContentPart, ServiceError> {
    let other = OTHER_KINDS
        .into_iter()
        .find(|(word, _)| part.kind.contains(*word));
    let translated = match (other, part.text.or(part.refusal)) {
        // Also beside a text: the model looks at what the type says.
        (Some((_, kind)), _) => content_part::Part::Other(kind.into()),
        (None, Some(text)) => content_part::Part::Text(text),
        (None, None) => {
            let says = "is a part of a type that is not known here and has no text; leave it out";
            return Err(ServiceError::field(path, says));
        }
    };
    Ok(proto::ContentPart {
        part: Some(translated),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn translate(messages: Value) -> Result<Dialogue, ServiceError> {
        dialogue(serde_json::from_value(messages).unwrap(), "messages")
    }

    #[test]
    fn every_role_and_kind_of_content_is_translated() {
        let dialogue = translate(json!([
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{\"at\":1}"}},
                {"id": "c2", "type": "custom", "custom": {"name": "run", "input": "ls"}},
            ]},
            {"role": "tool", "tool_call_id": "c1", "name": "look", "content": "a cat"},
            {"role": "assistant", "content": null, "refusal": "I cannot say."},
            {"role": "assistant", "content": null, "function_call": {"name": "look", "arguments": "{}"}},
        ]))
        .unwrap();
        let messages = dialogue.conversation().messages;
        let roles: Vec<Role> = messages.iter().map(proto::Message::role).collect();
        assert_eq!(
            roles,
            [
                Role::System,
                Role::User,
                Role::Assistant,
                Role::Tool,
                Role::Assistant,
                Role::Assistant
            ]
        );
        let parts: Vec<_> = messages[1]
            .parts
            .iter()
            .map(|part| part.part.clone().unwrap())
            .collect();
        assert_eq!(
            parts,
            [
                content_part::Part::Text("What is this?".to_owned()),
                content_part::Part::Other(ContentKind::Image.into()),
                content_part::Part::Other(ContentKind::Audio.into()),
            ]
        );
        let calls: Vec<_> = messages[2]
            .tool_calls
            .iter()
            .map(|call| (call.name.as_str(), call.arguments.as_str()))
            .collect();
        assert_eq!(calls, [("look", "{\"at\":1}"), ("run", "ls")]);
        assert_eq!(
            (messages[3].tool_name.as_str(), messages[3].content.as_str()),
            ("look", "a cat")
        );
        assert_eq!(messages[4].content, "I cannot say.");
        let older: Vec<_> = messages[5]
            .tool_calls
            .iter()
            .map(|call| call.name.as_str())
            .collect();
        assert_eq!(older, ["look"]);
    }

    #[test]
    fn a_part_that_is_no_text_stays_one_beside_a_text() {
        let dialogue = translate(json!([{"role": "user", "content": [
            {"type": "image_url", "text": "Hello", "image_url": {"url": "https://example.org/a.png"}},
            {"type": "audio_url", "text": "Hello", "audio_url": {"url": "https://example.org/a.wav"}},
        ]}]))
        .unwrap();
        assert_eq!(
            dialogue.unreadable(),
            ["messages[0].content[0] (image)", "messages[0].content[1] (audio)"]
        );
    }

    #[test]
    fn messages_that_say_nothing_are_passed_over_and_the_others_keep_their_places() {
        let dialogue = translate(json!([
            {"role": "user", "content": ""},
            {"role": "assistant", "content": null},
            {"role": "user", "content": "Hello"},
        ]))
        .unwrap();
        let roles: Vec<Role> = dialogue
            .conversation()
            .messages
            .iter()
            .map(proto::Message::role)
            .collect();
        assert_eq!(
            roles,
            [Role::Assistant, Role::User],
            "an answer that says nothing is one"
        );
        assert_eq!(
            dialogue.field("conversation.messages[1].content"),
            "messages[2].content"
        );
    }

    #[test]
    fn what_cannot_be_translated_is_an_error_that_names_the_field() {
        let field = |messages| match translate(messages).unwrap_err() {
            ServiceError::InvalidFields(fields) => fields[0].field.clone(),
            other => panic!("{other:?}"),
        };
        let robot = json!([{"role": "robot", "content": "Hello"}]);
        assert_eq!(field(robot), "messages[0].role");
        let smell = json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "smell"}]}]);
        assert_eq!(field(smell), "messages[0].content[1]");
    }
}
