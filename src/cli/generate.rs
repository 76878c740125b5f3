//! `generate`: a target's answer, printed token by token.

use std::io::{self, Write as _};

use serde_json::json;
use tonic::Streaming;

use super::{
    CommandError, Connection, Exit, Format, Global,
    guard_args::{self, GuardArgs, check_look, exit, retracted},
    input::{self, TextArgs},
    json,
    output::{counted, print_json, print_line, tell},
    priority::PriorityArg,
};
use crate::{
    client::{Client, ClientError, GuardedAnswer, PolicyChoice, RpcError},
    proto::{
        AnswerGuard, Conversation, GenerateFinished, GenerateRequest, GenerateResponse, GenerateStarted,
        Role, SamplingParams, StoppingParams, generate_request::Prompt, generate_response::Event,
    },
};

/// How an answer is sampled; `generate` and `score` have these flags.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct GenerationArgs {
    /// Target to answer with, instead of the server's default
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub(super) model: String,
    /// The prompt is raw text: no chat template (base models)
    #[arg(long, conflicts_with = "system")]
    raw: bool,
    /// System message before the prompt
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// 0 is greedy; the server's default is 1
    #[arg(long, value_name = "0..2", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Sample from the most likely tokens that together have this probability
    #[arg(long, value_name = "0..1")]
    top_p: Option<f64>,
    /// Sample from this many of the most likely tokens
    #[arg(long, value_name = "N")]
    top_k: Option<u32>,
    /// Above 1, tokens that were written already become less likely
    #[arg(long, value_name = "1..2")]
    repetition_penalty: Option<f64>,
    /// Makes the answer repeatable; the server draws a seed when absent
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Longest answer; the server's default is 200
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    /// End before this text; repeatable
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    #[command(flatten)]
    priority: PriorityArg,
}

impl GenerationArgs {
    pub(super) fn request(&self, prompt: &str) -> GenerateRequest {
        let prompt = if self.raw {
            Prompt::Text(prompt.to_owned())
        } else {
            let system = self.system.iter().map(|text| input::message(Role::System, text));
            Prompt::Conversation(Conversation {
                messages: system.chain([input::message(Role::User, prompt)]).collect(),
            })
        };
        GenerateRequest {
            model: self.model.clone(),
            prompt: Some(prompt),
            sampling: Some(SamplingParams {
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                repetition_penalty: self.repetition_penalty,
                seed: self.seed,
            }),
            stopping: Some(StoppingParams {
                // 0 stands for the server's default.
                max_new_tokens: self.max_new_tokens.unwrap_or(0),
                stop_sequences: self.stop.clone(),
            }),
            logprobs: None,
            priority: self.priority.value(),
            guard: None,
        }
    }
}

/// Let a target answer, streamed to the terminal.
///
/// With --guard, a guard looks at the answer while it is written, and the command ends as `guard` does: with exit code 3 when the
/// answer is blocked because it is unsafe, and with 8 when the guard fails.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    prompt: TextArgs,
    #[command(flatten)]
    generation: GenerationArgs,
    /// Let a guard look at the answer while it is written: the server's default, or the one that is named (--guard=ID)
    #[arg(
        long,
        value_name = "ID",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        help_heading = "Guard"
    )]
    guard: Option<String>,
    #[command(flatten, next_help_heading = "Guard")]
    rules: GuardArgs,
    #[command(flatten)]
    pub(super) connection: Connection,
}

impl Args {
    /// The guard of the answer, if there is to be one.
    fn answer_guard(&self) -> Result<Option<AnswerGuard>, CommandError> {
        let Some(model) = &self.guard else {
            return match self.rules.is_given() {
                true => Err(CommandError::usage(
                    "the flags of a guard need --guard, or --guard=ID for another than the server's default",
                )),
                false => Ok(None),
            };
        };
        Ok(Some(AnswerGuard {
            model: model.clone(),
            policy_source: self.rules.policy()?.for_answer(),
            options: Some(self.rules.options()),
            decision_policy: self.rules.decision.policy.clone(),
            language: self.rules.decision.language.clone(),
        }))
    }
}

/// Prints the answer while it arrives, or as one JSON document at its end.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    let guard = args.answer_guard()?;
    let policy = args.rules.policy()?;
    let prompt = args.prompt.read()?;
    let request = GenerateRequest {
        guard,
        ..args.generation.request(&prompt)
    };
    global.block_on(generate(request, policy, &args.rules, global))
}

/// An answer that arrives.
enum Answer {
    Unguarded(Streaming<GenerateResponse>),
    Guarded(GuardedAnswer),
}

impl Answer {
    async fn open(client: &Client, request: GenerateRequest) -> Result<Self, ClientError> {
        Ok(match request.guard {
            None => Self::Unguarded(client.generate(request).await?),
            Some(_) => Self::Guarded(client.generate_guarded(request).await?),
        })
    }

    /// The next event; `None` after the last.
    async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        match self {
            Self::Unguarded(events) => {
                let response = events.message().await;
                let response = response.map_err(|status| ClientError::Rpc(RpcError::from_status(&status)))?;
                Ok(response.and_then(|response| response.event))
            }
            Self::Guarded(answer) => answer.next().await,
        }
    }
}

async fn generate(
    request: GenerateRequest,
    policy: PolicyChoice,
    rules: &GuardArgs,
    global: &Global,
) -> anyhow::Result<Exit> {
    let client = global.connect().await?;
    let mut answer = Answer::open(&client, request).await?;
    let mut first = None;
    let mut last = None;
    let mut text = String::new();
    loop {
        let event = answer.next().await.inspect_err(|_| {
            if global.format == Format::Human && !text.is_empty() {
                tell("");
            }
        })?;
        let Some(event) = event else { break };
        if global.format == Format::Jsonl {
            let response = GenerateResponse {
                event: Some(event.clone()),
            };
            print_json(global.format, &json::message(&response)?)?;
        }
        match event {
            Event::Started(started) => first = Some(started),
            Event::Delta(delta) => {
                if global.format == Format::Human {
                    let mut out = io::stdout().lock();
                    out.write_all(delta.text.as_bytes())?;
                    out.flush()?;
                }
                text.push_str(&delta.text);
            }
            Event::Look(look) => check_look(&policy, &look)?,
            Event::Retracted(retraction) if !global.quiet => tell(retracted(&retraction)),
            Event::Retracted(_) | Event::Heartbeat(_) => {}
            Event::Finished(finished) => last = Some(finished),
        }
    }
    let (Some(started), Some(finished)) = (first, last) else {
        return Err(ClientError::Protocol("the answer has no beginning or no end".to_owned()).into());
    };
    match global.format {
        Format::Human => {
            print_line("")?;
            if !global.quiet {
                tell(format_args!("{}", summary(&started, &finished)));
                if let Some(ended) = &finished.guard {
                    tell(guard_args::summary(ended));
                }
            }
        }
        Format::Json => {
            let (started, end) = (json::message(&started)?, json::message(&finished)?);
            let whole = json!({"text": text, "started": started, "finished": end});
            print_json(global.format, &whole)?;
        }
        Format::Jsonl => {}
    }
    match finished.guard {
        None => Ok(Exit::Done),
        Some(ended) => {
            rules.check_end(&ended)?;
            exit(ended)
        }
    }
}

fn summary(started: &GenerateStarted, finished: &GenerateFinished) -> String {
    let reason = finished.finish_reason().as_str_name();
    let reason = reason
        .strip_prefix("FINISH_REASON_")
        .unwrap_or(reason)
        .to_ascii_lowercase();
    // Where an endpoint on another machine answers, it counts them at the end.
    let prompt_tokens = finished
        .usage
        .as_ref()
        .map_or(started.prompt_tokens, |usage| usage.prompt_tokens);
    let mut parts = vec![
        reason.replace('_', " "),
        counted(prompt_tokens, "prompt token", "prompt tokens"),
    ];
    let decode = finished
        .timing
        .as_ref()
        .and_then(|timing| timing.decode.as_ref())
        .map(json::seconds);
    if let Some(usage) = &finished.usage {
        parts.push(counted(usage.completion_tokens, "new token", "new tokens"));
        if let Some(seconds) = decode.filter(|seconds| *seconds > 0.0) {
            parts.push(format!(
                "{:.1} tokens/s",
                f64::from(usage.completion_tokens) / seconds
            ));
        }
    }
    parts.push(format!("seed {}", started.seed));
    if let Some(provenance) = &started.provenance {
        parts.push(provenance.model.clone());
    }
    format!("[{}]", parts.join(", "))
}
