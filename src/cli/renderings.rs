//! `renderings`: one conversation in several languages or wordings, judged together.

use std::path::PathBuf;

use super::{
    CommandError, Connection, Exit, Format, Global, classify,
    input::{self, Item},
    json,
    output::{Color, painted, print_json, print_line, tell},
    policy::{PolicyArgs, check_policy},
    priority::PriorityArg,
};
use crate::{
    client::{ClientError, PolicyChoice},
    guard::is_language_tag,
    proto::{
        Action, ClassifyRenderingsRequest, ClassifyRenderingsResponse, ClassifyRequest, Label,
        RenderingResult, RenderingRule, TranslationOptions, TranslationQuality, rendering_result,
    },
};

/// Judge one conversation in several languages or wordings, and join the verdicts by a rule.
///
/// Each line of the file is one of them. An id that is a language tag, such as de or pt-BR, is its language.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File with the renderings, each a line like {"id": "de", "text": ..., "prompt": ...}; - is standard input. With
    /// --translate-into it may be one
    #[arg(value_name = "FILE.jsonl")]
    renderings: PathBuf,
    /// When the conversation is unsafe
    #[arg(long, value_enum, value_name = "WHEN", default_value = "any")]
    rule: Rule,
    /// Guard to judge with, instead of the server's default
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    model: String,
    /// Let a served model translate the first rendering into these languages too, such as de,fr. Its id has to be its language
    #[arg(long, value_name = "LANGUAGES", value_delimiter = ',')]
    translate_into: Vec<String>,
    /// The model that translates, instead of the server's default target
    #[arg(long, value_name = "ID", requires = "translate_into")]
    translator: Option<String>,
    /// Most tokens of the translation of one text [default: 512]
    #[arg(long, value_name = "TOKENS", requires = "translate_into", value_parser = clap::value_parser!(u32).range(1..))]
    translation_tokens: Option<u32>,
    /// Estimate the quality of translations with this served estimator
    #[arg(long, value_name = "ID", requires = "translate_into")]
    quality: Option<String>,
    /// Do not judge translations with a worse quality score: a lower one of CometKiwi, a higher one of MetricX
    #[arg(
        long,
        value_name = "SCORE",
        requires = "quality",
        allow_negative_numbers = true
    )]
    quality_bound: Option<f64>,
    /// End with exit code 3 when the joint label is unsafe, and with 8 when it is undetermined
    #[arg(long)]
    fail_on_unsafe: bool,
    /// Decide by this decision policy of the server's, as NAME or NAME@VERSION, instead of its default one
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    decision: String,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    priority: PriorityArg,
    #[command(flatten)]
    pub(super) connection: Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
enum Rule {
    /// When any rendering is.
    Any,
    /// When at least half of them are.
    Majority,
    /// When all of them are.
    All,
}

/// Judges all lines of a file together.
pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Exit> {
    let items = input::items(&args.renderings)?;
    if items.len() < 2 && args.translate_into.is_empty() {
        return Err(CommandError::invalid_data(
            "one rendering alone has nothing to be joined with: use classify, or --translate-into",
        )
        .into());
    }
    let policy = args.policy.choice()?;
    global.block_on(judge(items, args, &policy, global))
}

async fn judge(
    items: Vec<Item>,
    args: &Args,
    policy: &PolicyChoice,
    global: &Global,
) -> anyhow::Result<Exit> {
    let rule = match args.rule {
        Rule::Any => RenderingRule::Any,
        Rule::Majority => RenderingRule::Majority,
        Rule::All => RenderingRule::All,
    };
    let given = items.iter().map(|item| &item.id);
    let ids: Vec<_> = given.chain(&args.translate_into).cloned().collect();
    let rendering = |item: Item| ClassifyRequest {
        model: args.model.clone(),
        conversation: Some(item.conversation),
        priority: args.priority.value(),
        policy_source: policy.for_classify(),
        decision_policy: args.decision.clone(),
        language: match is_language_tag(&item.id) {
            true => item.id,
            false => String::new(),
        },
        ..ClassifyRequest::default()
    };
    let request = ClassifyRenderingsRequest {
        renderings: items.into_iter().map(rendering).collect(),
        rule: rule.into(),
        translation: args.translation(),
    };
    let wanted = ids.len();
    let response = global.connect().await?.classify_renderings(request).await?;
    if response.results.len() != wanted {
        let reason = format!(
            "{wanted} renderings were to be judged, {} were answered",
            response.results.len()
        );
        return Err(ClientError::Protocol(reason).into());
    }
    let answers = response.results.iter().filter_map(|result| match &result.result {
        Some(rendering_result::Result::Response(answer)) => answer.verdict.as_ref(),
        Some(rendering_result::Result::Error(_)) | None => None,
    });
    for verdict in answers {
        check_policy(policy, verdict)?;
    }
    match global.format {
        Format::Human => print(&ids, &response, global)?,
        Format::Json | Format::Jsonl => print_json(global.format, &json::message(&response)?)?,
    }
    Ok(match response.label() {
        Label::Unsafe | Label::Controversial if args.fail_on_unsafe => Exit::Unsafe,
        Label::Undetermined | Label::Unspecified if args.fail_on_unsafe => Exit::Undetermined,
        _ => Exit::Done,
    })
}

impl Args {
    fn translation(&self) -> Option<TranslationOptions> {
        if self.translate_into.is_empty() {
            return None;
        }
        Some(TranslationOptions {
            model: self.translator.clone().unwrap_or_default(),
            languages: self.translate_into.clone(),
            max_new_tokens: self.translation_tokens.unwrap_or_default(),
            quality: self.quality.clone().map(|model| TranslationQuality {
                model,
                bound: self.quality_bound,
            }),
        })
    }
}

fn print(ids: &[String], response: &ClassifyRenderingsResponse, global: &Global) -> anyhow::Result<()> {
    for ((index, id), result) in (0_u32..).zip(ids).zip(&response.results) {
        let differs = match response.dissent.contains(&index) {
            true => "  differs",
            false => "",
        };
        print_line(&format!("{id}  {}{differs}", shown(result, global)))?;
        for text in result.translated.iter().flat_map(|translated| &translated.texts) {
            let score = text
                .quality_score
                .map(|score| format!("  quality {score:.4}"))
                .unwrap_or_default();
            print_line(&format!("    translated: {:?}{score}", text.text))?;
        }
    }
    let mut joint = format!(
        "together  {}",
        classify::shown_label(response.label(), global.no_color)
    );
    let action = match response.action() {
        Action::Allow => "  ALLOW",
        Action::Flag => "  FLAG",
        Action::Block => "  BLOCK",
        Action::Unspecified => "",
    };
    joint.push_str(action);
    print_line(&joint)?;
    if !global.quiet {
        let (dissent, all) = (response.dissent.len(), response.results.len());
        tell(format_args!(
            "{dissent} of {all} renderings differ from the joint label"
        ));
    }
    Ok(())
}

fn shown(result: &RenderingResult, global: &Global) -> String {
    let failed = || painted("FAILED", Color::Red, global.no_color);
    match &result.result {
        Some(rendering_result::Result::Response(answer)) => {
            let verdict = answer.verdict.as_ref();
            verdict.map_or_else(failed, |verdict| classify::line(verdict, global.no_color))
        }
        Some(rendering_result::Result::Error(error)) => format!("{}  {}", failed(), error.message),
        None => failed(),
    }
}
