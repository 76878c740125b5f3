//! A receipt and the text that it is about, as commands take them.

use std::path::PathBuf;

use super::{
    CommandError,
    input::{self, JudgedRole},
};
use crate::{
    bench::json_file::read_json_within,
    proto::Conversation,
    receipt::{Receipt, input_digest},
};

/// Bytes of the largest receipt that is read: one that keeps a conversation of the largest size.
const MAX_BYTES: u64 = 64 << 20;

/// Which receipt, and of what.
#[derive(Debug, clap::Args)]
pub(super) struct ReceiptArgs {
    /// File that `classify --receipt` has written
    receipt: PathBuf,
    /// File with the text that was judged; - is standard input. Not needed where the receipt keeps it
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// The user's prompt that the text answers, where it is an answer
    #[arg(long, value_name = "TEXT", requires = "input")]
    prompt: Option<String>,
}

impl ReceiptArgs {
    /// Reads the receipt, and checks that it agrees with itself.
    pub(super) fn read(&self) -> anyhow::Result<Receipt> {
        let receipt: Receipt =
            read_json_within(&self.receipt, MAX_BYTES).map_err(CommandError::invalid_data)?;
        receipt
            .check()
            .map_err(|error| CommandError::invalid_data(format!("{}: {error}", self.receipt.display())))?;
        Ok(receipt)
    }

    /// The conversation that the receipt is of, as it is given or kept; `None` where it is neither.
    pub(super) fn conversation(&self, receipt: &Receipt) -> anyhow::Result<Option<Conversation>> {
        let body = receipt.body();
        let Some(path) = &self.input else {
            return Ok(body.kept_conversation());
        };
        let text = input::content(path)?;
        let role = match body.input.roles.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["user"] => JudgedRole::User,
            ["user", "assistant"] if self.prompt.is_some() => JudgedRole::Assistant,
            ["user", "assistant"] => {
                return Err(CommandError::usage(
                    "the receipt is of an answer to a prompt: give the prompt with --prompt",
                )
                .into());
            }
            _ => {
                let message = "the receipt is of a longer conversation, which --input cannot give: only a receipt that keeps \
                               it (classify --keep-input) can be checked";
                return Err(CommandError::usage(message).into());
            }
        };
        if role == JudgedRole::User && self.prompt.is_some() {
            return Err(CommandError::usage("the receipt is of a prompt alone: leave --prompt out").into());
        }
        let conversation = input::conversation_of(&text, role, self.prompt.as_deref());
        let has = input_digest(&conversation);
        if has != body.input.digest {
            return Err(CommandError::invalid_data(format!(
                "this is not the text that was judged: its digest is {has}, that of the receipt is {}",
                body.input.digest
            ))
            .into());
        }
        Ok(Some(conversation))
    }
}
