//! `guard-prompts`: prints the prompts that a guard is given for conversations, so that another engine can be measured on the
//! same prompts.

use std::{
    io::{BufRead as _, Write as _},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context as _;
use serde_json::json;

use crate::{
    gguf::Gguf,
    guard::{Guard, GuardError, GuardEvidence, GuardKind, model_names},
    text::{ChatMessage, ChatRole, ChatTemplate, Tokenizer},
};

/// Arguments of `guard-prompts`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The guard's GGUF file.
    #[arg(long)]
    model: PathBuf,
    /// Which guard it is, such as qwen3guard-gen; by its chat template or name when absent
    #[arg(long, value_name = "KIND")]
    guard_kind: Option<GuardKind>,
}

/// One line of standard input.
#[derive(serde::Deserialize)]
struct ConversationLine {
    user: String,
    assistant: String,
}

/// Reads lines of JSON with `user` and `assistant`, and prints one with `prompt` and `tokens` for each. The prompt ends where the
/// verdict is the next token.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let guard = open(&args.model, args.guard_kind)?;
    let mut out = std::io::stdout().lock();
    for (index, line) in std::io::stdin().lock().lines().enumerate() {
        let number = index + 1;
        let line = line.with_context(|| format!("standard input, line {number}"))?;
        let line: ConversationLine = serde_json::from_str(&line)
            .with_context(|| format!("standard input, line {number} is not {{\"user\", \"assistant\"}}"))?;
        let conversation = [
            ChatMessage {
                role: ChatRole::User,
                content: line.user,
            },
            ChatMessage {
                role: ChatRole::Assistant,
                content: line.assistant,
            },
        ];
        let prompt = guard.prompt_text(&conversation, None)?;
        let tokens = guard.prompt(&conversation, None)?.len();
        writeln!(out, "{}", json!({ "prompt": prompt, "tokens": tokens }))?;
    }
    Ok(())
}

fn open(path: &std::path::Path, kind: Option<GuardKind>) -> anyhow::Result<Guard> {
    let gguf = Gguf::open(path)?;
    let tokenizer = Arc::new(Tokenizer::from_gguf(&gguf)?);
    let chat = ChatTemplate::from_gguf(&gguf)?.map(Arc::new);
    let architecture = gguf.get_str("general.architecture").unwrap_or_default();
    let layers = gguf
        .get(&format!("{architecture}.block_count"))
        .and_then(crate::gguf::Value::as_u64)
        .and_then(|layers| usize::try_from(layers).ok())
        .unwrap_or(0);
    let evidence = GuardEvidence {
        template: chat.as_ref().map(|template| template.source()),
        names: &model_names(path),
        layers,
    };
    let kind = kind.or_else(|| GuardKind::detect(&evidence));
    Ok(Guard::new(kind.ok_or(GuardError::Unknown)?, tokenizer, chat)?)
}
