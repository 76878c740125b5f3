//! Conversations.

use super::Checker;
use crate::{
    proto,
    rpc::limits::Limits,
    text::{ChatMessage, ChatRole},
};

/// Whether the last message may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EmptyAnswer {
    /// An ASSISTANT message may: a model that says nothing is judged for that.
    Allowed,
    /// No message may.
    Refused,
}

/// Roles and contents of a conversation that is there and within its limits. What is wrong is noted and the
/// rest is still looked at; the result counts only when the checker finds nothing.
pub(super) fn messages(
    checker: &mut Checker,
    conversation: proto::Conversation,
    limits: &Limits,
    empty_answer: EmptyAnswer,
) -> Vec<ChatMessage> {
    let count = conversation.messages.len();
    if count == 0 || count > limits.messages {
        checker.wrong(
            "messages",
            format!("must have 1..={} messages, has {count}", limits.messages),
        );
    }
    let checked = conversation
        .messages
        .into_iter()
        .take(limits.messages)
        .enumerate();
    checked
        .filter_map(|(index, message)| {
            checker.within(&format!("messages[{index}]"), |checker| {
                let is_answer = index + 1 == count && message.role() == proto::Role::Assistant;
                let least = usize::from(!(is_answer && empty_answer == EmptyAnswer::Allowed));
                checker.bytes("content", message.content.len(), least..=limits.content_bytes);
                role(checker, message.role).map(|role| ChatMessage {
                    role,
                    content: message.content,
                })
            })
        })
        .collect()
}

fn role(checker: &mut Checker, role: i32) -> Option<ChatRole> {
    match proto::Role::try_from(role) {
        Ok(proto::Role::System) => Some(ChatRole::System),
        Ok(proto::Role::User) => Some(ChatRole::User),
        Ok(proto::Role::Assistant) => Some(ChatRole::Assistant),
        Ok(proto::Role::Unspecified) | Err(_) => {
            checker.wrong("role", "must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT");
            None
        }
    }
}

/// Roles as guards take them: USER, ASSISTANT, USER, ... without SYSTEM. With `ends_with_user` the last one
/// must be USER, because an answer will follow.
pub(super) fn guard_shape(checker: &mut Checker, conversation: &proto::Conversation, ends_with_user: bool) {
    let mut expected = proto::Role::User;
    for (index, message) in conversation.messages.iter().enumerate() {
        let field = format!("messages[{index}].role");
        let role = match proto::Role::try_from(message.role) {
            // Said already.
            Ok(proto::Role::Unspecified) | Err(_) => expected,
            Ok(proto::Role::System) => {
                checker.misplaced(&field, "guards take no ROLE_SYSTEM message");
                continue;
            }
            Ok(role) => role,
        };
        if role != expected {
            checker.misplaced(
                &field,
                format!(
                    "must be {}: roles alternate, beginning with ROLE_USER",
                    expected.as_str_name()
                ),
            );
        }
        // From what is there, so that each break is reported once.
        expected = match role {
            proto::Role::User => proto::Role::Assistant,
            _ => proto::Role::User,
        };
    }
    let last = conversation.messages.last().map(proto::Message::role);
    if ends_with_user && last == Some(proto::Role::Assistant) {
        let field = format!("messages[{}].role", conversation.messages.len() - 1);
        checker.misplaced(&field, "must be ROLE_USER: the answer to it is what is judged");
    }
}
