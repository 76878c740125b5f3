//! What a guard is asked about, with the places in the caller's request that its messages come from.

use crate::proto::{self, ContentKind, JudgeScope, Role, content_part};

/// Most messages of a conversation that a guard is asked about (`Conversation.messages`).
const MOST_MESSAGES: usize = 64;

/// Where a message stands in a caller's request.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// A message with fields of its own.
    Message(String),
    /// A field that is nothing but the message's text.
    Text(String),
}

/// A conversation whose end is judged. Its messages up to there are the context.
#[derive(Debug, Default, Clone)]
pub(super) struct Dialogue {
    messages: Vec<proto::Message>,
    /// In the order of the messages.
    places: Vec<Place>,
}

impl Dialogue {
    /// A text that is judged by itself, which stands in `field`.
    pub(super) fn of_text(role: Role, text: String, field: String) -> Self {
        let mut dialogue = Self::default();
        dialogue.push_text(role, text, field);
        dialogue
    }

    /// Adds a text as the last message.
    pub(super) fn push_text(&mut self, role: Role, text: String, field: String) {
        let message = proto::Message {
            role: role.into(),
            content: text,
            ..proto::Message::default()
        };
        self.push(message, Place::Text(field));
    }

    /// Adds the last message.
    pub(super) fn push(&mut self, message: proto::Message, place: Place) {
        self.messages.push(message);
        self.places.push(place);
    }

    /// Adds calls of tools to the last message.
    pub(super) fn call_tools(&mut self, calls: Vec<proto::ToolCall>) {
        if let Some(last) = self.messages.last_mut() {
            last.tool_calls.extend(calls);
        }
    }

    /// Whether there is nothing at all.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether an answer is judged.
    pub(super) fn ends_with_an_answer(&self) -> bool {
        self.messages
            .last()
            .is_some_and(|last| last.role() == Role::Assistant)
    }

    /// Whether it ends with an answer, and begins with something else that can be judged. SYSTEM messages are not judged, also at
    /// the end.
    pub(super) fn ends_with_an_exchange(&self) -> bool {
        let roles = self.messages.iter().map(proto::Message::role);
        let mut judged = roles.filter(|role| *role != Role::System);
        judged.next_back() == Some(Role::Assistant)
            && judged.any(|role| matches!(role, Role::User | Role::Tool))
    }

    /// The same up to the last message that goes to a model. SYSTEM messages behind the answer are left out with it, because they are
    /// not judged, and the answer would be the last message that is.
    pub(super) fn without_answer(mut self) -> Self {
        let asks = |message: &proto::Message| matches!(message.role(), Role::User | Role::Tool);
        let asked = self.messages.iter().rposition(asks).map_or(0, |last| last + 1);
        self.messages.truncate(asked);
        self.places.truncate(asked);
        self
    }

    /// The text that is judged at the end. Of a message in parts, those that are text, a line for each.
    pub(super) fn judged_text(&self) -> String {
        let is_judged = |message: &&proto::Message| message.role() != Role::System;
        let Some(last) = self.messages.iter().rfind(is_judged) else {
            return String::new();
        };
        if last.parts.is_empty() {
            return last.content.clone();
        }
        let texts = last.parts.iter().filter_map(|part| match &part.part {
            Some(content_part::Part::Text(text)) => Some(text.as_str()),
            Some(content_part::Part::Other(_)) | None => None,
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    /// What is judged of it where it goes to a model. It may end with the beginning of the answer, which the caller has written:
    /// then what the model is asked would only be the context.
    pub(super) fn scope_of_prompt(&self) -> JudgeScope {
        match self.ends_with_an_exchange() {
            true => JudgeScope::Exchange,
            false => JudgeScope::LastMessage,
        }
    }

    /// Leaves out the earliest messages of a dialogue that has more than a guard is asked about. Returns how many those are.
    pub(super) fn leave_out_earliest(&mut self) -> usize {
        let left_out = self.messages.len().saturating_sub(MOST_MESSAGES);
        self.messages.drain(..left_out);
        self.places.drain(..left_out);
        left_out
    }

    /// The fields of the caller's request that no guard can read, such as images.
    pub(super) fn unreadable(&self) -> Vec<String> {
        let mut fields = Vec::new();
        for (message, place) in self.messages.iter().zip(&self.places) {
            for (index, part) in message.parts.iter().enumerate() {
                if let (Some(content_part::Part::Other(kind)), Place::Message(path)) = (&part.part, place) {
                    let kind = match ContentKind::try_from(*kind) {
                        Ok(ContentKind::Image) => "image",
                        Ok(ContentKind::Audio) => "audio",
                        Ok(ContentKind::Video) => "video",
                        _ => "file",
                    };
                    fields.push(format!("{path}.content[{index}] ({kind})"));
                }
            }
        }
        fields
    }

    /// The field of the caller's request that a field of the ClassifyRequest comes from.
    pub(super) fn field(&self, asked: &str) -> String {
        let Some((index, rest)) = asked
            .strip_prefix("conversation.messages[")
            .and_then(|rest| rest.split_once(']'))
        else {
            return asked.to_owned();
        };
        match index
            .parse::<usize>()
            .ok()
            .and_then(|index| self.places.get(index))
        {
            Some(Place::Message(path)) => format!("{path}{}", rest.replacen(".parts[", ".content[", 1)),
            Some(Place::Text(path)) => path.clone(),
            None => asked.to_owned(),
        }
    }

    /// The list of the caller's request that the messages are items of.
    pub(super) fn list(&self) -> String {
        let (Place::Message(path) | Place::Text(path)) = match self.places.first() {
            Some(place) => place,
            None => return String::new(),
        };
        path.split('[').next().unwrap_or_default().to_owned()
    }

    /// The messages.
    pub(super) fn conversation(&self) -> proto::Conversation {
        proto::Conversation {
            messages: self.messages.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_messages_are_left_out_and_the_others_keep_their_places() {
        let mut dialogue = Dialogue::default();
        for index in 0..70 {
            let role = if index % 2 == 0 {
                Role::User
            } else {
                Role::Assistant
            };
            dialogue.push_text(role, format!("message {index}"), format!("texts[{index}]"));
        }
        assert_eq!(dialogue.leave_out_earliest(), 6);
        let messages = dialogue.conversation().messages;
        assert_eq!(messages.len(), 64);
        assert_eq!(messages[0].content, "message 6");
        assert_eq!(dialogue.field("conversation.messages[63].content"), "texts[69]");
        assert_eq!(dialogue.leave_out_earliest(), 0);
    }

    #[test]
    fn fields_that_come_from_no_message_keep_their_names() {
        let dialogue = Dialogue::of_text(Role::User, "Hello".to_owned(), "contents[0]".to_owned());
        assert_eq!(dialogue.field("conversation.messages[0].content"), "contents[0]");
        assert_eq!(
            dialogue.field("conversation.messages[7].content"),
            "conversation.messages[7].content"
        );
        assert_eq!(dialogue.field("model"), "model");
    }

    #[test]
    fn an_exchange_is_an_answer_after_something_that_is_judged() {
        let of = |roles: &[Role]| {
            let mut dialogue = Dialogue::default();
            for role in roles {
                dialogue.push_text(*role, "text".to_owned(), String::new());
            }
            dialogue.ends_with_an_exchange()
        };
        assert!(of(&[Role::User, Role::Assistant]));
        assert!(of(&[Role::Assistant, Role::User, Role::Assistant, Role::System]));
        assert!(!of(&[Role::System, Role::Assistant]));
        assert!(!of(&[Role::Assistant, Role::User]));
        assert!(!of(&[]));
    }
}
