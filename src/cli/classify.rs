//! `classify`: a guard's verdict on one text or on each line of a file, or what classifiers say of it.

use std::path::PathBuf;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Map, Value, json};
use tonic::Code;

use super::{
    CommandError, Connection, Exit, Format, Global,
    decision_args::{DecisionArgs, shown},
    input::{self, FileName, Item, JudgedRole, TextArgs},
    json,
    judge_scope::{ScopeArgs, notes},
    output::{Color, painted, print_json, print_line, tell, write_to},
    policy::{PolicyArgs, check_policy},
    priority::PriorityArg,
};
use crate::{
    client::{Client, ClientError, PolicyChoice, RpcError},
    proto::{
        Action, ClassifierQuestion, ClassifyRequest, ClassifyResponse, Conversation, Decision, GuardUse,
        Label, MessageVerdict, Verdict,
    },
    receipt::Receipt,
};

/// Most probabilities of categories on a line.
const SHOWN_CATEGORIES: usize = 3;

/// Most items of a file that are open at a time.
const OPEN_ITEMS: usize = 32;

/// Judge text with a guard.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    text: TextArgs,
    /// File with many texts to judge, each a line like {"text": ..., "prompt": ...}; - is standard input
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["given", "text", "file", "role", "prompt"])]
    items: Option<PathBuf>,
    /// Who said the text: a user (a prompt) or an assistant (an answer; needs --prompt)
    #[arg(long, value_enum)]
    role: Option<JudgedRole>,
    /// The user's prompt that the text answers
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Guard to judge with, instead of the server's default
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    model: String,
    /// End with exit code 3 when a verdict is unsafe or controversial, and with 8 when one is undetermined; or with 3 when a
    /// decision is to block. A failed item ends with 5 and an empty input with 9, with or without this
    #[arg(long, value_enum, value_name = "WHAT")]
    fail_on: Option<FailOn>,
    #[command(flatten)]
    decision: DecisionArgs,
    /// Ask for the probability of each category
    #[arg(long)]
    categories: bool,
    /// Let this classifier look at the text as well, for example for injected instructions; LABEL is its label of texts without
    /// harm, and its first one where none is given; repeatable
    #[arg(long, value_name = "ID[=LABEL]")]
    classifier: Vec<String>,
    /// Ask the classifiers alone, so that there is no verdict. On a server without a guard that is so anyway
    #[arg(long, conflicts_with_all = ["model", "categories", "judge", "windows", "receipt"])]
    no_guard: bool,
    /// Write the verdict's receipt to this file: what `verify` and `replay` need to check it later. The text is not in it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["items", "judge", "windows", "omit_unjudgeable", "classifier"])]
    receipt: Option<PathBuf>,
    /// Put the text into the receipt as well
    #[arg(long, requires = "receipt")]
    keep_input: bool,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    priority: PriorityArg,
    #[command(flatten)]
    pub(super) connection: Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
enum FailOn {
    /// At least one verdict is unsafe.
    Unsafe,
    /// At least one decision is to block; an answer without a decision is an error.
    Block,
}

/// Judges one text, or every line of a file.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    match (args.role, &args.prompt) {
        (Some(JudgedRole::Assistant), None) => {
            return Err(
                CommandError::usage("--role assistant needs --prompt, which the text answers").into(),
            );
        }
        (Some(JudgedRole::User), Some(_)) => {
            return Err(CommandError::usage("--prompt is for an answer: leave --role user out").into());
        }
        _ => {}
    }
    if args.no_guard && args.fail_on == Some(FailOn::Unsafe) {
        return Err(CommandError::usage(
            "--fail-on unsafe is about a guard's verdict, which --no-guard does without; --fail-on block is about a decision",
        )
        .into());
    }
    if let Some(path) = &args.items {
        let items = input::items(path)?;
        return global.block_on(classify_all(items, &args, global));
    }
    if let Some(path) = args
        .text
        .named_file()
        .filter(|path| path.extension() == Some("jsonl".as_ref()))
    {
        let message = format!(
            "{0} is JSON lines by its name: say --items {0} to judge each line; `--file - < {0}` judges all of it as one text",
            path.display()
        );
        return Err(CommandError::usage(message).into());
    }
    if let Some((prompt, name)) = args
        .prompt
        .as_ref()
        .and_then(|prompt| Some((prompt, FileName::of(prompt)?)))
    {
        let message = format!(
            "--prompt `{prompt}` {name}: --prompt takes the words of a prompt; write {{\"prompt\": ..., \"text\": ...}} \
             on a line of a file, and say --items FILE"
        );
        return Err(CommandError::usage(message).into());
    }
    let text = args.text.read()?;
    global.block_on(classify_one(&text, &args, global))
}

async fn classify_one(text: &str, args: &Args, global: &Global) -> anyhow::Result<Exit> {
    let role = args.role.unwrap_or(JudgedRole::User);
    let policy = args.policy.choice()?;
    let conversation = input::conversation_of(text, role, args.prompt.as_deref());
    let request = args.request(conversation, &policy);
    let client = global.connect().await?;
    let response = client.classify(request.clone()).await?;
    let receipt = match &args.receipt {
        Some(_) => Some(Receipt::of(&request, &policy, &response, args.keep_input)?),
        None => None,
    };
    let judged = args.judged(response, &policy)?;
    if let Some(receipt) = receipt {
        write_to(args.receipt.as_deref(), || receipt.to_json())?;
    }
    match global.format {
        Format::Human => print_lines(&judged.lines(global.no_color))?,
        Format::Json | Format::Jsonl => print_json(global.format, &judged.json()?)?,
    }
    let mut tally = Tally::default();
    tally.count_judged(&judged);
    Ok(tally.exit(args.fail_on))
}

/// A verdict, if a guard was asked, and the answer that it is from, with what was decided about it.
struct Judged {
    verdict: Option<Verdict>,
    response: ClassifyResponse,
}

impl Args {
    fn request(&self, conversation: Conversation, policy: &PolicyChoice) -> ClassifyRequest {
        ClassifyRequest {
            model: self.model.clone(),
            conversation: Some(conversation),
            priority: self.priority.value(),
            policy_source: policy.for_classify(),
            decision_policy: self.decision.policy.clone(),
            language: self.decision.language.clone(),
            category_probabilities: self.categories,
            judge: self.scope.scope(),
            unjudgeable: self.scope.unjudgeable(),
            windows: self.scope.windows(),
            classifiers: self.classifier.iter().map(|asked| question(asked)).collect(),
            guard_use: self.guard_use().into(),
        }
    }

    /// Whether a guard has to give a verdict.
    fn guard_use(&self) -> GuardUse {
        let needs_verdict =
            self.classifier.is_empty() || self.receipt.is_some() || self.fail_on == Some(FailOn::Unsafe);
        match (self.no_guard, needs_verdict) {
            (true, _) => GuardUse::None,
            (false, true) => GuardUse::Required,
            (false, false) => GuardUse::IfServed,
        }
    }

    /// What an answer says, if it answers what was asked for.
    fn judged(&self, response: ClassifyResponse, policy: &PolicyChoice) -> Result<Judged, ClientError> {
        let wrong = |reason: &str| ClientError::Protocol(reason.to_owned());
        let verdict = response.verdict.clone();
        match (&verdict, self.guard_use()) {
            (None, GuardUse::Required | GuardUse::Unspecified) => {
                return Err(wrong("the answer to Classify has no verdict"));
            }
            (Some(_), GuardUse::None) => {
                return Err(wrong(
                    "the answer has a verdict, although none was asked for: is the server older than this client?",
                ));
            }
            (Some(verdict), _) => {
                check_policy(policy, verdict)?;
                if let Some(problem) = self.scope.problem(&response) {
                    return Err(wrong(problem));
                }
            }
            (None, GuardUse::IfServed | GuardUse::None) => {}
        }
        self.decision.check(response.decision.as_ref())?;
        if response.decision.is_none() && self.fail_on == Some(FailOn::Block) {
            return Err(wrong(
                "--fail-on block needs a decision: name a policy with --decision, or set decisions.default on the server",
            ));
        }
        // A decision policy may have asked others.
        if response.classifications.len() < self.classifier.len() {
            return Err(wrong(
                "the answer lacks classifications that were asked for: is the server older than this client?",
            ));
        }
        Ok(Judged { verdict, response })
    }
}

impl Judged {
    /// The verdict on one line, with the decision and all that else is to say of it, and a line for each verdict on several messages.
    fn lines(&self, no_color: bool) -> Vec<String> {
        let mut lines = vec![self.line(no_color)];
        for MessageVerdict { message, verdict } in &self.response.message_verdicts {
            let verdict = verdict.as_ref().map(|verdict| line(verdict, no_color));
            lines.push(format!("message {message}  {}", verdict.unwrap_or_default()));
        }
        lines
    }

    fn line(&self, no_color: bool) -> String {
        let mut parts = Vec::new();
        match &self.verdict {
            Some(verdict) => parts.extend(verdict_parts(verdict, no_color)),
            None => parts.push("NO VERDICT".to_owned()),
        }
        if let Some(decision) = &self.response.decision {
            parts.push(shown(decision, no_color));
        }
        for shadow in &self.response.shadow_decisions {
            parts.push(format!("shadow {}", shown(shadow, no_color)));
        }
        for found in &self.response.classifications {
            parts.push(format!("{} {} {:.4}", found.model, found.label, found.harm_score));
        }
        parts.join("  ")
    }

    /// The verdict as JSON, with decisions and classifications beside its fields.
    fn json(&self) -> anyhow::Result<Value> {
        let mut value = self.verdict_json()?.unwrap_or_else(|| json!({}));
        if let Some(fields) = value.as_object_mut() {
            fields.extend(self.beside()?);
        }
        Ok(value)
    }

    fn verdict_json(&self) -> anyhow::Result<Option<Value>> {
        self.verdict.as_ref().map(json::message).transpose()
    }

    /// What the answer has beside the verdict, as fields of an object: decisions, verdicts on several messages and
    /// classifications.
    fn beside(&self) -> anyhow::Result<Map<String, Value>> {
        let mut fields = Map::new();
        if let Value::Object(answer) = json::message(&self.response)? {
            fields.extend(answer.into_iter().filter(|(name, _)| name != "verdict"));
        }
        Ok(fields)
    }
}

/// A verdict, with the likeliest categories and what else is to say of it.
fn verdict_parts(verdict: &Verdict, no_color: bool) -> Vec<String> {
    let mut parts = vec![line(verdict, no_color)];
    let mut likely: Vec<_> = verdict.category_probabilities.iter().collect();
    likely.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    let likely: Vec<_> = likely
        .iter()
        .take(SHOWN_CATEGORIES)
        .map(|found| format!("{} {:.4}", found.category, found.probability))
        .collect();
    if !likely.is_empty() {
        parts.push(format!("most likely {}", likely.join(", ")));
    }
    parts.extend(notes(verdict));
    parts
}

/// `watch`, or `watch=benign`.
fn question(asked: &str) -> ClassifierQuestion {
    let (model, harmless_label) = asked.split_once('=').unwrap_or((asked, ""));
    ClassifierQuestion {
        model: model.to_owned(),
        harmless_label: harmless_label.to_owned(),
    }
}

fn print_lines(lines: &[String]) -> std::io::Result<()> {
    lines.iter().try_for_each(|line| print_line(line))
}

/// Judges all items and prints the results in the order of the file. An item that fails does not stop the others.
async fn classify_all(items: Vec<Item>, args: &Args, global: &Global) -> anyhow::Result<Exit> {
    let policy = args.policy.choice()?;
    let client = global.connect().await?;
    let judged = items
        .into_iter()
        .map(|item| judge(client.clone(), item, args, &policy));
    let mut results = stream::iter(judged).buffered(OPEN_ITEMS);
    let mut tally = Tally::default();
    let mut document = Vec::new();
    while let Some(ItemOutcome { id, result }) = results.try_next().await? {
        match &result {
            Ok(judged) => tally.count_judged(judged),
            Err(_) => tally.failed += 1,
        }
        match global.format {
            Format::Human => {
                let shown = match &result {
                    Ok(judged) => judged.lines(global.no_color),
                    Err(error) => vec![format!(
                        "{}  {error}",
                        painted("FAILED", Color::Red, global.no_color)
                    )],
                };
                print_lines(
                    &shown
                        .iter()
                        .map(|line| format!("{id}  {line}"))
                        .collect::<Vec<_>>(),
                )?;
            }
            Format::Json => document.push(item_json(&id, &result)?),
            Format::Jsonl => print_json(global.format, &item_json(&id, &result)?)?,
        }
    }
    if global.format == Format::Json {
        print_json(global.format, &Value::Array(document))?;
    }
    if !global.quiet {
        tell(format_args!("{}", tally.summary()));
    }
    Ok(tally.exit(args.fail_on))
}

/// The result of one item.
struct ItemOutcome {
    id: String,
    result: Result<Judged, RpcError>,
}

/// Judges one item. An error that is about the item is its result; an error of the connection ends the command.
async fn judge(
    client: Client,
    item: Item,
    args: &Args,
    policy: &PolicyChoice,
) -> Result<ItemOutcome, ClientError> {
    let request = args.request(item.conversation, policy);
    match client.classify(request).await {
        Ok(response) => Ok(ItemOutcome {
            id: item.id,
            result: Ok(args.judged(response, policy)?),
        }),
        // A request that is too large is refused before the service reads it, so its error has no reason.
        Err(ClientError::Rpc(error))
            if !error.is_connection_lost() && (error.reason.is_some() || error.code == Code::OutOfRange) =>
        {
            Ok(ItemOutcome {
                id: item.id,
                result: Err(error),
            })
        }
        Err(error) => Err(error),
    }
}

fn item_json(id: &str, result: &Result<Judged, RpcError>) -> anyhow::Result<Value> {
    Ok(match result {
        Ok(judged) => {
            let mut fields = Map::new();
            fields.insert("id".to_owned(), id.into());
            if let Some(verdict) = judged.verdict_json()? {
                fields.insert("verdict".to_owned(), verdict);
            }
            fields.extend(judged.beside()?);
            Value::Object(fields)
        }
        Err(error) => json!({"id": id, "error": json::rpc_error(error)}),
    })
}

/// A label as people see it.
pub(super) fn shown_label(label: Label, no_color: bool) -> String {
    let (label, color) = match label {
        Label::Safe => ("SAFE", Color::Green),
        Label::Unsafe => ("UNSAFE", Color::Red),
        Label::Controversial => ("CONTROVERSIAL", Color::Yellow),
        Label::Undetermined | Label::Unspecified => ("UNDETERMINED", Color::Yellow),
    };
    painted(label, color, no_color)
}

/// A verdict on one line.
pub(super) fn line(verdict: &Verdict, no_color: bool) -> String {
    let score = verdict
        .unsafe_score
        .map_or_else(|| "-".to_owned(), |score| format!("{score:.4}"));
    let categories: Vec<_> = verdict.categories.iter().map(|c| c.category.as_str()).collect();
    let categories = if categories.is_empty() {
        "-".to_owned()
    } else {
        categories.join(",")
    };
    let mut parts = vec![
        shown_label(verdict.label(), no_color),
        format!("unsafe_score {score}"),
        format!("label_mass {:.4}", verdict.label_mass),
        format!("categories {categories}"),
    ];
    if let Some(usage) = &verdict.usage {
        parts.push(format!(
            "{} tokens ({} cached)",
            usage.prompt_tokens, usage.cached_prompt_tokens
        ));
    }
    if let Some(total) = verdict.timing.as_ref().and_then(|timing| timing.total.as_ref()) {
        parts.push(format!("{:.1} ms", json::seconds(total) * 1e3));
    }
    if let Some(provenance) = &verdict.provenance {
        let digest: String = provenance
            .model_digest
            .chars()
            .take("sha256:".len() + 8)
            .collect();
        parts.push(format!("{}@{digest}", provenance.model));
        if !provenance.policy.is_empty() {
            parts.push(format!("policy {}", provenance.policy));
        }
    }
    parts.join("  ")
}

/// `2 controversial, `; empty where there is none, because few guards have the label.
pub(super) fn shown_controversial(count: usize) -> String {
    match count {
        0 => String::new(),
        count => format!("{count} controversial, "),
    }
}

/// How many verdicts of each kind there are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    safe: usize,
    unsafe_: usize,
    controversial: usize,
    undetermined: usize,
    failed: usize,
    blocked: usize,
    /// Answers of classifiers alone.
    without_verdict: usize,
}

impl Tally {
    /// Counts a verdict and what was decided about it.
    fn count_judged(&mut self, judged: &Judged) {
        match &judged.verdict {
            Some(verdict) => self.count(verdict),
            None => self.without_verdict += 1,
        }
        let action = judged.response.decision.as_ref().map(Decision::action);
        self.blocked += usize::from(action == Some(Action::Block));
    }

    pub(super) fn count(&mut self, verdict: &Verdict) {
        match verdict.label() {
            Label::Safe => self.safe += 1,
            Label::Unsafe => self.unsafe_ += 1,
            Label::Controversial => self.controversial += 1,
            Label::Undetermined | Label::Unspecified => self.undetermined += 1,
        }
    }

    fn summary(&self) -> String {
        let Self {
            safe,
            unsafe_,
            controversial,
            undetermined,
            failed,
            blocked: _,
            without_verdict,
        } = self;
        let between = shown_controversial(*controversial);
        let without = match without_verdict {
            0 => String::new(),
            count => format!("{count} without a verdict, "),
        };
        format!(
            "{safe} safe, {unsafe_} unsafe, {between}{undetermined} undetermined, {without}{failed} failed"
        )
    }

    /// The exit code. What `--fail-on` names comes first; then failed items, since their verdicts might have been unsafe.
    fn exit(&self, fail_on: Option<FailOn>) -> Exit {
        match fail_on {
            // What is controversial is not safe, and callers who allow it look at the labels.
            Some(FailOn::Unsafe) if self.unsafe_ + self.controversial > 0 => Exit::Unsafe,
            Some(FailOn::Block) if self.blocked > 0 => Exit::Unsafe,
            _ if self.failed > 0 => Exit::FailedItems,
            Some(FailOn::Unsafe) if self.undetermined > 0 => Exit::Undetermined,
            _ => Exit::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_put_unsafe_before_failed_before_undetermined() {
        let tally = |unsafe_, failed, undetermined| Tally {
            safe: 1,
            unsafe_,
            controversial: 0,
            undetermined,
            failed,
            blocked: 0,
            without_verdict: 0,
        };
        let on_unsafe = Some(FailOn::Unsafe);
        assert_eq!(tally(1, 1, 1).exit(on_unsafe), Exit::Unsafe);
        assert_eq!(tally(0, 1, 1).exit(on_unsafe), Exit::FailedItems);
        assert_eq!(tally(0, 0, 1).exit(on_unsafe), Exit::Undetermined);
        assert_eq!(tally(0, 0, 0).exit(on_unsafe), Exit::Done);
        assert_eq!(tally(1, 0, 1).exit(None), Exit::Done);
        assert_eq!(tally(1, 1, 1).exit(None), Exit::FailedItems);
        let blocked = Tally {
            blocked: 1,
            ..tally(0, 1, 0)
        };
        assert_eq!(blocked.exit(Some(FailOn::Block)), Exit::Unsafe);
        assert_eq!(blocked.exit(on_unsafe), Exit::FailedItems);
        assert_eq!(tally(1, 0, 1).exit(Some(FailOn::Block)), Exit::Done);
        let controversial = Tally {
            controversial: 1,
            ..tally(0, 0, 0)
        };
        assert_eq!(controversial.exit(on_unsafe), Exit::Unsafe);
        assert_eq!(controversial.exit(None), Exit::Done);
        assert_eq!(
            controversial.summary(),
            "1 safe, 0 unsafe, 1 controversial, 0 undetermined, 0 failed"
        );
    }

    #[test]
    fn answers_without_a_verdict_are_counted_as_such() {
        let tally = Tally {
            without_verdict: 2,
            ..Tally::default()
        };
        assert_eq!(
            tally.summary(),
            "0 safe, 0 unsafe, 0 undetermined, 2 without a verdict, 0 failed"
        );
        assert_eq!(tally.exit(None), Exit::Done);
    }

    #[test]
    fn a_line_says_when_there_is_no_score() {
        let verdict = Verdict {
            label: Label::Undetermined.into(),
            ..Verdict::default()
        };
        assert_eq!(
            line(&verdict, true),
            "UNDETERMINED  unsafe_score -  label_mass 0.0000  categories -"
        );
    }
}
