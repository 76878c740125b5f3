//! `evidence`: the parts of a text that its verdict is for.

use super::{
    Connection, Exit, Format, Global, classify,
    input::{self, JudgedRole, TextArgs},
    json,
    output::{Color, painted, print_json, print_line, tell},
    policy::{PolicyArgs, check_policy},
    priority::PriorityArg,
};
use crate::{
    client::{ClientError, PolicyChoice},
    proto::{ClassifyRequest, EvidenceOutcome, EvidenceSpan, FindEvidenceRequest, FindEvidenceResponse},
};

/// Show the parts of a text that an unsafe verdict is for.
///
/// Parts are left out, and what remains is judged again, until the shortest parts are found without which the text is safe.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    text: TextArgs,
    /// The user's prompt that the text answers; without it, the text itself is judged as a user's prompt
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Guard to judge with, instead of the server's default
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    model: String,
    /// Judge at most so many shortened texts, 1 to 256; the server's default is 64
    #[arg(long, value_name = "TEXTS", value_parser = clap::value_parser!(u32).range(1..))]
    passes: Option<u32>,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    priority: PriorityArg,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// Looks for the evidence in one text.
pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Exit> {
    let text = args.text.read()?;
    let policy = args.policy.choice()?;
    let request = FindEvidenceRequest {
        request: Some(ClassifyRequest {
            model: args.model.clone(),
            conversation: Some(input::conversation_of(
                &text,
                JudgedRole::User,
                args.prompt.as_deref(),
            )),
            priority: args.priority.value(),
            policy_source: policy.for_classify(),
            ..ClassifyRequest::default()
        }),
        // 0 stands for the server's default.
        max_passes: args.passes.unwrap_or(0),
    };
    global.block_on(evidence(&text, request, &policy, global))
}

async fn evidence(
    text: &str,
    request: FindEvidenceRequest,
    policy: &PolicyChoice,
    global: &Global,
) -> anyhow::Result<Exit> {
    let response = global.connect().await?.find_evidence(request).await?;
    for verdict in response.verdict.iter().chain(&response.verdict_without) {
        check_policy(policy, verdict)?;
    }
    match global.format {
        Format::Human => print(text, &response, global)?,
        Format::Json | Format::Jsonl => print_json(global.format, &json::message(&response)?)?,
    }
    Ok(Exit::Done)
}

fn print(text: &str, response: &FindEvidenceResponse, global: &Global) -> anyhow::Result<()> {
    let verdict = |verdict| classify::line(verdict, global.no_color);
    let whole = response.verdict.as_ref().map(verdict).unwrap_or_default();
    print_line(&format!("the whole text  {whole}"))?;
    for span in &response.spans {
        let part = part(text, span)?.trim().escape_debug();
        let part = painted(&format!("\"{part}\""), Color::Red, global.no_color);
        print_line(&format!("bytes {}..{}  {part}", span.start_bytes, span.end_bytes))?;
    }
    if let Some(rest) = &response.verdict_without {
        print_line(&format!("without them  {}", verdict(rest)))?;
    }
    if !global.quiet {
        tell(format_args!("{}", summary(response)));
    }
    Ok(())
}

/// What the search came to, in one sentence.
fn summary(response: &FindEvidenceResponse) -> String {
    let passes = response.passes;
    let texts = if passes == 1 { "text" } else { "texts" };
    let more = match response.out_of_budget {
        true => "; --passes with a larger number might find shorter ones",
        false => "",
    };
    match response.outcome() {
        EvidenceOutcome::NotUnsafe => "the text is not unsafe: there is nothing to look for".to_owned(),
        EvidenceOutcome::Found if response.each_is_needed => {
            format!("each part is needed for the verdict, by {passes} shortened {texts}{more}")
        }
        EvidenceOutcome::Found => {
            format!("not each part may be needed for the verdict, by {passes} shortened {texts}{more}")
        }
        EvidenceOutcome::NotFound | EvidenceOutcome::Unspecified => {
            format!("no part decides: {passes} shortened {texts} were not safe either{more}")
        }
    }
}

/// The part of the text; an error where the server names what is none.
fn part<'a>(text: &'a str, span: &EvidenceSpan) -> Result<&'a str, ClientError> {
    let place = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let part = text.get(place(span.start_bytes)..place(span.end_bytes));
    part.ok_or_else(|| {
        ClientError::Protocol("the answer names a part that the text does not have".to_owned())
    })
}
