//! `score`: a target answers, a guard judges the answer, all inside the server.

use super::{
    Connection, Exit, Format, Global, classify,
    decision_args::{DecisionArgs, shown},
    generate::GenerationArgs,
    input::TextArgs,
    json,
    output::{print_json, print_line},
    policy::{PolicyArgs, check_policy},
};
use crate::{
    client::PolicyChoice,
    proto::{JudgeOptions, ScoreRequest},
};

/// Let a target answer and a guard judge the answer.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    prompt: TextArgs,
    #[command(flatten)]
    generation: GenerationArgs,
    /// Guard to judge with, instead of the server's default
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    guard: String,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    decision: DecisionArgs,
    /// How many answers to sample and judge
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Show the answers too, not only their verdicts
    #[arg(long)]
    keep_text: bool,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// Prints the verdicts on one or more answers to a prompt.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    let prompt = args.prompt.read()?;
    let policy = args.policy.choice()?;
    let request = ScoreRequest {
        generate: Some(args.generation.request(&prompt)),
        judge: Some(JudgeOptions {
            policy_source: policy.for_score(),
            model: args.guard,
            decision_policy: args.decision.policy.clone(),
            language: args.decision.language.clone(),
        }),
        samples: args.samples,
        keep_text: args.keep_text,
    };
    global.block_on(score(request, &policy, &args.decision, global))
}

async fn score(
    request: ScoreRequest,
    policy: &PolicyChoice,
    decision: &DecisionArgs,
    global: &Global,
) -> anyhow::Result<Exit> {
    let response = global.connect().await?.score(request).await?;
    for verdict in response
        .samples
        .iter()
        .filter_map(|sample| sample.verdict.as_ref())
    {
        check_policy(policy, verdict)?;
    }
    for sample in &response.samples {
        decision.check(sample.decision.as_ref())?;
    }
    if global.format != Format::Human {
        print_json(global.format, &json::message(&response)?)?;
        return Ok(Exit::Done);
    }
    for sample in &response.samples {
        let verdict = sample
            .verdict
            .as_ref()
            .map(|verdict| classify::line(verdict, global.no_color));
        let verdict = verdict.unwrap_or_default();
        let decision = sample.decision.as_ref();
        let decision = decision.map(|decision| format!("  {}", shown(decision, global.no_color)));
        print_line(&format!(
            "seed {}  {verdict}{}",
            sample.seed,
            decision.unwrap_or_default()
        ))?;
        if !sample.text.is_empty() {
            let indented: Vec<_> = sample.text.lines().map(|line| format!("    {line}")).collect();
            print_line(&indented.join("\n"))?;
        }
    }
    if response.samples.len() > 1 {
        print_line(&format!(
            "{} safe, {} unsafe, {}{} undetermined",
            response.safe_count,
            response.unsafe_count,
            classify::shown_controversial(response.controversial_count as usize),
            response.undetermined_count
        ))?;
    }
    Ok(Exit::Done)
}
