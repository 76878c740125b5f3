//! Which messages of a conversation `classify` has judged, and what it prints of the others.

use crate::proto::{
    ClassifyResponse, ContentKind, JudgeScope, UnjudgeableParts, Verdict, Windows, message_use::Use,
};

/// Which messages are judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum JudgeArg {
    /// The last message
    Last,
    /// The answer that ends the conversation, and what it answers
    Exchange,
    /// Every message but the system's
    Each,
}

/// Flags about what is judged.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ScopeArgs {
    /// Which messages of a conversation are judged; the worst verdict counts
    #[arg(long, value_enum, value_name = "WHICH", default_value = "last")]
    judge: JudgeArg,
    /// Judge a message that is too long for the guard in windows, instead of failing
    #[arg(long)]
    windows: bool,
    /// Judge messages without their images and other parts that are not text, instead of failing
    #[arg(long)]
    omit_unjudgeable: bool,
}

impl ScopeArgs {
    /// As a request has it.
    pub(super) fn scope(&self) -> i32 {
        let scope = match self.judge {
            JudgeArg::Last => JudgeScope::LastMessage,
            JudgeArg::Exchange => JudgeScope::Exchange,
            JudgeArg::Each => JudgeScope::EachMessage,
        };
        scope.into()
    }

    /// As a request has it.
    pub(super) fn unjudgeable(&self) -> i32 {
        match self.omit_unjudgeable {
            true => UnjudgeableParts::Omit.into(),
            false => UnjudgeableParts::Refuse.into(),
        }
    }

    /// As a request has it.
    pub(super) fn windows(&self) -> Option<Windows> {
        self.windows.then(Windows::default)
    }

    /// What is wrong with an answer to such a request.
    pub(super) fn problem(&self, response: &ClassifyResponse) -> Option<&'static str> {
        (self.judge != JudgeArg::Last && response.message_verdicts.is_empty()).then_some(
            "the answer has no verdicts on several messages: is the server older than this client?",
        )
    }
}

/// What a verdict does not show by itself: messages that the guard did not see, parts that it could not judge, and windows.
pub(super) fn notes(verdict: &Verdict) -> Vec<String> {
    let mut notes = Vec::new();
    if !verdict.windows.is_empty() {
        notes.push(format!("worst of {} windows", verdict.windows.len()));
    }
    let left_out = verdict
        .message_uses
        .iter()
        .filter(|one| one.r#use() == Use::LeftOut);
    let left_out: Vec<_> = left_out.map(|one| one.message.to_string()).collect();
    if !left_out.is_empty() {
        notes.push(format!("left out messages {}", left_out.join(",")));
    }
    for one in &verdict.message_uses {
        if one.cut_bytes > 0 {
            notes.push(format!("cut {} bytes of message {}", one.cut_bytes, one.message));
        }
        let kinds = one
            .omitted_parts
            .iter()
            .map(|kind| match ContentKind::try_from(*kind) {
                Ok(ContentKind::Image) => "image",
                Ok(ContentKind::Audio) => "audio",
                Ok(ContentKind::Video) => "video",
                Ok(ContentKind::File) => "file",
                Ok(ContentKind::Unspecified) | Err(_) => "part",
            });
        let kinds: Vec<_> = kinds.collect();
        if !kinds.is_empty() {
            notes.push(format!(
                "not judged in message {}: {}",
                one.message,
                kinds.join(",")
            ));
        }
    }
    notes
}
