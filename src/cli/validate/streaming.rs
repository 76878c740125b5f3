//! `validate streaming`: how soon and how often a guard blocks labelled answers while they are written.

use std::path::PathBuf;

use super::super::{
    CommandError, Connection, Exit, Global,
    guard_args::LookArgs,
    interrupt::interrupted,
    output::{counted, print_line, table, tell, write_to},
    policy::PolicyArgs,
};
use crate::bench::{
    scores::format_percent,
    streaming::{Delays, Share, StreamingFigures, StreamingGuard, figures, measure, read_labelled},
};

/// Find out how a guard does while answers are still written: how many tokens after the beginning of the harm it blocks unsafe
/// ones, and how many safe ones it blocks, beside its verdicts on the complete answers.
///
/// The file has a JSON object on each line: {"prompt": ..., "answer": ..., "label": "safe"}, or "label": "unsafe" with "harm_begins",
/// the number of the answer's characters before the harm (see docs/growing-text.md).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File of labelled answers
    #[arg(value_name = "FILE")]
    labelled: PathBuf,
    /// Guard to judge with, instead of the server's default
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    model: String,
    #[command(flatten)]
    looks: LookArgs,
    #[command(flatten)]
    policy: PolicyArgs,
    /// Most answers that are looked at at a time
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    concurrency: u16,
    /// Write everything as JSON to this file, `-` for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// Measures, and prints what was found.
pub(super) fn run(args: &Args, global: &Global) -> anyhow::Result<Exit> {
    let answers = read_labelled(&args.labelled).map_err(CommandError::invalid_data)?;
    let guard = StreamingGuard {
        model: args.model.clone(),
        policy: args.policy.choice()?,
        options: args.looks.options(),
    };
    global.block_on(async {
        let client = global.connect().await?;
        let measuring = measure(&client, &guard, &answers, usize::from(args.concurrency));
        let measured = tokio::select! {
            measured = measuring => measured?,
            () = interrupted() => {
                tell("interrupted; nothing is kept");
                return Ok(Exit::Interrupted);
            }
        };
        let found = figures(&measured);
        if args.json.is_none() {
            print_line(&text(&found))?;
            return Ok(Exit::Done);
        }
        let json = serde_json::to_string_pretty(&found)? + "\n";
        write_to(args.json.as_deref(), || json)?;
        Ok(Exit::Done)
    })
}

fn text(found: &StreamingFigures) -> String {
    let header = ["", "answers", "found unsafe", "percent", "95 % interval"].map(str::to_owned);
    let row = |name: &str, share: &Share| {
        let interval = share
            .interval_95
            .map(|interval| format!("{:.1} to {:.1}", interval.low, interval.high));
        vec![
            name.to_owned(),
            share.answers.to_string(),
            share.count.to_string(),
            share
                .percent
                .map_or("-".to_owned(), |percent| format_percent(percent, 1)),
            interval.unwrap_or_default(),
        ]
    };
    let (safe, harmful) = (&found.safe.found, &found.harmful.found);
    let shares = table(&[
        header.to_vec(),
        row("safe answers, while written", &safe.streaming),
        row("safe answers, as a whole", &safe.whole),
        row("unsafe answers, while written", &harmful.streaming),
        row("unsafe answers, as a whole", &harmful.whole),
    ]);
    let header = [
        "tokens from the beginning of the harm",
        "answers",
        "median",
        "90 %",
        "max",
    ];
    let row = |name: &str, delays: &Option<Delays>| {
        let numbers = delays.as_ref().map(|delays| {
            [
                u64::from(delays.median),
                u64::from(delays.p90),
                u64::from(delays.max),
            ]
            .map(|n| n.to_string())
        });
        let answers = delays.as_ref().map_or(0, |delays| delays.answers).to_string();
        let mut cells = vec![name.to_owned(), answers];
        cells.extend(numbers.unwrap_or_else(|| ["-"; 3].map(str::to_owned)));
        cells
    };
    let delays = table(&[
        header.map(str::to_owned).to_vec(),
        row("to the block", &found.harmful.delay_tokens),
        row("to the end of the answer", &found.harmful.tokens_to_end),
    ]);
    format!(
        "{shares}\n\n{delays}\n\nOf the unsafe answers, {} blocked before the harm begins, and {} at their end alone. {} undetermined.",
        counted(found.harmful.blocked_before_harm, "is", "are"),
        found.harmful.blocked_at_end,
        counted(
            found.undetermined,
            "verdict on a whole answer is",
            "verdicts on whole answers are"
        ),
    )
}
