//! `replay`: the verdict of a receipt, computed again by a server, and what changed.

use serde_json::json;

use super::{
    CommandError, Connection, Exit, Format, Global,
    output::{print_json, print_line},
    receipt::ReceiptArgs,
};
use crate::{
    proto::{ClassifyRequest, Priority},
    receipt::{Change, Receipt, ReceiptBody, changes},
};

/// Compute the verdict of a receipt again by a server, and name what changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    receipt: ReceiptArgs,
    /// Guard to ask, instead of the one that the receipt names
    #[arg(long, value_name = "ID")]
    model: Option<String>,
    #[command(flatten)]
    pub(super) connection: Connection,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Exit> {
    let receipt = args.receipt.read()?;
    let Some(conversation) = args.receipt.conversation(&receipt)? else {
        let message = "the receipt does not keep the text that was judged: give it with --input";
        return Err(CommandError::usage(message).into());
    };
    let body = receipt.body();
    let policy = &body.asked.policy;
    #[allow(
        clippy::needless_update,
        reason = "what a receipt does not know of keeps its default"
    )]
    let request = ClassifyRequest {
        model: args
            .model
            .clone()
            .unwrap_or_else(|| body.computed_by.model.clone()),
        conversation: Some(conversation),
        priority: Priority::Unspecified.into(),
        policy_source: policy.for_classify(),
        decision_policy: body.decision.as_ref().map_or_else(String::new, |decision| {
            format!("{}@{}", decision.policy, decision.policy_version)
        }),
        language: body.asked.language.clone(),
        // Shadow policies may have made the server compute them unasked.
        category_probabilities: !body.verdict.category_probabilities.is_empty(),
        ..ClassifyRequest::default()
    };
    let again = global.block_on(async {
        let client = global.connect().await?;
        let response = client.classify(request.clone()).await?;
        Ok::<_, anyhow::Error>(Receipt::of(&request, policy, &response, false)?)
    })?;
    let mut verdict = again.body().verdict.clone();
    if body.verdict.category_probabilities.is_empty() {
        // A server with shadow policies may have computed them although the receipt has none.
        verdict.category_probabilities.clear();
    }
    let now = ReceiptBody {
        asked: body.asked.clone(),
        verdict,
        // A server with a default policy decides also where none was named.
        decision: again.body().decision.clone().filter(|_| body.decision.is_some()),
        ..again.body().clone()
    };
    let found = changes(body, &now);
    let matters = found.iter().any(|change| change.matters);
    match global.format {
        Format::Human => print_line(&told(&found, matters))?,
        Format::Json | Format::Jsonl => {
            print_json(global.format, &json!({"same": !matters, "changes": found}))?;
        }
    }
    Ok(if matters { Exit::Different } else { Exit::Done })
}

fn told(found: &[Change], matters: bool) -> String {
    let summary = match matters {
        true => "the verdict of the receipt could not be computed again:",
        false => "the same verdict, to the bit",
    };
    let lines = found.iter().map(|change| match change.matters {
        true => format!("  {change}"),
        false => format!("  {change} (this changes no verdict)"),
    });
    std::iter::once(summary.to_owned())
        .chain(lines)
        .collect::<Vec<_>>()
        .join("\n")
}
