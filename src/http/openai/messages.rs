//! OpenAI's messages as those of a conversation.

use serde_json::value::RawValue;

use super::fields::{Fields, Kind, Only, Problems, kind, list, text};
use crate::proto::{self, ContentKind, Role, content_part::Part};

/// Most messages, parts and tool calls that are read. More than the services take, which then say how many there may be; the rest
/// of a longer list is only counted.
const MOST_READ: usize = 4096;

/// The messages of a request. Their number and sizes are checked by the call that is made of them.
pub(super) fn conversation(fields: &mut Fields<'_>, problems: &mut Problems) -> proto::Conversation {
    let Some(value) = fields.value("messages") else {
        problems.note("messages", "is required");
        return proto::Conversation::default();
    };
    let messages = read_list(value, "messages", problems);
    proto::Conversation {
        messages: messages
            .into_iter()
            .enumerate()
            .filter_map(|(index, value)| message(value, &format!("messages[{index}]"), problems))
            .collect(),
    }
}

/// The elements of a list; noted where there are more than are read.
fn read_list<'a>(value: &'a RawValue, path: &str, problems: &mut Problems) -> Vec<&'a RawValue> {
    match list(value, MOST_READ) {
        Some(list) if list.count > MOST_READ => {
            problems.note(
                path,
                format!("has {} elements, which is far too many", list.count),
            );
            Vec::new()
        }
        Some(list) => list.first,
        None => {
            problems.note(path, "must be a list");
            Vec::new()
        }
    }
}

fn message(value: &RawValue, path: &str, problems: &mut Problems) -> Option<proto::Message> {
    let mut fields = Fields::of(value, path, problems)?;
    let role = role(&mut fields, problems);
    let mut message = proto::Message {
        role: role.unwrap_or_default().into(),
        ..proto::Message::default()
    };
    if let Some(value) = fields.value("content") {
        content(&mut message, value, &fields.path_of("content"), problems);
    }
    match role {
        Some(Role::Assistant) => {
            if let Some(value) = fields.value("tool_calls") {
                message.tool_calls = tool_calls(value, &fields.path_of("tool_calls"), problems);
            }
            // What OpenAI's client writes of an answer that it was given.
            for name in ["annotations", "audio", "function_call", "refusal"] {
                fields.only(name, Only::Nothing, problems);
            }
        }
        Some(Role::Tool) => {
            message.tool_name = fields.text("name", problems).unwrap_or_default();
            fields.pass_over("tool_call_id");
        }
        Some(Role::System | Role::User | Role::Unspecified) | None => {}
    }
    fields.finish(problems);
    role.map(|_| message)
}

fn role(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Role> {
    let path = fields.path_of("role");
    let Some(value) = fields.value("role") else {
        problems.note(path, "is required");
        return None;
    };
    let role = text(value).and_then(|role| match role.as_str() {
        // OpenAI's newer name of system messages.
        "system" | "developer" => Some(Role::System),
        "user" => Some(Role::User),
        "assistant" => Some(Role::Assistant),
        "tool" => Some(Role::Tool),
        _ => None,
    });
    if role.is_none() {
        problems.note(path, "must be system, developer, user, assistant or tool");
    }
    role
}

/// The content of a message: a text or parts.
fn content(message: &mut proto::Message, value: &RawValue, path: &str, problems: &mut Problems) {
    match kind(value) {
        Kind::Text => match text(value) {
            Some(content) => message.content = content,
            None => problems.note(path, "must be a text"),
        },
        Kind::List => message.parts = parts(value, path, problems),
        Kind::Null | Kind::Flag | Kind::Number | Kind::Object => {
            problems.note(path, "must be a text or a list of parts");
        }
    }
}

/// The parts of a message, or of what is to be moderated. Those that are no text are kept by their kind.
pub(super) fn parts(value: &RawValue, path: &str, problems: &mut Problems) -> Vec<proto::ContentPart> {
    let parts = read_list(value, path, problems).into_iter().enumerate();
    parts
        .filter_map(|(index, value)| part(value, &format!("{path}[{index}]"), problems))
        .map(|part| proto::ContentPart { part: Some(part) })
        .collect()
}

fn part(value: &RawValue, path: &str, problems: &mut Problems) -> Option<Part> {
    let mut fields = Fields::of(value, path, problems)?;
    let kind = fields.text("type", problems);
    let other = match kind.as_deref() {
        Some(kind @ ("text" | "refusal")) => {
            let text = fields.text(kind, problems);
            if text.is_none() {
                problems.note(fields.path_of(kind), "is required");
            }
            fields.finish(problems);
            return text.map(Part::Text);
        }
        Some("image_url") => ContentKind::Image,
        Some("input_audio") => ContentKind::Audio,
        Some("video_url") => ContentKind::Video,
        Some("file") => ContentKind::File,
        _ => {
            problems.note(
                fields.path_of("type"),
                "must be text; what image_url, input_audio, video_url and file have is read by no model here",
            );
            return None;
        }
    };
    Some(Part::Other(other.into()))
}

fn tool_calls(value: &RawValue, path: &str, problems: &mut Problems) -> Vec<proto::ToolCall> {
    let calls = read_list(value, path, problems).into_iter().enumerate();
    calls
        .filter_map(|(index, value)| {
            let mut fields = Fields::of(value, &format!("{path}[{index}]"), problems)?;
            fields.pass_over("id");
            fields.only("type", Only::Words(&["function"]), problems);
            let called = fields.object("function", problems);
            fields.finish(problems);
            let mut called = called?;
            let call = proto::ToolCall {
                name: called.text("name", problems).unwrap_or_default(),
                arguments: called.text("arguments", problems).unwrap_or_default(),
            };
            called.finish(problems);
            Some(call)
        })
        .collect()
}

/// The field of a request that a field of its conversation comes from: `messages[0].content[1]` for
/// `conversation.messages[0].parts[1].other`. `None` for other fields.
pub(super) fn param_of(field: &str) -> Option<String> {
    let field = field.strip_prefix("conversation.")?;
    let Some((message, part)) = field.split_once(".parts[") else {
        return Some(match field.split_once(".tool_calls[") {
            Some((_, call)) if call.ends_with("].name") => field.replace("].name", "].function.name"),
            _ => match field.strip_suffix(".parts") {
                Some(message) => format!("{message}.content"),
                None => field.to_owned(),
            },
        });
    };
    let index = part.split(']').next().unwrap_or("");
    Some(format!("{message}.content[{index}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(messages: &str) -> (proto::Conversation, Vec<String>) {
        let mut problems = Problems::default();
        let body = format!("{{\"messages\": {messages}}}");
        let mut fields = Fields::of_body(body.as_bytes(), &mut problems).unwrap();
        let conversation = conversation(&mut fields, &mut problems);
        fields.finish(&mut problems);
        let found = problems.finish().err().unwrap_or_default().into_iter();
        (conversation, found.map(|problem| problem.param).collect())
    }

    fn plain(role: Role, content: &str) -> proto::Message {
        proto::Message {
            role: role.into(),
            content: content.to_owned(),
            ..proto::Message::default()
        }
    }

    #[test]
    fn roles_and_contents_are_kept() {
        let (conversation, problems) = read(
            r#"[{"role": "developer", "content": "Be brief."}, {"role": "system", "content": "s"},
                {"role": "user", "content": "é\n"},
                {"role": "assistant", "content": "a", "refusal": null, "annotations": [], "audio": null}]"#,
        );
        assert_eq!(problems, [""; 0]);
        let wanted = [
            plain(Role::System, "Be brief."),
            plain(Role::System, "s"),
            plain(Role::User, "é\n"),
            plain(Role::Assistant, "a"),
        ];
        assert_eq!(conversation.messages, wanted);
    }

    #[test]
    fn parts_calls_and_results_of_tools_are_kept_for_the_call_to_judge() {
        let (conversation, problems) = read(
            r#"[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]},
                {"role": "assistant", "content": null, "tool_calls":
                    [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "tool_call_id": "c", "name": "f", "content": "42"}]"#,
        );
        assert_eq!(problems, [""; 0]);
        let parts: Vec<_> = conversation.messages[0]
            .parts
            .iter()
            .map(|part| part.part.clone().unwrap())
            .collect();
        assert_eq!(
            parts,
            [Part::Text("a".to_owned()), Part::Other(ContentKind::Image.into())]
        );
        let call = proto::ToolCall {
            name: "f".to_owned(),
            arguments: "{}".to_owned(),
        };
        assert_eq!(conversation.messages[1].tool_calls, [call]);
        let result = proto::Message {
            tool_name: "f".to_owned(),
            ..plain(Role::Tool, "42")
        };
        assert_eq!(conversation.messages[2], result);
    }

    #[test]
    fn what_is_wrong_with_a_message_is_named() {
        for (messages, params) in [
            ("7", vec!["messages"]),
            ("[7]", vec!["messages[0]"]),
            (r#"[{"content": "a"}]"#, vec!["messages[0].role"]),
            (
                r#"[{"role": "function", "content": "a"}]"#,
                vec!["messages[0].role"],
            ),
            (r#"[{"role": "user", "content": 5}]"#, vec!["messages[0].content"]),
            (
                r#"[{"role": "user", "content": "a", "name": "Ann"}]"#,
                vec!["messages[0].name"],
            ),
            (
                r#"[{"role": "user", "content": [{"type": "text"}, {"type": "poem"}, {"type": "text", "text": "a", "x": 1}]}]"#,
                vec![
                    "messages[0].content[0].text",
                    "messages[0].content[1].type",
                    "messages[0].content[2].x",
                ],
            ),
        ] {
            assert_eq!(read(messages).1, params, "{messages}");
        }
        let (conversation, problems) = read(&format!("[{}]", vec!["{}"; MOST_READ + 1].join(",")));
        assert_eq!(
            (conversation.messages.len(), problems),
            (0, vec!["messages".to_owned()])
        );
    }

    #[test]
    fn errors_name_the_callers_fields() {
        for (field, param) in [
            ("conversation.messages", "messages"),
            ("conversation.messages[2].content", "messages[2].content"),
            ("conversation.messages[2].role", "messages[2].role"),
            ("conversation.messages[0].parts", "messages[0].content"),
            (
                "conversation.messages[0].parts[1].other",
                "messages[0].content[1]",
            ),
            ("conversation.messages[0].parts[1].text", "messages[0].content[1]"),
            (
                "conversation.messages[0].tool_calls[3].name",
                "messages[0].tool_calls[3].function.name",
            ),
        ] {
            assert_eq!(param_of(field).as_deref(), Some(param));
        }
        assert_eq!(param_of("model"), None);
    }
}
