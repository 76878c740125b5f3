//! Checks conversations.

use super::checker::Checker;
use crate::{
    proto,
    rpc::limits::Limits,
    text::{ChatMessage, ChatRole},
};

/// Whether the last message may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EmptyAnswer {
    /// A last message of ASSISTANT may be empty, because a model that says nothing is judged for that.
    Allowed,
    /// No message may be empty.
    Refused,
}

/// Checks the number, roles and contents of the messages of a conversation and returns the messages. After a violation the
/// rest is still checked; the result is only valid if the checker has found no violation.
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

/// Checks that the roles are in an order that guards accept: USER, ASSISTANT, USER and so on, without SYSTEM. With
/// `ends_with_user` the last message must be one of USER, because an answer will follow.
pub(super) fn guard_shape(checker: &mut Checker, conversation: &proto::Conversation, ends_with_user: bool) {
    let mut expected = proto::Role::User;
    for (index, message) in conversation.messages.iter().enumerate() {
        let field = format!("messages[{index}].role");
        let role = match proto::Role::try_from(message.role) {
            // This has been reported already.
            Ok(proto::Role::Unspecified) | Err(_) => expected,
            Ok(proto::Role::System) => {
                checker.misplaced(&field, "guards do not accept ROLE_SYSTEM messages");
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
        // The next role follows from the actual one, so that each break in the order is reported once.
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
